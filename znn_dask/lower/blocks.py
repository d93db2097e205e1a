"""Channel blocks that fit together across the edges of a network.

Edges that work map by map need the same blocks at both ends. Where maps are put side by side or taken apart into
phases, the blocks of one end follow from those of the other. So blocks are told by where they are cut, and cuts are
handed along the edges until nothing changes.
"""

from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise

from znn_dask.net import Convolution, Edge, Merge, Network, Split

Cuts = dict[str, set[int]]


def shared_blocks(net: Network, blocks: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the blocks nearest to some that fit together: of nodes that must be cut alike, the finest.

    Parameters
    ----------
    net : Network
    blocks : mapping of node to widths
        Those of nodes that follow from others are not looked at.
    """
    alike = _alike(net)
    follows = {alike[name] for name in _following(net)}
    chosen: dict[str, tuple[int, ...]] = {}
    for name in net.nodes:
        chosen[alike[name]] = max(chosen.get(alike[name], ()), blocks[name], key=len)
    cuts = {name: set() if alike[name] in follows else set(accumulate(chosen[alike[name]][:-1])) for name in net.nodes}
    while _hand_along(net, cuts):
        pass
    return {name: _widths(cuts[name], node.channels) for name, node in net.nodes.items()}


def _alike(net: Network) -> dict[str, str]:
    """Return for every node the first of those joined with it by edges that work map by map."""
    joined = {name: {name} for name in net.nodes}
    for edge in net.edges.values():
        if _keeps_maps(net, edge) and joined[edge.source] is not joined[edge.target]:
            together = joined[edge.source] | joined[edge.target]
            for name in together:
                joined[name] = together
    place = {name: number for number, name in enumerate(net.nodes)}
    return {name: min(some, key=place.__getitem__) for name, some in joined.items()}


def _keeps_maps(net: Network, edge: Edge) -> bool:
    return not isinstance(edge.op, Convolution | Split | Merge) and net.nodes[edge.target].join != "concat"


def _following(net: Network) -> Iterator[str]:
    """Yield the nodes whose blocks follow from those of others."""
    for edge in net.edges.values():
        if isinstance(edge.op, Split) or net.nodes[edge.target].join == "concat":
            yield edge.target
        elif isinstance(edge.op, Merge):
            yield edge.source


def _hand_along(net: Network, cuts: Cuts) -> bool:
    """Cut the nodes at both ends of every edge alike; return whether that changed anything."""
    before = sum(map(len, cuts.values()))
    for name, node in net.nodes.items():
        first = 0
        for edge in net.incoming(name):
            n = net.nodes[edge.source].channels
            if isinstance(edge.op, Split):
                _match(cuts, edge.source, n, name, [n * phase for phase in range(edge.op.n_phases)])
            elif isinstance(edge.op, Merge):
                firsts = [node.channels * phase for phase in range(edge.op.n_phases)]
                _match(cuts, name, node.channels, edge.source, firsts)
            elif node.join == "concat":
                _match(cuts, edge.source, n, name, [first])
                first += n
            elif _keeps_maps(net, edge):
                _match(cuts, edge.source, n, name, [0])
    return sum(map(len, cuts.values())) != before


def _match(cuts: Cuts, small: str, n: int, large: str, firsts: list[int]) -> None:
    """Cut a node like every part of another: those of n maps that begin at ``firsts``."""
    for first in firsts:
        cuts[small] |= {cut - first for cut in cuts[large] if first < cut < first + n}
    for first in firsts:
        # A part also begins and ends where it does; the ends of the whole are no cuts, see `_widths`.
        cuts[large] |= {first + cut for cut in (0, *cuts[small], n)}


def _widths(cuts: set[int], channels: int) -> tuple[int, ...]:
    places = sorted({0, channels} | {cut for cut in cuts if 0 < cut < channels})
    return tuple(stop - first for first, stop in pairwise(places))
