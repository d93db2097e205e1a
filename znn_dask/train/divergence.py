"""Does a run still learn? The loss must stay finite, and near or below what it was at the start.

Losses are looked at in windows of a fixed number of updates, so that what is found does not depend on the clock or on
interruptions: all that must be remembered is part of the position.
"""

import math
from collections.abc import Iterable

import numpy as np

from znn_dask.errors import DivergenceError
from znn_dask.train.run import Position

WINDOW = 100  # updates
FACTOR = 10.0
_ENOUGH = 10  # losses in a window that say something before it is full


def watch(position: Position, loss: float) -> str | None:
    """Take note of a loss; return what is wrong, or None.

    Parameters
    ----------
    position : Position
        Of the update whose loss it is; its window is changed.
    loss : float
    """
    if not math.isfinite(loss):
        return f"the loss is {loss} at update {position.step + 1}"
    position.window_sum += loss
    position.window_count += 1
    if position.window_count < WINDOW:
        return None
    wrong = grows(position)
    if position.first_mean is None:
        position.first_mean = position.window_sum / WINDOW
    position.window_sum, position.window_count = 0.0, 0
    return wrong


def grows(position: Position) -> str | None:
    """Return what is wrong if the loss is far above that of the start, or None."""
    first, count = position.first_mean, position.window_count
    if first is None or count < _ENOUGH or position.window_sum / count <= FACTOR * first:
        return None
    mean = position.window_sum / count
    return (
        f"the loss grows: its mean over the last {count} updates is {mean:.4g} at update {position.step + 1}, "
        f"over the first {WINDOW} it was {first:.4g}"
    )


def broken(parameters: Iterable[tuple[str, np.ndarray]]) -> str | None:
    """Return which parameter is not finite, or None."""
    for name, values in parameters:
        if not np.isfinite(values).all():
            return f"parameter {name} has values that are not finite"
    return None


def error(wrong: str, kept: str, learning_rate: float) -> DivergenceError:
    """Return the exception that says what is wrong, what is kept and what to try."""
    return DivergenceError(
        f"{wrong}. {kept} "
        f"Lower training.learning_rate (now {learning_rate:g}) or raise training.warmup, and give --restart; "
        "if that does not help, look at the images (data.preprocess) and at the initial values of the last layer "
        "(network.init)"
    )
