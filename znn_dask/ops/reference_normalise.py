"""The obvious numpy twin of normalisations over batch, instance or group.

Statistics are float32 of shape (example, 2, channel): mean and reciprocal deviation of the set that a value is
normalised with, whatever that set is. Moments are float64 of the same shape: sums over the voxels of an example.
An image block is ``(entry, z, y, x, channel)``; ``examples`` names the example of every entry, ``channels`` the
first channel of the block and that after its last.
"""

from collections.abc import Sequence

import numpy as np

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.ops.reference_layout import Array

OVER = ("batch", "instance", "group")
Blocks = Sequence[Sequence[Array]]  # over batch groups, then over channel blocks


def moments(image: Array, examples: Sequence[int], n_examples: int) -> Array:
    """Return the sums of x and of x * x over the voxels of every example, of shape (example, 2, channel)."""
    x = image.astype(np.float64)
    return _sums(x, x * x, examples, n_examples)


def statistics(moments: Blocks, n_voxels_per_example: int, over: str, groups: int, epsilon: float) -> Array:
    """Return mean and 1 / sqrt(variance + epsilon) for every example and channel.

    Parameters
    ----------
    moments : of every batch group and block
    n_voxels_per_example : int
        In one map.
    over : "batch" | "instance" | "group"
    groups : int
        Of maps, for "group".
    epsilon : float
    """
    mean, square = np.moveaxis(_mean(_whole(moments) / n_voxels_per_example, over, groups), 1, 0)
    variance = np.maximum(square - mean * mean, 0.0)
    return np.stack([mean, 1.0 / np.sqrt(variance + epsilon)], axis=1).astype(np.float32)


def batch_averages(moments: Blocks, n_voxels: int) -> tuple[Array, Array]:
    """Return mean and unbiased variance of every channel over ``n_voxels``, those of all examples together."""
    total, squares = _whole(moments).sum(axis=0)
    variance = np.maximum(squares - total * total / n_voxels, 0.0) / max(n_voxels - 1, 1)
    return (total / n_voxels).astype(np.float32), variance.astype(np.float32)


def fixed_statistics(mean: Array, variance: Array, n_examples: int, epsilon: float) -> Array:
    """Return the statistics that running averages stand for."""
    pair = np.stack([mean.astype(np.float64), 1.0 / np.sqrt(variance.astype(np.float64) + epsilon)])
    return np.repeat(pair[np.newaxis], n_examples, axis=0).astype(np.float32)


def apply(
    image: Array,
    statistics: Array,
    examples: Sequence[int],
    channels: tuple[int, int],
    scale: Array | None,
    shift: Array | None,
) -> Array:
    """Return ``(image - mean) / deviation * scale + shift``; scale and shift are those of the block."""
    normalised, _ = _normalised(image, statistics, examples, channels)
    if scale is not None:
        normalised = normalised * scale
    if shift is not None:
        normalised = normalised + shift
    return normalised.astype(image.dtype)


def gradient_moments(
    d_output: Array,
    image: Array,
    statistics: Array,
    examples: Sequence[int],
    channels: tuple[int, int],
    n_examples: int,
) -> Array:
    """Return the sums of the gradient and of it times the normalised image, of shape (example, 2, channel)."""
    normalised, _ = _normalised(image, statistics, examples, channels)
    g = d_output.astype(np.float64)
    return _sums(g, g * normalised, examples, n_examples)


def coefficients(
    moments: Blocks,
    scales: Sequence[Array | None],
    n_voxels_per_example: int,
    over: str,
    groups: int,
) -> Array:
    """Return the means of scale * g and of scale * g * normalised over what was normalised together.

    Parameters
    ----------
    moments : of the gradient, of every batch group and block
    scales : of every block
    n_voxels_per_example, over, groups
        As in `statistics`.
    """
    whole = _whole(moments)
    widths = [block.shape[2] for block in moments[0]]
    parts = [np.ones(n) if s is None else s.astype(np.float64) for s, n in zip(scales, widths, strict=True)]
    return _mean(whole * np.concatenate(parts) / n_voxels_per_example, over, groups).astype(np.float32)


def backward(
    d_output: Array,
    image: Array,
    statistics: Array,
    coefficients: Array,
    examples: Sequence[int],
    channels: tuple[int, int],
    scale: Array | None,
) -> Array:
    """Return the gradient of the image: (scale * g - m1 - normalised * m2) / deviation."""
    normalised, reciprocal = _normalised(image, statistics, examples, channels)
    m1, m2 = _of_entries(coefficients, examples, channels)
    g = d_output.astype(np.float64)
    if scale is not None:
        g = g * scale
    return np.asarray(reciprocal * (g - m1 - normalised * m2)).astype(d_output.dtype)


def parameter_gradients(moments: Sequence[Array]) -> tuple[Array, Array]:
    """Return the gradients of scale and shift of one block from the gradient moments of every batch group."""
    d_shift, d_scale = np.sum(moments, axis=(0, 1))
    return d_scale.astype(np.float32), d_shift.astype(np.float32)


def average(running: Array, new: Array, momentum: float) -> Array:
    """Return ``running + momentum * (new - running)``."""
    wide = running.astype(np.float64)
    return np.asarray(wide + momentum * (new - wide)).astype(running.dtype)


def _sums(first: Array, second: Array, examples: Sequence[int], n_examples: int) -> Array:
    total = np.zeros((n_examples, 2, first.shape[4]))
    for entry, example in enumerate(examples):
        total[example, 0] += first[entry].sum(axis=(0, 1, 2))
        total[example, 1] += second[entry].sum(axis=(0, 1, 2))
    return total


def _whole(moments: Blocks) -> Array:
    """Return the sum over batch groups, blocks side by side: (example, 2, all channels)."""
    return np.concatenate([np.sum(block, axis=0) for block in zip(*moments, strict=True)], axis=2)


def _mean(values: Array, over: str, groups: int) -> Array:
    """Average (example, 2, channel) over what is normalised together, and repeat it for every example and channel."""
    if over not in OVER:
        raise ParameterError(f"a normalisation must be over one of {', '.join(OVER)}, got {over!r}")
    n_examples, _, n_channels = values.shape
    if over == "batch":
        return np.broadcast_to(values.mean(axis=0), values.shape)
    if over == "instance":
        return values
    if n_channels % groups:
        raise ShapeError(f"{n_channels} maps cannot be normalised in {groups} groups: groups must divide them")
    means = values.reshape(n_examples, 2, groups, -1).mean(axis=3)
    return np.repeat(means, n_channels // groups, axis=2)


def _of_entries(values: Array, examples: Sequence[int], channels: tuple[int, int]) -> tuple[Array, Array]:
    """Return both rows of (example, 2, channel) for the entries and channels of a block, to multiply images with."""
    first, second = np.moveaxis(values[list(examples), :, slice(*channels)].astype(np.float64), 1, 0)
    return first[:, None, None, None], second[:, None, None, None]


def _normalised(
    image: Array, statistics: Array, examples: Sequence[int], channels: tuple[int, int]
) -> tuple[Array, Array]:
    mean, reciprocal = _of_entries(statistics, examples, channels)
    return (image.astype(np.float64) - mean) * reciprocal, reciprocal
