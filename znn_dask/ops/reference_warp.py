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


def interpolate(image: Array, field: Array, moved: npt.NDArray[np.int32], low: Triple) -> Array:
    """Return an image at other places, as `warp.interpolate` says."""
    where = _places(field, moved, low)
    return np.stack([ndimage.map_coordinates(channel, where, order=1, mode="nearest") for channel in image])


def nearest(image_size: Triple, field: Array, moved: npt.NDArray[np.int32], low: Triple) -> npt.NDArray[np.int64]:
    """Return the voxels nearest to places, as `warp.nearest` says."""
    inside = [np.clip(p, 0, n - 1) for p, n in zip(_places(field, moved, low), image_size, strict=True)]
    where = tuple(np.ceil(p - np.float32(0.5)).astype(np.int64) for p in inside)
    return np.asarray(np.ravel_multi_index(where, image_size), np.int64)


def _places(field: Array, moved: npt.NDArray[np.int32], low: Triple) -> Array:
    """Return the places in an image, float32 of shape (3, z, y, x)."""
    shift = moved.astype(np.float32).reshape(-1, 2, 1, 1) - np.array(low[1:], np.float32).reshape(2, 1, 1)
    sections = np.arange(field.shape[1], dtype=np.float32).reshape(-1, 1, 1) if len(field) == 2 else field[0]
    found = np.empty((3, *field.shape[1:]), np.float32)
    found[0], found[1], found[2] = sections - low[0], field[-2] + shift[:, 0], field[-1] + shift[:, 1]
    return found


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
