"""What an output says: probabilities, the fraction of wrong voxels, the loss.

For reporting only; the loss that is differentiated is an operation of the graph.
"""

import numpy as np

from znn_dask.errors import ConfigError
from znn_dask.model.losses import Losses
from znn_dask.ops.losses import parse_loss
from znn_dask.train.targets import Labels, TargetSpec

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


def agreement(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None, loss: Losses) -> tuple[float, float]:
    """Return the mean loss and the fraction of what is wrong, over what counts.

    Parameters
    ----------
    output : float32 array of shape (batch, channel, z, y, x)
    target : array of the same shape, or with one channel where the loss wants classes or ids
        After softmax a voxel is wrong if another class is likelier; else every channel is compared with 0.5. Ids are
        compared as the affinities that the loss is of.
    weight : array of shape (batch, 1 or channel, z, y, x), optional
        0 where the target does not count.
    loss : str, or as `Model.loss` has it
    """
    p = probabilities(output, loss)
    if kind_of(loss) == "softmax":
        classes = target.astype(np.int64)
        wrong = p.argmax(axis=1, keepdims=True) != classes
        right = np.take_along_axis(p, classes, axis=1).astype(np.float64)
        return _mean(-np.log(np.clip(right, 1e-7, 1 - 1e-7)), weight), _mean(wrong, weight)
    truth, counts = wanted(target, weight, p.shape[1], loss)
    return mean_loss(p, truth, loss, counts), pixel_error(p, truth, counts)


def wanted(
    target: np.ndarray, weight: np.ndarray | None, channels: int, loss: Losses
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the target of every output channel, (batch, channel, z, y, x), and its weight; ids become affinities."""
    name = loss if isinstance(loss, str) else next(iter(loss.values()))[0]
    if parse_loss(name).target != "segments":
        return target, weight
    offsets = parse_loss(name).offsets(channels)
    made = [
        Labels(ids[0], TargetSpec("affinity", offsets=tuple(offsets))).box([slice(0, n) for n in ids[0].shape])
        for ids in target
    ]
    values = np.stack([item.values for item in made])
    valid = np.stack(
        [np.ones(v.shape, bool) if m.valid is None else m.valid for m, v in zip(made, values, strict=True)]
    )
    return values, valid if weight is None else valid * weight


def pixel_error(probability: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return the fraction of voxels on the wrong side of 0.5, of those with a weight."""
    return _mean((probability > 0.5) != (target > 0.5), weight)


def _mean(values: np.ndarray, weight: np.ndarray | None) -> float:
    if weight is None:
        return float(np.mean(values))
    weights = np.broadcast_to(weight, values.shape).astype(np.float64)
    return float((values * weights).sum() / max(float(weights.sum()), 1e-12))


def mean_loss(probability: np.ndarray, target: np.ndarray, loss: Losses, weight: np.ndarray | None = None) -> float:
    """Return the mean loss of probabilities of 1 in float64; of losses that need more than that, the logistic one."""
    p, kind = probability.astype(np.float64), kind_of(loss)
    if kind == "square":
        return _mean((p - target) ** 2, weight)
    if kind == "square_square":
        (margin,) = parse_loss(loss).numbers if isinstance(loss, str) else (0.2,)
        return _mean(np.where(np.abs(p - target) > margin, (p - target) ** 2, 0.0), weight)
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return _mean(-np.where(target > 0.5, np.log(p), np.log(1 - p)), weight)
