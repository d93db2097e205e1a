"""A folder of sections, one image each, as a volume that is read by region."""

import re
import threading
from collections import OrderedDict
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from znn_dask.errors import DataError
from znn_dask.io.source import Source
from znn_dask.io.stored import Box, Stored

ENDINGS = (".tif", ".tiff", ".png")
KEPT = 256 << 20  # bytes of decoded sections


def open_sections(place: Source) -> Stored:
    """Open a folder of sections, or those whose names fit a pattern; they are ordered by the numbers in their names.

    Raises
    ------
    DataError
        If there are none, or they differ in shape or type.
    """
    names = _names(place.path)
    if not names:
        raise DataError(f"{place} holds no sections; they must end in {', '.join(ENDINGS)}")
    first = _read(names[0])
    if first.ndim != 2:
        raise DataError(f"{names[0]} has shape {first.shape}; a section must be (y, x), of one channel")
    sections = _Sections(names, first)
    return Stored((len(names), *first.shape), first.dtype, sections.read, (1, *first.shape), "zyx")


def _names(path: Path) -> list[Path]:
    pattern = any(c in path.name for c in "*?")
    found = list(path.parent.glob(path.name) if pattern else path.iterdir())
    # Hidden files are other programs' notes.
    known = [name for name in found if name.suffix.lower() in ENDINGS and not name.name.startswith(".")]
    return sorted(known, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name.name)])


def _read(name: Path) -> np.ndarray:
    try:
        if name.suffix.lower() == ".png":
            return np.asarray(imagecodecs.png_decode(name.read_bytes()))
        return np.asarray(tifffile.imread(name))
    except Exception as error:  # the readers raise whatever they like on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"the section {name} cannot be read: {reason}") from error


class _Sections:
    """Sections in files, the last ones read kept."""

    def __init__(self, names: list[Path], first: np.ndarray) -> None:
        self._names, self._shape, self._dtype = names, first.shape, first.dtype
        self._most = max(2, KEPT // max(1, first.nbytes))
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict({0: first})

    def read(self, box: Box) -> np.ndarray:
        """Read a box."""
        numbers = range(box[0].start, box[0].stop)
        shape = tuple(side.stop - side.start for side in box)
        result = np.empty(shape, self._dtype)
        for z, number in enumerate(numbers):
            result[z] = self._section(number)[box[1:]]
        return result

    def _section(self, number: int) -> np.ndarray:
        with self._lock:
            if number not in self._kept:
                section = _read(self._names[number])
                if section.shape != self._shape or section.dtype != self._dtype:
                    raise DataError(
                        f"the section {self._names[number]} is {section.shape} {section.dtype}, but "
                        f"{self._names[0].name} is {self._shape} {self._dtype}; all must be alike"
                    )
                self._kept[number] = section
                if len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(number)
            return self._kept[number]
