"""What the functional builder keeps while a network is described: nodes, edges, names, and how sizes relate.

Every image is known by its sparsity and by its size as a line in the size of each input it is computed from, so that
images that meet are compared, and cropped, where they meet. `finish` gives the nodes and edges of a network.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from znn_dask.errors import NetworkError
from znn_dask.geometry import ONE, Triple, multiply
from znn_dask.net.graph import Edge, Node, maps_after
from znn_dask.net.operations import Op
from znn_dask.net.sampling import Crop, Identity, MaxFilter
from znn_dask.net.shapes import IDENTITY, Fractions, Line, change_of, check_lattice

SHORT_NAMES = {
    "convolution": "conv",
    "transposed_convolution": "transposed_conv",
    "normalisation": "norm",
}
_JOIN_NAMES = {"sum": "sum", "concat": "concat", "max": "maxout"}


@dataclass(frozen=True, eq=False)
class Maps:
    """Images that a builder knows: what its methods take and return. ``a + b`` is their sum.

    Attributes
    ----------
    name : str
        Of the edge that makes them, of the input, or of the join.
    channels : int
        The number of maps.
    sparsity : (z, y, x)
    sizes : mapping of input to Line
        Their size for a size of every input they are computed from.
    """

    draft: "Draft" = field(repr=False)
    name: str
    channels: int
    sparsity: Triple = field(default=ONE, repr=False)
    sizes: Mapping[str, Line] = field(default_factory=dict, repr=False)

    def __add__(self, other: "Maps") -> "Maps":
        return self.draft.join("sum", [self, other])


@dataclass(eq=False)
class Draft:
    """A graph that grows.

    Attributes
    ----------
    nodes : dict of str to Node
        In the order of their making, so every one after those it is computed from.
    made : dict of str to Edge
        The edge that makes a node, by the node; inputs have none.
    joined : dict of str to tuple of str
        The nodes that meet in a node.
    outputs : dict of str to str
        Names of outputs and their nodes.
    taken : set of str
        All names.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    made: dict[str, Edge] = field(default_factory=dict)
    joined: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def input(self, name: str, channels: int) -> Maps:
        """Add an input."""
        self.nodes[name] = Node(self._name("input", name), channels)
        return Maps(self, name, channels, ONE, {name: IDENTITY})

    def apply(self, op: Op, x: Maps, width: int | None = None, name: str | None = None) -> Maps:
        """Add an operation and the node that it makes, named after it."""
        self.check(x)
        name = self._name(SHORT_NAMES.get(op.kind, op.kind), name)
        edge = Edge(name, x.name, name, op)
        check_lattice(edge, x.sparsity)
        channels = x.channels if width is None else width
        self.nodes[name], self.made[name] = Node(name, channels), edge
        scale, rest = change_of(op, x.sparsity)
        sizes = {given: _after(line, scale, rest) for given, line in x.sizes.items()}
        sparsity = multiply(x.sparsity, op.stride) if isinstance(op, MaxFilter) else x.sparsity
        return Maps(self, name, channels, sparsity, sizes)

    def join(self, how: str, parts: Sequence[Maps], crop: bool = False, name: str | None = None) -> Maps:
        """Let images meet: their sum, their maps one after the other, or the largest voxels."""
        parts = list(parts)
        for part in parts:
            self.check(part)
        if len(parts) < 2:
            raise NetworkError(f"a {how} needs at least two images, got {len(parts)}; give a list such as [a, b]")
        _check_alike(how, parts)
        if crop:
            least = _smallest(how, parts)
            parts = [self._crop(part, _over(how, part, least)) for part in parts]
        _check_sizes(how, parts)
        channels = sum(part.channels for part in parts) if how == "concat" else parts[0].channels
        name = self._name(_JOIN_NAMES[how], name)
        self.nodes[name], self.joined[name] = Node(name, channels, how), tuple(part.name for part in parts)
        sizes = {given: line for part in parts for given, line in part.sizes.items()}
        return Maps(self, name, channels, parts[0].sparsity, sizes)

    def crop_to(self, x: Maps, like: Maps, name: str | None = None) -> Maps:
        """Crop the ends of an image to the size of another."""
        self.check(x)
        self.check(like)
        _check_alike("crop", [x, like], maps=False)
        over = _over("crop", x, like)
        if min(over) < 0:
            raise NetworkError(
                f"{x.name!r} cannot be cropped to {like.name!r}: it has {_told(over)} voxels (z, y, x) more. "
                "Crop the larger; add and concat find out which with crop=True"
            )
        return self._crop(x, over, name)

    def output(self, x: Maps, name: str) -> None:
        """Name an image as an output."""
        self.check(x)
        if name in self.outputs or (name in self.taken and name != x.name):
            raise NetworkError(f"there is {name!r} already; give the output another name")
        self.taken.add(name)
        self.outputs[name] = x.name

    def check(self, x: object) -> None:
        """Raise unless this is an image of this draft."""
        if not isinstance(x, Maps):
            raise NetworkError(
                f"an image of the builder is needed, such as net.input('image') or net.conv(...) gives, got {x!r}"
            )
        if x.draft is not self:
            raise NetworkError(f"{x.name!r} belongs to another builder; describe a network with one builder")

    def _crop(self, x: Maps, over: Fractions, name: str | None = None) -> Maps:
        if not any(over):
            return x
        if any((n / s).denominator != 1 for n, s in zip(over, x.sparsity, strict=True)):
            raise NetworkError(
                f"{x.name!r} has {_told(over)} voxels (z, y, x) too many, which cannot be cropped: it must be "
                f"multiples of its sparsity {x.sparsity}. Choose kernels and windows that leave a multiple, or pad"
            )
        first = [int(n / s) // 2 * s for n, s in zip(over, x.sparsity, strict=True)]
        return self.apply(Crop((first[0], first[1], first[2]), _rest(over, first)), x, None, name)

    def _name(self, kind: str, given: str | None) -> str:
        if given is not None and given in self.taken:
            raise NetworkError(f"there is {given!r} already; give the {kind} another name")
        name = fresh(kind, self.taken) if given is None else given
        self.taken.add(name)
        return name


def fresh(kind: str, taken: set[str]) -> str:
    """Return the first of conv1, conv2, ... that is not taken."""
    count = 1
    while (name := f"{kind}{count}") in taken:
        count += 1
    return name


def finish(draft: Draft) -> tuple[list[Node], list[Edge]]:
    """Return the nodes and edges of the network that was described.

    An operation that is read by a join alone leads there itself; others are led there by an `Identity`. An output that
    nothing else reads is the node of its name.

    Raises
    ------
    NetworkError
        If there is no output, or an image is neither read nor an output.
    """
    readers = Counter([edge.source for edge in draft.made.values()])
    readers.update(source for sources in draft.joined.values() for source in sources)
    _check_ends(draft, readers)
    return _Finish(draft, readers).parts()


class _Finish:
    def __init__(self, draft: Draft, readers: Counter[str]) -> None:
        self.draft, self.readers = draft, readers
        self.taken = set(draft.taken)
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        labels = Counter(draft.outputs.values())
        self.renamed = {
            node: label
            for label, node in draft.outputs.items()
            if labels[node] == 1 and not readers[node] and (node in draft.made or node in draft.joined)
        }

    def parts(self) -> tuple[list[Node], list[Edge]]:
        """Return nodes and edges, sources first."""
        draft = self.draft
        into = {join: self._leads(join) for join in draft.joined}
        absorbed = {part.target for leads in into.values() for part in leads if isinstance(part, Edge)}
        for name, node in draft.nodes.items():
            if name in absorbed:
                continue
            if name in draft.joined:
                self.edges += [self._edge(name, part) for part in into[name]]
            elif name in draft.made:
                self.edges.append(replace(draft.made[name], target=self._target(name)))
            if name not in self.renamed:
                self.nodes.append(node)
        # Outputs come last, in the order in which they were named.
        for label, name in draft.outputs.items():
            if name in self.renamed:
                self.nodes.append(replace(draft.nodes[name], name=label))
            elif name != label:
                self.nodes.append(Node(label, draft.nodes[name].channels))
                self.edges.append(self._link(name, label))
        return self.nodes, self.edges

    def _leads(self, join: str) -> list[Edge | str]:
        """Return what converges on a join: edges that end there, or names of nodes that an Identity is for."""
        how = self.draft.nodes[join].join
        return [self._direct(source, how) for source in self.draft.joined[join]]

    def _direct(self, source: str, how: str) -> Edge | str:
        edge = self.draft.made.get(source)
        if edge is None or self.readers[source] > 1 or source in self.draft.outputs.values():
            return source
        leads = how != "concat" or maps_after(edge.op, self.draft.nodes[edge.source].channels) is not None
        return edge if leads else source

    def _edge(self, join: str, part: Edge | str) -> Edge:
        if isinstance(part, Edge):
            return replace(part, target=self._target(join))
        return self._link(part, self._target(join))

    def _link(self, source: str, target: str) -> Edge:
        name = fresh("identity", self.taken)
        self.taken.add(name)
        return Edge(name, source, target, Identity())

    def _target(self, name: str) -> str:
        return self.renamed.get(name, name)


def _check_ends(draft: Draft, readers: Mapping[str, int]) -> None:
    if not draft.outputs:
        raise NetworkError("the network has no output; name one with net.output(x)")
    ends = set(draft.outputs.values())
    for label, name in draft.outputs.items():
        if label == name and (readers.get(name) or not (name in draft.made or name in draft.joined)):
            raise NetworkError(f"{name!r} is an input or is read further, so its output needs another name")
    idle = [name for name in draft.nodes if not readers.get(name) and name not in ends]
    if idle:
        raise NetworkError(
            f"{idle[0]!r} leads nowhere: use it, name it as an output with net.output(x), or leave it out"
        )


def _check_alike(how: str, parts: Sequence[Maps], maps: bool = True) -> None:
    first = parts[0]
    for other in parts[1:]:
        if other.sparsity != first.sparsity:
            raise NetworkError(
                f"{first.name!r} and {other.name!r} meet in a {how} with different sparsity, {first.sparsity} and "
                f"{other.sparsity} (z, y, x). Give both paths max-filters of the same strides"
            )
        if maps and how != "concat" and other.channels != first.channels:
            raise NetworkError(
                f"{first.name!r} has {first.channels} maps and {other.name!r} has {other.channels}, but a {how} needs "
                f"the same number. Put a convolution before one of them, such as net.conv(x, {first.channels}, 1)"
            )


def _check_sizes(how: str, parts: Sequence[Maps]) -> None:
    first = parts[0]
    for other in parts[1:]:
        if not set(first.sizes) & set(other.sizes):
            continue
        over = _over(how, first, other)
        if any(over):
            raise NetworkError(
                f"{first.name!r} and {other.name!r} meet in a {how}, but the first has {_told(over)} voxels (z, y, x) "
                "more than the second. Crop to the smaller with crop=True, or use padding='same'"
            )


def _smallest(how: str, parts: Sequence[Maps]) -> Maps:
    """Return the smaller of every axis, as an image that is none."""
    first, *rest = parts
    for other in rest:
        over = _over(how, first, other)
        sizes = {
            given: Line(line.scale, _minus(line.offset, over, only_above=True)) for given, line in first.sizes.items()
        }
        first = replace(first, sizes=sizes)
    return first


def _over(how: str, one: Maps, other: Maps) -> Fractions:
    """Return how many voxels one image has more than another."""
    shared = [name for name in one.sizes if name in other.sizes]
    if not shared:
        raise NetworkError(
            f"{one.name!r} and {other.name!r} come from different inputs, {', '.join(one.sizes)} and "
            f"{', '.join(other.sizes)}, so how much to crop is not known. Crop with net.crop(x, before, after)"
        )
    mine, theirs = one.sizes[shared[0]], other.sizes[shared[0]]
    if mine.scale != theirs.scale:
        z, y, x = (a / b for a, b in zip(mine.scale, theirs.scale, strict=True))
        raise NetworkError(
            f"{one.name!r} and {other.name!r} meet in a {how}, but the first has {_told((z, y, x))} times as many "
            "voxels (z, y, x) as the second. Pool or upsample one of them"
        )
    return _minus(mine.offset, theirs.offset)


def _minus(one: Fractions, other: Fractions, only_above: bool = False) -> Fractions:
    z, y, x = (a - (max(b, b * 0) if only_above else b) for a, b in zip(one, other, strict=True))
    return z, y, x


def _rest(over: Fractions, first: Sequence[int]) -> Triple:
    z, y, x = (int(n) - f for n, f in zip(over, first, strict=True))
    return z, y, x


def _after(line: Line, scale: Fractions, rest: Fractions) -> Line:
    z, y, x = (a / s for a, s in zip(line.scale, scale, strict=True))
    u, v, w = ((b - r) / s for b, r, s in zip(line.offset, rest, scale, strict=True))
    return Line((z, y, x), (u, v, w))


def _told(values: Fractions) -> str:
    return f"({', '.join(str(v) for v in values)})"
