"""Boxes of a volume that may reach over its border, where the volume continues as in a mirror.

The outermost voxel is not repeated (numpy calls this "reflect"). A box is three arrays of coordinates, one
per axis, so flips are reversed arrays and a mirrored border costs nothing but the look-up.
"""

from znn_dask.geometry import ONE, Triple, subtract
from znn_dask.model.predict import half_of


def margins(field_of_view: Triple) -> tuple[Triple, Triple]:
    """Return how many voxels the input reaches (before, after) the output along each axis.

    An output voxel belongs to the middle of its field of view, which for an even size is the earlier of the
    two in the middle. `Model.predict` has the same rule.
    """
    before = half_of(field_of_view)
    return before, subtract(subtract(field_of_view, ONE), before)
