"""A network that grows call by call: nodes, edges and their arrays, with names of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from znn_dask.errors import NetworkError
from znn_dask.exchange.lattice import strides_of_filters
from znn_dask.geometry import ONE, Triple, add
from znn_dask.net import (
    Convolution,
    Crop,
    Edge,
    Identity,
    MaxFilter,
    Network,
    Node,
    Op,
    Padding,
    Transfer,
    TransposedConvolution,
)
from znn_dask.net.operations import NO_PADDING

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Image:
    """An image of the network, with a padding that waits for the convolution that takes it up."""

    node: str
    padding: Padding = NO_PADDING


@dataclass(frozen=True)
class Learned:
    """An array of a parameter, and the name it has in the state dict of the module."""

    values: Array
    origin: str


@dataclass
class Assembly:
    """Nodes and edges so far.

    Attributes
    ----------
    nodes : dict of name to Node
        In the order in which they were made, which is topological.
    edges : dict of name to Edge
    learned : dict of parameter name to Learned
    dilations : dict of edge to (z, y, x)
        That convolutions and filters had; they say what the sparsity is.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[str, Edge] = field(default_factory=dict)
    learned: dict[str, Learned] = field(default_factory=dict)
    dilations: dict[str, Triple] = field(default_factory=dict)

    def input(self, name: str, channels: int) -> Image:
        """Add an input."""
        name = _free(_clean(name), self.nodes)
        self.nodes[name] = Node(name, channels)
        return Image(name)

    def channels(self, image: Image) -> int:
        """Return the number of maps of an image."""
        return self.nodes[image.node].channels

    def apply(
        self,
        image: Image,
        op: Op,
        name: str,
        channels: int | None = None,
        learned: Mapping[str, Learned] | None = None,
        alone: bool = False,
        dilation: Triple | None = None,
    ) -> Image:
        """Add an edge to a new node of its name.

        Parameters
        ----------
        channels : int, optional
            Maps that it makes; as many as it reads unless given.
        learned : mapping of str to Learned, optional
            Such as "kernel".
        alone : bool
            Whether nothing else needs the image, so that its own edge may take the operation up.
        """
        into = self._into(image) if alone and not learned else None
        merged = None if into is None else _merged(into.op, op)
        if into is not None and merged is not None:
            self.edges[into.name] = replace(into, op=merged)
            return image
        name = _free(_clean(name), self.edges)
        node = _free(name, self.nodes)
        self.nodes[node] = Node(node, self.channels(image) if channels is None else channels)
        self.edges[name] = Edge(name, image.node, node, op)
        self.learned |= {f"{name}/{what}": each for what, each in (learned or {}).items()}
        if dilation is not None:
            self.dilations[name] = dilation
        return Image(node)

    def join(self, images: Sequence[Image], how: str, name: str, alone: Sequence[bool]) -> Image:
        """Add a node on which images converge; edges that lead to one of them alone are led there."""
        name = _free(_clean(name), self.nodes)
        counts = [self.channels(image) for image in images]
        led: list[Edge] = []
        for image, single in zip(images, alone, strict=True):
            taken = self._taken(image, how) if single else []
            if taken:
                del self.nodes[image.node]
                led += taken
            else:
                skip = _free(f"{name}_identity", [*self.edges, *(edge.name for edge in led)])
                led.append(Edge(skip, image.node, name, Identity()))
        order = tuple(edge.name for edge in led) if how == "concat" else ()
        self.nodes[name] = Node(name, sum(counts) if how == "concat" else counts[0], how, order)
        for edge in led:
            self.edges.pop(edge.name, None)
        self.edges |= {edge.name: replace(edge, target=name) for edge in led}
        return Image(name)

    def finish(self, outputs: Mapping[str, Image], ndim: int) -> tuple[Network, dict[str, str]]:
        """Return the network, the strides of its filters found, and the names that its outputs have."""
        names: dict[str, str] = {}
        for name, image in outputs.items():
            node = image.node
            busy = node in names.values() or any(edge.source == node for edge in self.edges.values())
            if busy or not self._incoming(node):
                node = self.apply(Image(node), Identity(), f"{name}_identity").node
            names[name] = node
        unused = [n for n in self.nodes if not any(n in (e.source, e.target) for e in self.edges.values())]
        if unused:
            raise NetworkError(f"argument {unused[0]!r} of the module is never used; leave it out")
        named = self._rename(names)
        strides = strides_of_filters(self.nodes, list(self.edges.values()), self.dilations)
        edges = [
            replace(e, op=MaxFilter(e.op.window, strides[e.name])) if isinstance(e.op, MaxFilter) else e
            for e in self.edges.values()
        ]
        return Network(self.nodes.values(), edges, ndim), named

    def _incoming(self, node: str) -> list[Edge]:
        return [edge for edge in self.edges.values() if edge.target == node]

    def _into(self, image: Image) -> Edge | None:
        edges = self._incoming(image.node)
        return edges[0] if len(edges) == 1 else None

    def _taken(self, image: Image, how: str) -> list[Edge]:
        """Return the edges to an image that may lead to the join instead."""
        edges = self._incoming(image.node)
        if len(edges) == 1 and how == "concat":
            return [] if isinstance(edges[0].op, Convolution | TransposedConvolution) else edges
        if len(edges) > 1 and how == "concat":
            edges = [self.edges[name] for name in self.nodes[image.node].order]
        return edges if len(edges) == 1 or self.nodes[image.node].join == how else []

    def _rename(self, names: Mapping[str, str]) -> dict[str, str]:
        """Give the nodes of outputs the names of outputs, as far as these are free, and return them."""
        new: dict[str, str] = {}
        kept = [node for node in self.nodes if node not in names.values()]
        for name, node in names.items():
            new[node] = _free(_clean(name), [*kept, *new.values()])
        self.nodes = {new.get(n, n): replace(node, name=new.get(n, n)) for n, node in self.nodes.items()}
        self.edges = {
            name: replace(edge, source=new.get(edge.source, edge.source), target=new.get(edge.target, edge.target))
            for name, edge in self.edges.items()
        }
        return {name: new[node] for name, node in names.items()}


