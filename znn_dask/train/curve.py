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
    """One row of the learning curve; errors are fractions of wrong voxels at 0.5, None where not measured.

    Attributes
    ----------
    step : int
        Updates made.
    seconds : float
        Time spent, all resumed parts together.
    learning_rate, loss : float
        The loss is the mean over the updates since the row before.
    train_error, test_loss, test_error : float or None
        Of the fixed patches.
    region_error, region_f1 : float or None
        Of the whole held-out regions.
    rand_error, voi_split, voi_merge : float or None
        Adapted Rand error and variation of information (bits) of the segments in the held-out regions.
    """

    step: int
    seconds: float
    learning_rate: float
    loss: float
    train_error: float | None = None
    test_loss: float | None = None
    test_error: float | None = None
    region_error: float | None = None
    region_f1: float | None = None
    rand_error: float | None = None
    voi_split: float | None = None
    voi_merge: float | None = None

    @property
    def measured(self) -> bool:
        """Whether anything but the loss was measured."""
        return any(v is not None for v in (self.train_error, self.test_error, self.region_error))


_NAMES = [field.name for field in fields(Row)]
_FIRST_NAMES = _NAMES[:7]  # all there were at first


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
    if lines[0] not in (_NAMES, _FIRST_NAMES):
        raise DataError(f"{path} is no learning curve; its first line should be {','.join(_NAMES)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            rows.append(_row(dict(zip(lines[0], line, strict=True))))
        except ValueError as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number}: {','.join(line)} is no row of a learning curve") from error
    return rows


def keep_until(path: Path, step: int) -> None:
    """Drop the rows after a step; without any such row, or without a file, nothing happens."""
    rows = read_rows(path)
    if not path.exists() or (all(row.step <= step for row in rows) and _is_whole(path)):
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


def _is_whole(path: Path) -> bool:
    """Return whether rows can be appended: the last line is complete and the head is today's."""
    content = path.read_bytes()
    return content.endswith(b"\n") and content.split(maxsplit=1)[0] == ",".join(_NAMES).encode()
