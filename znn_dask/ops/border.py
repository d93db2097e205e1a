"""Borders: voxels added around an image or left out, forward and backward.

Images are float32 of shape ``(entry, z, y, x, channel)``; ``before`` and ``after`` are voxels (z, y, x).
"""

import numpy as np

from znn_dask.geometry import Triple
from znn_dask.ops import reference_sampling as reference
from znn_dask.ops.memory import Array
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


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
    return np.ascontiguousarray(reference.pad(image, before, after, mode))


@fresh
@twin(reference.pad_backward)
def pad_backward(d_output: Array, before: Triple, after: Triple, mode: str) -> Array:
    """Return the gradient of the image of `pad`: those of the border are added to the voxels it was made of."""
    return reference.pad_backward(d_output, before, after, mode)


@fresh
@twin(reference.crop)
def crop(image: Array, before: Triple, after: Triple) -> Array:
    """Leave voxels out at the ends of every axis."""
    return reference.crop(image, before, after)


@fresh
@twin(reference.crop_backward)
def crop_backward(d_output: Array, before: Triple, after: Triple) -> Array:
    """Return the gradient of the image of `crop`: zeros around."""
    return reference.crop_backward(d_output, before, after)
