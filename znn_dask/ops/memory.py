"""Pooled, aligned arrays: memory given back is used again, so a running step asks the system for nothing.

An array goes back to the pool when the last reference to it (or to a view of it) dies.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.geometry import ceil_div

PAGE = 4096  # as in kernels/pool.cpp
Array = npt.NDArray[np.float32]


class PoolCounts(NamedTuple):
    """What the pool holds.

    Attributes
    ----------
    bytes_from_system : int
        Held now, in arrays or free.
    bytes_in_use : int
        In arrays now.
    n_from_system : int
        How often the system was asked.
    bytes_scratch : int
        Held by threads for their kernel calls, beside all of the above.
    bytes_peak : int
        The most that was in use at once since `reset_peak`.
    """

    bytes_from_system: int
    bytes_in_use: int
    n_from_system: int
    bytes_scratch: int
    bytes_peak: int


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


def reset_peak() -> None:
    """Start to measure `PoolCounts.bytes_peak` anew."""
    _kernels.reset_peak()


def pooled_bytes(n_bytes: int) -> int:
    """Return what an array of so many bytes takes from the pool: whole cache lines, or pages from one page on."""
    unit = 64 if n_bytes < PAGE else PAGE
    return max(1, ceil_div(n_bytes, unit)) * unit


def trim_pool() -> None:
    """Return the memory that no array uses to the system."""
    _kernels.trim()
