"""The text form of a network, ``.znn``: blocks of ``key value`` lines, as ZNN reads and writes them.

A node of ZNN's type ``transfer`` is two things here, a node that sums and an edge with bias and function. The
node takes the name of the one edge that leads to it (or ``NAME.sum`` where there are several), the edge that
of the block, unless the key ``edge`` gives another. What ZNN cannot say has a form of its own: edges of type
``transfer``, the key ``bias 0``, and a block ``network`` with ``ndim`` where the windows do not tell. Reading
what was written gives an equal network. ZNN's HDF5 files hold the same blocks as groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from znn_dask.errors import NetworkError, nearest
from znn_dask.geometry import ONE
from znn_dask.net.blocks import Block, read_blocks
from znn_dask.net.graph import Edge, Graph, Node
from znn_dask.net.operations import Op, Transfer
from znn_dask.net.parameters import parameters_of
from znn_dask.net.shapes import window_of
from znn_dask.net.words import NODE_TYPES, Entries, attempt, edge_entries, op_entries, read_op, read_transfer

_JOINS = {word: join for join, word in NODE_TYPES.items()}


@dataclass(frozen=True)
class Reading:
    """What blocks say.

    Attributes
    ----------
    nodes, edges : list
    ndim : int
    ignored : list of str
        Training options that were left out, such as ``"eta"``.
    learned : dict of (kind, name) of a block to str
        The parameter that a block has, such as ``"conv1/kernel"``.
    places : dict of ("node" or "edge", name) to str
        Where it was read, such as ``"line 12"``.
    """

    nodes: list[Node]
    edges: list[Edge]
    ndim: int
    ignored: list[str]
    learned: dict[tuple[str, str], str]
    places: dict[tuple[str, str], str]

    def located(self, error: NetworkError) -> NetworkError:
        """Return an error about the network with the place of what it is about."""
        place = self.places.get(error.about) if error.about is not None else None
        return error if place is None else NetworkError(f"{place}: {error}")


def blocks_of(graph: Graph, ndim: int) -> list[Block]:
    """Return the blocks of a graph."""
    folded = _folded(graph)
    hidden = {edge.source for edge in folded.values()}
    target = {edge.source: edge.target for edge in folded.values()}
    join = {node.name: node.join for node in graph.nodes}
    blocks = []
    if ndim != _ndim([edge.op for edge in graph.edges]):
        blocks.append(_block("network", "", [("ndim", str(ndim))]))
    for node in graph.nodes:
        if node.name in hidden:
            continue
        blocks.append(_block("nodes", node.name, _node_entries(graph, node, folded.get(node.name))))
        for edge in graph.outgoing[node.name]:
            whole = replace(edge, target=target.get(edge.target, edge.target))
            blocks.append(_block("edges", edge.name, edge_entries(whole, join[edge.target])))
    return blocks


def write(graph: Graph, ndim: int) -> str:
    """Return the text form of a graph."""
    lines = []
    for block in blocks_of(graph, ndim):
        lines.append(f"{block.kind} {block.name}".rstrip())
        lines += [f"{key} {value}" for key, (value, _) in block.entries.items()]
        lines.append("")
    return "\n".join(lines)


def read(text: str) -> Reading:
    """Read the text form.

    Raises
    ------
    NetworkError
        Naming the line, if a key or type is unknown or a value cannot be read.
    """
    return assemble(*read_blocks(text))


def assemble(blocks: Sequence[Block], ignored: list[str]) -> Reading:
    """Put blocks with known keys together; ``ignored`` is what was taken out of them.

    Raises
    ------
    NetworkError
        Naming the place, if a value cannot be read or an end does not exist.
    """
    edge_blocks = [block for block in blocks if block.kind == "edges"]
    _check_ends(edge_blocks, [block.name for block in blocks if block.kind == "nodes"])
    names = _Names(blocks)
    hidden: dict[str, str] = {}
    nodes: list[Node] = []
    edges: list[Edge] = []
    learned: dict[tuple[str, str], str] = {}
    places: dict[tuple[str, str], str] = {}
    for block in blocks:
        if block.kind == "nodes":
            more_nodes, more_edges = _read_node(block, names)
            hidden |= {edge.target: edge.source for edge in more_edges}
            nodes += more_nodes
            edges += more_edges
            places |= {("node", node.name): block.where() for node in more_nodes}
            places |= {("edge", edge.name): block.where() for edge in more_edges}
            learned |= _learned(block, more_edges)
    types = {block.name: block.type for block in blocks if block.kind == "nodes"}
    for block in edge_blocks:
        target = block.text("output")
        if block.type == "maxout" and types[target] != "maxout":
            raise NetworkError(
                f"{block.where('type')}: edges {block.name!r} of type maxout leads to node {target!r} of type "
                f"{types[target]}. Make the node a maxout, or the edge a dummy"
            )
        edge = attempt(block, Edge, block.name, block.text("input"), hidden.get(target, target), read_op(block))
        edges.append(edge)
        places["edge", edge.name] = block.where()
        learned |= _learned(block, [edge])
    given = [block.whole("ndim") for block in blocks if block.kind == "network"]
    ndim = given[-1] if given else _ndim([edge.op for edge in edges])
    return Reading(nodes, edges, ndim, ignored, learned, places)


def _learned(block: Block, edges: Sequence[Edge]) -> dict[tuple[str, str], str]:
    """Return the parameter that a block has, if any, by the block."""
    names = [parameter.name for edge in edges for parameter in parameters_of(edge.name, edge.op, 1, 1)]
    return dict.fromkeys([(block.kind, block.name)], names[0]) if names else {}


def _block(kind: str, name: str, entries: Entries) -> Block:
    return Block(kind, name, 0, {key: (value, 0) for key, value in entries})


class _Names:
    """Which names blocks take, and which edges lead to each node."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.nodes = {block.name for block in blocks if block.kind == "nodes"}
        self.edges = {block.name for block in blocks if block.kind == "edges"}
        self.before: Mapping[str, list[str]] = {name: [] for name in self.nodes}
        for block in blocks:
            if block.kind == "edges":
                self.before[block.text("output")].append(block.name)


