"""What is done to the grey values of samples: made comparable, smoothed, and noise added."""

import math

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.ops import reference_warp as reference
from znn_dask.ops.memory import Array
from znn_dask.ops.validation import twin

Doubles = npt.NDArray[np.float64]
TRUNCATE = 3.0  # standard deviations at which a Gaussian ends


@twin(reference.standardise)
def standardise(values: Array, shift: Doubles, scale: Doubles) -> Array:
    """Subtract a number from every section and multiply it with another, in double precision.

    Parameters
    ----------
    values : C-contiguous float32 array of shape (channel, z, y, x)
    shift, scale : float64 arrays of shape (channel, z)

    Returns
    -------
    float32 array of the same shape
    """
    result = np.empty(values.shape, np.float32)
    _kernels.standardise(values, shift, scale, result)
    return result


@twin(reference.smooth)
def smooth(values: Array, axis: int, sigma: float) -> Array:
    """Convolve with a Gaussian along one axis; values go on as in a mirror, the outermost not repeated.

    Parameters
    ----------
    values : C-contiguous float32 array
    axis : int
    sigma : float
        The standard deviation, in voxels; more than 0.

    Returns
    -------
    float32 array of the same shape
    """
    radius = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 / sigma**2 * np.arange(-radius, radius + 1) ** 2)
    result = np.empty(values.shape, np.float32)
    axis %= values.ndim
    split = math.prod(values.shape[:axis]), values.shape[axis], math.prod(values.shape[axis + 1 :])
    _kernels.smooth(values.reshape(split), (weights / weights.sum()).astype(np.float32), result.reshape(split))
    return result


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
