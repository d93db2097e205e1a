"""Softmax over the maps of a node: forward and backward.

A node comes as blocks of channels, each float32 of shape ``(entry, z, y, x, channel)``; the sum runs over all.
"""

from collections.abc import Sequence

from znn_dask import _kernels
from znn_dask.ops import reference_channels as reference
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


@fresh
@twin(reference.softmax)
def softmax(images: Sequence[Array]) -> tuple[Array, ...]:
    """Return, at every voxel, the exponentials of all maps divided by their sum; one array per block."""
    outputs = tuple(empty(image.shape) for image in images)
    _kernels.softmax_forward(list(images), list(outputs))
    return outputs


@fresh
@twin(reference.softmax_backward)
def softmax_backward(d_outputs: Sequence[Array], outputs: Sequence[Array]) -> tuple[Array, ...]:
    """Return the gradient of every block of the image from those of the outputs, and the outputs."""
    d_images = tuple(empty(output.shape) for output in outputs)
    _kernels.softmax_backward(list(d_outputs), list(outputs), list(d_images))
    return d_images
