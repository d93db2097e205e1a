"""Average pooling: forward and backward. Images are float32 of shape ``(entry, z, y, x, channel)``."""

from znn_dask.geometry import Triple
from znn_dask.ops import reference_sampling as reference
from znn_dask.ops.memory import Array
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


@fresh
@twin(reference.average_pool)
def average_pool(image: Array, window: Triple) -> Array:
    """Return the means of windows side by side, of which the size must be a multiple."""
    return reference.average_pool(image, window)


@fresh
@twin(reference.average_pool_backward)
def average_pool_backward(d_output: Array, window: Triple) -> Array:
    """Return the gradient of the image of `average_pool`: equal parts to every voxel of a window."""
    return reference.average_pool_backward(d_output, window)
