"""Upsampling by whole factors: forward and backward. Images are float32 of shape ``(entry, z, y, x, channel)``."""

from znn_dask import _kernels
from znn_dask.geometry import Triple, multiply
from znn_dask.ops import reference_sampling as reference
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.reference_layout import check_multiple, size_of
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
    reference.check_mode(mode)
    out = empty((len(image), *multiply(size_of(image), factor), image.shape[4]))
    if mode == "nearest":
        _kernels.repeat(image, factor, 1.0, out)
    else:
        _kernels.interpolate(image, factor, out)
    return out


@fresh
@twin(reference.upsample_backward)
def upsample_backward(d_output: Array, factor: Triple, mode: str) -> Array:
    """Return the gradient of the image of `upsample`."""
    reference.check_mode(mode)
    check_multiple(size_of(d_output), factor, "gradient", "factor")
    entries, z, y, x, channels = d_output.shape
    d_image = empty((entries, z // factor[0], y // factor[1], x // factor[2], channels))
    if mode == "nearest":
        _kernels.window_sum(d_output, factor, 1.0, d_image)
    else:
        _kernels.interpolate_backward(d_output, factor, d_image)
    return d_image
