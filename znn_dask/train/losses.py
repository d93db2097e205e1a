"""What an output says: probabilities, the fraction of wrong voxels, the loss.

For reporting only; the loss that is differentiated is an operation of the graph.
"""

import numpy as np

from znn_dask.errors import ConfigError
from znn_dask.model.losses import Losses
from znn_dask.ops.losses import parse_loss

# The losses whose outputs are the logits of probabilities.
_LOGITS = ("logistic", "dice", "malis", "malis_constrained")


def kind_of(loss: Losses) -> str:
    """Return the name of a loss without its numbers, also of the only output's.

    Raises
    ------
    ConfigError
        If there are several outputs.
    """
    if not isinstance(loss, str):
        if len(loss) != 1:
            raise ConfigError(f"the losses of {', '.join(loss)} are for one output each; choose one of them")
        ((loss, _),) = loss.values()
    return parse_loss(loss).kind


def probabilities(output: np.ndarray, loss: Losses) -> np.ndarray:
    """Turn outputs into probabilities, as the loss understands them.

    Parameters
    ----------
    output : float32 array of shape (..., channel, z, y, x)
    loss : str, or as `Model.loss` has it
        For logistic, dice and MALIS the logistic function; softmax over channels; for square and square_square nothing
        to do.

    Returns
    -------
    float32 array of the same shape
    """
    kind = kind_of(loss)
    if kind in _LOGITS:
        # Through tanh, which neither overflows nor warns.
        return (0.5 + 0.5 * np.tanh(0.5 * output)).astype(np.float32)
    if kind == "softmax":
        shifted = np.exp(output - output.max(axis=-4, keepdims=True))
        shares: np.ndarray = shifted / shifted.sum(axis=-4, keepdims=True)
        return shares.astype(np.float32)
    return output


def foreground(output: np.ndarray, loss: Losses) -> np.ndarray:
    """Return the probability of 1: the last channel, as (..., z, y, x)."""
    chosen: np.ndarray = probabilities(output, loss)[..., -1, :, :, :]
    return chosen


def pixel_error(probability: np.ndarray, target: np.ndarray) -> float:
    """Return the fraction of voxels on the wrong side of 0.5."""
    return float(np.mean((probability > 0.5) != (target > 0.5)))


def mean_loss(probability: np.ndarray, target: np.ndarray, loss: Losses) -> float:
    """Return the mean loss of probabilities of 1 in float64; of losses that need more than that, the logistic one."""
    p, kind = probability.astype(np.float64), kind_of(loss)
    if kind == "square":
        return float(np.mean((p - target) ** 2))
    if kind == "square_square":
        (margin,) = parse_loss(loss).numbers if isinstance(loss, str) else (0.2,)
        return float(np.mean(np.where(np.abs(p - target) > margin, (p - target) ** 2, 0.0)))
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(target > 0.5, np.log(p), np.log(1 - p))))
