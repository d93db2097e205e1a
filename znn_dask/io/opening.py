"""Opening volumes without reading them: every format becomes a `LazyVolume` with the same errors."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from znn_dask.errors import DataError, MissingExtraError
from znn_dask.io.datasets import choose
from znn_dask.io.sections import open_sections
from znn_dask.io.source import Source, parse_source
from znn_dask.io.stored import Box, LazyVolume, Stored, cannot_read, in_order, stored_array
from znn_dask.io.tiff import open_tiff
from znn_dask.io.zarrs import open_zarr
from znn_dask.io.znn_hdf5 import check_volume

CHUNK_CACHE = 64 << 20  # bytes that HDF5 keeps of decompressed chunks


def open_volume(source: str | Path) -> LazyVolume:
    """Open a volume, to be read by region with the type it is stored in.

    Parameters
    ----------
    source : str or Path
        ``image.npy``, ``stack.tif``, a folder of sections or a pattern such as ``sections/*.png``,
        ``file.h5:/dataset``, ``volume.zarr:/array``, or one of them behind a URL that fsspec reads. The dataset may be
        left out where the file holds only one; of an OME-Zarr image the finest level is taken.

    Returns
    -------
    LazyVolume
        Axes as stored; where the file names them, (z, y, x) or (channel, z, y, x).

    Raises
    ------
    DataError
        If the file is missing, cannot be read, lacks the dataset or holds something else than numbers.
    MissingExtraError
        If zarr or fsspec is needed and not installed.
    """
    place = parse_source(source)
    pattern = place.format == "sections" and any(c in place.path.name for c in "*?")
    if place.url is None and not pattern and not place.path.exists():
        raise DataError(f"there is no file {place.path}")
    try:
        stored = in_order(place, _OPENERS[place.format](place))
    except (DataError, MissingExtraError):
        raise
    except FileNotFoundError as error:
        if place.url is None:
            raise cannot_read(place, error) from error
        raise DataError(f"there is no file {place.url}") from error
    except ImportError as error:
        raise MissingExtraError(f"{place} needs another package: {error}") from error
    except Exception as error:  # the readers raise whatever they like on damaged files
        raise cannot_read(place, error) from error
    if stored.dtype.kind not in "buif":
        stored.close()
        raise DataError(f"{place} holds {stored.dtype}; a volume must hold integers, booleans or real numbers")
    return LazyVolume(place, stored)


def _file(place: Source) -> str | BinaryIO:
    """Return the name of a local file, or an open remote one."""
    if place.url is None:
        return str(place.path)
    try:
        import fsspec  # optional: the extra 'zarr'
    except ImportError as error:
        raise MissingExtraError("remote volumes need the extra: pip install 'znn-dask[zarr]'") from error
    opened: BinaryIO = fsspec.open(place.url, "rb").open()
    return opened


def _open_npy(place: Source) -> Stored:
    file = _file(place)
    if isinstance(file, str):
        # No pickles: mapping refuses them, too.
        return stored_array(np.load(file, mmap_mode="r", allow_pickle=False))
    return _open_remote_npy(file)


def _open_remote_npy(file: BinaryIO) -> Stored:
    version = np.lib.format.read_magic(file)
    headers: dict[Any, Callable[[BinaryIO], Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise ValueError(f"it is of version {version}")
    shape, fortran, dtype = headers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    start, lock = file.tell(), threading.Lock()
    if fortran:
        file.seek(0)
        return stored_array(np.load(file, allow_pickle=False))
    row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize

    def read(box: Box) -> np.ndarray:
        first = box[0]
        with lock:
            file.seek(start + first.start * row)
            data = file.read((first.stop - first.start) * row)
        rows = np.frombuffer(data, dtype).reshape(first.stop - first.start, *shape[1:])
        return rows[(slice(None), *box[1:])]

    return Stored(tuple(shape), dtype, read, (1, *shape[1:]), close=file.close)


def _open_tiff(place: Source) -> Stored:
    return open_tiff(place, _file(place))


def _open_hdf5(place: Source) -> Stored:
    name = _file(place)
    if isinstance(name, str):
        check_volume(Path(name))  # libhdf5 can abort on a damaged file; then a child does, not this process
    file = h5py.File(name, "r", rdcc_nbytes=CHUNK_CACHE)
    try:
        return _hdf5_dataset(place, file)
    except BaseException:
        file.close()
        raise


def _hdf5_dataset(place: Source, file: Any) -> Stored:
    found: dict[str, Any] = {}
    if place.dataset is not None and isinstance(file.get(place.dataset), h5py.Dataset):
        found[place.dataset] = file[place.dataset]
    else:

        def note(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found["/" + name] = item

        file.visititems(note)
    return stored_array(choose(place, found), close=file.close)


_OPENERS: dict[str, Callable[[Source], Stored]] = {
    "npy": _open_npy,
    "tiff": _open_tiff,
    "sections": open_sections,
    "hdf5": _open_hdf5,
    "zarr": open_zarr,
}
