"""The learning curve as a CSV file that agrees with the checkpoint.

A row is appended when it is known, so a run that dies leaves its curve. On a resume the rows after the
checkpoint are dropped, because those updates will be made again.
"""

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from znn_dask.errors import DataError
from znn_dask.io.atomic import replacing


@dataclass(frozen=True)
class Row:
    """One row of the learning curve; errors are fractions of wrong voxels at 0.5, None where not measured."""

    step: int
    seconds: float
    learning_rate: float
    loss: float
    train_error: float | None = None
    test_loss: float | None = None
    test_error: float | None = None


_NAMES = [field.name for field in fields(Row)]


def append_row(path: Path, row: Row) -> None:
    """Append a row, and the head before the first."""
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _NAMES)
        if new:
            writer.writeheader()
        writer.writerow({name: "" if value is None else repr(value) for name, value in asdict(row).items()})


def read_rows(path: Path) -> list[Row]:
    """Read a learning curve; a last line that was cut off is left out.

    Raises
    ------
    DataError
        If the file is none.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if not lines:
        return []
    if lines[0] != _NAMES:
        raise DataError(f"{path} is no learning curve; its first line should be {','.join(_NAMES)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            values = dict(zip(_NAMES, line, strict=True))
            rows.append(_row(values))
        except ValueError as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number}: {','.join(line)} is no row of a learning curve") from error
    return rows


def keep_until(path: Path, step: int) -> None:
    """Drop the rows after a step; without any such row, or without a file, nothing happens."""
    rows = read_rows(path)
    if not path.exists() or (all(row.step <= step for row in rows) and _ends_with_newline(path)):
        return
    with replacing(path) as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, _NAMES).writeheader()
        for row in rows:
            if row.step <= step:
                append_row(temporary, row)


def _row(values: dict[str, str]) -> Row:
    step, seconds, rate, loss, *measured = values.values()
    return Row(int(step), float(seconds), float(rate), float(loss), *(float(v) if v else None for v in measured))


def _ends_with_newline(path: Path) -> bool:
    return path.read_bytes().endswith(b"\n")
