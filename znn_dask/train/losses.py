"""What an output says: probabilities, the fraction of wrong voxels, the loss.

For reporting only; the loss that is differentiated is an operation of the graph.
"""

import numpy as np

from znn_dask.errors import ConfigError
from znn_dask.model.losses import Losses
from znn_dask.model.outputs import activated
from znn_dask.ops.loss import evaluate
from znn_dask.ops.losses import parse_loss
from znn_dask.train.targets import affinity_map


def loss_of_output(loss: Losses) -> str:
    """Return the loss of the only output.

    Raises
    ------
    ConfigError
        If there are several outputs.
    """
    if isinstance(loss, str):
        return loss
    if len(loss) != 1:
        raise ConfigError(f"the losses of {', '.join(loss)} are for one output each; choose one of them")
    ((chosen, _),) = loss.values()
    return chosen


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
    return activated(output, parse_loss(loss_of_output(loss)).activation)


def foreground(output: np.ndarray, loss: Losses) -> np.ndarray:
    """Return the probability of 1: the last channel, as (..., z, y, x)."""
    chosen: np.ndarray = probabilities(output, loss)[..., -1, :, :, :]
    return chosen


def pixel_error(probability: np.ndarray, target: np.ndarray) -> float:
    """Return the fraction of voxels on the wrong side of 0.5."""
    return float(np.mean((probability > 0.5) != (target > 0.5)))


def measured(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None, loss: Losses) -> tuple[float, float]:
    """Return the loss of an output, and the fraction of values on the wrong side of 0.5 (or of wrong classes).

    Parameters
    ----------
    output : float32 array of shape (batch, channel, z, y, x)
    target : array of shape (batch, channel, z, y, x)
        With one channel for softmax and MALIS. Of MALIS the affinities count that its segments have.
    weight : array of the target's shape, or with one channel, or None
        Where it is 0 nothing counts.
    loss : str, or as `Model.loss` has it
    """
    chosen = loss_of_output(loss)
    value = evaluate(output, target, weight, chosen)[0]
    kind = parse_loss(chosen)
    if kind.target == "segments":
        offsets = kind.offsets(output.shape[1])
        target = np.stack([affinity_map(ids[0], offsets) for ids in target.astype(np.int64)])
        inside = np.stack([affinity_map(np.ones(ids.shape[1:], np.int64), offsets) for ids in target]) != 0
        weight = inside if weight is None else inside * weight
    if kind.target == "classes":
        wrong = output.argmax(axis=1, keepdims=True) != target
    else:
        wrong = (probabilities(output, loss) > 0.5) != (target > 0.5)
    counted = np.ones(wrong.shape, bool) if weight is None else np.broadcast_to(weight != 0, wrong.shape)
    return value, float(np.sum(wrong & counted) / max(int(np.sum(counted)), 1))


def wanted(target: np.ndarray, channels: int, loss: Losses) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the target of every output channel, (batch, channel, z, y, x), and where it is known.

    The segments of MALIS become affinities; of other losses the target stays.
    """
    kind = parse_loss(loss_of_output(loss))
    if kind.target != "segments":
        return target, None
    offsets = kind.offsets(channels)
    values = np.stack([affinity_map(ids[0], offsets) for ids in target.astype(np.int64)])
    inside = np.stack([affinity_map(np.ones(ids.shape[1:], np.int64), offsets) for ids in target])
    return values, inside != 0
