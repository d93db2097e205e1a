"""Volumes in files, read by region: nothing is held in memory, and a damaged chunk is named.

They can be pickled: a copy opens the file anew. Several threads may read.
"""

import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import tifffile

from znn_dask.errors import DataError, MissingExtraError
from znn_dask.io.source import Source, parse_source

Values = npt.NDArray[Any]


class Volume:
    """A volume in a file.

    Attributes
    ----------
    source : Source
    shape : tuple of int
        As stored.
    dtype : numpy dtype
    chunks : tuple of int or None
        What is stored together, where the file says so.

    Raises
    ------
    DataError
        If the file is missing, cannot be opened, or holds something else than numbers.
    """

    def __init__(self, text: str | Path) -> None:
        self.source = parse_source(text)
        if not self.source.path.exists():
            raise DataError(f"there is no file {self.source.path}")
        self._lock = threading.Lock()
        self._handle: Any = None
        try:
            array = self._array()
            self.shape, self.dtype = tuple(int(n) for n in array.shape), np.dtype(array.dtype)
        except (DataError, MissingExtraError):
            raise
        except Exception as error:  # the readers raise whatever they like on damaged files
            raise DataError(f"{self.source} cannot be read as {self.source.format}: {_reason(error)}") from error
        chunks = getattr(array, "chunks", None)
        self.chunks = tuple(chunks) if isinstance(chunks, tuple) else None
        if self.dtype.kind not in "buif":
            raise DataError(f"{self.source} holds {self.dtype}; a volume must hold integers, booleans or real numbers")

    def __getitem__(self, where: Any) -> Values:
        try:
            with self._lock:
                return np.array(self._array()[where])
        except Exception as error:
            box = ", ".join(f"{s.start}:{s.stop}" if isinstance(s, slice) else str(s) for s in _tuple(where))
            raise DataError(
                f"{self.source} cannot be read at [{box}]: {_reason(error)}. The file is damaged there; put that part "
                "right or leave it out with a region, and run the same command again"
            ) from error

    def _array(self) -> Any:
        if self._handle is None:
            opened = _OPENERS[self.source.format](self.source)
            if self.source.format == "npy":
                return opened  # a map that is kept would count as memory in use
            self._handle = opened
        return self._handle

    def __reduce__(self) -> tuple[type["Volume"], tuple[str]]:
        return Volume, (str(self.source),)


def _tuple(where: Any) -> tuple[Any, ...]:
    return where if isinstance(where, tuple) else (where,)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _Pages:
    """A TIFF file whose pages are read one by one."""

    def __init__(self, source: Source) -> None:
        self._file = tifffile.TiffFile(source.path)
        series = self._file.series
        shapes = {tuple(item.shape) for item in series}
        if len(shapes) > 1:
            raise DataError(f"{source} holds images of different shapes: {sorted(shapes)}; save one of them alone")
        self._pages = [page for item in series for page in item.pages]
        page = self._pages[0]
        if page is None:
            raise DataError(f"{source} has pages that are missing")
        self.dtype = np.dtype(page.dtype)
        self.shape = tuple(series[0].shape) if len(series) == 1 else (len(series), *series[0].shape)
        self._lead = self.shape[: len(self.shape) - len(page.shape)]
        self._whole = int(np.prod(self._lead, dtype=int)) != len(self._pages)

    def __getitem__(self, where: Any) -> Values:
        index = _tuple(where)
        if self._whole:
            return np.asarray(self._file.asarray().reshape(self.shape)[index])
        index += (slice(None),) * (len(self.shape) - len(index))
        count = len(self._lead)
        numbers = np.arange(len(self._pages)).reshape(self._lead)[index[:count]]
        parts = [np.asarray(self._page(int(n)))[index[count:]] for n in numbers.ravel()]
        return np.stack(parts).reshape(numbers.shape + parts[0].shape) if parts else np.empty((0,), self.dtype)

    def _page(self, number: int) -> Values:
        page = self._pages[number]
        return np.asarray(page.asarray() if page is not None else self._file.asarray(key=number))


def _open_npy(source: Source) -> Any:
    return np.load(source.path, mmap_mode="r", allow_pickle=False)


def _open_tiff(source: Source) -> Any:
    return _Pages(source)


def _open_hdf5(source: Source) -> Any:
    file = h5py.File(source.path, "r")
    found: dict[str, Any] = {}
    file.visititems(lambda name, item: found.update({"/" + name: item}) if isinstance(item, h5py.Dataset) else None)
    return choose(source, found)


def _open_zarr(source: Source) -> Any:
    try:
        import zarr  # optional: the extra 'zarr'
    except ImportError as error:
        raise MissingExtraError("zarr volumes need the extra: pip install 'znn-dask[zarr]'") from error
    node = zarr.open(str(source.path), mode="r")
    if isinstance(node, zarr.Array):
        if source.dataset is not None:
            raise DataError(f"{source.path} is a single array; leave ':{source.dataset}' out")
        return node
    members = {"/" + name: item for name, item in node.members(max_depth=None)}
    arrays = {name: item for name, item in members.items() if isinstance(item, zarr.Array)}
    scales = dict(node.attrs).get("ome", dict(node.attrs))
    if source.dataset is None and isinstance(scales, dict) and "multiscales" in scales:
        finest = "/" + str(scales["multiscales"][0]["datasets"][0]["path"]).strip("/")
        if finest in arrays:
            return arrays[finest]
    return choose(source, arrays)


def choose(source: Source, found: dict[str, Any]) -> Any:
    """Return the array that a source names, or the only one."""
    names = sorted(found)
    if source.dataset is None and len(names) == 1:
        return found[names[0]]
    if source.dataset in found:
        return found[source.dataset or ""]
    if not names:
        raise DataError(f"{source.path} holds no dataset")
    if source.dataset is None:
        raise DataError(
            f"{source.path} holds {len(names)} datasets; name one, for instance {source.path}:{names[0]}. "
            f"It has {', '.join(names)}"
        )
    raise DataError(f"{source.path} has no dataset {source.dataset!r}; it has {', '.join(names)}")


_OPENERS = {"npy": _open_npy, "tiff": _open_tiff, "hdf5": _open_hdf5, "zarr": _open_zarr}
