"""Nodes, edges and the order between them: the bare acyclic graph, checked once and then only read.

Nodes hold images (a number of maps of one size), edges hold operations, edges that converge on a node are
summed. Sizes are another matter (`shapes`).
"""

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from znn_dask.errors import NetworkError, nearest
from znn_dask.net.operations import Convolution, Normalisation, Op, TransposedConvolution
from znn_dask.net.sampling import Merge, Split

# Names stand in keys, parameter names ("conv1/kernel") and the text form, where "#" begins a comment.
JOINS = ("sum", "concat", "max")
_NAME = re.compile(r"[^\s#/]+")


@dataclass(frozen=True)
class Node:
    """Images of one size.

    Attributes
    ----------
    name : str
    channels : int
        The number of maps.
    join : "sum" | "concat" | "max"
        What becomes of images that converge: their sum, their maps one after the other, or the largest value at every
        voxel (maxout).
    order : tuple of str
        Of maps one after the other: the edges that bring them. A network fills it in, as the edges were given.
    """

    name: str
    channels: int
    join: str = "sum"
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_name("node", self.name)
        if isinstance(self.channels, bool) or not isinstance(self.channels, int) or self.channels < 1:
            raise NetworkError(f"node {self.name!r} needs a number of maps of at least 1, got {self.channels!r}")
        if self.join not in JOINS:
            raise NetworkError(f"node {self.name!r} needs a join of {', '.join(JOINS)}, got {self.join!r}")


@dataclass(frozen=True)
class Edge:
    """An operation from one node to another.

    Attributes
    ----------
    name : str
    source, target : str
        Names of nodes.
    op : Convolution, Transfer, MaxFilter or another operation
    """

    name: str
    source: str
    target: str
    op: Op

    def __post_init__(self) -> None:
        _check_name("edge", self.name)
        if not isinstance(self.op, Op):
            raise NetworkError(f"edge {self.name!r} needs an operation such as Convolution, got {self.op!r}")


