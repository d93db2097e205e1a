"""What an output says: probabilities, the fraction of wrong voxels, the loss.

For reporting only; the loss that is differentiated is an operation of the graph.
"""

import numpy as np

from znn_dask.errors import ConfigError


def probabilities(output: np.ndarray, loss: str) -> np.ndarray:
    """Turn outputs into probabilities, as the loss understands them.

    Parameters
    ----------
    output : float32 array of shape (..., channel, z, y, x)
    loss : "logistic", "softmax" or "square"
        Logistic function, softmax over channels, or nothing to do.

    Returns
    -------
    float32 array of the same shape
    """
    if loss == "logistic":
        # Through tanh, which neither overflows nor warns.
        return (0.5 + 0.5 * np.tanh(0.5 * output)).astype(np.float32)
    if loss == "softmax":
        shifted = np.exp(output - output.max(axis=-4, keepdims=True))
        shares: np.ndarray = shifted / shifted.sum(axis=-4, keepdims=True)
        return shares.astype(np.float32)
    if loss == "square":
        return output
    raise ConfigError(f"unknown loss {loss!r}; known are logistic, softmax and square")


def foreground(output: np.ndarray, loss: str) -> np.ndarray:
    """Return the probability of 1: the last channel, as (..., z, y, x)."""
    chosen: np.ndarray = probabilities(output, loss)[..., -1, :, :, :]
    return chosen


def pixel_error(probability: np.ndarray, target: np.ndarray) -> float:
    """Return the fraction of voxels on the wrong side of 0.5."""
    return float(np.mean((probability > 0.5) != (target > 0.5)))


def mean_loss(probability: np.ndarray, target: np.ndarray, loss: str) -> float:
    """Return the mean loss of probabilities of 1 in float64."""
    p = probability.astype(np.float64)
    if loss == "square":
        return float(np.mean((p - target) ** 2))
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(target > 0.5, np.log(p), np.log(1 - p))))
