"""Max-filter and max-pool: forward with argmax, backward by it.

Images are float32 of shape ``(batch, z, y, x, channel)``. A max-filter gives the image in its fragments: position v
goes to parity ``v mod stride`` at ``v // stride``, parities in C order in front of the batch. They may be asked for
in several groups, so that each can be worked on by itself.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.geometry import Triple, volume
from znn_dask.ops import reference
from znn_dask.ops.memory import Array, empty, empty_index
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

Argmax = npt.NDArray[Any]
MAX_WINDOW = 1 << 16


def _reference_filter(image: Array, window: Triple, stride: Triple, n_groups: int = 1) -> tuple[Array, ...]:
    output, argmax = reference.max_filter(image, window, stride)
    return (*np.split(output, n_groups, axis=0), *np.split(argmax, n_groups, axis=0))


def _reference_filter_backward(
    d_outputs: Sequence[Array], argmax: Sequence[Argmax], window: Triple, stride: Triple, size: Triple
) -> Array:
    whole, indices = np.concatenate(d_outputs, axis=0), np.concatenate(argmax, axis=0)
    return reference.max_filter_backward(whole, indices, window, stride, size)


def _reference_pool_backward(d_output: Array, argmax: Argmax, window: Triple, size: Triple) -> Array:
    return reference.max_pool_backward(d_output, argmax, window)


@fresh
@twin(_reference_filter)
def max_filter(image: Array, window: Triple, stride: Triple, n_groups: int = 1) -> tuple[Array | Argmax, ...]:
    """Take the maximum over a window around every position.

    Parameters
    ----------
    image : float32 of shape (batch, z, y, x, channel)
    window, stride : (z, y, x)
        Voxels; ``size - window + 1`` must be a multiple of the stride.
    n_groups : int
        Into how many arrays the parities go; a divisor of their number.

    Returns
    -------
    n_groups images, then n_groups argmax
        Of shape ``(parities / n_groups * batch, (size - window + 1) / stride, channel)``. The argmax is the flat index
        in the window, ties going to the earlier voxel.
    """
    size = _filtered(image, window, stride)
    n_batch = volume(stride) // n_groups * len(image)
    return _forward(image, window, stride, False, (n_batch, *size, image.shape[4]), n_groups)


@fresh
@twin(reference.max_pool)
def max_pool(image: Array, window: Triple) -> tuple[Array | Argmax, ...]:
    """Take the maximum over windows side by side; the size becomes ``size // window``. Returns image and argmax."""
    size = tuple(n // w for n, w in zip(image.shape[1:4], window, strict=True))
    return _forward(image, window, window, True, (len(image), *size, image.shape[4]), 1)


@fresh
@twin(_reference_filter_backward)
def max_filter_backward(
    d_outputs: Sequence[Array], argmax: Sequence[Argmax], window: Triple, stride: Triple, size: Triple
) -> Array:
    """Return the gradient of the image of ``size`` from those of all groups: each goes to where its maximum was."""
    n_parities = volume(stride) // len(d_outputs)
    return _backward(d_outputs, argmax, window, stride, False, size, len(d_outputs[0]) // n_parities)


@fresh
@twin(_reference_pool_backward)
def max_pool_backward(d_output: Array, argmax: Argmax, window: Triple, size: Triple) -> Array:
    """Return the gradient of the image of ``size``: each value goes to where its maximum was."""
    return _backward([d_output], [argmax], window, window, True, size, len(d_output))


def index_bytes(window: Triple) -> int:
    """Return the bytes of one argmax value for a window."""
    return 1 if volume(window) <= 256 else 2


def _filtered(image: Array, window: Triple, stride: Triple) -> Triple:
    sizes = []
    for n, w, s in zip(image.shape[1:4], window, stride, strict=True):
        m = n - w + 1
        if m < 1 or m % s:
            raise ValueError(f"a window of {window} with stride {stride} does not fit an image of {image.shape[1:4]}")
        sizes.append(m // s)
    return sizes[0], sizes[1], sizes[2]


def _forward(
    image: Array, window: Triple, stride: Triple, pool: bool, shape: tuple[int, ...], n_groups: int
) -> tuple[Array | Argmax, ...]:
    n_window = volume(window)
    if n_window > MAX_WINDOW:
        raise ValueError(f"a window of {window} holds {n_window} voxels; at most {MAX_WINDOW} are possible")
    run = _kernels.filter_forward_uint8 if n_window <= 256 else _kernels.filter_forward_uint16
    outputs = [empty(shape) for _ in range(n_groups)]
    indices = [empty_index(shape, n_window) for _ in range(n_groups)]
    run(image, window, stride, pool, outputs, indices)
    return (*outputs, *indices)


def _backward(
    d_outputs: Sequence[Array],
    argmax: Sequence[Argmax],
    window: Triple,
    stride: Triple,
    pool: bool,
    size: Triple,
    batch: int,
) -> Array:
    d_image = empty((batch, *size, d_outputs[0].shape[4]))
    run = _kernels.filter_backward_uint8 if volume(window) <= 256 else _kernels.filter_backward_uint16
    run(list(d_outputs), list(argmax), window, stride, pool, d_image)
    return d_image
