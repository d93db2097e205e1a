"""Hypothesis strategies: chains of letters, and layered graphs that fork, converge and stop early; any operation.

A layered graph has one operation for each layer, on every edge of it, so that all its images of a depth have
one size; `Case` works sizes out along the layers, as a second way beside the one that is tested.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from znn_dask.errors import ParameterError
from znn_dask.net import (
    AveragePool,
    Convolution,
    Crop,
    Dropout,
    Edge,
    Identity,
    Init,
    MaxFilter,
    MaxPool,
    Network,
    Node,
    Normalisation,
    Padding,
    Softmax,
    Transfer,
    TransposedConvolution,
    Upsample,
)
from znn_dask.net.operations import FUNCTIONS, NORMALISATIONS
from znn_dask.net.sampling import PADDINGS, UPSAMPLINGS

finite = st.floats(allow_nan=False, allow_infinity=False)
windows = st.tuples(*[st.integers(1, 4)] * 3)
sizes = st.tuples(*[st.integers(1, 6)] * 3)

inits = st.one_of(
    st.sampled_from(["he", "zero", "xavier", "msra", "uniform", "gaussian", "bernoulli"]).map(Init),
    finite.map(lambda c: Init("constant", (c,))),
    st.tuples(finite, finite).map(lambda pair: Init("uniform", tuple(sorted(pair)))),
    st.tuples(finite, finite.map(abs)).map(lambda pair: Init("gaussian", pair)),
    st.floats(0, 1).map(lambda p: Init("bernoulli", (p,))),
)


@st.composite
def transfers(draw) -> Transfer:
    function = draw(st.sampled_from(sorted(FUNCTIONS)))
    args = tuple(draw(finite) for _ in FUNCTIONS[function])
    try:
        return Transfer(function, args, draw(st.booleans()), draw(inits))
    except ParameterError:
        return Transfer(function)


@st.composite
def operations(draw, may_pool: bool):
    kinds = "CTMDNSI" + ("PA" if may_pool else "")
    kind = draw(st.sampled_from(kinds))
    if kind == "C":
        return Convolution(draw(windows), draw(inits))
    if kind == "T":
        return draw(transfers())
    if kind == "M":
        return MaxFilter(draw(windows), draw(windows))
    if kind == "D":
        return Dropout(draw(st.floats(0, 1, exclude_max=True)))
    if kind == "N":
        return draw(normalisations(2))
    if kind in "PA":
        return (MaxPool if kind == "P" else AveragePool)(draw(windows))
    return Softmax() if kind == "S" else Identity()


@st.composite
def normalisations(draw, channels: int) -> Normalisation:
    over = draw(st.sampled_from(NORMALISATIONS))
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    groups = draw(st.sampled_from(divisors)) if over == "group" else 1
    epsilon = draw(st.floats(0, 1, exclude_min=True))
    return Normalisation(over, groups, epsilon, draw(st.booleans()), draw(st.floats(0, 1)))


amounts = st.tuples(*[st.integers(0, 3)] * 3)
paddings = st.one_of(
    st.just(Padding()),
    st.builds(Padding, amounts, st.one_of(st.none(), amounts), st.sampled_from(PADDINGS)),
)


@st.composite
def changes(draw, sparsity: tuple):
    """An operation that pads, crops or changes the lattice."""
    if sparsity == (1, 1, 1) and draw(st.booleans()):
        kind = draw(st.sampled_from("STU"))
        if kind == "S":
            return Convolution(draw(windows), draw(inits), draw(windows), draw(paddings))
        if kind == "U":
            return Upsample(draw(windows), draw(st.sampled_from(UPSAMPLINGS)))
        stride = draw(windows)
        kernel = tuple(s + more for s, more in zip(stride, draw(amounts), strict=True))
        return TransposedConvolution(kernel, stride, draw(paddings), draw(inits))
    if draw(st.booleans()):
        return Convolution(draw(windows), draw(inits), padding=draw(paddings))
    before, after = (tuple(n * s for n, s in zip(draw(amounts), sparsity, strict=True)) for _ in "ba")
    return Crop(before, after)


@st.composite
def layers(draw) -> list:
    ops = []
    for _ in range(draw(st.integers(1, 6))):
        may_pool = all(op.stride == (1, 1, 1) for op in ops if isinstance(op, MaxFilter))
        ops.append(draw(operations(may_pool)))
    return ops


@dataclass(frozen=True)
class Case:
    """A layered network, its operations, and the layer of every node."""

    net: Network
    ops: list
    depth: dict

    def sparsity(self, depth: int) -> tuple:
        total = (1, 1, 1)
        for op in self.ops[:depth]:
            if isinstance(op, MaxFilter):
                total = tuple(a * b for a, b in zip(total, op.stride, strict=True))
        return total

    def size(self, depth: int, deepest: tuple) -> tuple:
        """The size at a depth when the deepest images have size `deepest`."""
        size = deepest
        for place in range(len(self.ops) - 1, depth - 1, -1):
            op, dilation = self.ops[place], self.sparsity(place)
            window = getattr(op, "kernel", getattr(op, "window", (1, 1, 1)))
            if isinstance(op, MaxPool | AveragePool):
                size = tuple(n * w for n, w in zip(size, window, strict=True))
            else:
                size = tuple(n + (w - 1) * d for n, w, d in zip(size, window, dilation, strict=True))
        return size


@st.composite
def chains(draw) -> Case:
    ops = draw(layers())
    nodes = [Node("input", 2), *(Node(f"n{place}", 2) for place in range(len(ops)))]
    pairs = pairwise(nodes)
    edges = [Edge(f"e{place}", a.name, b.name, op) for place, ((a, b), op) in enumerate(zip(pairs, ops, strict=True))]
    return Case(Network(nodes, edges), ops, {node.name: place for place, node in enumerate(nodes)})


@st.composite
def graphs(draw) -> Case:
    ops = draw(layers())
    # Names that look like those the text form makes up are the ones that could confuse it.
    names = iter(draw(st.permutations([f"a{i}{end}" for i in range(12) for end in ("", ".sum", ".transfer")])))
    edge_names = iter(draw(st.permutations([f"a{i}{end}" for i in range(20) for end in ("", ".transfer")])))
    previous = [Node(next(names), 2) for _ in range(draw(st.integers(1, 2)))]
    nodes, edges, depth = list(previous), [], dict.fromkeys((node.name for node in previous), 0)
    for place, op in enumerate(ops):
        current = []
        for _ in range(draw(st.integers(1, 2))):
            sources = draw(st.lists(st.sampled_from(previous), min_size=1, max_size=2))
            first = next(edge_names)
            node = Node(first if draw(st.booleans()) else next(names), 2)
            if node.name in depth:
                node = Node(f"{node.name}'", 2)
            depth[node.name] = place + 1
            made = [first, *(next(edge_names) for _ in sources[1:])]
            edges += [Edge(name, source.name, node.name, op) for name, source in zip(made, sources, strict=True)]
            current.append(node)
        nodes += current
        previous = current
    used = {edge.source for edge in edges} | {edge.target for edge in edges}
    nodes = [node for node in draw(st.permutations(nodes)) if node.name in used]
    net = Network(nodes, draw(st.permutations(edges)), draw(st.sampled_from([2, 3])))
    return Case(net, ops, {node.name: depth[node.name] for node in nodes})


@st.composite
def joined_graphs(draw) -> Network:
    """Layers of any operations, paddings and strides too, whose images meet in sums, concatenations and maxima."""
    sparsity, count = (1, 1, 1), iter(range(1000))
    previous = [Node(f"in{place}", draw(st.integers(1, 4))) for place in range(draw(st.integers(1, 2)))]
    nodes, edges = list(previous), []
    for depth in range(draw(st.integers(1, 5))):
        op = draw(st.one_of(changes(sparsity), operations(sparsity == (1, 1, 1))))
        if isinstance(op, Normalisation):
            op = draw(normalisations(math.gcd(*(node.channels for node in previous))))
        if isinstance(op, MaxFilter):
            sparsity = tuple(a * b for a, b in zip(sparsity, op.stride, strict=True))
        current = []
        for place in range(draw(st.integers(1, 2))):
            sources = draw(st.lists(st.sampled_from(previous), min_size=1, max_size=3))
            first = f"e{next(count)}"
            # Names that a text of ZNN would make up, where a transfer follows.
            name = draw(st.sampled_from([first, f"n{depth}{place}", f"n{depth + 1}{place}.sum"]))
            node, sources = draw(joins(name, op, sources))
            names = [first, *(f"e{next(count)}" for _ in sources[1:])]
            edges += [Edge(name, source.name, node.name, op) for name, source in zip(names, sources, strict=True)]
            current.append(node)
        nodes += current
        previous = current
    used = {edge.source for edge in edges} | {edge.target for edge in edges}
    nodes = [node for node in draw(st.permutations(nodes)) if node.name in used]
    return Network(nodes, draw(st.permutations(edges)), draw(st.sampled_from([2, 3])))


@st.composite
def joins(draw, name: str, op, sources: list) -> tuple:
    """A node where an operation leads from some nodes, and those that it can come from."""
    if isinstance(op, Convolution | TransposedConvolution):
        return Node(name, draw(st.integers(1, 4)), draw(st.sampled_from(["sum", "max"]))), sources
    join = draw(st.sampled_from(["sum", "max", "concat"]))
    if join == "concat":
        return Node(name, sum(source.channels for source in sources), join), sources
    sources = [source for source in sources if source.channels == sources[0].channels]
    return Node(name, sources[0].channels, join), sources
