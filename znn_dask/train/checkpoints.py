"""The model files of a run: the current one, the last few and the best.

A checkpoint is written once and gets its other names by hard links. The current model, from which a run resumes, gets
its name last: whoever dies before has changed nothing that a resumed run would not write again, the same.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from znn_dask.errors import SaveError
from znn_dask.io.atomic import remove_leftovers, replacing
from znn_dask.train.run import BEST, KEPT, MODEL

_NUMBERED = re.compile(r"step-(\d{8,})\.safetensors")


def write_checkpoint_files(save: Callable[[Path], None], folder: Path, step: int, keep: int, best: bool) -> None:
    """Write a checkpoint under its names, and remove those that are too old.

    Parameters
    ----------
    save : callable
        Writes the model to a path, which holds the old or the complete new file at any time.
    folder : Path
        Of the run.
    step : int
        Updates made.
    keep : int
        How many checkpoints stay, this one included.
    best : bool
        Whether it is the best so far.
    """
    names = [folder / KEPT / f"step-{step:08d}.safetensors"] if keep > 1 else []
    names += [folder / BEST] if best else []
    first, *others = [*names, folder / MODEL]
    save(first)
    for name in others:
        _link(first, name)
    _prune(folder, step, keep)


def kept_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the numbered checkpoints of a run by their updates, the oldest first."""
    found = {}
    for path in (folder / KEPT).glob("step-*.safetensors"):
        match = _NUMBERED.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def tidy(folder: Path, step: int | None) -> None:
    """Remove what a killed process left, and the numbered checkpoints after a step; for None all, and the best."""
    for place in (folder, folder / KEPT):
        remove_leftovers(place)
    for number, path in kept_checkpoints(folder).items():
        if step is None or number > step:
            path.unlink(missing_ok=True)
    if step is None:
        (folder / BEST).unlink(missing_ok=True)


@contextmanager
def saving(what: Path, kept: str) -> Iterator[None]:
    """Turn an error of the system while something is written into one clear line.

    Raises
    ------
    SaveError
    """
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"cannot write {what}: {error.strerror or error}. {kept} "
            "Make room or give leave to write there, then the same command continues"
        ) from error


def _link(source: Path, path: Path) -> None:
    with replacing(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links; a full disk fails again
            shutil.copyfile(source, temporary)


def _prune(folder: Path, step: int, keep: int) -> None:
    older = [path for number, path in kept_checkpoints(folder).items() if number <= step]
    for path in older[: max(0, len(older) - keep)] if keep > 1 else older:
        path.unlink(missing_ok=True)
    if keep == 1:
        with suppress(OSError):  # not empty, or never made
            (folder / KEPT).rmdir()
