"""Boxes of a volume that may reach over its border, where the volume continues as in a mirror.

The outermost voxel is not repeated (numpy calls this "reflect"). A box is three arrays of coordinates, one
per axis, or ranges: flips are ranges that go backwards, and only what reaches over a border is looked up.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from znn_dask.errors import ConfigError
from znn_dask.geometry import ONE, Triple, subtract
from znn_dask.io.stored import Region
from znn_dask.model.predict import half_of, mirrored
from znn_dask.model.tiling import fit_of
from znn_dask.net import Network

Places: TypeAlias = range | np.ndarray  # coordinates along an axis


class Margins(NamedTuple):
    """How many voxels (z, y, x) an input reaches before and after the output, along each axis."""

    before: Triple
    after: Triple

    @property
    def view(self) -> Triple:
        """The voxels (z, y, x) that an input of one output voxel would have."""
        z, y, x = (b + a + 1 for b, a in zip(self.before, self.after, strict=True))
        return z, y, x


def margins(field_of_view: Triple) -> Margins:
    """Return how many voxels the input reaches (before, after) the output of a valid network along each axis.

    An output voxel belongs to the middle of its field of view, which for an even size is the earlier of the
    two in the middle. `Model.predict` has the same rule.
    """
    before = half_of(field_of_view)
    return Margins(before, subtract(subtract(field_of_view, ONE), before))


def margins_of(net: Network, output_size: Triple) -> dict[str, Margins]:
    """Return the margins of every input for an output patch; the smaller half comes before.

    They are those of the sizes, so that a network that pads needs less than its field of view.

    Raises
    ------
    ConfigError
        If an input is of another scale than the output, or smaller.
    ShapeError
        If there can be no such output.
    """
    sizes = net.node_sizes(output_size)
    found = {}
    for name in net.inputs:
        extra = subtract(sizes[name], output_size)
        if not net.is_dense or min(extra) < 0:
            raise ConfigError(
                f"`train` needs an output for every voxel, but the input {name!r} has {sizes[name]} voxels (z, y, x) "
                f"for an output of {output_size}; upsample what was pooled, or use max-filters, which stay dense"
            )
        before = extra[0] // 2, extra[1] // 2, extra[2] // 2
        found[name] = Margins(before, subtract(extra, before))
    return found


def view_of(net: Network) -> Triple:
    """Return the voxels (z, y, x) that `Model.predict` reads for one voxel of its result without a border.

    That is the field of view of a valid network; one that pads reads less.

    Raises
    ------
    ParameterError
        If there is not one output voxel for each of its inputs.
    """
    z, y, x = zip(*fit_of(net)[1].values(), strict=True)
    return max(z) + 1, max(y) + 1, max(x) + 1


def reflected(places: range, low: int, high: int) -> Places:
    """Return places on an axis, those outside [low, high) reflected into it."""
    if len(places) and low <= min(places[0], places[-1]) and max(places[0], places[-1]) < high:
        return places
    return mirrored(np.arange(places.start, places.stop, places.step), low, high)


def read_box(array: Region, places: Sequence[Places]) -> np.ndarray:
    """Return the voxels of an array (..., z, y, x) at the coordinates given for its last three axes.

    Parameters
    ----------
    array : array, read by region
        Only the box that holds all of them is read.
    places : three ranges with a step of 1 or -1, or int arrays
        Coordinates along z, y and x, inside the array.

    Returns
    -------
    array
        It may be a view.
    """
    ends = [(p[0], p[-1]) if isinstance(p, range) else (int(p.min()), int(p.max())) for p in places]
    values = np.asarray(array[(..., *(slice(min(pair), max(pair) + 1) for pair in ends))])
    z, y, x = (slice(None, None, -1 if isinstance(p, range) and p.step < 0 else 1) for p in places)
    values = values[..., z, y, x]
    for axis, (place, pair) in enumerate(zip(places, ends, strict=True), values.ndim - 3):
        if not isinstance(place, range):
            values = np.take(values, place - pair[0], axis=axis)
    return values
