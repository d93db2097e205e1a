"""The largest of several images: forward with argmax, backward by it.

Images are float32 of shape ``(entry, z, y, x, channel)``.
"""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.ops import reference_channels as reference
from znn_dask.ops.memory import Array, empty, empty_index
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

Argmax = npt.NDArray[Any]


@fresh
@twin(reference.largest)
def largest(images: Sequence[Array]) -> tuple[Array, Argmax]:
    """Return the largest of at most 256 images at every place, and which it was as uint8; ties go to the first."""
    out, argmax = empty(images[0].shape), empty_index(images[0].shape, 256)
    _kernels.largest(list(images), out, argmax)
    return out, argmax


@fresh
@twin(reference.largest_backward)
def largest_backward(d_output: Array, argmax: Argmax, n: int) -> tuple[Array, ...]:
    """Return the gradients of the n images of `largest`: each value goes to the image it came from."""
    d_images = tuple(empty(d_output.shape) for _ in range(n))
    _kernels.largest_backward(d_output, argmax, list(d_images))
    return d_images
