"""What the readers of all formats give: a shape, a type, and a function that reads a box."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from znn_dask.errors import DataError, ShapeError
from znn_dask.io.source import Source

Box = tuple[slice, ...]


class Region(Protocol):
    """An array that is read by region: numpy arrays are, and all volumes of `znn_dask.io`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every axis."""

    @property
    def dtype(self) -> Any:
        """The type of its values."""

    def __getitem__(self, where: Any, /) -> Any:
        """Return a region as a numpy array."""


def _nothing() -> None:
    """Close nothing."""


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy dtype
    read : callable(tuple of slices) -> array
        Reads a box; one slice of step 1 for every axis.
    chunks : tuple of int, optional
        What is read at once, where the file says it.
    axes : str, optional
        What its axes are, in letters of "tczyx", where the file says it.
    close : callable
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Box], np.ndarray]
    chunks: tuple[int, ...] | None = None
    axes: str | None = None
    close: Callable[[], None] = _nothing


def stored_array(array: Any, axes: str | None = None, close: Callable[[], None] = _nothing) -> Stored:
    """Return an array of a library (numpy, h5py, zarr) that is read by slices."""
    chunks = getattr(array, "chunks", None)
    return Stored(
        tuple(int(n) for n in array.shape),
        np.dtype(array.dtype),
        lambda box: np.asarray(array[box]),
        None if chunks is None else tuple(int(n) for n in chunks),
        axes,
        close,
    )


def in_order(place: Source, stored: Stored) -> Stored:
    """Return an array whose axes are known with those of a volume: (z, y, x), or (channel, z, y, x).

    A time of one point is left out; a section is put in where there are channels but no z.

    Raises
    ------
    DataError
        If there are several times.
    """
    axes = stored.axes
    if axes is None:
        return stored
    if "t" in axes:
        if stored.shape[axes.index("t")] != 1:
            raise DataError(
                f"{place} has {stored.shape[axes.index('t')]} points of time (axis t); a volume has none. "
                "Save one of them alone"
            )
        stored, axes = _without(stored, axes.index("t")), axes.replace("t", "")
    order = [axes.index(name) for name in "czyx" if name in axes]
    stored = _transposed(stored, order)
    if "c" in axes and "z" not in axes:
        return _with_section(stored)
    return replace(stored, axes=None)


def _without(stored: Stored, axis: int) -> Stored:
    def read(box: Box) -> np.ndarray:
        return np.asarray(stored.read((*box[:axis], slice(0, 1), *box[axis:]))).squeeze(axis)

    return replace(stored, shape=_less(stored.shape, axis), chunks=_less(stored.chunks, axis), read=read)


def _with_section(stored: Stored) -> Stored:
    def read(box: Box) -> np.ndarray:
        return np.asarray(stored.read((box[0], *box[2:])))[:, np.newaxis][:, box[1]]

    (c, y, x), chunks = stored.shape, stored.chunks
    return replace(
        stored, shape=(c, 1, y, x), chunks=None if chunks is None else (chunks[0], 1, *chunks[1:]), read=read, axes=None
    )


def _transposed(stored: Stored, order: list[int]) -> Stored:
    if order == list(range(len(stored.shape))):
        return stored
    back = [order.index(axis) for axis in range(len(order))]

    def read(box: Box) -> np.ndarray:
        return np.asarray(stored.read(tuple(box[axis] for axis in back))).transpose(order)

    pick = lambda values: None if values is None else tuple(values[axis] for axis in order)  # noqa: E731
    return replace(stored, shape=pick(stored.shape), chunks=pick(stored.chunks), read=read)


def _less(values: Sequence[int] | None, axis: int) -> Any:
    return None if values is None else (*values[:axis], *values[axis + 1 :])


class LazyVolume:
    """A volume in a file, read where it is indexed.

    Attributes
    ----------
    place : Source
    shape : tuple of int
    dtype : numpy dtype
        As stored.
    chunks : tuple of int or None
        What is read at once, where the file says it.
    """

    def __init__(self, place: Source, stored: Stored) -> None:
        self.place, self._stored = place, stored
        self.shape, self.dtype, self.chunks = stored.shape, stored.dtype, stored.chunks
        # Whoever forgets to close it loses no file handle.
        self._close = weakref.finalize(self, stored.close)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole volume."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, where: Any) -> np.ndarray:
        """Read a region: integers, slices of positive step and ``...``, as in numpy.

        Raises
        ------
        DataError
            If it cannot be read.
        ShapeError
            If an index lies outside.
        """
        box, rest = as_box(where, self.shape, str(self.place))
        return np.asarray(self.read(box)[rest])

    def read(self, box: Box) -> np.ndarray:
        """Read a box, given by a slice (from, to) for every axis."""
        try:
            values = self._stored.read(box)
        except Exception as error:  # the readers raise whatever they like on damaged files
            raise cannot_read(self.place, error) from error
        expected = tuple(side.stop - side.start for side in box)
        if values.shape != expected:
            raise DataError(f"{self.place} gave {values.shape} where {expected} was asked for; the file is damaged")
        return values

    def close(self) -> None:
        """Close the file."""
        self._close()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place}: {self.shape} {self.dtype}>"


def cannot_read(place: Source, error: Exception) -> Exception:
    """Return one error for all that readers may raise."""
    if isinstance(error, DataError):
        return error
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{place} cannot be read as {place.format}: {reason}")


def as_box(where: Any, shape: tuple[int, ...], name: str) -> tuple[Box, tuple[Any, ...]]:
    """Return the box that an index needs, and the index of the result in that box."""
    parts = list(where) if isinstance(where, tuple) else [where]
    if any(part is Ellipsis for part in parts):
        at = next(number for number, part in enumerate(parts) if part is Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    parts += [slice(None)] * (len(shape) - len(parts))
    if len(parts) > len(shape):
        raise ShapeError(f"{name} has {len(shape)} axes, but {len(parts)} were indexed")
    box, rest = [], []
    for part, length in zip(parts, shape, strict=True):
        if isinstance(part, slice):
            start, stop, step = part.indices(length)
            if step < 1:
                raise ShapeError(f"{name}: regions have a positive step, got {step}")
            box.append(slice(start, max(start, stop)))
            rest.append(slice(None, None, step))
        else:
            index = int(part) + (length if part < 0 else 0)
            if not 0 <= index < length:
                raise ShapeError(f"{name}: there is no {int(part)} on an axis of {length}")
            box.append(slice(index, index + 1))
            rest.append(0)
    return tuple(box), tuple(rest)
