"""The record of a long job, kept beside its output: a header that says what is done, then a line per finished block.

Lines are written after what they tell of. A line that was cut off by a crash does not count, so its block is made
again. Only one process may keep a record at a time.
"""

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import msgspec

from znn_dask.errors import DataError


class Journal:
    """A record, open for writing.

    Parameters
    ----------
    path : Path
    destination : str
        For messages.

    Attributes
    ----------
    header : dict or None
        Of a record that was there; None for a new one.
    done : set of int
        The blocks that are finished.

    Raises
    ------
    DataError
        If another process keeps it.
    """

    def __init__(self, path: Path, destination: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: TextIO = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(f"{destination} is being written by another process; wait for it, or end it") from error
        self.header, self.done = self._read()

    def begin(self, header: Mapping[str, Any]) -> None:
        """Start anew."""
        self._file.truncate(0)
        self.header, self.done = dict(header), set()
        self._append(msgspec.json.encode(self.header).decode())

    def add(self, number: int) -> None:
        """Record that a block is finished; on return the line is on the disk."""
        self._append(str(number))
        self.done.add(number)

    def remove(self) -> None:
        """Delete the record."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def _append(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> tuple[dict[str, Any] | None, set[int]]:
        self._file.seek(0)
        lines = self._file.read().split("\n")
        # What follows the last newline was cut off.
        whole, rest = lines[:-1], lines[-1]
        if rest:
            self._file.truncate(sum(len(line.encode()) + 1 for line in whole))
        header: dict[str, Any] | None = None
        with contextlib.suppress(msgspec.MsgspecError, IndexError):
            header = msgspec.json.decode(whole[0], type=dict[str, Any])
        return header, {int(line) for line in whole[1:] if line.isdecimal()} if header is not None else set()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
