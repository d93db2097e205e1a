"""The strides of max-filters, from the dilations that stand after them.

A filter of PyTorch (a pooling of stride 1) does not say by how much it thins out the lattice; the dilations of what
follows do.
"""

from collections.abc import Iterable, Mapping, Sequence

from znn_dask.errors import NetworkError
from znn_dask.geometry import ONE, Triple
from znn_dask.net import Edge, MaxFilter
from znn_dask.net.shapes import window_of


def strides_of_filters(
    nodes: Iterable[str], edges: Sequence[Edge], dilations: Mapping[str, Triple]
) -> dict[str, Triple]:
    """Return the stride of every max-filter, one where nothing after it says more.

    Parameters
    ----------
    nodes : names in topological order
    dilations : mapping of edge to (z, y, x)
        Those of convolutions and filters, in voxels.

    Raises
    ------
    NetworkError
        If a dilation is not that of the filters before it.
    """
    names = list(nodes)
    group = _groups(names, edges)
    axes = [_along(axis, names, edges, dilations, group) for axis in range(3)]
    filters = [edge for edge in edges if isinstance(edge.op, MaxFilter)]
    strides: dict[str, Triple] = {}
    for edge in filters:
        before, after = ([at[group[end]] for at in axes] for end in (edge.source, edge.target))
        if any(a % b for a, b in zip(after, before, strict=True)):
            raise NetworkError(
                f"max-filter {edge.name!r} stands between dilations of {tuple(before)} and {tuple(after)} (z, y, x); "
                "those after it must be multiples of those before it"
            )
        z, y, x = (a // b for a, b in zip(after, before, strict=True))
        strides[edge.name] = z, y, x
    return strides


def _groups(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, str]:
    """Return for every node the first node of the group that shares its lattice: no filter lies between them."""
    leader = {name: name for name in names}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for edge in edges:
        if not isinstance(edge.op, MaxFilter):
            leader[find(edge.target)] = find(edge.source)
    return {name: find(name) for name in names}


def _along(
    axis: int, names: Sequence[str], edges: Sequence[Edge], dilations: Mapping[str, Triple], group: Mapping[str, str]
) -> dict[str, int]:
    """Return the sparsity of every group along an axis."""
    found: dict[str, int] = {}
    said: dict[str, str] = {}
    targets = {edge.target for edge in edges}
    for name in names:
        if name not in targets:
            found[group[name]] = 1
    for edge in edges:
        if edge.name not in dilations or window_of(edge.op)[axis] == 1:
            continue
        own, dilation = group[edge.source], dilations[edge.name][axis]
        if found.setdefault(own, dilation) != dilation:
            other = f"that of {said[own]!r} is" if own in said else "the image there has"
            raise NetworkError(
                f"edge {edge.name!r} has a dilation of {dilation} along {'zyx'[axis]}, but {other} {found[own]}. "
                "Dilations are known only after max-filters (pooling with stride 1), as model.to_torch() writes them"
            )
        said.setdefault(own, edge.name)
    # What no dilation says changes nothing: such a filter leaves the lattice as it is.
    for name in names:
        before = [group[e.source] for e in edges if e.target == name and isinstance(e.op, MaxFilter)]
        if before:
            found.setdefault(group[name], found.get(before[0], ONE[axis]))
    return {own: found.get(own, 1) for own in set(group.values())}