def _merged(first: Op, second: Op) -> Op | None:
    """Return one operation that does what two do, if there is one; the second has no bias."""
    if isinstance(first, Crop) and isinstance(second, Crop):
        assert first.after is not None
        assert second.after is not None
        return Crop(add(first.before, second.before), add(first.after, second.after))
    if not isinstance(first, Transfer) or not isinstance(second, Transfer) or second.bias:
        return None
    a, b = first.args if first.function == "linear" else (None, None)
    if second.function == "linear":
        scale, shift = second.args
        if a is not None and b is not None:
            return replace(first, args=(a * scale, b * scale + shift))
        if first.function == "tanh" and shift == 0 and scale != 0:
            return replace(first, args=(first.args[0] * scale, first.args[1]))
        return None
    if (a, b) == (1.0, 0.0):
        return replace(first, function=second.function, args=second.args)
    if second.function == "tanh" and a is not None and b == 0 and a != 0:
        return replace(first, function="tanh", args=(second.args[0], second.args[1] * a))
    return None


def _clean(name: str) -> str:
    """Return a name without the characters that names of networks cannot have."""
    return "".join("_" if c in "#/" or c.isspace() else c for c in name) or "output"


def _free(name: str, taken: Mapping[str, object] | Sequence[str]) -> str:
    """Return a name that is not taken."""
    number, free = 1, name
    while free in taken:
        number, free = number + 1, f"{name}_{number}"
    return free


def broadcast(values: int | Sequence[int], ndim: int, fill: int = 1) -> Triple:
    """Return sizes of a call of PyTorch as (z, y, x); one counts for all axes, and 2D has no z."""
    given = [values] if isinstance(values, int) else list(values)
    if not given:
        return ONE
    given = given * ndim if len(given) == 1 else given
    if len(given) != ndim:
        raise ValueError(f"{given} is not a size of {ndim} axes")
    z, y, x = given if ndim == 3 else (fill, *given)
    return z, y, x
