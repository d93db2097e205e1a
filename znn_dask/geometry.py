"""Sizes and boxes in voxels, always in the order (z, y, x). 2D is z = 1."""

from collections.abc import Iterable
from typing import TypeAlias

from znn_dask.errors import ParameterError

Triple: TypeAlias = tuple[int, int, int]

ONE: Triple = (1, 1, 1)


def as_triple(value: object, ndim: int = 3, name: str = "size", minimum: int = 1) -> Triple:
    """Read an int or a sequence of three ints as (z, y, x).

    An int ``k`` means ``(k, k, k)``, and ``(1, k, k)`` with ``ndim=2``; so do sequences of length two.

    Raises
    ------
    ParameterError
        If the value is neither, or an entry is below ``minimum``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, Iterable)) or isinstance(value, (str, bytes)):
        raise ParameterError(f"{name} must be an int or (z, y, x), got {value!r}")
    if isinstance(value, int):
        triple = (value,) * 3 if ndim == 3 else (1, value, value)
    else:
        triple = tuple(value)
        if len(triple) == 2 and ndim == 2:
            triple = (1, *triple)
    if len(triple) != 3 or any(isinstance(v, bool) or not hasattr(v, "__index__") for v in triple):
        raise ParameterError(f"{name} must be an int or three ints (z, y, x), got {value!r}")
    z, y, x = (int(v) for v in triple)
    if min(z, y, x) < minimum:
        raise ParameterError(f"{name} must be at least {minimum} along every axis, got {(z, y, x)} (z, y, x)")
    return z, y, x


def ceil_div(a: int, b: int) -> int:
    """Return the smallest integer not below a / b."""
    return -(-a // b)


def volume(size: Triple) -> int:
    """Return the number of voxels of a box."""
    return size[0] * size[1] * size[2]


def add(a: Triple, b: Triple) -> Triple:
    """Return a + b, axis by axis."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def subtract(a: Triple, b: Triple) -> Triple:
    """Return a - b, axis by axis."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def multiply(a: Triple, b: Triple) -> Triple:
    """Return a * b, axis by axis."""
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


def divide(a: Triple, b: Triple) -> Triple:
    """Return a // b, axis by axis."""
    return a[0] // b[0], a[1] // b[1], a[2] // b[2]


def round_up(size: Triple, multiple: Triple) -> Triple:
    """Return the smallest size not below ``size`` that is a multiple of ``multiple``, axis by axis."""
    z, y, x = (ceil_div(s, m) * m for s, m in zip(size, multiple, strict=True))
    return z, y, x


def cover(size: Triple, patch: Triple) -> list[Triple]:
    """Return the first voxels of patches that cover a box; the last along an axis is moved back to end with it.

    The patch must not be larger than the box.
    """
    starts = [sorted({min(first, n - p) for first in range(0, n, p)}) for n, p in zip(size, patch, strict=True)]
    return [(z, y, x) for z in starts[0] for y in starts[1] for x in starts[2]]
