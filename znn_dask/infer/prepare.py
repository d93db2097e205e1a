"""Images as the network wants them, region by region: four axes, float32, prepared as in training.

Means and deviations of sections or of the volume are taken in one pass over it that holds a part at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import DataError, ParameterError

Array = npt.NDArray[np.float32]
METHODS = ("section", "volume", "rescale", "none")
SLAB = 1 << 21  # voxels that a pass holds


@dataclass(frozen=True)
class Moments:
    """What an image is shifted and divided by: lists of shape (channel, z) or (channel, 1)."""

    shift: list[list[float]]
    divide: list[list[float]]


class Prepared:
    """An image read by region.

    Parameters
    ----------
    volume : array-like of shape (z, y, x) or (channel, z, y, x)
    name : str
        For messages.
    moments : Moments, optional
    clip : (least, greatest), optional
        Values beyond become these, before anything else.

    Attributes
    ----------
    shape : (channel, z, y, x)
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self, volume: Any, name: str, moments: Moments | None = None, clip: tuple[float, float] | None = None
    ) -> None:
        if len(volume.shape) not in (3, 4) or 0 in volume.shape:
            raise DataError(f"{name} has shape {tuple(volume.shape)}; an image is (z, y, x) or (channel, z, y, x)")
        self.volume, self.name, self.moments, self.clip = volume, name, moments, clip
        self.shape = (1,) * (4 - len(volume.shape)) + tuple(int(n) for n in volume.shape)

    def __getitem__(self, where: tuple[slice, ...]) -> Array:
        raw = np.asarray(self.volume[where[4 - len(self.volume.shape) :]])
        values = raw.astype(np.float32).reshape((1,) * (4 - raw.ndim) + raw.shape)
        if raw.dtype.kind == "f" and not np.isfinite(values).all():
            self._complain(values, where)
        if self.clip is not None:
            values = np.clip(values, np.float32(self.clip[0]), np.float32(self.clip[1]))
        if self.moments is not None:
            shift, divide = (self._part(part, where) for part in (self.moments.shift, self.moments.divide))
            values = np.asarray((values - shift) / divide, np.float32)
        return values

    def _part(self, values: list[list[float]], where: tuple[slice, ...]) -> npt.NDArray[np.float64]:
        array = np.asarray(values)
        part = array[where[0], where[1]] if array.shape[1] > 1 else array[where[0]]
        return part[:, :, None, None]

    def _complain(self, values: Array, where: tuple[slice, ...]) -> None:
        place = np.argwhere(~np.isfinite(values))[0]
        there = tuple(int(i + (s.start or 0)) for i, s in zip(place, where, strict=True))[4 - len(self.volume.shape) :]
        raise DataError(
            f"{self.name} is {values[tuple(place)]} at {there}, which is not finite. Replace such values before use"
        )


def moments_of(image: Prepared, method: str) -> Moments | None:
    """Return what an image is to be shifted and divided by.

    Parameters
    ----------
    method : "section", "volume", "rescale" or "none"
        Mean 0 and deviation 1 of every section or the volume, channel by channel; from -1 to 1; as it is stored.
    """
    if method not in METHODS:
        raise ParameterError(f"preprocess must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "none":
        return None
    channels, depth = image.shape[:2]
    n_parts = depth if method == "section" else 1
    count = np.zeros((channels, n_parts))
    mean, square = np.zeros_like(count), np.zeros_like(count)
    low, high = np.full_like(count, np.inf), np.full_like(count, -np.inf)
    chunks = getattr(image.volume, "chunks", None)
    for inner in boxes_of(image.shape[1:], max(1, SLAB // channels), chunks):
        box = (slice(0, channels), *inner)
        values = image[box].astype(np.float64)
        axes = (2, 3) if method == "section" else (1, 2, 3)
        part = box[1] if method == "section" else slice(0, 1)
        n = float(np.prod([values.shape[axis] for axis in axes]))
        m = values.mean(axis=axes).reshape(channels, -1)
        s = values.var(axis=axes).reshape(channels, -1) * n
        # Chan, Golub and LeVeque: moments of parts give those of the whole without loss.
        before = count[:, part]
        total, delta = before + n, m - mean[:, part]
        square[:, part] += s + delta**2 * before * n / total
        mean[:, part] += delta * n / total
        count[:, part] = total
        low[:, part] = np.minimum(low[:, part], values.min(axis=axes).reshape(channels, -1))
        high[:, part] = np.maximum(high[:, part], values.max(axis=axes).reshape(channels, -1))
    if method == "rescale":
        half = (high - low) / 2
        return Moments((low + half).tolist(), np.where(half > 0, half, 1.0).tolist())
    deviation = np.sqrt(square / count)
    return Moments(mean.tolist(), np.where(deviation == 0, 1.0, deviation).tolist())


def boxes_of(size: tuple[int, ...], most: int, chunk: tuple[int, ...] | None = None) -> Iterator[tuple[slice, ...]]:
    """Yield boxes (z, y, x) that cover a volume, each of whole chunks and of a number of voxels at most, or one chunk.

    Parameters
    ----------
    chunk : (.., z, y, x), optional
        What is stored together, and had better be read at once.
    """
    unit = (1, 1, 1) if chunk is None else tuple(min(c, n) for c, n in zip(chunk[-3:], size, strict=True))
    sides = list(unit)
    # Along x first, as values lie.
    for axis in (2, 1, 0):
        others = math.prod(sides) // sides[axis]
        sides[axis] = min(size[axis], max(unit[axis], most // others // unit[axis] * unit[axis]))
    for low in product(*(range(0, n, side) for n, side in zip(size, sides, strict=True))):
        yield tuple(slice(a, min(a + side, n)) for a, side, n in zip(low, sides, size, strict=True))
