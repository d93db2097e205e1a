"""Learning curves of ZNN as ours."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from znn_dask.errors import DataError
from znn_dask.io.atomic import replacing
from znn_dask.train.curve import Row, append_row


def rows_of(statistics: Mapping[str, np.ndarray], learning_rate: float) -> list[Row]:
    """Return the rows of a learning curve.

    Parameters
    ----------
    statistics : dict of str to array
        ``"train/it"`` and ``"test/it"`` are iterations, ``err`` losses and ``cls`` fractions of wrong voxels. ZNN has
        more (``re``, ``mc`` and ``me``), which have no place in ours.
    learning_rate : float
        Of all rows: ZNN's curves have none.

    Raises
    ------
    DataError
        If there is no curve, or its parts differ in length.
    """
    rows: dict[int, dict[str, float]] = {}
    for part in ("train", "test"):
        if f"{part}/it" not in statistics:
            continue
        steps = statistics[f"{part}/it"]
        for key in ("err", "cls"):
            values = statistics.get(f"{part}/{key}", np.full(steps.shape, np.nan))
            if steps.ndim != 1 or values.shape != steps.shape or not np.isfinite(steps).all():
                raise DataError(
                    f"{part}/it has shape {steps.shape} and {part}/{key} {values.shape}; they must be equal"
                )
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                rows.setdefault(int(step), {})[f"{part}/{key}"] = float(value)
    if not rows:
        raise DataError("there is no learning curve: neither train/it nor test/it")
    return [_row(step, rows[step], learning_rate) for step in sorted(rows)]


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write a learning curve as a CSV file."""
    with replacing(path) as temporary:
        for row in rows:
            append_row(temporary, row)


def _row(step: int, found: Mapping[str, float], learning_rate: float) -> Row:
    return Row(
        step,
        0.0,
        learning_rate,
        found.get("train/err", float("nan")),
        found.get("train/cls"),
        found.get("test/err"),
        found.get("test/cls"),
    )
