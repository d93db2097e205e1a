"""What is done to the grey values of samples: made comparable, smoothed, and noise added."""

from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.ops import reference_warp as reference
from znn_dask.ops.memory import Array
from znn_dask.ops.validation import twin

Doubles = npt.NDArray[np.float64]


@twin(reference.standardise)
def standardise(values: npt.NDArray[Any], shift: Doubles, scale: Doubles) -> Array:
    """Subtract a number from every section and multiply it with another, in double precision.

    Parameters
    ----------
    values : array of shape (channel, z, y, x)
        Of bytes, uint16 or float32 as they are; others become float32 before.
    shift, scale : float64 arrays of shape (channel, z)

    Returns
    -------
    float32 array of the same shape
    """
    result = np.empty(values.shape, np.float32)
    as_stored = values.dtype in (np.uint8, np.uint16)
    _kernels.standardise(np.ascontiguousarray(values, None if as_stored else np.float32), shift, scale, result)
    return result


@twin(reference.grade)
def grade(values: Array, levels: Array) -> Array:
    """Raise values to a power, then multiply and move them, section by section, in place.

    For the power, the values are taken to go from 0 to 1.

    Parameters
    ----------
    values : C-contiguous float32 array of shape (channel, z, y, x)
    levels : float32 array of shape (3, z)
        The power, the factor and what is added, of every section.

    Returns
    -------
    The array itself.
    """
    _kernels.grade(values, levels)
    return values


@twin(reference.smooth)
def smooth(values: Array, sigma_z: float, sigmas: Doubles) -> Array:
    """Convolve with Gaussians in place: across sections, and within each by a width of its own.

    Images go on as in a mirror, the outermost voxel not repeated. Gaussians end at three standard deviations; those of
    less than a tenth of a voxel do nothing.

    Parameters
    ----------
    values : C-contiguous float32 array of shape (channel, z, y, x)
    sigma_z : float
        The standard deviation across sections, in voxels.
    sigmas : float64 array of shape (z,)
        Those within sections.

    Returns
    -------
    The array itself.
    """
    _kernels.smooth(values, sigma_z, sigmas)
    return values


def add_noise(values: Array, key: int, sigma: float) -> None:
    """Add noise of a standard deviation to values, in place.

    Parameters
    ----------
    values : C-contiguous float32 array
    key : int
        64 bits that name the noise: a value's follows from these and its place.
    sigma : float
    """
    _kernels.add_noise(values.reshape(-1), key, sigma)
