"""Pooled, aligned arrays: memory given back is used again, so a running step asks the system for nothing.

An array goes back to the pool when the last reference to it (or to a view of it) dies.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels

Array = npt.NDArray[np.float32]


class PoolCounts(NamedTuple):
    """What the pool holds: bytes from the system, bytes in arrays now, and how often it asked the system."""

    bytes_from_system: int
    bytes_in_use: int
    n_from_system: int


def empty(shape: tuple[int, ...]) -> Array:
    """Return a float32 array of this shape with arbitrary values."""
    return _kernels.empty(shape)


def zeros(shape: tuple[int, ...]) -> Array:
    """Return a float32 array of zeros."""
    array = _kernels.empty(shape)
    array.fill(0.0)
    return array


def empty_index(shape: tuple[int, ...], n_values: int) -> npt.NDArray[Any]:
    """Return an array of the smallest unsigned type that tells ``n_values`` apart, uint8 or uint16."""
    return _kernels.empty_uint8(shape) if n_values <= 256 else _kernels.empty_uint16(shape)


def contiguous(array: npt.NDArray[Any]) -> Array:
    """Return the array itself if it is C-contiguous float32, else a pooled copy that is."""
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    copy = _kernels.empty(array.shape)
    copy[...] = array
    return copy


def pool_counts() -> PoolCounts:
    """Return what the pool holds now."""
    return PoolCounts(*_kernels.pool_counts())


def trim_pool() -> None:
    """Return the memory that no array uses to the system."""
    _kernels.trim()
