"""Dropout: set values to zero at random and scale the others; the same function goes forward and backward.

What is dropped follows from a counter-based generator (Philox keyed by seed, step and edge) at the value's place in
the whole node, so it does not depend on blocks, groups, order or workers.
"""

from typing import NamedTuple

import numpy as np

from znn_dask import _kernels
from znn_dask.geometry import volume
from znn_dask.ops.layout import Arrangement
from znn_dask.ops.memory import Array, empty
from znn_dask.randomness import key64
from znn_dask.tasks import fresh, overwrites


class Share(NamedTuple):
    """A step of which only a share of the minibatch is computed here, and where that share lies in it.

    Attributes
    ----------
    step : int
    first : int
        The number of the share's first example in the minibatch.
    n_examples : int
        Of the whole minibatch.
    """

    step: int
    first: int
    n_examples: int


@fresh
@overwrites(0)
def apply(
    image: Array,
    arrangement: Arrangement,
    group: int,
    block: int,
    rate: float,
    seed: int,
    step: int | Share,
    edge: str,
    out: Array | None = None,
) -> Array:
    """Drop values of one block of a node with probability ``rate``; others are divided by ``1 - rate``.

    Parameters
    ----------
    image : float32 of shape (entry, z, y, x, channel)
        A block of the node, or of its gradient.
    arrangement, group, block
        How the node is kept, and which block this is.
    rate : float
        In [0, 1).
    seed, step, edge
        Name the stream of random numbers. Of a share of a minibatch, what is dropped is what the whole would lose.
    """
    if not isinstance(step, Share):
        step = Share(step, 0, arrangement.n_examples)
    n_offsets = volume(arrangement.sparsity)
    _, sy, sx = arrangement.sparsity
    entries = [(step.first + e.example) * n_offsets + (e.z * sy + e.y) * sx + e.x for e in arrangement.groups[group]]
    result = empty(image.shape) if out is None else out
    _kernels.dropout(
        image,
        np.array(entries, np.int64),
        step.n_examples * n_offsets,
        arrangement.n_channels,
        arrangement.blocks[block][0],
        key64(seed, step.step, f"dropout/{edge}"),
        rate,
        result,
    )
    return result
