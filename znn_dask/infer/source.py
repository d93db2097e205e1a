"""Images and labels in files, read by region, as something that can be sent to another process.

A copy opens the file anew. Several threads may read.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import DataError
from znn_dask.io.source import parse_source
from znn_dask.io.volumes import open_image, open_label

Values = npt.NDArray[Any]
_OPEN = {"image": open_image, "label": open_label}


class FileRegion:
    """A volume in a file.

    Parameters
    ----------
    name : str
        As for reading, for instance ``file.h5:/raw``.
    kind : "image" or "label"
        Of shape (channel, z, y, x), or (z, y, x).

    Attributes
    ----------
    name, shape, dtype, chunks
    """

    def __init__(self, name: str, kind: str = "image") -> None:
        self.name, self.kind = name, kind
        self._lock = threading.Lock()  # owns `_opened`; HDF5 reads one region at a time anyway
        self._opened: Any = _OPEN[kind](name)
        self.shape: tuple[int, ...] = self._opened.shape
        self.dtype, self.chunks = np.dtype(self._opened.dtype), self._opened.chunks
        # A map of the file that stays open would count as memory in use.
        self._anew = parse_source(name).format == "npy"
        if self._anew:
            self._opened = None

    def __getitem__(self, where: tuple[slice, ...]) -> Values:
        try:
            with self._lock:
                opened = self._opened or _OPEN[self.kind](self.name)
                values = np.array(opened[where])
        except DataError as error:
            if "not finite" in str(error):
                raise
            box = ", ".join(f"{side.start}:{side.stop}" for side in where[-3:])
            raise DataError(
                f"{error}; it is damaged at {box} (z, y, x). Put that part right, or leave it out with a region"
            ) from error
        return values

    def __reduce__(self) -> tuple[type["FileRegion"], tuple[str, str]]:
        return FileRegion, (self.name, self.kind)
