"""Bands: images before the first filter cut across, so that several tasks share what would be one.

A network that does not pad has one fragment per example up to its first max-filter or max-pool, and few tasks there.
What the filter makes is therefore computed in bands of rows. A band reads a few more rows of every image before it,
which its neighbours read too; so bands are like examples of their own until they are put together behind the filter.
All have one size: the last is moved back, and the rows it then shares with the one before count only there.
"""

from collections.abc import Mapping
from typing import NamedTuple

from znn_dask.geometry import Triple, ceil_div, volume
from znn_dask.net import Convolution, Edge, Identity, MaxFilter, MaxPool, Network, PhasedConvolution, Transfer

MOST_AGAIN = 1 / 8  # of the rows before the filter, which are computed again in the next band
SMALLEST = 4096  # voxels of a band there
NARROW = 16  # channels of a block


class Band(NamedTuple):
    """What a band is of what the filter makes: rows from ``first``; ``again`` of them are also in the band before."""

    first: int
    rows: int
    again: int


class Front(NamedTuple):
    """What can be cut: nodes from the input to a filter, in their order, and the filter's edge."""

    nodes: tuple[str, ...]
    edge: Edge

    @property
    def step(self) -> Triple:
        """Voxels of the image from one position of a fragment of the filter's to the next."""
        assert isinstance(self.edge.op, MaxFilter | MaxPool)
        return self.edge.op.stride if isinstance(self.edge.op, MaxFilter) else self.edge.op.window


def front_of(net: Network) -> Front | None:
    """Return what can be cut of a network, if anything."""
    if len(net.inputs) != 1:
        return None
    nodes = list(net.inputs)
    while len(leaving := net.outgoing(nodes[-1])) == 1 and len(net.incoming(leaving[0].target)) == 1:
        match leaving[0].op:
            case MaxFilter() | MaxPool():
                return Front(tuple(nodes), leaving[0])
            case PhasedConvolution():
                return None
            case Convolution() | Transfer() | Identity():
                nodes.append(leaving[0].target)
            case _:
                return None
    return None


def axis_of(size: Triple) -> int:
    """Return the axis across which images are cut: z, or y of a section."""
    return 0 if size[0] > 1 else 1


def bands_of(rows: int, count: int) -> list[Band]:
    """Return the bands of so many rows."""
    each = ceil_div(rows, count)
    firsts = [min(i * each, rows - each) for i in range(count)]
    return [Band(first, each, i * each - first) for i, first in enumerate(firsts)]


def joining(net: Network, count: int) -> dict[str, int]:
    """Return how many bands come together at an edge, by its name: at the filter, if there are several."""
    front = front_of(net) if count > 1 else None
    return {front.edge.name: count} if front else {}


def sizes_in_bands(net: Network, sizes: Mapping[str, Triple], count: int) -> dict[str, Triple]:
    """Return the sizes of all nodes' fragments, those of a band before the filter."""
    found, front = dict(sizes), front_of(net)
    if count == 1 or front is None:
        return found
    whole = sizes[front.edge.target]
    axis = axis_of(whole)
    less = (whole[axis] - ceil_div(whole[axis], count)) * front.step[axis]
    for name in front.nodes:
        found[name] = _replaced(sizes[name], axis, sizes[name][axis] - less)
    return found


def _replaced(size: Triple, axis: int, n: int) -> Triple:
    z, y, x = (n if i == axis else side for i, side in enumerate(size))
    return z, y, x


def can_be_cut(net: Network, sizes: Mapping[str, Triple], count: int) -> bool:
    """Return whether so many bands are possible and none of them is the same as another."""
    front = front_of(net)
    if count == 1 or front is None:
        return count == 1
    rows = sizes[front.edge.target][axis_of(sizes[front.edge.target])]
    return (count - 1) * ceil_div(rows, count) < rows


def choose_bands(net: Network, sizes: Mapping[str, Triple], tasks: int) -> int:
    """Return into how many bands images should be cut, where a node should have so many tasks.

    With blocks of whole vectors it then has half as many, since what bands share is computed twice: one for every CPU.
    Fewer where too much would be computed again, or bands be too small.
    """
    front = front_of(net)
    if front is None:
        return 1
    last = front.nodes[-1]
    wanted = ceil_div(tasks, 2 * max(1, net.nodes[last].channels // NARROW))

    def pays(count: int) -> bool:
        n = volume(sizes_in_bands(net, sizes, count)[last])
        return n >= SMALLEST and count * n <= (1 + MOST_AGAIN) * volume(sizes[last])

    return max(n for n in range(1, wanted + 1) if n == 1 or (can_be_cut(net, sizes, n) and pays(n)))
