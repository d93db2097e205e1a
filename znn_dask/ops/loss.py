"""Losses and their gradients, as torch's mse_loss, binary_cross_entropy_with_logits and cross_entropy.

Predictions are read from the blocks a node is kept in, targets are public arrays. Arithmetic and sums run in double
precision. A weight multiplies the loss of its voxel before the mean, which is not divided by the weights' sum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.errors import ParameterError, nearest
from znn_dask.geometry import Triple, volume
from znn_dask.ops import reference_loss
from znn_dask.ops.layout import Arrangement, split, to_public
from znn_dask.ops.memory import Array, contiguous, empty
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

Values = npt.NDArray[Any]

# The order of `enum LossKind` in kernels/table.hpp.
LOSSES = ("square", "logistic", "softmax")


def check_loss(name: str) -> None:
    """Raise a ParameterError unless there is a loss of this name."""
    if name not in LOSSES:
        raise ParameterError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}.{nearest(name, list(LOSSES))}")


def reference(
    blocks: Sequence[Array],
    target: Values,
    weight: Values | None,
    name: str,
    arrangement: Arrangement,
    size: Triple,
) -> tuple[Any, ...]:
    """Return what `loss_and_gradients` does, by way of public arrays."""
    prediction = to_public(blocks, arrangement, size)
    p = np.moveaxis(prediction.astype(np.float64), 1, -1)
    if name == "softmax":
        t, w = (None if v is None else _per_voxel(v, size) for v in (target, weight))
    else:
        t, w = (None if v is None else np.moveaxis(v, 1, -1) for v in (target, weight))
    assert t is not None
    # A network that diverges gives infinities; the loss then says so, and warnings would only hide it.
    with np.errstate(over="ignore", invalid="ignore"):
        loss, d_prediction = reference_loss.LOSSES[name](p, t, w)
    gradient = np.moveaxis(d_prediction, -1, 1).astype(np.float32)
    return np.float64(loss), *split(gradient, arrangement)


@fresh
@twin(reference)
def loss_and_gradients(
    blocks: Sequence[Array],
    target: Values,
    weight: Values | None,
    name: str,
    arrangement: Arrangement,
    size: Triple,
) -> tuple[Any, ...]:
    """Return the loss of one output, then the gradient of each of its blocks (group by group).

    Parameters
    ----------
    blocks : float32 arrays of shape (entry, z, y, x, channel)
        The output, kept in an arrangement.
    target, weight : arrays of shape (batch, channel, z, y, x)
        For softmax both have one channel, which may be left out, and the target holds the class of each voxel. Else
        a weight may have one channel for all.
    name : str
        Of the loss.
    arrangement : Arrangement
        Of the output.
    size : (z, y, x)
        Of the output that counts; the rest was added by rounding up.
    """
    softmax = name == "softmax"
    n_terms = arrangement.n_examples * volume(size) * (1 if softmax else arrangement.n_channels)
    targets = None if softmax else contiguous(target)
    classes = np.ascontiguousarray(_per_voxel(target, size), np.int32) if softmax else None
    if weight is not None:
        weight = contiguous(_per_voxel(weight, size)[:, np.newaxis] if softmax else weight)
    d_blocks = [empty(block.shape) for block in blocks]
    total, n_blocks = 0.0, len(arrangement.blocks)
    for index, group in enumerate(arrangement.groups):
        of_group = slice(index * n_blocks, (index + 1) * n_blocks)
        total += _kernels.loss(
            blocks[of_group],
            d_blocks[of_group],
            LOSSES.index(name),
            np.array(group, np.int32),
            arrangement.sparsity,
            targets,
            classes,
            weight,
            1.0 / n_terms,
        )
    return np.float64(total / n_terms), *d_blocks


def _per_voxel(values: Values, size: Triple) -> Values:
    """Return one value per voxel, without an axis of channels."""
    return values.reshape(values.shape[0], *size)