@dataclass(frozen=True)
class Graph:
    """An acyclic graph in topological order; made by `arrange`.

    Attributes
    ----------
    nodes : tuple of Node
        Every node after those it is computed from; otherwise as declared.
    edges : tuple of Edge
        By the order of their sources; otherwise as declared.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @cached_property
    def channels(self) -> dict[str, int]:
        """The number of maps of every node."""
        return {node.name: node.channels for node in self.nodes}

    @cached_property
    def incoming(self) -> dict[str, tuple[Edge, ...]]:
        """The edges that converge on every node, of maps one after the other in their order."""
        found = _by_node(self.nodes, self.edges, "target")
        for node in self.nodes:
            if node.order:
                by_name = {edge.name: edge for edge in found[node.name]}
                found[node.name] = tuple(by_name[name] for name in node.order)
        return found

    @cached_property
    def outgoing(self) -> dict[str, tuple[Edge, ...]]:
        """The edges that leave every node."""
        return _by_node(self.nodes, self.edges, "source")

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The nodes that nothing converges on."""
        return tuple(node.name for node in self.nodes if not self.incoming[node.name])

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The nodes that nothing leaves."""
        return tuple(node.name for node in self.nodes if not self.outgoing[node.name])

    def __reduce__(self) -> tuple[type["Graph"], tuple[tuple[Node, ...], tuple[Edge, ...]]]:
        # Without what was cached, so that equal graphs give equal pickles.
        return Graph, (self.nodes, self.edges)


def arrange(nodes: Iterable[Node], edges: Iterable[Edge]) -> Graph:
    """Check names and maps, and sort topologically.

    Among nodes that could come next, the one declared first does: a list that is in order stays as it is.

    Raises
    ------
    NetworkError
        If a name is used twice or unknown, a node has no edge, maps do not match, or there is a cycle.
    """
    nodes, edges = tuple(nodes), tuple(edges)
    if not edges:
        raise NetworkError("a network needs at least one edge, got none")
    _check_unique("node", [node.name for node in nodes])
    _check_unique("edge", [edge.name for edge in edges])
    _check_ends(nodes, edges)
    nodes = tuple(_joined(nodes, edges))
    _check_maps(nodes, edges)
    order = {name: place for place, name in enumerate(_sorted_names(nodes, edges))}
    return Graph(
        tuple(sorted(nodes, key=lambda node: order[node.name])),
        tuple(sorted(edges, key=lambda edge: order[edge.source])),
    )


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise NetworkError(f"{what} {name!r} needs a name of at least one character, without spaces, '/' or '#'")


def _check_unique(what: str, names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise NetworkError(
            f"two {what}s are named {twice[0]!r}; every {what} needs a name of its own", about=(what, twice[0])
        )


def _check_ends(nodes: Sequence[Node], edges: Sequence[Edge]) -> None:
    channels = {node.name: node.channels for node in nodes}
    for edge in edges:
        for end in (edge.source, edge.target):
            if end not in channels:
                raise NetworkError(
                    f"edge {edge.name!r} names node {end!r}, which does not exist."
                    f"{nearest(str(end), list(channels))} Nodes: {', '.join(channels)}",
                    about=("edge", edge.name),
                )
    used = {edge.source for edge in edges} | {edge.target for edge in edges}
    alone = [name for name in channels if name not in used]
    if alone:
        raise NetworkError(f"node {alone[0]!r} has no edge; connect it or leave it out", about=("node", alone[0]))


def _joined(nodes: Sequence[Node], edges: Sequence[Edge]) -> Iterator[Node]:
    """Yield the nodes as they compare: a join of one edge is a sum, and maps one after the other have their order."""
    into = _by_node(nodes, edges, "target")
    for node in nodes:
        if node.join != "concat" or len(into[node.name]) < 2:
            plain = "sum" if len(into[node.name]) < 2 else node.join
            yield node if (node.join, node.order) == (plain, ()) else replace(node, join=plain, order=())
            continue
        given = {edge.name: edge.name for edge in into[node.name]}
        if node.order and (len(node.order) != len(given) or set(node.order) != set(given)):
            raise NetworkError(
                f"node {node.name!r} puts maps in the order {', '.join(node.order)}, but the edges that lead to it are "
                f"{', '.join(given)}. Name each of these once",
                about=("node", node.name),
            )
        yield replace(node, order=tuple(given[name] for name in node.order or given))


def _check_maps(nodes: Sequence[Node], edges: Sequence[Edge]) -> None:
    """Raise unless the maps of every node are those that its edges bring."""
    node = {each.name: each for each in nodes}
    brought = {each.name: 0 for each in nodes if each.join == "concat"}
    for edge in edges:
        if edge.target in brought:
            n_out = maps_after(edge.op, node[edge.source].channels)
            if n_out is None:
                raise NetworkError(
                    f"edge {edge.name!r} ({edge.op.kind}) leads to node {edge.target!r}, which puts the maps of its "
                    f"edges one after the other: give it a node of its own, and lead that there by an Identity",
                    about=("edge", edge.name),
                )
            brought[edge.target] += n_out
    for name, count in brought.items():
        if count != node[name].channels:
            raise NetworkError(
                f"node {name!r} has {node[name].channels} maps, but its edges bring {count} one after the other. "
                f"Give it {count}",
                about=("node", name),
            )
    for edge in edges:
        source, target = node[edge.source], node[edge.target]
        n_out = maps_after(edge.op, source.channels)
        if target.name not in brought and n_out not in (None, target.channels):
            rule = (
                f"keeps the number of maps, but node {source.name!r} has {source.channels} and node {target.name!r} "
                f"has {target.channels}. Only a convolution changes it: give both nodes the same number, or put a "
                "convolution between them"
                if n_out == source.channels
                else f"makes {n_out} maps of {source.channels}, but node {target.name!r} has {target.channels}"
            )
            raise NetworkError(f"edge {edge.name!r} ({edge.op.kind}) {rule}", about=("edge", edge.name))
        _check_groups(edge, source.channels)


def maps_after(op: Op, n_in: int) -> int | None:
    """Return how many maps an operation makes of some; None if that is for its target to say."""
    match op:
        case Convolution() | TransposedConvolution():
            return None
        case Split():
            return n_in * op.n_phases
        case Merge():
            return n_in // op.n_phases
    return n_in


def _check_groups(edge: Edge, channels: int) -> None:
    if isinstance(edge.op, Normalisation) and channels % edge.op.groups:
        raise NetworkError(
            f"edge {edge.name!r} normalises {channels} maps in {edge.op.groups} groups, which must divide them",
            about=("edge", edge.name),
        )


def _sorted_names(nodes: Sequence[Node], edges: Sequence[Edge]) -> list[str]:
    place = {node.name: number for number, node in enumerate(nodes)}
    leaving: dict[str, list[str]] = {name: [] for name in place}
    waiting = dict.fromkeys(place, 0)
    for edge in edges:
        leaving[edge.source].append(edge.target)
        waiting[edge.target] += 1
    ready = [place[name] for name, count in waiting.items() if count == 0]
    ordered: list[str] = []
    while waiting:
        if not ready:
            cycle = _cycle(waiting, edges)
            raise NetworkError(
                f"the network has a cycle: {' -> '.join(cycle)}. Every path must lead from an input to an output: "
                "take one of these edges away",
                about=("node", cycle[0]),
            )
        name = nodes[heapq.heappop(ready)].name
        del waiting[name]
        ordered.append(name)
        for target in leaving[name]:
            waiting[target] -= 1
            if waiting[target] == 0:
                heapq.heappush(ready, place[target])
    return ordered


def _cycle(left: Iterable[str], edges: Sequence[Edge]) -> list[str]:
    # Every node left waits for another node left, so walking backwards must come round.
    remaining = set(left)
    before = {edge.target: edge.source for edge in edges if edge.source in remaining}
    path = {next(iter(left)): 0}
    node = before[next(iter(path))]
    while node not in path:
        path[node] = len(path)
        node = before[node]
    return [node, *reversed(list(path)[path[node] :])]


def _by_node(nodes: Sequence[Node], edges: Sequence[Edge], end: str) -> dict[str, tuple[Edge, ...]]:
    found: dict[str, list[Edge]] = {node.name: [] for node in nodes}
    for edge in edges:
        found[getattr(edge, end)].append(edge)
    return {name: tuple(some) for name, some in found.items()}
