"""The learning curve agrees with the checkpoint after any interruption."""

from pathlib import Path

import pytest

from znn_dask.errors import DataError
from znn_dask.train.curve import Row, append_row, keep_until, read_rows

ROWS = [Row(s, s / 3, 0.1, 1 / s, None if s % 4 else 0.1, None, 1 / 7 if s % 4 == 0 else None) for s in (2, 4, 6, 8)]


def write(path: Path) -> None:
    for row in ROWS:
        append_row(path, row)


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    assert read_rows(path) == []
    write(path)
    assert read_rows(path) == ROWS
    assert path.read_text().startswith("step,seconds,learning_rate,loss,train_error,test_loss,test_error,region_error,")


@pytest.mark.parametrize("step", [0, 1, 4, 5, 8, 100])
def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path, step: int) -> None:
    path = tmp_path / "curve.csv"
    keep_until(path, step)
    assert not path.exists()
    write(path)
    keep_until(path, step)
    assert read_rows(path) == [row for row in ROWS if row.step <= step]
    append_row(path, Row(200, 1.0, 0.1, 0.5))
    assert read_rows(path)[-1].step == 200


def test_a_line_cut_off_anywhere_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    write(path)
    content = path.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(content)):
        path.write_bytes(content[:end])
        keep_until(path, 6)
        append_row(path, ROWS[-1])
        assert read_rows(path) == ROWS


def test_an_empty_file_is_a_curve_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.touch()
    assert read_rows(path) == []
    write(path)
    assert read_rows(path) == ROWS


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is no learning curve"):
        read_rows(path)
    write(tmp_path / "b.csv")
    lines = (tmp_path / "b.csv").read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join([lines[0], "x,1", *lines[1:]]))
    with pytest.raises(DataError, match="line 2: x,1 is no row"):
        read_rows(tmp_path / "b.csv")
