"""From a run's files to its pictures."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from znn_dask.commands.common import write_bytes
from znn_dask.train.curve import read_rows
from znn_dask.train.run import CURVE, CURVE_PICTURE
from znn_dask.viz.pictures import Points, curve_picture, prediction_picture

PREDICTION_PICTURE = "prediction.png"
_PAUSE = 20.0  # seconds between drawings of a running training


class CurveDrawer:
    """Draws the learning curve of a run now and then, so that drawing never costs much of the training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._next = 0.0

    def __call__(self) -> None:
        """Draw, if the last drawing was long enough ago."""
        if time.monotonic() >= self._next:
            draw_curve(self.folder)
            self._next = time.monotonic() + _PAUSE


def draw_curve(folder: Path, levels: Mapping[str, float] | None = None) -> None:
    """Draw the learning curve of a run's folder, if there is one yet."""
    rows = read_rows(folder / CURVE)
    if not rows:
        return
    losses: dict[str, Points] = {
        "training": [(r.step, r.loss) for r in rows],
        "held out": [(r.step, r.test_loss) for r in rows],
    }
    errors: dict[str, Points] = {
        "training": [(r.step, r.train_error) for r in rows],
        "held out": [(r.step, r.test_error) for r in rows],
    }
    write_bytes(folder / CURVE_PICTURE, curve_picture(losses, errors, levels))


def draw_prediction(folder: Path, image: np.ndarray, target: np.ndarray, prediction: np.ndarray, error: float) -> None:
    """Draw image, truth and prediction, each (z, y, x), into a run's folder."""
    write_bytes(folder / PREDICTION_PICTURE, prediction_picture(image, target, prediction, error))
