"""Losses and their gradients: torch's mse_loss, binary_cross_entropy_with_logits and cross_entropy, and others.

Predictions are read from the blocks a node is kept in, targets are public arrays. Arithmetic and sums run in double
precision. A weight multiplies the loss of its voxel before the mean, which is not divided by the weights' sum. The Dice
loss and MALIS are no sums over voxels, and are computed from the public array.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.geometry import Triple, volume
from znn_dask.ops import reference_loss
from znn_dask.ops.layout import Arrangement, split, to_public
from znn_dask.ops.losses import LOSSES, Loss, parse_loss
from znn_dask.ops.malis import malis
from znn_dask.ops.memory import Array, contiguous, empty
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

Values = npt.NDArray[Any]

_WHOLE = ("dice", "malis", "malis_constrained")  # no sums over voxels


def check_loss(name: str) -> None:
    """Raise a ParameterError unless there is a loss of this name."""
    parse_loss(name)


def evaluate(prediction: Array, target: Values, weight: Values | None, name: str) -> tuple[float, Array]:
    """Return a loss and its gradient for public arrays, by the numpy twins.

    Parameters
    ----------
    prediction : array of shape (batch, channel, z, y, x)
    target, weight, name
        As for `loss_and_gradients`.
    """
    loss, size = parse_loss(name), prediction.shape[2:]
    if loss.target == "segments":
        offsets = loss.offsets(prediction.shape[1])
        image, ids = prediction.astype(np.float32, copy=False), _per_voxel(target, size)
        return malis(image, ids, weight, offsets, loss.kind == "malis_constrained")
    p = np.moveaxis(prediction.astype(np.float64), 1, -1)
    if loss.target == "classes":
        t, w = (None if v is None else _per_voxel(v, size) for v in (target, weight))
    else:
        t, w = (None if v is None else np.moveaxis(v, 1, -1) for v in (target, weight))
    # A network that diverges gives infinities; the loss then says so, and warnings would only hide it.
    with np.errstate(over="ignore", invalid="ignore"):
        value, d_prediction = reference_loss.LOSSES[loss.kind](p, t, w, *loss.numbers)
    return value, np.moveaxis(d_prediction, -1, 1).astype(np.float32)


def reference(
    blocks: Sequence[Array],
    target: Values,
    weight: Values | None,
    name: str,
    arrangement: Arrangement,
    size: Triple,
    factor: float = 1.0,
) -> tuple[Any, ...]:
    """Return what `loss_and_gradients` does, by way of public arrays."""
    loss, gradient = evaluate(to_public(blocks, arrangement, size), target, weight, name)
    if factor != 1.0:
        loss, gradient = factor * loss, np.float32(factor) * gradient
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
    factor: float = 1.0,
) -> tuple[Any, ...]:
    """Return the loss of one output, then the gradient of each of its blocks (group by group).

    Parameters
    ----------
    blocks : float32 arrays of shape (entry, z, y, x, channel)
        The output, kept in an arrangement.
    target, weight : arrays of shape (batch, channel, z, y, x)
        For softmax both have one channel, which may be left out, and the target holds the class of each voxel. For
        MALIS the target has one channel too, with the segment of each voxel. Else a weight may have one channel for
        all.
    name : str
        Of the loss, see `losses`.
    arrangement : Arrangement
        Of the output.
    size : (z, y, x)
        Of the output that counts; the rest was added by rounding up.
    factor : float
        Of loss and gradients.
    """
    loss = parse_loss(name)
    if loss.kind in _WHOLE:
        return reference(blocks, target, weight, name, arrangement, size, factor)
    return _sum_over_voxels(blocks, target, weight, loss, arrangement, size, factor)


def _sum_over_voxels(
    blocks: Sequence[Array],
    target: Values,
    weight: Values | None,
    loss: Loss,
    arrangement: Arrangement,
    size: Triple,
    factor: float,
) -> tuple[Any, ...]:
    softmax = loss.kind == "softmax"
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
            LOSSES.index(loss.kind),
            np.array(group, np.int32),
            arrangement.sparsity,
            targets,
            classes,
            weight,
            factor / n_terms,
            loss.numbers[0] if loss.numbers else 0.0,
        )
    return np.float64(factor * (total / n_terms)), *d_blocks


def _per_voxel(values: Values, size: tuple[int, ...]) -> Values:
    """Return one value per voxel, without an axis of channels."""
    return values.reshape(values.shape[0], *size)
