"""Reading volumes: npy, TIFF, HDF5 and zarr give the same arrays and the same errors.

Whatever is wrong with a file becomes one `DataError` that names the file and says what would do.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile

from znn_dask.errors import DataError, MissingExtraError, ShapeError, nearest
from znn_dask.io.source import Source, parse_source


def read_volume(source: str | Path) -> np.ndarray:
    """Read a whole volume with the type it is stored in.

    Parameters
    ----------
    source : str or Path
        ``image.npy``, ``stack.tif``, ``file.h5:/dataset`` or ``volume.zarr:/array``. The dataset may be left
        out where the file holds only one.

    Returns
    -------
    array
        As stored, of any number of axes, numbers or booleans.

    Raises
    ------
    DataError
        If the file is missing, cannot be read, lacks the dataset or holds something else than numbers.
    MissingExtraError
        If a zarr volume is named and zarr is not installed.
    """
    place = parse_source(source)
    if not place.path.exists():
        raise DataError(f"there is no file {place.path}")
    try:
        array = _READERS[place.format](place)
    except (DataError, MissingExtraError):
        raise
    except Exception as error:  # the readers raise whatever they like on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{place} cannot be read as {place.format}: {reason}") from error
    if array.dtype.kind not in "buif":
        raise DataError(f"{place} holds {array.dtype}; a volume must hold integers, booleans or real numbers")
    return array


def read_image(source: str | Path) -> np.ndarray:
    """Read an image as the network wants it.

    Returns
    -------
    float32 array of shape (channel, z, y, x)
        A stored (y, x) is one section, a stored (z, y, x) one channel.

    Raises
    ------
    DataError
        As `read_volume`; also for other numbers of axes, no voxels, or a value that is not finite.
    """
    array = read_volume(source)
    if array.ndim not in (2, 3, 4):
        raise DataError(f"{source} has shape {array.shape}; an image must be (y, x), (z, y, x) or (channel, z, y, x)")
    if array.size == 0:
        raise DataError(f"{source} has shape {array.shape}, which holds no voxel")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        position = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        count = int(array.size - np.isfinite(array).sum())
        raise DataError(
            f"{source} is {array[position]} at {position} ({_axes(array.ndim)}), the first of {count} values "
            "that are not finite. Replace them before use"
        )
    image = array.astype(np.float32)
    return image.reshape((1,) * (4 - image.ndim) + image.shape)


def read_label(source: str | Path, image_shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Read labels, one value per voxel, with the type they are stored in.

    Parameters
    ----------
    source : str or Path
    image_shape : tuple of int, optional
        Shape (channel, z, y, x) of the image they belong to.

    Returns
    -------
    array of shape (z, y, x)

    Raises
    ------
    DataError
        As `read_volume`; also for other numbers of axes or values that are not finite.
    ShapeError
        If image and label have different sizes.
    """
    array = read_volume(source)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (2, 3):
        raise DataError(f"{source} has shape {array.shape}; labels must be (y, x) or (z, y, x)")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{source} holds values that are not finite; labels must all be finite")
    array = array.reshape((1,) * (3 - array.ndim) + array.shape)
    if image_shape is not None and array.shape != tuple(image_shape[-3:]):
        raise ShapeError(
            f"{source} has size {array.shape} (z, y, x), but its image has {tuple(image_shape[-3:])}. "
            "Image and label must have the same size"
        )
    return array


def _axes(ndim: int) -> str:
    return ", ".join(("channel", "z", "y", "x")[4 - ndim :])


def _read_npy(place: Source) -> np.ndarray:
    array = np.load(place.path, allow_pickle=False)
    return np.asarray(array)


def _read_tiff(place: Source) -> np.ndarray:
    with tifffile.TiffFile(place.path) as file:
        series = file.series
        if len(series) == 1:
            return np.asarray(file.asarray())
        # Pages that were written one by one are series of their own; `asarray` would give the first alone.
        shapes = {tuple(item.shape) for item in series}
        if len(shapes) > 1:
            raise DataError(f"{place} holds images of different shapes: {sorted(shapes)}; save one of them alone")
        return np.stack([item.asarray() for item in series])


def _read_hdf5(place: Source) -> np.ndarray:
    with h5py.File(place.path, "r") as file:
        found: dict[str, Any] = {}

        def note(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found["/" + name] = item

        file.visititems(note)
        return np.asarray(_choose(place, found)[()])


def _read_zarr(place: Source) -> np.ndarray:
    try:
        import zarr  # optional: the extra 'zarr'
    except ImportError as error:
        raise MissingExtraError("zarr volumes need the extra: pip install 'znn-dask[zarr]'") from error
    node = zarr.open(str(place.path), mode="r")
    if isinstance(node, zarr.Array):
        if place.dataset is not None:
            raise DataError(f"{place.path} is a single array; leave ':{place.dataset}' out")
        return np.asarray(node[...])
    members = {"/" + name: item for name, item in node.members(max_depth=None)}
    return np.asarray(_choose(place, {k: v for k, v in members.items() if isinstance(v, zarr.Array)})[...])


def _choose(place: Source, found: Mapping[str, Any]) -> Any:
    names = sorted(found)
    if place.dataset is not None and place.dataset in found:
        return found[place.dataset]
    if not names:
        raise DataError(f"{place.path} holds no dataset")
    if place.dataset is not None:
        raise DataError(
            f"{place.path} has no dataset {place.dataset!r}; it has {', '.join(names)}.{nearest(place.dataset, names)}"
        )
    if len(names) > 1:
        raise DataError(
            f"{place.path} holds {len(names)} datasets; name one, for instance {place.path}:{names[0]}. "
            f"It has {', '.join(names)}"
        )
    return found[names[0]]


_READERS: dict[str, Callable[[Source], np.ndarray]] = {
    "npy": _read_npy,
    "tiff": _read_tiff,
    "hdf5": _read_hdf5,
    "zarr": _read_zarr,
}
