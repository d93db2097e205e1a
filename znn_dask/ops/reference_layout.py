"""Layouts, fragments and windows, as the reference operations see them.

Images are ``(batch, z, y, x, channel)`` inside and ``(batch, channel, z, y, x)`` outside; sizes in voxels.
Promises: every function only moves values; `split_fragments` and `merge_fragments` are each other's inverse.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from znn_dask.errors import ShapeError
from znn_dask.geometry import Triple, volume

Array: TypeAlias = npt.NDArray[Any]


def to_internal(batch: Array) -> Array:
    """Turn ``(batch, channel, z, y, x)`` into ``(batch, z, y, x, channel)``, C-contiguous."""
    return np.ascontiguousarray(batch.transpose(0, 2, 3, 4, 1))


def to_public(image: Array) -> Array:
    """Turn ``(batch, z, y, x, channel)`` into ``(batch, channel, z, y, x)``, C-contiguous."""
    return np.ascontiguousarray(image.transpose(0, 4, 1, 2, 3))


def kernel_to_internal(kernel: Array) -> Array:
    """Turn ``(out, in, kz, ky, kx)`` into ``(kz, ky, kx, in, out)``, C-contiguous."""
    return np.ascontiguousarray(kernel.transpose(2, 3, 4, 1, 0))


def kernel_to_public(kernel: Array) -> Array:
    """Turn ``(kz, ky, kx, in, out)`` into ``(out, in, kz, ky, kx)``, C-contiguous."""
    return np.ascontiguousarray(kernel.transpose(4, 3, 0, 1, 2))


def split_fragments(image: Array, strides: Sequence[Triple]) -> Array:
    """Split a dense lattice into interleaved sub-lattices, once per stride, in the order of the filters.

    Parameters
    ----------
    image : array of shape (batch, z, y, x, channel)
    strides : sequence of (z, y, x)
        Of the max-filters, first to last.

    Returns
    -------
    array of shape (P * batch, z/S, y/S, x/S, channel)
        S is the product of the strides per axis, P over all axes. The voxel v of image b goes to ``v // s``
        of the batch entry ``p * batch + b``, where p is the flat index of ``v mod s``.

    Raises
    ------
    ShapeError
        If a size is no multiple of a stride.
    """
    for stride in strides:
        check_multiple(size_of(image), stride, "image", "stride")
        image = np.concatenate([image[lattice(p, stride)] for p in offsets(stride)], axis=0)
    return np.ascontiguousarray(image)


def merge_fragments(image: Array, strides: Sequence[Triple]) -> Array:
    """Undo `split_fragments`: put the sub-lattices of every stride back into one dense lattice.

    Parameters
    ----------
    image : array of shape (P * batch, z, y, x, channel)
    strides : sequence of (z, y, x)
        Of the max-filters, first to last.

    Returns
    -------
    array of shape (batch, z * S, y * S, x * S, channel)
    """
    for stride in reversed(strides):
        n_entries, z, y, x, channels = image.shape
        if n_entries % volume(stride):
            raise ShapeError(f"{n_entries} batch entries are no multiple of the {volume(stride)} fragments")
        n_batch = n_entries // volume(stride)
        dense = np.empty((n_batch, z * stride[0], y * stride[1], x * stride[2], channels), image.dtype)
        for index, p in enumerate(offsets(stride)):
            dense[lattice(p, stride)] = image[index * n_batch : (index + 1) * n_batch]
        image = dense
    return image


def size_of(image: Array) -> Triple:
    """Return the size (z, y, x) of an image."""
    z, y, x = image.shape[1:4]
    return z, y, x


def taps_of(kernel: Array) -> Triple:
    """Return the size (z, y, x) of a kernel."""
    z, y, x = kernel.shape[:3]
    return z, y, x


def offsets(size: Triple) -> Iterator[Triple]:
    """Yield every position in a box of this size, x fastest."""
    yield from itertools.product(range(size[0]), range(size[1]), range(size[2]))


def window_at(image: Array, offset: Triple, size: Triple) -> Array:
    """Return the view of the box of ``size`` that starts at ``offset`` in every entry."""
    z, y, x = (slice(o, o + n) for o, n in zip(offset, size, strict=True))
    return image[:, z, y, x]


def lattice(offset: Triple, stride: Triple) -> tuple[slice, slice, slice, slice]:
    """Return the slices that select every ``stride``-th voxel from ``offset`` on, in every entry."""
    z, y, x = (slice(o, None, s) for o, s in zip(offset, stride, strict=True))
    return slice(None), z, y, x


def valid_size(size: Triple, window: Triple) -> Triple:
    """Return ``size - window + 1``, or raise `ShapeError` where the window does not fit."""
    z, y, x = (n - w + 1 for n, w in zip(size, window, strict=True))
    if min(z, y, x) < 1:
        raise ShapeError(f"a window of {window} (z, y, x) does not fit into {size}")
    return z, y, x


def check_multiple(size: Triple, step: Triple, what: str, of: str) -> None:
    """Raise `ShapeError` unless every size is a multiple of its step."""
    if any(n % s for n, s in zip(size, step, strict=True)):
        raise ShapeError(f"the {what} size {size} (z, y, x) is no multiple of the {of} {step}")
