"""Upsampling by whole factors: forward and backward. Images are float32 of shape ``(entry, z, y, x, channel)``."""

from znn_dask.geometry import Triple
from znn_dask.ops import reference_sampling as reference
from znn_dask.ops.memory import Array
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


@fresh
@twin(reference.upsample)
def upsample(image: Array, factor: Triple, mode: str) -> Array:
    """Make an image larger.

    Parameters
    ----------
    image : float32 of shape (entry, z, y, x, channel)
    factor : (z, y, x)
    mode : "nearest" | "trilinear"
        Every voxel repeated; or interpolated between voxel centres, values beyond the outermost centres being theirs
        (torch's ``align_corners=False``).
    """
    return reference.upsample(image, factor, mode)


@fresh
@twin(reference.upsample_backward)
def upsample_backward(d_output: Array, factor: Triple, mode: str) -> Array:
    """Return the gradient of the image of `upsample`."""
    return reference.upsample_backward(d_output, factor, mode)
