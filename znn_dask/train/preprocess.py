"""Images to comparable values, the same way in training and prediction, and by region.

What must be known of the whole volume is computed once, section after section, so that volumes may be larger than
memory and a region is the same as that part of the whole, bit for bit.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from znn_dask.io.stored import Region, as_box
from znn_dask.ops.greys import standardise

Method: TypeAlias = Literal["section", "volume", "rescale", "none"]
Clip: TypeAlias = tuple[float, float] | None
# What ZNN's job files call them.
ZNN_METHODS: dict[str, Method] = {
    "standard2D": "section",
    "standard3D": "volume",
    "symetric_rescale": "rescale",
    "none": "none",
}
SLAB = 1 << 24  # voxels that are read at once
SECTION_PART = 1 << 22  # voxels of a section that are summed at once; results depend on it in the last bits


def preprocess(image: np.ndarray, method: Method, clip: Clip = None) -> np.ndarray:
    """Give every section or the whole volume mean 0 and standard deviation 1, channel by channel.

    Parameters
    ----------
    image : float32 array of shape (channel, z, y, x)
    method : "section", "volume", "rescale" or "none"
        ``"rescale"`` makes the least value of the volume -1 and the greatest 1; ``"none"`` leaves the values as they
        are stored.
    clip : (least, greatest), optional
        Values beyond become these, before anything else.

    Returns
    -------
    float32 array of shape (channel, z, y, x)
        What is constant becomes 0.
    """
    if method == "none" and clip is None:
        return image
    return Prepared(image, method, clip)[...]


class Prepared:
    """A volume whose regions are prepared where they are read.

    Parameters
    ----------
    image : array of shape (channel, z, y, x), read by region
    method : "section", "volume", "rescale" or "none"
    clip : (least, greatest), optional
        As for `preprocess`.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, image: Region, method: Method = "none", clip: Clip = None) -> None:
        self.image, self.method, self.clip = image, method, clip
        self.shape = tuple(int(n) for n in image.shape)
        self.chunks = getattr(image, "chunks", None)
        self.ndim = 4
        self._shift, self._scale = self._levels()

    def __getitem__(self, where: Any) -> np.ndarray:
        """Return a region as float32."""
        box, rest = as_box(where, self.shape, "the image")
        values = np.asarray(self.image[box])
        if self._scale is None or self.clip is not None:
            values = _clipped(values, self.clip)
        if self._scale is not None:
            shift, scale = (np.ascontiguousarray(v[box[:2]]) for v in (self._shift, self._scale))
            values = standardise(values, shift, scale)
        return np.asarray(values[rest])

    @property
    def as_stored(self) -> bool:
        """Whether values need only be multiplied and moved to be prepared."""
        return self.clip is None and self.image.dtype in _GREYS

    def greys(self, box: tuple[slice, ...]) -> "Greys":
        """Return a region, given by a slice for every axis, as it is stored; or prepared, where that does not do."""
        if not self.as_stored:
            return _comparable(self[box])
        levels = self._factors[:, *box[:2]]
        return Greys(np.ascontiguousarray(self.image[box]), np.ascontiguousarray(levels))

    @functools.cached_property
    def _factors(self) -> np.ndarray:
        """What values are multiplied with, and what is added, float32 of shape (2, channel, z)."""
        scale = np.ones_like(self._shift) if self._scale is None else self._scale
        return np.array([scale, -self._shift * scale], np.float32)

    def _levels(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what is subtracted from every section, and what it is multiplied with, of shape (channel, z)."""
        shape = self.shape[:2]
        if self.method == "none":
            return np.zeros(shape), None
        found = statistics(self.image, self.clip)
        if self.method == "rescale":
            low, high = (v.astype(np.float64)[:, None] for v in (found.low.min(axis=1), found.high.max(axis=1)))
            middle, spread = (low + high) / 2, (high - low) / 2
        elif self.method == "section":
            middle, spread = found.mean, np.sqrt(found.variance)
        else:
            middle = found.mean.mean(axis=1, keepdims=True)
            spread = np.sqrt((found.variance + (found.mean - middle) ** 2).mean(axis=1, keepdims=True))
        spread = np.where(spread > 0, spread, 1.0)
        return np.broadcast_to(middle, shape), np.broadcast_to(1 / spread, shape)


class Greys(NamedTuple):
    """A region of an image.

    Attributes
    ----------
    values : C-contiguous array of shape (channel, z, y, x), uint8, uint16 or float32
    levels : float32 array of shape (2, channel, z)
        What makes the values of a section comparable: a factor, and what is added.
    """

    values: np.ndarray
    levels: np.ndarray


_GREYS = (np.dtype(np.uint8), np.dtype(np.uint16))  # what kernels read beside float32


def greys_of(image: Region, box: tuple[slice, ...]) -> Greys:
    """Return a region of an image that is prepared where it is read, or of one that holds the values as they are."""
    if isinstance(image, Prepared):
        return image.greys(box)
    return _comparable(image[box])


def lies_in_memory(image: Region) -> bool:
    """Return whether a whole volume can be given to kernels at no cost."""
    if isinstance(image, Prepared):
        return image.as_stored and lies_in_memory(image.image)
    return isinstance(image, np.ndarray) and image.flags.c_contiguous and image.size < 1 << 31


def _comparable(values: np.ndarray) -> Greys:
    """Return values that need no levels."""
    levels = np.zeros((2, *values.shape[:2]), np.float32)
    levels[0] = 1.0
    return Greys(np.ascontiguousarray(values, np.float32), levels)


@dataclass(frozen=True)
class Statistics:
    """Of every section of every channel, each a float64 array of shape (channel, z)."""

    mean: np.ndarray
    variance: np.ndarray
    low: np.ndarray
    high: np.ndarray


def statistics(image: Region, clip: Clip = None) -> Statistics:
    """Read a volume once and return the statistics of its sections.

    The results do not depend on how much is read at once (Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979, for sections that are summed in parts).
    """
    channels, depth = (int(n) for n in image.shape[:2])
    mean, squares = np.zeros((channels, depth)), np.zeros((channels, depth))
    low, high = np.full((channels, depth), np.inf), np.full((channels, depth), -np.inf)
    counts = np.zeros(depth)
    for sections, rows in _parts(image):
        block = _clipped(np.asarray(image[:, sections, rows]), clip)
        count = block.shape[2] * block.shape[3]
        average = block.mean(axis=(2, 3), dtype=np.float64)
        spread = block.var(axis=(2, 3), dtype=np.float64) * count
        before = counts[sections]
        step = average - mean[:, sections]
        mean[:, sections] += step * (count / (before + count))
        squares[:, sections] += spread + step**2 * (before * count / (before + count))
        counts[sections] += count
        low[:, sections] = np.minimum(low[:, sections], block.min(axis=(2, 3)))
        high[:, sections] = np.maximum(high[:, sections], block.max(axis=(2, 3)))
    return Statistics(mean, squares / counts, low, high)


def _parts(image: Region) -> Iterator[tuple[slice, slice]]:
    """Yield sections and rows to be read at once: whole chunks where that is known."""
    channels, depth, height, width = (int(n) for n in image.shape)
    rows = max(1, min(height, SECTION_PART // max(1, width)))
    chunks = getattr(image, "chunks", None)
    deep = max(1, SLAB // (channels * rows * width))
    if chunks is not None and chunks[1] < deep:
        deep -= deep % int(chunks[1])
    for first in range(0, depth, deep):
        for row in range(0, height, rows):
            yield slice(first, min(depth, first + deep)), slice(row, min(height, row + rows))


def _clipped(values: np.ndarray, clip: Clip) -> np.ndarray:
    values = values.astype(np.float32, copy=False)
    return values if clip is None else np.clip(values, np.float32(clip[0]), np.float32(clip[1]))
