"""Average pooling: forward and backward. Images are float32 of shape ``(entry, z, y, x, channel)``."""

from znn_dask import _kernels
from znn_dask.geometry import Triple, multiply, volume
from znn_dask.ops import reference_sampling as reference
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.reference_layout import check_multiple, size_of
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


@fresh
@twin(reference.average_pool)
def average_pool(image: Array, window: Triple) -> Array:
    """Return the means of windows side by side, of which the size must be a multiple."""
    check_multiple(size_of(image), window, "image", "window")
    entries, z, y, x, channels = image.shape
    out = empty((entries, z // window[0], y // window[1], x // window[2], channels))
    _kernels.window_sum(image, window, 1.0 / volume(window), out)
    return out


@fresh
@twin(reference.average_pool_backward)
def average_pool_backward(d_output: Array, window: Triple) -> Array:
    """Return the gradient of the image of `average_pool`: equal parts to every voxel of a window."""
    d_image = empty((len(d_output), *multiply(size_of(d_output), window), d_output.shape[4]))
    _kernels.repeat(d_output, window, 1.0 / volume(window), d_image)
    return d_image
