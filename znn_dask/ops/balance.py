"""Weights against unequal classes, as ZNN's rebalancing: each class counts as much as the others.

A voxel of class c weighs ``N / (K * N_c)``: N voxels, N_c of the class, K classes that are there at all. So with two
classes the positive weigh ``0.5 * N / N_pos`` and the others ``0.5 * N / N_neg``, or 1 if one of the two is absent, and
the mean weight is 1.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError

Array = npt.NDArray[Any]
_VOXELS = (-3, -2, -1)


def class_counts(target: Array, weight: Array | None = None, classes: int | None = None) -> Array:
    """Return how many voxels of each class there are.

    Parameters
    ----------
    target : array of shape (..., channel, z, y, x)
        0 and 1 (what is above 0.5 counts as 1); or with ``classes`` the number of each voxel's class, one channel.
    weight : array of the same shape, or with one channel, optional
        Where it is 0 a voxel does not count.
    classes : int, optional

    Returns
    -------
    int64 array of shape (..., channel, class)
        Of 0 and of 1, or of every class.

    Raises
    ------
    ParameterError
        If the target has no axis of channels.
    """
    counts = np.ones(target.shape, bool) if weight is None else np.broadcast_to(weight != 0, target.shape)
    found = [np.sum((_classes(target, classes) == c) & counts, axis=_VOXELS) for c in range(classes or 2)]
    return np.stack(found, axis=-1).astype(np.int64)


def balanced_weights(
    target: Array, weight: Array | None = None, classes: int | None = None, counts: Array | None = None
) -> npt.NDArray[np.float32]:
    """Return a weight for every value of a target, by which its classes count the same.

    Parameters
    ----------
    target, weight, classes
        As for `class_counts`; a weight multiplies the result.
    counts : array of shape (channel, class), optional
        Of all the data (global rebalancing); else each patch and channel is balanced by itself.

    Returns
    -------
    float32 array of the target's shape
    """
    if counts is None:
        counts = class_counts(target, weight, classes)
    counts = np.broadcast_to(counts, (*target.shape[:-3], classes or 2))
    n_present = np.maximum(np.sum(counts > 0, axis=-1, keepdims=True), 1)
    shares = counts.sum(axis=-1, keepdims=True) / (n_present * np.maximum(counts, 1))
    # A class that was not there when it was counted: nothing is known of it.
    shares = np.where(counts > 0, shares, 1.0)
    of_class = _classes(target, classes)
    found = np.ones(target.shape, np.float32)
    for c in range(classes or 2):
        np.copyto(found, shares[..., c][..., None, None, None].astype(np.float32), where=of_class == c)
    return found if weight is None else np.asarray(found * weight, np.float32)


def _classes(target: Array, classes: int | None) -> Array:
    if target.ndim < 4:
        raise ParameterError(f"a target to balance needs axes (channel, z, y, x), got shape {target.shape}")
    return (target > 0.5) if classes is None else target
