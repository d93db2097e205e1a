"""Reading volumes: every format gives the same arrays and the same errors, whole or by region.

Whatever is wrong with a file becomes one `DataError` that names the file and says what would do.
"""

from pathlib import Path
from typing import Any

import numpy as np

from znn_dask.errors import DataError, ShapeError
from znn_dask.io.opening import open_volume
from znn_dask.io.stored import LazyVolume, Region, as_box

__all__ = ["Region", "open_image", "open_label", "open_volume", "read_image", "read_label", "read_volume"]


def read_volume(source: str | Path) -> np.ndarray:
    """Read a whole volume with the type it is stored in.

    Parameters
    ----------
    source : str or Path
        As for `open_volume`.

    Returns
    -------
    array
        Of any number of axes, numbers or booleans.

    Raises
    ------
    DataError, MissingExtraError
        As `open_volume`.
    """
    volume = open_volume(source)
    try:
        return np.array(volume[...])
    finally:
        volume.close()


class FiniteVolume:
    """A volume with a given number of axes, whose values are checked where they are read.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Axes of length 1 are put before those that are stored.
    dtype : numpy dtype
        As stored.
    chunks : tuple of int or None
        What is read at once, where the file says it.
    """

    def __init__(self, volume: LazyVolume, ndim: int, dropped: int = 0) -> None:
        self._volume, self._dropped = volume, dropped
        self.name = str(volume.place)
        inner, chunks = volume.shape[dropped:], volume.chunks
        self._missing = ndim - len(inner)
        self.shape = (1,) * self._missing + inner
        self.dtype = volume.dtype
        self.chunks = None if chunks is None else (1,) * self._missing + chunks[dropped:]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole volume."""
        return self._volume.nbytes

    def __getitem__(self, where: Any) -> np.ndarray:
        """Read a region.

        Raises
        ------
        DataError
            If it cannot be read, or a value is not finite.
        """
        box, rest = as_box(where, self.shape, self.name)
        values = self._volume.read((slice(0, 1),) * self._dropped + box[self._missing :])
        self._check(values, box[self._missing :])
        shape = (1,) * self._missing + values.shape[self._dropped :]
        if any(side.stop == side.start for side in box):
            shape = tuple(side.stop - side.start for side in box)
        return np.asarray(values.reshape(shape)[rest])

    def close(self) -> None:
        """Close the file."""
        self._volume.close()

    def _check(self, values: np.ndarray, box: tuple[slice, ...]) -> None:
        if values.dtype.kind != "f" or np.isfinite(values).all():
            return
        wrong = ~np.isfinite(values)
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        position = tuple(i + side.start for i, side in zip(first[self._dropped :], box, strict=True))
        raise DataError(
            f"{self.name} is {values[first]} at {position} ({_axes(len(position))}), the first of {int(wrong.sum())} "
            "values that are not finite. Replace them before use"
        )


def open_image(source: str | Path) -> FiniteVolume:
    """Open an image, to be read by region.

    Returns
    -------
    FiniteVolume of shape (channel, z, y, x)
        A stored (y, x) is one section, a stored (z, y, x) one channel.

    Raises
    ------
    DataError
        As `open_volume`; also for other numbers of axes, no voxels, or, when it is read, a value that is not finite.
    """
    volume = open_volume(source)
    problem = ""
    if volume.ndim not in (2, 3, 4):
        problem = "an image must be (y, x), (z, y, x) or (channel, z, y, x)"
    elif 0 in volume.shape:
        raise DataError(f"{source} has shape {volume.shape}, which holds no voxel")
    if problem:
        raise DataError(f"{source} has shape {volume.shape}; {problem}")
    return FiniteVolume(volume, 4)


def open_label(source: str | Path, image_shape: tuple[int, ...] | None = None, what: str = "label") -> FiniteVolume:
    """Open labels or a mask, one value per voxel, to be read by region.

    Parameters
    ----------
    source : str or Path
    image_shape : tuple of int, optional
        Shape (channel, z, y, x) of the image they belong to.
    what : str
        "label" or "mask", for messages.

    Returns
    -------
    FiniteVolume of shape (z, y, x)
        With the type it is stored in.

    Raises
    ------
    DataError
        As `open_volume`; also for other numbers of axes or, when they are read, values that are not finite.
    ShapeError
        If image and label have different sizes.
    """
    volume = open_volume(source)
    dropped = 1 if volume.ndim == 4 and volume.shape[0] == 1 else 0
    if volume.ndim - dropped not in (2, 3):
        raise DataError(f"{source} has shape {volume.shape}; {what}s must be (y, x) or (z, y, x)")
    label = FiniteVolume(volume, 3, dropped)
    if image_shape is not None and label.shape != tuple(image_shape[-3:]):
        raise ShapeError(
            f"{source} has size {label.shape} (z, y, x), but its image has {tuple(image_shape[-3:])}. "
            f"Image and {what} must have the same size"
        )
    return label


def read_image(source: str | Path) -> np.ndarray:
    """Read an image as the network wants it.

    Returns
    -------
    float32 array of shape (channel, z, y, x)
        A stored (y, x) is one section, a stored (z, y, x) one channel.

    Raises
    ------
    DataError
        As `open_image`.
    """
    image = open_image(source)
    try:
        return image[...].astype(np.float32)
    finally:
        image.close()


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
    DataError, ShapeError
        As `open_label`.
    """
    label = open_label(source, image_shape)
    try:
        return np.array(label[...])
    finally:
        label.close()


def _axes(ndim: int) -> str:
    return ", ".join(("channel", "z", "y", "x")[4 - ndim :])
