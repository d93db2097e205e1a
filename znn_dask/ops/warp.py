"""Patches of which every voxel comes from elsewhere, for augmentation: where from, and the values there.

A *field* is a float32 array of shape (3, z, y, x): the coordinates z, y and x that each voxel of a patch comes from; or
of shape (2, z, y, x), those along y and x, if each section stays whole. A *course* says the same in fewer numbers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Course(NamedTuple):
    """Where the voxels of a patch come from, counted from the voxel that its first one comes from if nothing moves.

    Attributes
    ----------
    affine, splines
        As for `places`.
    moved : int32 array of shape (z, 3)
        Added to the coordinates z, y and x, section by section. Without a map along z, that is where it comes from.
    size : (z, y, x)
        Of the patch.
    """

    affine: Array
    splines: Sequence[Spline]
    moved: npt.NDArray[np.int32]
    size: Triple

    def field(self) -> Array:
        """Return the coordinates z, y and x that each voxel comes from, float32 of shape (3, *size)."""
        found = np.zeros((3, *self.size), np.float32)
        found[3 - len(self.affine) :] = places(self.affine, self.splines, self.size)
        return found + self.moved.T.astype(np.float32)[:, :, None, None]


class Window(NamedTuple):
    """What may be seen of an image.

    Attributes
    ----------
    at : (z, y, x)
        The voxel that a course counts from; it may lie outside.
    low, high : (z, y, x)
        The box of voxels that may be seen. Beyond, the image goes on as in a mirror, the outermost voxel not repeated.
        An image need only hold those that are looked at.
    """

    at: Triple
    low: Triple
    high: Triple


@twin(reference.interpolate)
def interpolate(image: npt.NDArray[Any], levels: Array, course: Course, window: Window) -> Array:
    """Return the values where a patch comes from, linearly interpolated.

    Parameters
    ----------
    image : C-contiguous array of shape (channel, z, y, x), uint8, uint16 or float32
        Of fewer than 2**31 voxels.
    levels : float32 array of shape (2, channel, z)
        What the values of every section are multiplied with, and what is added.
    course : Course
    window : Window

    Returns
    -------
    float32 array of shape (channel, *course.size)
    """
    result = empty((image.shape[0], *course.size))
    affine, coefficients, weights, moved = _given(course)
    _kernels.interpolate_at(image, levels, affine, coefficients, weights, moved, *window, result)
    return result


@twin(reference.nearest)
def nearest(
    image_size: Triple, course: Course, window: Window, region: tuple[Triple, Triple]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the voxels nearest to where a patch comes from, and whether that is inside a region.

    Parameters
    ----------
    image_size : (z, y, x)
    course : Course
    window : Window
    region : two triples (z, y, x)
        The box, from and to, in voxels of the image.

    Returns
    -------
    int64 array of shape course.size
        Indices into a flat image; a place in the middle of two voxels goes to the first.
    bool array of shape course.size
    """
    voxels, inside = np.empty(course.size, np.int64), np.empty(course.size, np.uint8)
    affine, coefficients, weights, moved = _given(course)
    _kernels.nearest(image_size, affine, coefficients, weights, moved, *window, *region, voxels, inside)
    return voxels, inside.view(np.bool_)


def _given(course: Course) -> tuple[Array, list[Array], list[list[Array]], npt.NDArray[np.int32]]:
    splines = course.splines
    return course.affine, [s.coefficients for s in splines], [[s.z, s.y, s.x] for s in splines], course.moved
