"""Random networks of up to 12 edges, valid by construction, small enough to be computed in a moment.

A network grows block by block. Every block takes an image and gives one; blocks with branches make them shrink alike,
or pad, or crop the skip. A network has either max-filters, or pools and strides: after a filter the lattice cannot
change, and before one of them sizes of both kinds rarely agree.
"""

from copy import copy
from dataclasses import dataclass, field

from hypothesis import strategies as st

from znn_dask.net import (
    AveragePool,
    Convolution,
    Crop,
    Edge,
    Identity,
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

MOST_EDGES = 12
MOST_SEARCHED = 24
ONE, NOTHING = (1, 1, 1), (0, 0, 0)
FUNCTIONS = [
    Transfer("linear", (0.7, 0.2)),
    Transfer("relu"),
    Transfer("tanh", (1.7, 0.6)),
    Transfer("tanh", bias=False),
    Transfer("logistic"),
    Transfer("softsign", bias=False),
    Transfer("elu", (0.5,)),
    Transfer("leaky_relu", (0.1,)),
    Transfer("softplus"),
]


@dataclass
class Growing:
    """A network while it grows: the image at its end, and what it has so far."""

    nodes: list = field(default_factory=lambda: [Node("input", 2)])
    edges: list = field(default_factory=list)
    thinned: bool = False
    smaller: bool = False

    def edge(self, source: str, op, channels: int | None = None, target: str | None = None) -> str:
        """Add an edge, to a new node unless one is given, and return its target."""
        name = f"{op.kind}{len(self.edges) + 1}"
        if target is None:
            count = next(node.channels for node in self.nodes if node.name == source) if channels is None else channels
            self.nodes.append(Node(name, count))
        self.edges.append(Edge(name, source, target or name, op))
        return target or name

    def channels(self, node: str) -> int:
        return next(each.channels for each in self.nodes if each.name == node)

    def room(self) -> int:
        return MOST_EDGES - len(self.edges)


sides = st.sampled_from([1, 1, 2, 3])
windows = st.tuples(st.sampled_from([1, 1, 2]), sides, sides)
factors = st.sampled_from([(1, 2, 2), (2, 2, 2), (1, 1, 2), (1, 3, 1)])
widths = st.integers(1, 4)


@st.composite
def paddings(draw, kernel) -> Padding:
    """Return nothing, "same", or anything up to what the kernel reaches."""
    kind = draw(st.sampled_from(["valid", "same", "mirror", "replicate", "uneven"]))
    if kind == "valid":
        return Padding()
    if kind == "uneven":
        before, after = (tuple(draw(st.integers(0, k - 1)) for k in kernel) for _ in range(2))
        return Padding(before, after, draw(st.sampled_from(["zero", "mirror", "replicate"])))
    return Padding.same(kernel, "zero" if kind == "same" else kind)


@st.composite
def plain(draw, net: Growing, at: str) -> str:
    kernel = draw(windows)
    return net.edge(at, Convolution(kernel, padding=draw(paddings(kernel))), draw(widths))


@st.composite
def transfer(draw, net: Growing, at: str) -> str:
    return net.edge(at, draw(st.sampled_from(FUNCTIONS)))


@st.composite
def normalised(draw, net: Growing, at: str) -> str:
    over = draw(st.sampled_from(["batch", "instance", "group"]))
    n = net.channels(at)
    groups = draw(st.sampled_from([g for g in range(1, n + 1) if n % g == 0])) if over == "group" else 1
    at = net.edge(at, Normalisation(over, groups, affine=draw(st.booleans())))
    return draw(transfer(net, at)) if net.room() else at


@st.composite
def branches(draw, net: Growing, at: str) -> str:
    """Two convolutions of one kernel, whose images are summed, compared or put one after the other."""
    join = draw(st.sampled_from(["sum", "max", "concat"]))
    kernel, n = draw(windows), draw(widths)
    op = Convolution(kernel, padding=draw(paddings(kernel)))
    if join == "sum":
        target = net.edge(at, op, n)
        return net.edge(at, op, n, target)
    ends = [net.edge(at, op, n), net.edge(at, op, n)]
    name = f"join{len(net.edges)}"
    net.nodes.append(Node(name, 2 * n if join == "concat" else n, join))
    for end in draw(st.permutations(ends)):
        net.edge(end, Identity(), target=name)
    return name


@st.composite
def residual(draw, net: Growing, at: str) -> str:
    """A convolution and a skip, which is cropped where the convolution is valid."""
    n = net.channels(at)
    if net.thinned or draw(st.booleans()):
        kernel = draw(st.sampled_from([(1, 3, 3), (3, 3, 3), (1, 1, 3)]))
        end = net.edge(at, Convolution(kernel, padding=draw(st.sampled_from(["same", "mirror"]))), n)
        return net.edge(at, Identity(), target=end)
    end = net.edge(at, Convolution((1, 3, 3)), n)
    return net.edge(at, Crop((0, 1, 1)), target=end)


@st.composite
def down_and_up(draw, net: Growing, at: str) -> str:
    """A smaller image, and back, with or without the skip."""
    net.smaller = True
    factor, n = draw(factors), draw(widths)
    join = draw(st.sampled_from(["none", "sum", "concat"]))
    down = draw(st.sampled_from([MaxPool(factor), AveragePool(factor), Convolution(factor, stride=factor)]))
    inner = net.edge(at, down, n if isinstance(down, Convolution) else None)
    wide = tuple(f + 2 if f > 1 else 1 for f in factor)
    ups = [
        TransposedConvolution(factor, factor),
        TransposedConvolution(wide, factor, crop=Padding(tuple(min(w - 1, 1) for w in wide))),
        Upsample(factor, "nearest"),
        Upsample(factor, "trilinear"),
    ]
    up = draw(st.sampled_from(ups))
    count = net.channels(at) if join == "sum" else n
    if isinstance(up, Upsample) and count != net.channels(inner):
        inner = net.edge(inner, Convolution(ONE), count)
    big = net.edge(inner, up, count)
    if join == "none":
        return big
    name = f"skip{len(net.edges)}"
    total = net.channels(at) + (net.channels(big) if join == "concat" else 0)
    net.nodes.append(Node(name, total, join))
    net.edge(at, Identity(), target=name)
    return net.edge(big, Identity(), target=name)


@st.composite
def strided(draw, net: Growing, at: str) -> str:
    net.smaller = True
    kernel, stride = draw(windows), draw(factors)
    return net.edge(at, Convolution(kernel, stride=stride, padding=draw(paddings(kernel))), draw(widths))


@st.composite
def thinning(draw, net: Growing, at: str) -> str:
    """A max-filter, after which everything is dilated."""
    net.thinned = True
    stride = draw(st.sampled_from([(1, 2, 2), (1, 1, 2), (2, 2, 2)]))
    at = net.edge(at, MaxFilter(tuple(max(s, 1) for s in stride), stride))
    return net.edge(at, Convolution(draw(st.sampled_from([(1, 2, 2), (2, 2, 2), (1, 3, 2)]))), draw(widths))


BLOCKS = {
    plain: 1,
    transfer: 1,
    normalised: 2,
    branches: 4,
    residual: 2,
    strided: 1,
    down_and_up: 5,
    thinning: 2,
}
NEED_DENSE = (strided, down_and_up)


@st.composite
def networks(draw) -> tuple[Network, tuple[int, int, int]]:
    """Return a network and an output size that it can have."""
    net = Growing()
    at = draw(plain(net, "input"))
    for _ in range(draw(st.integers(1, 5))):
        barred = NEED_DENSE if net.thinned else (thinning,) if net.smaller else ()
        fitting = [block for block, n in BLOCKS.items() if n <= net.room() and block not in barred]
        if fitting:
            before, last = copy(net), at
            net.nodes, net.edges = list(net.nodes), list(net.edges)
            at = draw(draw(st.sampled_from(fitting))(net, at))
            if not all(lengths(Network(net.nodes, net.edges), axis) for axis in range(3)):
                net, at = before, last  # two pools with the wrong windows between them
    if net.room() and draw(st.booleans()):
        second = net.edge(at, Convolution(ONE), 2)
        if net.room() and net.channels(second) > 1 and draw(st.booleans()):
            net.edge(second, Softmax())
    if net.room() and not any(edge.source == at for edge in net.edges):
        net.edge(at, Transfer("linear"))
    elif net.room():
        net.edge(at, Convolution(ONE), 3)
    made = Network(net.nodes, net.edges)
    return made, tuple(draw(st.sampled_from(lengths(made, axis)[:3])) for axis in range(3))


def lengths(net: Network, axis: int) -> list[int]:
    """Return voxels along an axis that the outputs can have; images have two and more along y and x."""
    return [n for n in range(2 if axis else 1, MOST_SEARCHED) if _fits(net, axis, n)]


def _fits(net: Network, axis: int, n: int) -> bool:
    sizes = {}
    for node, by_output in net._lines.items():
        alike = {line.scale[axis] * n + line.offset[axis] for line in by_output.values()}
        size = alike.pop()
        if alike or size.denominator != 1 or size < (2 if axis else 1):
            return False
        sizes[node] = int(size)
    # What changes borders, or looks at all voxels, needs whole phases.
    whole = any(isinstance(e.op, Crop | Normalisation) or _padding(e).total != NOTHING for e in net.edges.values())
    if whole and any(size % net.sparsity_of(node)[axis] for node, size in sizes.items()):
        return False
    return all(
        _reach(edge)[axis] < sizes[edge.source] // net.edge_sparsity(edge.name)[axis] for edge in net.edges.values()
    )


def _reach(edge: Edge) -> tuple[int, int, int]:
    """Return the voxels that a mirror needs besides the outermost one."""
    padding = _padding(edge)
    return NOTHING if padding.mode == "zero" else tuple(map(max, padding.before, padding.after))


def _padding(edge: Edge) -> Padding:
    return getattr(edge.op, "padding", Padding())
