"""The obvious numpy twins of the losses: value and gradient at the prediction.

As torch's mse_loss, binary_cross_entropy_with_logits and cross_entropy: means over voxels, batch and (but for
softmax) channels. A weight multiplies the loss of its voxel before the mean, which is not divided by the
weights' sum. Promises: arithmetic in float64; the gradient has the prediction's dtype; the layout is
``(batch, z, y, x, channel)``.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


def square(prediction: Array, target: Array, weight: Array | None = None) -> tuple[float, Array]:
    """Return the mean of ``weight * (prediction - target)**2`` and its gradient.

    Parameters
    ----------
    prediction, target : arrays of shape (batch, z, y, x, channel)
    weight : array of the same shape, or with one channel for all, or None
    """
    p, t, w = prediction.astype(np.float64), target.astype(np.float64), _weight(weight)
    loss = np.mean(w * (p - t) ** 2)
    return float(loss), (2.0 * w * (p - t) / p.size).astype(prediction.dtype)


def logistic(prediction: Array, target: Array, weight: Array | None = None) -> tuple[float, Array]:
    """Return the mean binary cross-entropy of the logistic of the prediction, and its gradient.

    Parameters
    ----------
    prediction : array of shape (batch, z, y, x, channel)
        Logits: no logistic transfer before.
    target : array of the same shape
        In [0, 1].
    weight : array of the same shape, or with one channel for all, or None
    """
    p, t, w = prediction.astype(np.float64), target.astype(np.float64), _weight(weight)
    # log(1 + exp(p)) - t p, written so that nothing overflows.
    loss = np.mean(w * (np.logaddexp(0.0, p) - t * p))
    e = np.exp(-np.abs(p))
    probability = np.where(p >= 0, 1.0, e) / (1.0 + e)
    return float(loss), (w * (probability - t) / p.size).astype(prediction.dtype)


def softmax(prediction: Array, target: Array, weight: Array | None = None) -> tuple[float, Array]:
    """Return the mean cross-entropy of the softmax over channels, and its gradient.

    Parameters
    ----------
    prediction : array of shape (batch, z, y, x, channel)
        Logits, one channel per class.
    target : integer array of shape (batch, z, y, x)
        The class of each voxel.
    weight : array of shape (batch, z, y, x), or with one channel at the end, or None
    """
    p = prediction.astype(np.float64)
    w = _weight(weight)
    if w.ndim == 4:
        w = w[..., np.newaxis]
    shifted = p - p.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    hot = np.arange(p.shape[-1]) == target.astype(np.int64)[..., np.newaxis]
    n_voxels = target.size
    loss = -np.sum(w * hot * logs) / n_voxels
    return float(loss), (w * (np.exp(logs) - hot) / n_voxels).astype(prediction.dtype)


def square_square(
    prediction: Array, target: Array, weight: Array | None = None, margin: float = 0.2
) -> tuple[float, Array]:
    """Return the square loss and its gradient without the values that differ by no more than a margin (ZNN's)."""
    p, t, w = prediction.astype(np.float64), target.astype(np.float64), _weight(weight)
    counted = np.where(np.abs(p - t) <= margin, 0.0, p - t)
    return float(np.mean(w * counted**2)), (2.0 * w * counted / p.size).astype(prediction.dtype)


def dice(prediction: Array, target: Array, weight: Array | None = None, smooth: float = 1.0) -> tuple[float, Array]:
    """Return the soft Dice loss of the logistic of the prediction, and its gradient (Milletari et al. 2016, V-Net).

    ``1 - (2 sum(w q t) + smooth) / (sum(w q^2) + sum(w t^2) + smooth)`` of every example and channel, then their mean;
    q is the logistic of the prediction. ``smooth`` is not in the paper: with it an empty patch that is predicted empty
    costs nothing.

    Parameters
    ----------
    prediction, target : arrays of shape (batch, z, y, x, channel)
    weight : array of the same shape, or with one channel for all, or None
    smooth : float
    """
    p, t, w = prediction.astype(np.float64), target.astype(np.float64), _weight(weight)
    e = np.exp(-np.abs(p))
    q = np.where(p >= 0, 1.0, e) / (1.0 + e)
    over = 2.0 * np.sum(w * q * t, axis=(1, 2, 3), keepdims=True) + smooth
    under = np.sum(w * (q * q + t * t), axis=(1, 2, 3), keepdims=True) + smooth
    loss = np.mean(1.0 - over / under)
    slope = -2.0 * w * (t / under - over * q / under**2) * q * (1.0 - q)
    return float(loss), (slope / over.size).astype(prediction.dtype)


LOSSES: dict[str, Callable[..., tuple[float, Array]]] = {
    "square": square,
    "logistic": logistic,
    "softmax": softmax,
    "square_square": square_square,
    "dice": dice,
}


def _weight(weight: Array | None) -> Array:
    return np.ones(()) if weight is None else weight.astype(np.float64)