def _ndim(ops: Sequence[Op]) -> int:
    windows = [window_of(op) for op in ops]
    flat = all(window[0] == 1 for window in windows)
    return 2 if flat and any(window != ONE for window in windows) else 3


def _folded(graph: Graph) -> dict[str, Edge]:
    """Return the transfer edges that a node block of type transfer can say, by that node's name."""
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    joins = {node.name: node.join for node in graph.nodes}
    found = {}
    for edge in graph.edges:
        before = graph.incoming[edge.source]
        if (
            isinstance(edge.op, Transfer)
            and before
            and joins[edge.source] == "sum"
            and len(graph.outgoing[edge.source]) == len(graph.incoming[edge.target]) == 1
            and place[edge.target] == place[edge.source] + 1
            and edge.source == _sum_name(edge.target, [e.name for e in before])
            and edge.source not in found
        ):
            found[edge.target] = edge
    return found


def _sum_name(block: str, before: Sequence[str]) -> str:
    return before[0] if len(before) == 1 else f"{block}.sum"


def _node_entries(graph: Graph, node: Node, transfer: Edge | None) -> Entries:
    if transfer is None:
        entries = [("type", NODE_TYPES[node.join] if graph.incoming[node.name] else "input")]
    else:
        entries = [("type", "transfer"), *op_entries(transfer.op)]
        if transfer.name != node.name:
            entries.append(("edge", transfer.name))
    order = [("order", " ".join(node.order))] if node.order else []
    return [*entries, ("size", str(node.channels)), *order]


def _check_ends(edge_blocks: Sequence[Block], nodes: list[str]) -> None:
    known = set(nodes)
    for block in edge_blocks:
        for key in ("input", "output"):
            name = block.text(key)
            if name not in known:
                raise NetworkError(
                    f"{block.where(key)}: {key} of edges {block.name!r} is node {name!r}, which does "
                    f"not exist.{nearest(name, nodes)} Nodes: {', '.join(nodes)}"
                )


def _read_node(block: Block, names: _Names) -> tuple[list[Node], list[Edge]]:
    before = names.before[block.name]
    channels = block.whole("size")
    node = attempt(
        block, Node, block.name, channels, _JOINS.get(block.type, "sum"), tuple(block.text("order", "").split())
    )
    if (block.type == "input") == bool(before):
        rule = (
            f"of type input, but edge {before[0]!r} leads to it. Make it a sum, or take the edge away"
            if before
            else "not of type input and no edge leads to it. Make it an input, or add an edge with it as its output"
        )
        raise NetworkError(f"{block.where()}: node {block.name!r} is {rule}")
    if block.type != "transfer":
        return [node], []
    name = _sum_name(block.name, before)
    source = f"{block.name}.sum" if name in names.nodes else name
    default = f"{block.name}.transfer" if block.name in names.edges else block.name
    edge = attempt(block, Edge, block.text("edge", default), source, block.name, read_transfer(block))
    return [Node(source, channels), node], [edge]
