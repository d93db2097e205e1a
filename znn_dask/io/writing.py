"""Writing volumes, whole or not at all, and never over something without leave."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import tifffile

from znn_dask.errors import DataError, MissingExtraError
from znn_dask.io.atomic import refuse_existing, replacing
from znn_dask.io.source import Source, parse_source


def check_destination(destination: str | Path, overwrite: bool = False) -> None:
    """Raise now what `write_volume` would raise after hours of work.

    Raises
    ------
    DataError
        If the ending is unknown, or nothing can be written there.
    OutputExistsError
        If the file exists and ``overwrite`` is false.
    MissingExtraError
        If the destination is zarr and zarr is not installed.
    """
    remedy = "give the name of a local file ending in .npy, .tif, .h5 or .zarr"
    try:
        place = parse_source(destination)
    except DataError as error:
        raise DataError(f"{destination} cannot be written: {remedy}") from error
    if place.url is not None or place.format not in _WRITERS:
        raise DataError(f"{place} cannot be written: {remedy}")
    if place.format == "zarr":
        _zarr()
    refuse_existing(place.path, overwrite)


def write_volume(destination: str | Path, volume: np.ndarray, overwrite: bool = False) -> None:
    """Write a volume in the format its name asks for.

    Parameters
    ----------
    destination : str or Path
        As for reading. HDF5 without a dataset name writes ``/volume``. With ``overwrite``, the other datasets
        of an existing HDF5 file stay.
    volume : array of shape (z, y, x) or (channel, z, y, x)
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    DataError, OutputExistsError, MissingExtraError
        As `check_destination`.
    """
    check_destination(destination, overwrite)
    place = parse_source(destination)
    with replacing(place.path) as temporary:
        _WRITERS[place.format](temporary, place, np.ascontiguousarray(volume))
        # Somebody may have written the file during the long work before this line.
        refuse_existing(place.path, overwrite)


def _write_npy(temporary: Path, place: Source, volume: np.ndarray) -> None:
    with temporary.open("wb") as file:
        np.save(file, volume, allow_pickle=False)


def _write_tiff(temporary: Path, place: Source, volume: np.ndarray) -> None:
    axes = "CZYX"[4 - volume.ndim :]
    tifffile.imwrite(temporary, volume, photometric="minisblack", metadata={"axes": axes})


def _write_hdf5(temporary: Path, place: Source, volume: np.ndarray) -> None:
    if place.path.exists():
        shutil.copyfile(place.path, temporary)
    name = place.dataset or "/volume"
    with h5py.File(temporary, "a") as file:
        if name in file:
            del file[name]
        file.create_dataset(name, data=volume, chunks=True, compression="lzf")


def _write_zarr(temporary: Path, place: Source, volume: np.ndarray) -> None:
    zarr = _zarr()
    chunks = tuple(min(n, c) for n, c in zip(volume.shape, (1, 64, 128, 128)[4 - volume.ndim :], strict=True))
    group_path = None if place.dataset is None else place.dataset.strip("/")
    array = zarr.create_array(  # type: ignore[attr-defined]
        str(temporary), name=group_path, shape=volume.shape, chunks=chunks, dtype=volume.dtype
    )
    array[...] = volume


def _zarr() -> object:
    try:
        import zarr  # optional: the extra 'zarr'
    except ImportError as error:
        raise MissingExtraError("zarr volumes need the extra: pip install 'znn-dask[zarr]'") from error
    return zarr


_WRITERS: dict[str, Callable[[Path, Source, np.ndarray], None]] = {
    "npy": _write_npy,
    "tiff": _write_tiff,
    "hdf5": _write_hdf5,
    "zarr": _write_zarr,
}
