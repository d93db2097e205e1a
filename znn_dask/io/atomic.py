"""Files that are either complete or absent.

Everything written here goes to a temporary name in the same folder and is renamed when complete, so that a
crash, a full disk or a second reader never meets half a file.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from znn_dask.errors import OutputExistsError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` when the block ends without an exception.

    What the block leaves under that name may be a file or a folder. The file is on the disk (fsync) before it
    gets its name. After an exception nothing is left and ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir():
            _replace_folder(temporary, path)
        else:
            sync(temporary)
            temporary.replace(path)
        sync(path.parent)
    finally:
        _remove(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while writing left under temporary names in a folder."""
    for path in folder.glob(".*.tmp*"):
        number = path.name.rpartition(".tmp")[0].rpartition(".")[2]
        if number.isdecimal() and not _runs(int(number)):
            _remove(path)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise if ``path`` exists and may not be overwritten; call it before long work as well as after.

    Raises
    ------
    OutputExistsError
    """
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists. Choose another name, or give --overwrite to replace it")


def _replace_folder(temporary: Path, path: Path) -> None:
    # A folder that is not empty cannot be renamed over: the old one steps aside first.
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(aside)
    temporary.rename(path)
    _remove(aside)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring what was written to a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
