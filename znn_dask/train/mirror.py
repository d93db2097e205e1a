"""Boxes of a volume that may reach over its border, where the volume continues as in a mirror.

The outermost voxel is not repeated (numpy calls this "reflect"). A box is three arrays of coordinates, one
per axis, so flips are reversed arrays and a mirrored border costs nothing but the look-up.
"""

import numpy as np

from znn_dask.geometry import Triple


def margins(field_of_view: Triple) -> tuple[Triple, Triple]:
    """Return how many voxels the input reaches (before, after) the output along each axis.

    An output voxel belongs to the middle of its field of view, which for an even size is the earlier of the
    two in the middle. `Model.predict` has the same rule.
    """
    before = tuple((size - 1) // 2 for size in field_of_view)
    after = tuple(size // 2 for size in field_of_view)
    return (before[0], before[1], before[2]), (after[0], after[1], after[2])


def mirrored(coordinates: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return coordinates reflected into [low, high), as often as needed."""
    if high - low == 1:
        return np.full_like(coordinates, low)
    period = 2 * (high - low - 1)
    folded = np.abs(coordinates - low) % period
    result: np.ndarray = np.minimum(folded, period - folded) + low
    return result
