"""Losses and their gradients, as torch's mse_loss, binary_cross_entropy_with_logits and cross_entropy.

Predictions are public arrays, float32 ``(batch, channel, z, y, x)``. Sums run in double precision. A weight
multiplies the loss of its voxel before the mean, which is not divided by the weights' sum.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError, nearest
from znn_dask.geometry import Triple
from znn_dask.ops import reference_loss
from znn_dask.ops.layout import Arrangement, split, to_public
from znn_dask.ops.memory import Array
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

Values = npt.NDArray[Any]


def _reference(name: str) -> Callable[[Values, Values, Values | None], tuple[float, Values]]:
    """Return the twin of a loss, for public arrays."""

    def twin_of(prediction: Values, target: Values, weight: Values | None) -> tuple[float, Values]:
        p = np.moveaxis(prediction.astype(np.float64), 1, -1)
        if name == "softmax":
            t, w = (None if v is None else _classes(v, prediction)[:, 0] for v in (target, weight))
        else:
            t, w = (None if v is None else np.moveaxis(v, 1, -1) for v in (target, weight))
        assert t is not None
        loss, d_prediction = reference_loss.LOSSES[name](p, t, w)
        return loss, np.moveaxis(d_prediction, -1, 1)

    return twin_of


@twin(_reference("square"))
def square(prediction: Values, target: Values, weight: Values | None) -> tuple[float, Values]:
    """Return the mean of ``weight * (prediction - target)**2`` and its gradient."""
    difference = prediction.astype(np.float64) - target
    d_prediction = 2.0 * difference if weight is None else 2.0 * weight * difference
    return float(np.vdot(d_prediction, difference) / (2 * prediction.size)), d_prediction / prediction.size


@twin(_reference("logistic"))
def logistic(prediction: Values, target: Values, weight: Values | None) -> tuple[float, Values]:
    """Return the mean binary cross-entropy of logits against a target in [0, 1], and its gradient."""
    p = prediction.astype(np.float64)
    decay = np.exp(-np.abs(p))
    # log(1 + exp(p)) - t p and 1 / (1 + exp(-p)), written so that nothing overflows.
    loss = np.maximum(p, 0.0) + np.log1p(decay) - target * p
    d_prediction = np.where(p >= 0, 1.0, decay) / (1.0 + decay) - target
    if weight is not None:
        loss, d_prediction = loss * weight, d_prediction * weight
    return float(loss.mean()), d_prediction / p.size


@twin(_reference("softmax"))
def softmax(prediction: Values, target: Values, weight: Values | None) -> tuple[float, Values]:
    """Return the mean cross-entropy of the softmax over channels, and its gradient.

    The target holds the class of each voxel, of shape (batch, z, y, x) or (batch, 1, z, y, x).
    """
    p = prediction.astype(np.float64)
    classes = _classes(target, prediction).astype(np.int64)
    shifted = p - p.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    total = exponential.sum(axis=1, keepdims=True)
    loss = np.log(total) - np.take_along_axis(shifted, classes, axis=1)
    d_prediction = exponential / total
    chosen = np.take_along_axis(d_prediction, classes, axis=1) - 1.0
    np.put_along_axis(d_prediction, classes, chosen, axis=1)
    if weight is not None:
        weight = _classes(weight, prediction)
        loss, d_prediction = loss * weight, d_prediction * weight
    return float(loss.mean()), d_prediction / loss.size


def _classes(values: Values, prediction: Values) -> Values:
    """Return one value per voxel with an axis of one channel."""
    return values.reshape(prediction.shape[0], 1, *prediction.shape[2:])


LOSSES: dict[str, Callable[[Values, Values, Values | None], tuple[float, Values]]] = {
    "square": square,
    "logistic": logistic,
    "softmax": softmax,
}


def check_loss(name: str) -> None:
    """Raise a ParameterError unless there is a loss of this name."""
    if name not in LOSSES:
        raise ParameterError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}.{nearest(name, list(LOSSES))}")


@fresh
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
        For softmax both have one channel.
    name : str
        Of the loss.
    arrangement : Arrangement
        Of the output.
    size : (z, y, x)
        Of the output that counts; the rest was added by rounding up.
    """
    prediction = to_public(blocks, arrangement, size)
    # A network that diverges gives infinities; the loss then says so, and warnings would only hide it.
    with np.errstate(over="ignore", invalid="ignore"):
        loss, d_prediction = LOSSES[name](prediction, target, weight)
    return np.float64(loss), *split(d_prediction.astype(np.float32), arrangement)
