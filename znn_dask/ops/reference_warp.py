"""The obvious version of `warp` and `greys`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from znn_dask.geometry import Triple
from znn_dask.ops.memory import Array


def places(affine: Array, splines: Sequence[tuple[Array, Array, Array, Array]], size: Triple) -> Array:
    """Return a field, as `warp.places` says."""
    grid = np.stack([*np.indices(size), np.ones(size)])
    field = np.einsum("ma,azyx->mzyx", affine.astype(np.float64), grid)
    for coefficients, z, y, x in splines:
        field += np.einsum("mabc,za,yb,cx->mzyx", coefficients, z, y, x, dtype=np.float64, optimize=True)
    return np.asarray(field, np.float32)


def interpolate(image: npt.NDArray[Any], levels: Array, course: Any, window: Any) -> Array:
    """Return an image at other places, as `warp.interpolate` says."""
    factor, offset = levels[..., np.newaxis, np.newaxis]
    where = _reflected(_places(course, window), window)
    graded = image.astype(np.float64) * factor + offset
    return np.stack([ndimage.map_coordinates(channel, where, order=1) for channel in graded]).astype(np.float32)


def nearest(image_size: Triple, course: Any, window: Any, region: tuple[Triple, Triple]) -> tuple[Any, Any]:
    """Return the voxels nearest to places, as `warp.nearest` says."""
    found = _places(course, window)
    where = tuple(np.ceil(p - 0.5).astype(np.int64) for p in _reflected(found, window))
    inside = [(p > a - 0.5) & (p <= b - 0.5) for p, a, b in zip(found, *region, strict=True)]
    return np.ravel_multi_index(where, image_size), inside[0] & inside[1] & inside[2]


def _places(course: Any, window: Any) -> npt.NDArray[np.float64]:
    """Return the places in an image, of shape (3, z, y, x)."""
    found = np.zeros((3, *course.size))
    found[3 - len(course.affine) :] = places(course.affine, course.splines, course.size)
    placed: npt.NDArray[np.float64] = found + course.moved.T[:, :, None, None]
    return np.asarray(placed + np.array(window.at).reshape(3, 1, 1, 1))


def _reflected(places: npt.NDArray[np.float64], window: Any) -> npt.NDArray[np.float64]:
    """Return places mirrored into what may be seen."""
    found = []
    for place, low, high in zip(places, window.low, window.high, strict=True):
        last = high - low - 1
        within = np.mod(place - low, 2 * last) if last else np.zeros_like(place)
        found.append(low + np.minimum(within, 2 * last - within))
    return np.stack(found)


def grade(values: Array, levels: Array) -> Array:
    """Return images of another look, as `greys.grade` says."""
    power, factor, offset = levels[..., np.newaxis, np.newaxis].astype(np.float64)
    low, high = float(values.min()), float(values.max())
    curved = low + (high - low) * ((values - low) / ((high - low) or 1.0)) ** power
    return np.asarray(curved * factor + offset, np.float32)


def standardise(values: npt.NDArray[Any], shift: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> Array:
    """Return comparable values, as `greys.standardise` says."""
    return np.asarray((values.astype(np.float32) - shift[:, :, None, None]) * scale[:, :, None, None], np.float32)


def smooth(values: Array, sigma_z: float, sigmas: npt.NDArray[np.float64]) -> Array:
    """Return smooth images, as `greys.smooth` says."""
    smoothed = _along(values, 1, sigma_z)
    sections = [_along(_along(smoothed[:, z], 1, sigma), 2, sigma) for z, sigma in enumerate(sigmas)]
    return np.stack(sections, axis=1)


def _along(values: Array, axis: int, sigma: float) -> Array:
    if sigma <= 0.1 or values.shape[axis] == 1:
        return values
    return np.asarray(ndimage.gaussian_filter1d(values, sigma, axis, mode="mirror", truncate=3.0))
