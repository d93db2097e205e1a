"""The text form of a network, ``.znn``: blocks of ``key value`` lines, as ZNN reads and writes them.

A node of ZNN's type ``transfer`` is two things here, a node that sums and an edge with bias and function. The
node takes the name of the one edge that leads to it (or ``NAME.sum`` where there are several), the edge that
of the block, unless the key ``edge`` gives another. What ZNN cannot say has a form of its own: edges of type
``transfer``, the key ``bias 0``, and a block ``network`` with ``ndim`` where the windows do not tell. Reading
what was written gives an equal network.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import TypeVar

from znn_dask.errors import NetworkError, ParameterError, nearest
from znn_dask.geometry import ONE, Triple
from znn_dask.net.blocks import Block, read_blocks
from znn_dask.net.graph import Edge, Graph, Node
from znn_dask.net.operations import (
    ALIASES,
    HE,
    ZERO,
    Convolution,
    Dropout,
    Init,
    MaxFilter,
    MaxPool,
    Op,
    Transfer,
)
from znn_dask.net.shapes import window_of

_Made = TypeVar("_Made")
_ZNN_NAMES = {ours: znn for znn, ours in ALIASES.items()}
_EDGE_TYPES = {
    Convolution: "conv",
    Transfer: "transfer",
    MaxFilter: "max_filter",
    MaxPool: "max_pool",
    Dropout: "dropout",
}
_IDENTITY = Transfer("linear", bias=False)
# Differences of decimals are exact with this many digits, whatever the exponent of a float.
_EXACT_DIGITS = 1200


def write(graph: Graph, ndim: int) -> str:
    """Return the text form of a graph."""
    folded = _folded(graph)
    hidden = {edge.source for edge in folded.values()}
    target = {edge.source: edge.target for edge in folded.values()}
    lines = []
    if ndim != _ndim([edge.op for edge in graph.edges]):
        lines += ["network", f"ndim {ndim}", ""]
    for node in graph.nodes:
        if node.name in hidden:
            continue
        lines += [*_node_lines(graph, node, folded.get(node.name)), ""]
        for edge in graph.outgoing[node.name]:
            lines += [*_edge_lines(replace(edge, target=target.get(edge.target, edge.target))), ""]
    return "\n".join(lines)


def read(text: str) -> tuple[list[Node], list[Edge], int, list[str]]:
    """Read the text form.

    Returns
    -------
    nodes, edges : list
    ndim : int
    ignored : list of str
        Training options that were left out, such as ``"eta"``.

    Raises
    ------
    NetworkError
        Naming the line, if a key or type is unknown or a value cannot be read.
    """
    blocks, ignored = read_blocks(text)
    edge_blocks = [block for block in blocks if block.kind == "edges"]
    _check_ends(edge_blocks, [block.name for block in blocks if block.kind == "nodes"])
    hidden: dict[str, str] = {}
    nodes: list[Node] = []
    edges: list[Edge] = []
    for block in blocks:
        if block.kind == "nodes":
            more_nodes, more_edges = _read_node(block, blocks)
            hidden |= {edge.target: edge.source for edge in more_edges}
            nodes += more_nodes
            edges += more_edges
    for block in edge_blocks:
        target = block.text("output")
        edges.append(
            _attempt(block, Edge, block.name, block.text("input"), hidden.get(target, target), _read_op(block))
        )
    given = [block.whole("ndim") for block in blocks if block.kind == "network"]
    return nodes, edges, given[-1] if given else _ndim([edge.op for edge in edges]), ignored


def _ndim(ops: Sequence[Op]) -> int:
    windows = [window_of(op) for op in ops]
    flat = all(window[0] == 1 for window in windows)
    return 2 if flat and any(window != ONE for window in windows) else 3


def _folded(graph: Graph) -> dict[str, Edge]:
    """Return the transfer edges that a node block of type transfer can say, by that node's name."""
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    found = {}
    for edge in graph.edges:
        before = graph.incoming[edge.source]
        if (
            isinstance(edge.op, Transfer)
            and before
            and len(graph.outgoing[edge.source]) == len(graph.incoming[edge.target]) == 1
            and place[edge.target] == place[edge.source] + 1
            and edge.source == _sum_name(edge.target, [e.name for e in before])
            and edge.source not in found
        ):
            found[edge.target] = edge
    return found


def _sum_name(block: str, before: Sequence[str]) -> str:
    return before[0] if len(before) == 1 else f"{block}.sum"


def _node_lines(graph: Graph, node: Node, transfer: Edge | None) -> list[str]:
    lines = [f"nodes {node.name}"]
    if transfer is not None:
        lines += ["type transfer", *_op_lines(transfer.op)]
        if transfer.name != node.name:
            lines.append(f"edge {transfer.name}")
    else:
        lines.append("type sum" if graph.incoming[node.name] else "type input")
    return [*lines, f"size {node.channels}"]


def _edge_lines(edge: Edge) -> list[str]:
    head = [f"edges {edge.name}", f"type {_EDGE_TYPES[type(edge.op)]}"]
    return [*head, *_op_lines(edge.op), f"input {edge.source}", f"output {edge.target}"]


