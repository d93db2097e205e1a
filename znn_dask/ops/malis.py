"""MALIS: the loss of a segmentation, for networks that predict affinities (Turaga et al. 2009, Funke et al. 2018).

Two voxels are in one segment of a thresholded affinity graph as long as the threshold is below their *maximin
affinity*: the highest, over all paths between them, of the lowest affinity on the path. The loss is that of the maximin
affinities of all pairs of voxels: 1 is wanted for pairs of one segment, 0 for pairs of two. Each is the affinity of one
edge of the maximum spanning tree, and the kernel counts how many pairs an edge decides.

- "malis": the mean over all pairs of (wanted - affinity)^2.
- "malis_constrained": two trees, one of edges inside segments for pairs of one segment, and one of edges between
  segments, after all edges inside, for pairs of two; the mean over either kind of pairs, added.

Affinities are the logistic of the network's output. Background (segment 0) conducts, but its pairs do not count. A
weight multiplies all that an edge costs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.geometry import Triple
from znn_dask.ops.memory import Array, empty

Ids = npt.NDArray[Any]


def malis(
    prediction: Array, segments: Ids, weight: Array | None, offsets: Sequence[Triple], constrained: bool
) -> tuple[float, Array]:
    """Return the loss and its gradient at the prediction.

    Parameters
    ----------
    prediction : float32 array of shape (batch, channel, z, y, x)
        Channel c of voxel v is the edge from v to ``v + offsets[c]``; edges that leave the patch do not exist.
    segments : integer array of shape (batch, z, y, x)
        Ids; 0 for background.
    weight : float32 array of shape (batch, channel or 1, z, y, x), optional
    offsets : sequence of (z, y, x)
    constrained : bool

    Returns
    -------
    loss : float
        The mean over the batch.
    gradient : float32 array like the prediction
    """
    gradient, total = empty(prediction.shape), 0.0
    steps, count = np.array(offsets, np.int32), len(prediction)
    for example in range(count):
        own = None if weight is None else weight[example]
        total += _one(prediction[example], segments[example], own, steps, constrained, gradient[example])
    gradient /= np.float32(count)
    return total / count, gradient


def _one(
    prediction: Array, segments: Ids, weight: Array | None, offsets: Ids, constrained: bool, gradient: Array
) -> float:
    """Write the gradient of one example and return its loss."""
    affinity = np.ascontiguousarray(prediction)
    positive, negative = empty(affinity.shape), empty(affinity.shape)
    ids = _numbered(segments)
    counts = _kernels.malis(affinity, ids, int(ids.max()), offsets, constrained, positive, negative)
    gradient[...] = 0.0
    # All else is zero: a tree has fewer edges than voxels.
    at = np.flatnonzero((positive > 0) | (negative > 0))
    p = affinity.reshape(-1)[at].astype(np.float64)
    q = 0.5 + 0.5 * np.tanh(0.5 * p)
    shares = counts if constrained else (sum(counts),) * 2
    join = positive.reshape(-1)[at] / max(shares[0], 1.0)
    part = negative.reshape(-1)[at] / max(shares[1], 1.0)
    if weight is not None:
        w = np.broadcast_to(weight, affinity.shape).reshape(-1)[at]
        join, part = w * join, w * part
    gradient.reshape(-1)[at] = 2.0 * (part * q - join * (1.0 - q)) * q * (1.0 - q)
    return float(np.sum(join * (1.0 - q) ** 2 + part * q**2))


def _numbered(segments: Ids) -> Ids:
    """Return ids as numbers of 32 bits, 0 staying 0."""
    if int(segments.max()) < 2**31:
        return np.ascontiguousarray(segments, np.int32)
    ids, numbers = np.unique(segments, return_inverse=True)
    shift = 0 if ids[0] == 0 else 1
    return np.ascontiguousarray(numbers.reshape(segments.shape) + shift, np.int32)
