"""Images put together from bands of rows, and taken apart again.

Images are float32 of shape ``(entry, z, y, x, channel)``; bands of them have fewer rows along one axis, 0 for z or 1
for y.
"""

from collections.abc import Sequence
from typing import Any

from znn_dask.geometry import Triple
from znn_dask.ops import filter as filters
from znn_dask.ops.filter import Argmax
from znn_dask.ops.memory import Array, empty
from znn_dask.tasks import fresh


def _rows(axis: int, first: int, stop: int) -> Any:
    """Return the index of rows of an image."""
    return (slice(None),) * (axis + 1) + (slice(first, stop),)


@fresh
def join(bands: Sequence[Array], firsts: Sequence[int], axis: int) -> Array:
    """Return the image whose rows from ``firsts[i]`` are those of band i; rows that two bands hold are alike."""
    rows = bands[0].shape[axis + 1]
    shape = list(bands[0].shape)
    shape[axis + 1] = firsts[-1] + rows
    image = empty(tuple(shape))
    for band, first in zip(bands, firsts, strict=True):
        image[_rows(axis, first, first + rows)] = band
    return image


@fresh
def cut(image: Array, first: int, rows: int, again: int, axis: int) -> Array:
    """Return the band of so many rows from ``first``, of which the first ``again`` are zero: another has them."""
    shape = list(image.shape)
    shape[axis + 1] = rows
    band = empty(tuple(shape))
    band[_rows(axis, 0, again)] = 0.0
    band[_rows(axis, again, rows)] = image[_rows(axis, first + again, first + rows)]
    return band


@fresh
def max_filter_backward(
    d_outputs: Sequence[Array],
    argmax: Sequence[Argmax],
    window: Triple,
    stride: Triple,
    size: Triple,
    band: tuple[int, int, int],
    axis: int,
) -> Array:
    """Return the gradient of a band of ``size`` before a max-filter, rows ``(first, rows, again)`` of it, see `cut`."""
    cuts = [cut(d, *band, axis) for d in d_outputs]
    return filters.max_filter_backward(cuts, argmax, window, stride, size)


@fresh
def max_pool_backward(
    d_output: Array, argmax: Argmax, window: Triple, size: Triple, band: tuple[int, int, int], axis: int
) -> Array:
    """Return the gradient of a band of ``size`` before a max-pool, rows ``(first, rows, again)`` of it, see `cut`."""
    return filters.max_pool_backward(cut(d_output, *band, axis), argmax, window, size)