def _op_lines(op: Op) -> list[str]:
    if isinstance(op, Convolution):
        return [*_init_lines(op.init), f"size {_triple(op.kernel)}", "stride 1,1,1"]
    if isinstance(op, Transfer):
        lines = [f"function {_ZNN_NAMES.get(op.function, op.function)}"]
        if op.args:
            lines.append(f"function_args {_numbers(op.args)}")
        return lines + (_init_lines(op.init) if op.bias else ["bias 0"])
    if isinstance(op, MaxFilter):
        return [f"size {_triple(op.window)}", f"stride {_triple(op.stride)}"]
    if isinstance(op, MaxPool):
        return [f"size {_triple(op.window)}"]
    return [f"ratio {_other_share(repr(op.rate))}"]


def _init_lines(init: Init) -> list[str]:
    return [f"init {init.kind}", *([f"init_args {_numbers(init.args)}"] if init.args else [])]


def _triple(size: Triple) -> str:
    return ",".join(str(v) for v in size)


def _numbers(values: Sequence[float]) -> str:
    return ",".join(repr(value).removesuffix(".0") for value in values)


def _other_share(share: str) -> Decimal:
    """Return 1 - share in decimals, so that a rate survives being written as the ratio of what is kept."""
    with localcontext() as context:
        context.prec = _EXACT_DIGITS
        return 1 - Decimal(share)


def _check_ends(edge_blocks: Sequence[Block], nodes: list[str]) -> None:
    for block in edge_blocks:
        for key in ("input", "output"):
            name = block.text(key)
            if name not in nodes:
                raise NetworkError(
                    f"line {block.line_of(key)}: {key} of edges {block.name!r} is node {name!r}, which does "
                    f"not exist.{nearest(name, nodes)} Nodes: {', '.join(nodes)}"
                )


def _read_node(block: Block, blocks: Sequence[Block]) -> tuple[list[Node], list[Edge]]:
    before = [b for b in blocks if b.kind == "edges" and b.text("output") == block.name]
    channels = block.whole("size")
    node = _attempt(block, Node, block.name, channels)
    if (block.type == "input") == bool(before):
        rule = (
            f"of type input, but edge {before[0].name!r} leads to it"
            if before
            else "not of type input and no edge leads to it"
        )
        raise NetworkError(f"line {block.line}: node {block.name!r} is {rule}")
    if block.type != "transfer":
        return [node], []
    taken = {b.name for b in blocks if b.kind == "nodes"}
    name = _sum_name(block.name, [b.name for b in before])
    source = f"{block.name}.sum" if name in taken else name
    edge_names = {b.name for b in blocks if b.kind == "edges"}
    default = f"{block.name}.transfer" if block.name in edge_names else block.name
    edge = _attempt(block, Edge, block.text("edge", default), source, block.name, _read_transfer(block))
    return [Node(source, channels), node], [edge]


def _read_op(block: Block) -> Op:
    match block.type:
        case "conv":
            _only(block, "stride", ONE)
            kernel = block.triple("size")
            return _attempt(block, Convolution, kernel, _read_init(block, HE))
        case "max_filter":
            window = block.triple("size")
            return _attempt(block, MaxFilter, window, block.triple("stride", window))
        case "max_pool":
            window = block.triple("size")
            _only(block, "stride", window)
            return _attempt(block, MaxPool, window)
        case "dropout":
            if not 0 < block.number("ratio") <= 1:
                raise NetworkError(
                    f"line {block.line_of('ratio')}: ratio of dropout {block.name!r} is the share that is "
                    f"kept, above 0 and at most 1, got {block.text('ratio')}"
                )
            return _attempt(block, Dropout, float(_other_share(block.text("ratio"))))
        case "dummy":
            return _IDENTITY
    return _read_transfer(block)


def _read_transfer(block: Block) -> Transfer:
    function, args = block.text("function"), block.numbers("function_args")
    has_bias = block.whole("bias", 1) != 0
    return _attempt(block, Transfer, function, args, has_bias, _read_init(block, ZERO))


def _read_init(block: Block, default: Init) -> Init:
    if "init" not in block.entries:
        if "init_args" in block.entries:
            raise NetworkError(f"line {block.line_of('init_args')}: 'init_args' needs an 'init' beside it")
        return default
    return _attempt(block, Init, block.text("init"), block.numbers("init_args"))


def _only(block: Block, key: str, value: Triple) -> None:
    given = block.triple(key, value)
    if given != value:
        raise NetworkError(
            f"line {block.line_of(key)}: {key} of {block.type} {block.name!r} must be {_triple(value)}, got "
            f"{_triple(given)}"
        )


def _attempt(block: Block, make: Callable[..., _Made], *args: object) -> _Made:
    try:
        return make(*args)
    except (ParameterError, NetworkError) as error:
        raise NetworkError(f"line {block.line}: {block.kind} {block.name!r}: {error}") from error
