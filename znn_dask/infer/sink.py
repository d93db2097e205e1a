"""Volumes that are written block by block under a temporary name, and get their own when they are complete.

A sink can be sent to another process: every writer opens the file for itself, and blocks do not share chunks. HDF5 is
not safe against a crash while it is written, so its blocks go to a plain file first.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import tifffile

from znn_dask.errors import DataError, MissingExtraError
from znn_dask.geometry import Triple, ceil_div
from znn_dask.io.atomic import refuse_existing, replacing, sync
from znn_dask.io.source import Source

Values = npt.NDArray[Any]
CHUNK: Triple = (64, 128, 128)
OME = ".ome.zarr"
FORMATS = ("npy", "tiff", "hdf5", "zarr")


@dataclass(frozen=True)
class Sink:
    """Where a result of shape (channel, z, y, x) goes; one channel alone is stored as (z, y, x).

    Attributes
    ----------
    place : Source
        The destination.
    shape : (channel, z, y, x)
    dtype : str
    chunk : (z, y, x)
        Of zarr and HDF5.
    shard : (z, y, x) or None
        Of zarr: what chunks are packed into files.
    zarr_format : 2 or 3
    """

    place: Source
    shape: tuple[int, int, int, int]
    dtype: str
    chunk: Triple
    shard: Triple | None = None
    zarr_format: int = 3

    @property
    def partial(self) -> Path:
        """The temporary name."""
        return self.place.path.with_name(f".{self.place.path.name}.partial")

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        return self.shape[1:] if self.shape[0] == 1 else self.shape

    @property
    def n_bytes(self) -> int:
        """Bytes of the values."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def create(self) -> None:
        """Make the partial file, full of zeros.

        Raises
        ------
        DataError
            If there is no space for it.
        """
        self.discard()
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.partial.parent).free
        if self.place.format != "zarr" and self.n_bytes > free:
            raise DataError(
                f"{self.place} needs {self.n_bytes:,} bytes and {self.partial.parent} has {free:,} free. "
                "Free some space, write to another disk, or write fewer bits (--dtype uint8)"
            )
        _CREATORS[self.place.format](self)

    def discard(self) -> None:
        """Delete the partial file."""
        if self.partial.is_dir():
            shutil.rmtree(self.partial)
        else:
            self.partial.unlink(missing_ok=True)

    def write(self, box: tuple[slice, slice, slice], values: Values) -> None:
        """Write a block (channel, z, y, x); on return it is on the disk, so that it may be recorded.

        Raises
        ------
        DataError
            If it cannot be written.
        """
        stored = values[0] if self.shape[0] == 1 else values
        where = box if self.shape[0] == 1 else (slice(None), *box)
        try:
            array = _OPENERS[self.place.format](self)
            array[where] = stored
            if isinstance(array, np.memmap):
                array.flush()
            else:
                self._sync(array, where)
        except OSError as error:
            raise DataError(
                f"{self.place} cannot be written: {error.strerror or error}. Put that right and run the same command "
                "again: it goes on where it stopped"
            ) from error

    def _sync(self, array: Any, where: tuple[slice, ...]) -> None:
        """Bring the files of a zarr array that hold a box to the disk, and the folders that name them."""
        sides = array.shards or array.chunks
        whole = (side.indices(n)[:2] for side, n in zip(where, array.shape, strict=True))
        numbers = [range(low // n, ceil_div(high, n)) for (low, high), n in zip(whole, sides, strict=True)]
        keys = (array.metadata.encode_chunk_key(place) for place in product(*numbers))
        # What is all zero has no file.
        files = [path for path in (self.partial / array.path / key for key in keys) if path.exists()]
        folders = {folder for path in files for folder in path.parents if folder.is_relative_to(self.partial)}
        for path in (*files, *sorted(folders, reverse=True)):
            sync(path)

    def read(self, box: tuple[slice, slice, slice]) -> Values:
        """Return what was written of the first channel."""
        array = _OPENERS[self.place.format](self)
        return np.array(array[box if self.shape[0] == 1 else (0, *box)])

    def finish(self, overwrite: bool) -> None:
        """Give the file its name."""
        refuse_existing(self.place.path, overwrite)
        if self.place.format != "hdf5" and not self.place.path.exists():
            self.partial.rename(self.place.path)
            sync(self.place.path.parent)
            return
        with replacing(self.place.path) as temporary:
            if self.place.format == "hdf5":
                _to_hdf5(self, temporary)
            else:
                self.partial.rename(temporary)
        self.discard()


def chunk_for(step: int, count: int, size: int, most: int) -> int:
    """Return the length of chunks along an axis, so that blocks that begin every ``step`` hold whole chunks."""
    if count == 1:
        return min(size, most)
    return max(n for n in range(1, min(step, most) + 1) if step % n == 0)


# ---- formats


def _create_npy(sink: Sink) -> None:
    header = np.lib.format.open_memmap(sink.partial, "w+", np.dtype(sink.dtype), sink.stored_shape)
    del header
    _allocate(sink.partial)


def _create_tiff(sink: Sink) -> None:
    axes = "CZYX"[4 - len(sink.stored_shape) :]
    mapped = tifffile.memmap(
        sink.partial, shape=sink.stored_shape, dtype=sink.dtype, photometric="minisblack", metadata={"axes": axes}
    )
    del mapped
    _allocate(sink.partial)


def _allocate(path: Path) -> None:
    """Take the space of a sparse file now: later a full disk would end the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
    except OSError as error:
        raise DataError(f"there is no space for {path.name} in {path.parent}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _create_zarr(sink: Sink) -> None:
    zarr = _zarr()
    name = sink.place.dataset.strip("/") if sink.place.dataset else None
    ome = name is None and sink.place.path.name.endswith(OME)
    if ome:
        group = zarr.open_group(str(sink.partial), mode="w", zarr_format=sink.zarr_format)
        group.attrs.update(_ome_attributes(sink))
        name = "0"
    lead = (1,) * (len(sink.stored_shape) - 3)
    axes = ("channel", "z", "y", "x")[4 - len(sink.stored_shape) :]
    zarr.create_array(
        str(sink.partial),
        name=name,
        shape=sink.stored_shape,
        dtype=sink.dtype,
        chunks=lead + sink.chunk,
        shards=None if sink.shard is None else lead + sink.shard,
        zarr_format=sink.zarr_format,
        dimension_names=axes if sink.zarr_format == 3 else None,
        fill_value=0,
    )


def _ome_attributes(sink: Sink) -> dict[str, Any]:
    """Return the metadata of one level without a scale in micrometres (OME-NGFF 0.4 or 0.5)."""
    names = ("c", "z", "y", "x")[4 - len(sink.stored_shape) :]
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in names]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * len(names)}]}
    image = {"axes": axes, "datasets": [level], "name": sink.place.path.name.removesuffix(OME)}
    if sink.zarr_format == 2:
        return {"multiscales": [image | {"version": "0.4"}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}}


def _open_npy(sink: Sink) -> Any:
    return np.load(sink.partial, mmap_mode="r+", allow_pickle=False)


def _open_tiff(sink: Sink) -> Any:
    return tifffile.memmap(sink.partial, mode="r+")


def _open_zarr(sink: Sink) -> Any:
    zarr = _zarr()
    node = zarr.open(str(sink.partial), mode="r+")
    name = sink.place.dataset.strip("/") if sink.place.dataset else "0"
    return node if isinstance(node, zarr.Array) else node[name]


def _zarr() -> Any:
    try:
        import zarr  # optional: the extra 'zarr'
    except ImportError as error:
        raise MissingExtraError("zarr volumes need the extra: pip install 'znn-dask[zarr]'") from error
    return zarr


def _to_hdf5(sink: Sink, temporary: Path) -> None:
    """Copy the plain file into a dataset, beside those that were there; a slab at a time."""
    if sink.place.path.exists():
        shutil.copyfile(sink.place.path, temporary)
    name = sink.place.dataset or "/volume"
    lead = (1,) * (len(sink.stored_shape) - 3)
    source = _open_npy(sink)
    with h5py.File(temporary, "a") as file:
        if name in file:
            del file[name]
        dataset = file.create_dataset(name, sink.stored_shape, sink.dtype, chunks=lead + sink.chunk, compression="lzf")
        depth = sink.chunk[0]
        for z in range(0, sink.shape[1], depth):
            where = (..., slice(z, z + depth), slice(None), slice(None))
            dataset[where] = np.array(source[where])


_CREATORS: dict[str, Callable[[Sink], None]] = {
    "npy": _create_npy,
    "hdf5": _create_npy,
    "tiff": _create_tiff,
    "zarr": _create_zarr,
}
_OPENERS: dict[str, Callable[[Sink], Any]] = {
    "npy": _open_npy,
    "hdf5": _open_npy,
    "tiff": _open_tiff,
    "zarr": _open_zarr,
}
