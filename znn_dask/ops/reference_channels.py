"""The obvious numpy twins of what mixes the maps of a node, or takes the largest of several nodes.

As in `reference`: arithmetic in float64, the result has the dtype of the first argument. Images are
``(entry, z, y, x, channel)``, in blocks of channels.
"""

from collections.abc import Sequence

import numpy as np

from znn_dask.ops.reference_layout import Array


def softmax(images: Sequence[Array]) -> tuple[Array, ...]:
    """Return, at every voxel, the exponentials of all maps divided by their sum; in the blocks that came."""
    x = np.concatenate(images, axis=4).astype(np.float64)
    e = np.exp(x - x.max(axis=4, keepdims=True))
    return _blocks(e / e.sum(axis=4, keepdims=True), images)


def softmax_backward(d_outputs: Sequence[Array], outputs: Sequence[Array]) -> tuple[Array, ...]:
    """Return the gradients of the images of `softmax` from those of its outputs, and the outputs."""
    d, y = (np.concatenate(blocks, axis=4).astype(np.float64) for blocks in (d_outputs, outputs))
    return _blocks(y * (d - (d * y).sum(axis=4, keepdims=True)), d_outputs)


def largest(images: Sequence[Array]) -> tuple[Array, Array]:
    """Return the largest of several images, voxel by voxel, and which it was as uint8; ties go to the first."""
    stacked = np.stack(images)
    return stacked.max(axis=0), stacked.argmax(axis=0).astype(np.uint8)


def largest_backward(d_output: Array, argmax: Array, n: int) -> tuple[Array, ...]:
    """Return the gradients of the n images of `largest`: each value goes to the image it came from."""
    return tuple(np.where(argmax == i, d_output, np.zeros_like(d_output)) for i in range(n))


def _blocks(whole: Array, like: Sequence[Array]) -> tuple[Array, ...]:
    cuts = np.cumsum([block.shape[4] for block in like])[:-1]
    return tuple(np.ascontiguousarray(part.astype(like[0].dtype)) for part in np.split(whole, cuts, axis=4))
