"""How every node is kept: its fragments in groups, its channels in blocks."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from znn_dask.errors import NetworkError
from znn_dask.geometry import Triple, ceil_div
from znn_dask.lower import bands
from znn_dask.lower.expand import expand
from znn_dask.lower.plan import Plan, fragment_sizes
from znn_dask.lower.slabs import sizes_in_slabs
from znn_dask.net import Edge, MaxFilter, Network
from znn_dask.ops.layout import Arrangement, Entry

Groups = tuple[tuple[Entry, ...], ...]


def arrange(net: Network, plan: Plan) -> dict[str, Arrangement]:
    """Return the arrangement of every node, in topological order.

    Raises
    ------
    NetworkError
        If streams meet whose max-filters had different strides on the way.
    """
    net = expand(net)
    whole = fragment_sizes(net, plan.output_size)
    sizes = bands.sizes_in_bands(net, sizes_in_slabs(net, whole, plan.slabs), plan.bands)
    groups: dict[str, Groups] = dict.fromkeys(net.inputs, _input_groups(plan, _first_voxels(net, plan, whole)))
    joined = bands.joining(net, plan.bands)
    for edge in net.edges.values():
        # The first band begins where the image does.
        arriving = _after(net, plan, edge, groups[edge.source][:: joined.get(edge.name, 1)])
        if groups.setdefault(edge.target, arriving) != arriving:
            raise NetworkError(
                f"edge {edge.name!r} brings the fragments of node {edge.target!r} in another order than the edges "
                f"before it: give the max-filters of streams that meet the same strides in the same order"
            )
    return {
        name: Arrangement(
            size=sizes[name],
            sparsity=net.sparsity_of(name),
            groups=_placed(groups[name], sizes[name][0]) if plan.slabs > 1 else groups[name],
            blocks=tuple(pairwise(accumulate(plan.blocks[name], initial=0))),
        )
        for name in net.nodes
    }


def input_sizes(net: Network, plan: Plan) -> Mapping[str, Triple]:
    """Return the size of every input as users give it, before rounding up."""
    exact = net.node_sizes(plan.output_size)
    return {name: exact[name] for name in net.inputs}


def _placed(groups: Groups, depth: int) -> Groups:
    """Return the groups with the first voxel of every slab in the place of its number."""
    return tuple(tuple(entry._replace(z=entry.z * depth) for entry in group) for group in groups)


def _first_voxels(net: Network, plan: Plan, sizes: Mapping[str, Triple]) -> list[Triple]:
    """Return where the slabs or bands of an image begin."""
    front = bands.front_of(net)
    if plan.bands == 1 or front is None:
        # The place of a slab is first its number, since its depth is another at every node.
        return [(slab, 0, 0) for slab in range(plan.slabs)]
    axis = bands.axis_of(sizes[front.edge.target])
    rows = sizes[front.edge.target][axis]
    firsts = [band.first * front.step[axis] for band in bands.bands_of(rows, plan.bands)]
    return [(first, 0, 0) if axis == 0 else (0, first, 0) for first in firsts]


def _input_groups(plan: Plan, first_voxels: Sequence[Triple]) -> Groups:
    count = plan.examples_per_group
    return tuple(
        tuple(Entry(example, *voxel) for example in range(first, min(first + count, plan.batch)))
        for first in range(0, ceil_div(plan.batch, count) * count, count)
        for voxel in first_voxels
    )


def _after(net: Network, plan: Plan, edge: Edge, groups: Groups) -> Groups:
    """Return the groups after an edge; a max-filter splits each group by parity."""
    if not isinstance(edge.op, MaxFilter):
        return groups
    (sz, sy, sx), (pz, py, px) = edge.op.stride, net.sparsity_of(edge.source)
    parities = [(z, y, x) for z in range(sz) for y in range(sy) for x in range(sx)]
    per_group = len(parities) // plan.groups_after[edge.name]
    return tuple(
        tuple(
            Entry(entry.example, entry.z + z * pz, entry.y + y * py, entry.x + x * px)
            for z, y, x in parities[first : first + per_group]
            for entry in group
        )
        for group in groups
        for first in range(0, len(parities), per_group)
    )
