"""Images at places between their voxels, for augmentation: linear interpolation along a field of coordinates."""

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.geometry import Triple
from znn_dask.ops.memory import Array
from znn_dask.ops.reference_warp import interpolate as reference
from znn_dask.ops.validation import twin


@twin(reference)
def interpolate(
    image: Array, z: Array | None, y: Array, x: Array, moved: npt.NDArray[np.int32], low: Triple, size: Triple
) -> Array:
    """Return an image at other places, linearly interpolated; outside it continues as its border.

    Parameters
    ----------
    image : float32 array of shape (channel, z, y, x)
    z : float32 array of shape `size`, or None
        Coordinates; None: section after section, the first being 0.
    y, x : float32 arrays of shape `size`, or of one section that all share
        Coordinates.
    moved : int32 array of shape (size z, 2)
        Added to y and x, section by section.
    low : (z, y, x)
        The coordinates of the image's first voxel.
    size : (z, y, x)

    Returns
    -------
    float32 array of shape (channel, *size)
    """
    result = np.empty((image.shape[0], *size), np.float32)
    _kernels.interpolate(image, z, y, x, moved, low, result)
    return result
