"""Borders: voxels added around an image or left out, forward and backward.

Images are float32 of shape ``(entry, z, y, x, channel)``; ``before`` and ``after`` are voxels (z, y, x).
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.geometry import Triple, add
from znn_dask.ops import reference_sampling as reference
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.reference_layout import size_of
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

Numbers = npt.NDArray[Any]


@fresh
@twin(reference.pad)
def pad(image: Array, before: Triple, after: Triple, mode: str) -> Array:
    """Add voxels at the ends of every axis.

    Parameters
    ----------
    image : float32 of shape (entry, z, y, x, channel)
    before, after : (z, y, x)
    mode : "zero" | "mirror" | "replicate"
        Zeros; reflected without the outermost voxel; the outermost voxel again.

    Raises
    ------
    ShapeError
        If a mirrored border is not smaller than the image.
    """
    size = size_of(image)
    reference.check_border(size, before, after, mode)
    larger = add(size, add(before, after))
    out = empty((len(image), *larger, image.shape[4]))
    _kernels.take([image], *_moved(size, before, after, mode), out)
    return out


@fresh
@twin(reference.pad_backward)
def pad_backward(d_output: Array, before: Triple, after: Triple, mode: str) -> Array:
    """Return the gradient of the image of `pad`: those of the border are added to the voxels it was made of."""
    if mode == "zero":
        return crop(d_output, before, after)
    size = reference.cropped_size(size_of(d_output), before, after)
    reference.check_border(size, before, after, mode)
    d_image = empty((len(d_output), *size, d_output.shape[4]))
    axes = [_sources(n, b, a, mode) for n, b, a in zip(size, before, after, strict=True)]
    _kernels.fold(d_output, before, [starts for starts, _ in axes], [sources for _, sources in axes], d_image)
    return d_image


@fresh
@twin(reference.crop)
def crop(image: Array, before: Triple, after: Triple) -> Array:
    """Leave voxels out at the ends of every axis."""
    size = reference.cropped_size(size_of(image), before, after)
    out = empty((len(image), *size, image.shape[4]))
    _kernels.put(image, *_moved(size, before, after, "zero"), [out])
    return out


@fresh
@twin(reference.crop_backward)
def crop_backward(d_output: Array, before: Triple, after: Triple) -> Array:
    """Return the gradient of the image of `crop`: zeros around."""
    return pad(d_output, before, after, "zero")


def _reference_pad_slab(
    image: Array, previous: Array | None, following: Array | None, before: Triple, after: Triple
) -> Array:
    padded = reference.pad(image, before, after, "zero")
    _, by, bx = before
    _, y, x = size_of(image)
    inside = slice(by, by + y), slice(bx, bx + x)
    if previous is not None and before[0]:
        padded[:, : before[0], *inside] = previous[:, -before[0] :]
    if following is not None and after[0]:
        padded[:, padded.shape[1] - after[0] :, *inside] = following[:, : after[0]]
    return padded


@fresh
@twin(_reference_pad_slab)
def pad_slab(image: Array, previous: Array | None, following: Array | None, before: Triple, after: Triple) -> Array:
    """Pad a slab of an image that is cut along z: with what its neighbours hold, and zeros where the image ends.

    Parameters
    ----------
    image, previous, following : float32 of shape (entry, z, y, x, channel)
        Slabs of one size; None where there is none.
    before, after : (z, y, x)
        Along z at most the slab's.
    """
    size = size_of(image)
    parts, places = _moved(size, before, after, "zero")
    images, own = [image], 0
    if previous is not None:
        images, own = [previous, image], 1
    if following is not None:
        images.append(following)
    n = size[0]
    place = np.arange(-before[0], n + after[0])
    part = own + np.floor_divide(place, n)
    inside = (part >= 0) & (part < len(images))
    parts[0] = np.where(inside, part, 0).astype(np.int32)
    places[0] = np.where(inside, place % n, -1).astype(np.int32)
    out = empty((len(image), *add(size, add(before, after)), image.shape[4]))
    _kernels.take(images, parts, places, out)
    return out


def _reference_pad_slab_backward(
    d_output: Array, previous: Array | None, following: Array | None, before: Triple, after: Triple
) -> Array:
    return _summed(reference.crop(d_output, before, after), previous, following, before, after)


@fresh
@twin(_reference_pad_slab_backward)
def pad_slab_backward(
    d_output: Array, previous: Array | None, following: Array | None, before: Triple, after: Triple
) -> Array:
    """Return the gradient of a slab from those of its own padded slab and of its neighbours'."""
    return _summed(crop(d_output, before, after), previous, following, before, after)


def _summed(own: Array, previous: Array | None, following: Array | None, before: Triple, after: Triple) -> Array:
    _, y, x = size_of(own)
    inside = slice(before[1], before[1] + y), slice(before[2], before[2] + x)
    if previous is not None and after[0]:
        own[:, : after[0]] += previous[:, previous.shape[1] - after[0] :, *inside]
    if following is not None and before[0]:
        own[:, own.shape[1] - before[0] :] += following[:, : before[0], *inside]
    return own


def _moved(size: Triple, before: Triple, after: Triple, mode: str) -> tuple[list[Numbers], list[Numbers]]:
    """Return, along every axis of the larger image, the parts (there is one) and the places in it."""
    places = [_places(n, b, a, mode) for n, b, a in zip(size, before, after, strict=True)]
    return [np.zeros_like(p) for p in places], places


@lru_cache(maxsize=4096)
def _places(n: int, before: int, after: int, mode: str) -> Numbers:
    """Return the voxel of n of which every voxel of a padded axis is made; -1 for none."""
    inside = np.arange(n, dtype=np.int32)
    if mode == "zero":
        return np.pad(inside, (before, after), constant_values=-1)
    return np.pad(inside, (before, after), reference.MODES[mode])  # type: ignore[call-overload, no-any-return]


@lru_cache(maxsize=4096)
def _sources(n: int, before: int, after: int, mode: str) -> tuple[Numbers, Numbers]:
    """Return, of the voxels of a padded axis in the order of what they are made of, where those of each begin."""
    places = _places(n, before, after, mode)
    starts = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=n))])
    return starts.astype(np.int32), np.argsort(places, kind="stable").astype(np.int32)
