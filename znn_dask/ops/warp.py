"""Patches of which every voxel comes from elsewhere, for augmentation: where from, and the values there.

A *field* is a float32 array of shape (3, z, y, x): the coordinates z, y and x that each voxel of a patch comes from; or
of shape (2, z, y, x), those along y and x, if each section stays itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.geometry import Triple
from znn_dask.ops import reference_warp as reference
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.validation import twin


class Spline(NamedTuple):
    """Displacements that are given on a coarse grid.

    Attributes
    ----------
    coefficients : float32 array of shape (map, kz, ky, kx)
        A map for each of the field.
    z, y, x : float32 arrays of shape (nz, kz), (ny, ky) and (kx, nx)
        What the coefficients weigh at every voxel of the patch.
    """

    coefficients: Array
    z: Array
    y: Array
    x: Array


@twin(reference.places)
def places(affine: Array, splines: Sequence[Spline], size: Triple) -> Array:
    """Return a field: an affine map of the voxels' numbers along each axis, and displacements.

    Parameters
    ----------
    affine : float32 array of shape (map, 4)
        What z, y and x are multiplied with, and what is added.
    splines : sequence of Spline
    size : (z, y, x)

    Returns
    -------
    float32 array of shape (map, *size)
    """
    field = empty((affine.shape[0], *size))
    _kernels.places(affine, [s.coefficients for s in splines], [[s.z, s.y, s.x] for s in splines], field)
    return field


@twin(reference.interpolate)
def interpolate(image: Array, field: Array, moved: npt.NDArray[np.int32], low: Triple) -> Array:
    """Return the values where a patch comes from, linearly interpolated; outside an image continues as its border.

    Parameters
    ----------
    image : float32 array of shape (channel, z, y, x)
        Any view.
    field : float32 array of shape (2 or 3, z, y, x)
    moved : int32 array of shape (z, 2)
        Added to the coordinates y and x, section by section.
    low : (z, y, x)
        The coordinates of the image's first voxel. If sections stay themselves, the patch's first section is 0.

    Returns
    -------
    float32 array of shape (channel, z, y, x), of the field's size
    """
    result = np.empty((image.shape[0], *field.shape[1:]), np.float32)
    _kernels.interpolate_at(image, field, moved, low, result)
    return result


@twin(reference.nearest)
def nearest(image_size: Triple, field: Array, moved: npt.NDArray[np.int32], low: Triple) -> npt.NDArray[np.int64]:
    """Return the voxels nearest to where a patch comes from, as indices into a flat image; as `interpolate`."""
    size = field.shape[1], field.shape[2], field.shape[3]
    result = np.empty(size, np.int64)
    _kernels.nearest(image_size, field, moved, low, result)
    return result
