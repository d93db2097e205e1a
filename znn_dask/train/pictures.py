"""From a run's files to its pictures, also while it goes on."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from znn_dask.io.atomic import replacing
from znn_dask.train.callbacks import Callback
from znn_dask.train.checkpoints import saving
from znn_dask.train.curve import Row, read_rows
from znn_dask.train.heldout import HeldOut
from znn_dask.train.loop import Loop
from znn_dask.train.run import CURVE, CURVE_PICTURE, PREDICTION_PICTURE
from znn_dask.viz.pictures import Points, curve_picture, prediction_picture

_SHARE = 0.03  # of the time of training that drawing may take


class Plot(Callback):
    """Draws the learning curve at tests and checkpoints, seldom enough that it never costs much of the training."""

    def __init__(self) -> None:
        self._next = 0.0

    def on_test(self, run: Loop, row: Row) -> None:
        """Draw, if the last drawing was long enough ago."""
        self._draw(run)

    def on_checkpoint(self, run: Loop, path: Path) -> None:
        """Draw, if the last drawing was long enough ago."""
        self._draw(run)

    def on_end(self, run: Loop, reason: str) -> None:
        """Draw once more where nobody else will."""
        if reason in ("interrupted", "failed"):
            self._next = 0.0
            self._draw(run)

    def _draw(self, run: Loop) -> None:
        started = time.monotonic()
        if started >= self._next:
            with saving(run.folder / CURVE_PICTURE, run.kept()):
                draw_curve(run.folder)
            ended = time.monotonic()
            self._next = ended + (ended - started) / _SHARE


def draw_curve(folder: Path, levels: Mapping[str, float] | None = None) -> None:
    """Draw the learning curve of a run's folder, if there is one yet.

    Parameters
    ----------
    folder : Path
    levels : mapping of name to float, optional
        Errors to compare with.
    """
    rows = read_rows(folder / CURVE)
    if rows:
        _write(folder / CURVE_PICTURE, curve_of(rows, levels))


def curve_of(rows: list[Row], levels: Mapping[str, float] | None = None) -> bytes:
    """Return the picture of a learning curve, a PNG file."""
    losses: dict[str, Points] = {
        "training": [(r.step, r.loss) for r in rows],
        "held-out patches": [(r.step, r.test_loss) for r in rows],
    }
    errors: dict[str, Points] = {
        "training patches": [(r.step, r.train_error) for r in rows],
        "held-out patches": [(r.step, r.test_error) for r in rows],
        "held-out regions": [(r.step, r.region_error) for r in rows],
    }
    scores: dict[str, dict[str, Points]] = {
        "held-out regions": {
            "F1": [(r.step, r.region_f1) for r in rows],
            "adapted Rand error": [(r.step, r.rand_error) for r in rows],
        },
        "variation of information, bits": {
            "split": [(r.step, r.voi_split) for r in rows],
            "merge": [(r.step, r.voi_merge) for r in rows],
        },
    }
    return curve_picture(losses, errors, levels, scores)


def draw_prediction(folder: Path, image: np.ndarray, target: np.ndarray, prediction: np.ndarray, error: float) -> None:
    """Draw image, truth and prediction, each (z, y, x), into a run's folder."""
    _write(folder / PREDICTION_PICTURE, prediction_picture(image, target, prediction, error))


def levels(found: HeldOut) -> dict[str, float]:
    """Return the errors to compare with."""
    return {"majority": found.scores.majority_error, "best threshold": found.baseline.error}


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
