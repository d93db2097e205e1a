"""Normalisation over batch, instance or group of maps: forward and backward, in passes that blocks share.

Images are blocks of float32 ``(entry, z, y, x, channel)``; ``examples`` names the example of every entry (an
example may be in several, as fragments or tiles), ``channels`` the first map of the block and that after its last.

Forward: `moments` of every block and batch group, `statistics` of them all, `apply` to every block. Backward:
`gradient_moments`, `coefficients`, `backward` in the same way. Moments are float64 of shape (example, 2, channel of
the block); statistics and coefficients are float32 of shape (example, 2, all channels), whatever is normalised
together, so that `apply` and `backward` need not know. What is done with these small tables is numpy, and its own
reference.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.errors import ShapeError
from znn_dask.ops import reference_normalise as reference
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh, overwrites

Moments = npt.NDArray[np.float64]
Values = npt.NDArray[Any]


@fresh
@twin(reference.moments)
def moments(image: Array, examples: Sequence[int], n_examples: int) -> Moments:
    """Return the sums of x and x * x over the voxels of every example, of shape (example, 2, channel)."""
    sums = np.empty((n_examples, 2, image.shape[4]))
    _kernels.moments(image, np.array(examples, np.int32), sums)
    return sums


@fresh
def statistics(
    moments: Sequence[Sequence[Moments]], n_voxels_per_example: int, over: str, groups: int, epsilon: float
) -> Array:
    """Return mean and 1 / sqrt(variance + epsilon) of what every example and channel is normalised with.

    Parameters
    ----------
    moments : float64 of shape (example, 2, channel of the block), of every batch group, then block
    n_voxels_per_example : int
        Of one map.
    over : "batch" | "instance" | "group"
        All examples, a map of an example, or a group of its maps.
    groups : int
        Of maps, for "group"; side by side.
    epsilon : float

    Returns
    -------
    float32 of shape (example, 2, channel)
    """
    return reference.statistics(moments, n_voxels_per_example, over, groups, epsilon)


@fresh
def batch_averages(moments: Sequence[Sequence[Moments]], n_voxels: int) -> tuple[Array, Array]:
    """Return mean and unbiased variance of every channel, for running averages.

    Parameters
    ----------
    moments
        As in `statistics`.
    n_voxels : int
        Of one map in all examples together.
    """
    return reference.batch_averages(moments, n_voxels)


@fresh
def fixed_statistics(mean: Array, variance: Array, n_examples: int, epsilon: float) -> Array:
    """Return the statistics, of shape (example, 2, channel), that running averages of shape (channel,) stand for."""
    return reference.fixed_statistics(mean, variance, n_examples, epsilon)


@fresh
@overwrites(0)
@twin(reference.apply)
def apply(
    image: Array,
    statistics: Array,
    examples: Sequence[int],
    channels: tuple[int, int],
    scale: Array | None,
    shift: Array | None,
    out: Array | None = None,
) -> Array:
    """Return ``(image - mean) / deviation * scale + shift``.

    Parameters
    ----------
    image : float32 of shape (entry, z, y, x, channel)
    statistics : float32 of shape (example, 2, all channels)
    examples : sequence of int
        The example of every entry.
    channels : (int, int)
        Of the block, in all: the first and that after the last.
    scale, shift : float32 of shape (channel,), optional
        Those of the block.
    out : float32 of the image's shape, optional
        Where to write; may be the image.
    """
    result = empty(image.shape) if out is None else out
    _check_block(image, channels)
    _kernels.normalise_forward(image, statistics, np.array(examples, np.int32), channels[0], scale, shift, result)
    return result


@fresh
@twin(reference.gradient_moments)
def gradient_moments(
    d_output: Array,
    image: Array,
    statistics: Array,
    examples: Sequence[int],
    channels: tuple[int, int],
    n_examples: int,
) -> Moments:
    """Return the sums of g and of g times the normalised image, of shape (example, 2, channel).

    Parameters
    ----------
    d_output, image : float32 of shape (entry, z, y, x, channel)
        The gradient of the output of `apply`, and its image.
    statistics, examples, channels
        As in `apply`.
    n_examples : int
    """
    sums = np.empty((n_examples, 2, image.shape[4]))
    _check_block(image, channels)
    _kernels.gradient_moments(d_output, image, statistics, np.array(examples, np.int32), channels[0], sums)
    return sums


@fresh
def coefficients(
    moments: Sequence[Sequence[Moments]],
    scales: Sequence[Array | None],
    n_voxels_per_example: int,
    over: str,
    groups: int,
) -> Array:
    """Return the means of scale * g and of scale * g * normalised over what is normalised together.

    Parameters
    ----------
    moments : float64 of shape (example, 2, channel of the block), of every batch group, then block
        Of `gradient_moments`.
    scales : float32 of shape (channel of the block,) or None, of every block
    n_voxels_per_example, over, groups
        As in `statistics`.

    Returns
    -------
    float32 of shape (example, 2, channel)
    """
    return reference.coefficients(moments, scales, n_voxels_per_example, over, groups)


@fresh
@overwrites(0)
@twin(reference.backward)
def backward(
    d_output: Array,
    image: Array,
    statistics: Array,
    coefficients: Array,
    examples: Sequence[int],
    channels: tuple[int, int],
    scale: Array | None,
    out: Array | None = None,
) -> Array:
    """Return the gradient of the image: (scale * g - m1 - normalised * m2) / deviation.

    Coefficients of zero give that of a normalisation with fixed statistics. ``out`` may be ``d_output``.
    """
    d_image = empty(image.shape) if out is None else out
    _check_block(image, channels)
    _kernels.normalise_backward(
        d_output, image, statistics, coefficients, np.array(examples, np.int32), channels[0], scale, d_image
    )
    return d_image


@fresh
def parameter_gradients(moments: Sequence[Moments]) -> tuple[Array, Array]:
    """Return the gradients of scale and shift of a block, from the gradient moments of every batch group."""
    return reference.parameter_gradients(moments)


@fresh
def average(running: Array, new: Array, momentum: float) -> Array:
    """Return ``running + momentum * (new - running)``."""
    return reference.average(running, new, momentum)


def _check_block(image: Array, channels: tuple[int, int]) -> None:
    if image.shape[4] != channels[1] - channels[0]:
        raise ShapeError(f"a block of channels {channels} cannot have {image.shape[4]}")
