"""`Network`: what is computed and how large everything is, as one frozen value without arrays.

A network is an acyclic graph of nodes (images) and edges (operations); edges that converge are summed. It is
checked when it is made, so that every later question has an answer. Sizes are in voxels, (z, y, x).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from math import lcm
from pathlib import Path
from typing import TypeAlias

from znn_dask.errors import DataError, NetworkError, ShapeError, nearest
from znn_dask.geometry import Triple, as_triple
from znn_dask.net import shapes
from znn_dask.net.functional import Builder, Padded
from znn_dask.net.graph import Edge, Graph, Node, arrange
from znn_dask.net.initial import Init
from znn_dask.net.letters import Chain, Inits, Sizes, Transfers, chain
from znn_dask.net.parameters import Parameter, parameters_of
from znn_dask.net.table import Drawing, drawing, table
from znn_dask.net.text import Reading, read, write

SizeLike: TypeAlias = int | Sequence[int]


@dataclass(frozen=True, init=False, repr=False)
class Network:
    """A convolutional network, dense in its output.

    Parameters
    ----------
    nodes : iterable of Node, or mapping of name to number of maps
    edges : iterable of Edge
    ndim : 2 or 3
        Only says how an int is read as a size: with 2, k means (1, k, k).

    Raises
    ------
    NetworkError
        If names, maps, sparsity or sizes do not fit together, or there is a cycle.

    Examples
    --------
    >>> nodes = {"input": 1, "a": 8, "output": 8}
    >>> conv = Edge("conv1", "input", "a", Convolution((3, 3, 3)))
    >>> Network(nodes, [conv, Edge("transfer1", "a", "output", Transfer("relu"))]).field_of_view
    (3, 3, 3)
    """

    graph: Graph
    ndim: int

    def __init__(self, nodes: Iterable[Node] | Mapping[str, int], edges: Iterable[Edge], ndim: int = 3) -> None:
        if ndim not in (2, 3):
            raise NetworkError(f"ndim must be 2 or 3, got {ndim!r}")
        if isinstance(nodes, Mapping):
            nodes = [Node(name, channels) for name, channels in nodes.items()]
        object.__setattr__(self, "graph", arrange(nodes, edges))
        object.__setattr__(self, "ndim", ndim)
        _ = self._lines  # checks sparsity and sizes

    @classmethod
    def parse(
        cls,
        layers: str,
        *,
        width: int | Sequence[int] | None = None,
        kernel: Sizes = 3,
        window: Sizes = 2,
        ndim: int = 3,
        in_channels: int = 1,
        out_channels: int | None = 1,
        transfer: Transfers = "relu",
        stride: Sizes | None = None,
        dropout: float | Sequence[float] = 0.5,
        init: Inits = "he",
    ) -> "Network":
        """Make a chain from letters.

        A property is one value, or a list with one for each letter that has it. A size is an int or a tuple
        (z, y, x); with ``ndim=2`` an int k means (1, k, k), and (y, x) will do.

        Parameters
        ----------
        layers : str
            C convolution, T bias and transfer, M max-filter (the output stays dense, later layers are
            dilated), P max-pool, D dropout.
        width : int or sequence of int
            Maps of every convolution but the last (a value for the last is used when `out_channels` is None).
        kernel : size or list of sizes
            Of the letters C.
        window : size or list of sizes
            Of the letters M and P.
        ndim : 2 or 3
        in_channels : int
        out_channels : int or None
            Maps of the last convolution; None: as `width`.
        transfer : str, Transfer or list of them
            Of the letters T, such as ``"relu"`` or ``"tanh(1.7159, 0.6666)"``.
        stride : size, list of sizes or None
            Of the letters M: the factor on the sparsity of what follows; None: the window.
        dropout : float or list of float
            Of the letters D: the probability of dropping.
        init : str, Init or list of them
            Of the letters C, such as ``"he"`` or ``"uniform(0.05)"``. Biases start at zero.

        Returns
        -------
        Network
            With edges ``conv1``, ``transfer1``, ``max_filter1``, ``max_pool1``, ``dropout1``, ``conv2``, ...

        Raises
        ------
        NetworkError
            If a letter is unknown, or the number of values is not the number of letters.
        ParameterError
            If a value is outside its range.
        """
        spec = Chain(layers, width, kernel, window, ndim, in_channels, out_channels, transfer, stride, dropout, init)
        return cls(*chain(spec), ndim=ndim)

    @classmethod
    def builder(cls, ndim: int = 3, padding: Padded = "valid", init: str | Init = "he") -> "Builder":
        """Return a builder, whose methods take and return images; `padding` and `init` are of its convolutions.

        >>> net = Network.builder()
        >>> x = net.relu(net.conv(net.input("image"), 24, (1, 3, 3)))
        >>> net.output(net.conv(x, 2, 1), "label")
        >>> network = net.build()
        """
        return Builder(cls, ndim, padding, init)

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes by name, every one after those it is computed from."""
        return {node.name: node for node in self.graph.nodes}

    @property
    def edges(self) -> dict[str, Edge]:
        """The edges by name, in the order of their sources."""
        return {edge.name: edge for edge in self.graph.edges}

    @property
    def inputs(self) -> dict[str, int]:
        """The number of maps of every input, by name."""
        return {name: self.graph.channels[name] for name in self.graph.inputs}

    @property
    def outputs(self) -> dict[str, int]:
        """The number of maps of every output, by name."""
        return {name: self.graph.channels[name] for name in self.graph.outputs}

    def incoming(self, node: str) -> tuple[Edge, ...]:
        """Return the edges that converge on a node, whose images are summed."""
        return self.graph.incoming[self._known(node, list(self.graph.incoming), "node")]

    def outgoing(self, node: str) -> tuple[Edge, ...]:
        """Return the edges that leave a node."""
        return self.graph.outgoing[self._known(node, list(self.graph.outgoing), "node")]

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What is learned or kept, by name (``"conv1/kernel"``, ``"transfer1/bias"``), in the order of the edges."""
        channels = self.graph.channels
        found = [
            parameter
            for edge in self.graph.edges
            for parameter in parameters_of(edge.name, edge.op, channels[edge.source], channels[edge.target])
        ]
        return {parameter.name: parameter for parameter in found}

    @property
    def n_parameters(self) -> int:
        """The number of weights and biases that are learned."""
        return sum(parameter.size for parameter in self.parameters.values() if parameter.learned)

    @property
    def is_valid(self) -> bool:
        """Whether every operation is valid, so that sizes fit for every output and each voxel is computed alike."""
        return not any(shapes.pads(edge.op) or shapes.needs_dense(edge.op) for edge in self.graph.edges)

    @property
    def is_dense(self) -> bool:
        """Whether outputs have a voxel for every voxel of the inputs, but for those that windows take at the ends."""
        return all(
            line.scale == shapes.IDENTITY.scale for name in self.graph.inputs for line in self._lines[name].values()
        )

    @property
    def sparsity(self) -> Triple:
        """The sparsity (z, y, x) of the output lattice: the product of the strides of all max-filters.

        Where outputs differ, their least common multiple.
        """
        z, y, x = (lcm(*axis) for axis in zip(*(self._sparsity[name] for name in self.graph.outputs), strict=True))
        return z, y, x

    def sparsity_of(self, node: str) -> Triple:
        """Return the sparsity (z, y, x) of a node's lattice, at which the edges that leave it are dilated."""
        return self._sparsity[self._known(node, list(self._sparsity), "node")]

    def edge_sparsity(self, edge: str) -> Triple:
        """Return the dilation (z, y, x) of an edge: the sparsity of its source."""
        return self._sparsity[self.edges[self._known(edge, list(self.edges), "edge")].source]

    @property
    def field_of_view(self) -> Triple:
        """The input voxels (z, y, x) one output voxel depends on; the largest of all inputs and outputs.

        A normalisation over voxels makes it depend on all others too; that is not counted.
        """
        return shapes.field_of_view(self.graph, self._sparsity)

    def node_sizes(self, output_size: SizeLike | Mapping[str, SizeLike]) -> dict[str, Triple]:
        """Return the size (z, y, x) every node needs, exactly and without rounding.

        Parameters
        ----------
        output_size : size, or mapping of output to size
            One size counts for every output.

        Raises
        ------
        ShapeError
            If two outputs need different sizes of one node.
        """
        return shapes.sizes_for_outputs(self._lines, self._by_name(output_size, self.graph.outputs, "output"))

    def input_size(self, output_size: SizeLike | Mapping[str, SizeLike]) -> Triple | dict[str, Triple]:
        """Return the input size (z, y, x) that gives an output size; a dict where there are several inputs.

        Raises
        ------
        ShapeError
            If two outputs need different sizes of one node.
        """
        return _single(self.node_sizes(output_size), self.graph.inputs)

    def output_size(self, input_size: SizeLike | Mapping[str, SizeLike]) -> Triple | dict[str, Triple]:
        """Return the output size (z, y, x) that an input size gives; a dict where there are several outputs.

        Raises
        ------
        ShapeError
            If an image is too small for an edge, does not divide by a pool, or converging images differ in
            size.
        """
        return _single(self._forward(self._by_name(input_size, self.graph.inputs, "input")), self.graph.outputs)

    def output_within(self, size: SizeLike) -> Triple:
        """Return the largest output size, not above ``size`` along any axis, that there can be; else a ShapeError."""
        most = as_triple(size, self.ndim, "size")
        found = shapes.output_within(self._lines, most)
        if found is None:
            least = shapes.smallest_output(self._lines)
            raise ShapeError(f"no output fits into {most} voxels (z, y, x): the smallest has {least}. Give more")
        return found

    def table(self, output_size: SizeLike | Mapping[str, SizeLike] | None = None) -> str:
        """Return a line for every edge and a summary; sizes are for `output_size`, else the smallest."""
        sizes = self._smallest_sizes() if output_size is None else self.node_sizes(output_size)
        ends = " -> ".join(
            ", ".join(f"{name} ({count} {'map' if count == 1 else 'maps'})" for name, count in side.items())
            for side in (self.inputs, self.outputs)
        )
        kernels = sum(p.size for p in self.parameters.values() if len(p.shape) > 1 and p.learned)
        others = "biases and scales" if any(name.endswith("/scale") for name in self.parameters) else "biases"
        summary = (
            f"field of view {_times(self.field_of_view)}, sparsity of the output {_times(self.sparsity)}, "
            f"{kernels:,} weights + {self.n_parameters - kernels:,} {others} = {self.n_parameters:,} parameters"
        )
        return f"{ends}\n{table(self.graph, self._sparsity, sizes)}\n{summary}"

    def graphviz(self, output_size: SizeLike | Mapping[str, SizeLike] | None = None) -> Drawing:
        """Return a drawing; notebooks show it, and its `source` is Graphviz's language."""
        return drawing(self.graph, self._smallest_sizes() if output_size is None else self.node_sizes(output_size))

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        fov = _times(self.field_of_view)
        return f"<Network: {len(self.graph.edges)} edges, field of view {fov}, {self.n_parameters:,} parameters>"

    def to_text(self) -> str:
        """Return the text form, which `from_text` reads back as an equal network."""
        return write(self.graph, self.ndim)

    @classmethod
    def from_text(cls, text: str) -> "Network":
        """Read the text form, ours or ZNN's.

        Training options in it (eta, momentum, weight_decay, fft) are no part of a network: they are left out
        with a warning.

        Raises
        ------
        NetworkError
            Naming the line, if a key or type is unknown or a value cannot be read.
        """
        reading = read(text)
        if reading.ignored:
            warnings.warn(
                f"training options are no part of a network and were left out: {', '.join(reading.ignored)}. Give "
                f"them to the optimiser and the model",
                stacklevel=2,
            )
        return cls.from_reading(reading)

    @classmethod
    def from_reading(cls, reading: Reading) -> "Network":
        """Make a network of what was read; errors name the place where it was."""
        try:
            return cls(reading.nodes, reading.edges, reading.ndim)
        except NetworkError as error:
            raise reading.located(error) from error

    def save(self, path: str | Path) -> None:
        """Write the text form to a file, by custom ``.znn``."""
        Path(path).write_text(self.to_text(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Network":
        """Read a file of the text form.

        Raises
        ------
        DataError
            If there is no such file, or it is no text.
        NetworkError
            Naming the file and the line, if it is no network.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise DataError(f"cannot read the network file {str(path)!r}: {reason}") from error
        try:
            return cls.from_text(text)
        except NetworkError as error:
            raise NetworkError(f"{path}: {error}") from error

    def __reduce__(self) -> tuple[type["Network"], tuple[tuple[Node, ...], tuple[Edge, ...], int]]:
        # Without what was cached, so that equal networks give equal pickles.
        return Network, (self.graph.nodes, self.graph.edges, self.ndim)

    @cached_property
    def _sparsity(self) -> dict[str, Triple]:
        return shapes.sparsities(self.graph)

    @cached_property
    def _lines(self) -> dict[str, dict[str, shapes.Line]]:
        return shapes.lines(self.graph, self._sparsity)

    def _forward(self, inputs: Mapping[str, Triple]) -> dict[str, Triple]:
        smallest = shapes.smallest_inputs(self.graph, self._lines)
        return shapes.sizes_for_inputs(self.graph, self._sparsity, smallest, inputs)

    def _smallest_sizes(self) -> dict[str, Triple] | None:
        """Return sizes for the smallest outputs, or inputs of one field of view; None if neither fits."""
        try:
            return self.node_sizes(dict.fromkeys(self.graph.outputs, shapes.smallest_output(self._lines)))
        except ShapeError:
            pass
        try:
            return self._forward(shapes.smallest_inputs(self.graph, self._lines))
        except ShapeError:
            return None

    def _by_name(self, size: SizeLike | Mapping[str, SizeLike], names: tuple[str, ...], what: str) -> dict[str, Triple]:
        if not isinstance(size, Mapping):
            return dict.fromkeys(names, as_triple(size, self.ndim, f"{what} size"))
        for name in size:
            self._known(name, list(names), what)
        missing = [name for name in names if name not in size]
        if missing:
            raise ShapeError(f"the size of {what} {missing[0]!r} is missing; give all of {', '.join(names)}")
        return {name: as_triple(size[name], self.ndim, f"size of {what} {name!r}") for name in names}

    @staticmethod
    def _known(name: str, known: list[str], what: str) -> str:
        if name not in known:
            raise NetworkError(f"there is no {what} {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}")
        return name


def _single(sizes: Mapping[str, Triple], names: Sequence[str]) -> Triple | dict[str, Triple]:
    return sizes[names[0]] if len(names) == 1 else {name: sizes[name] for name in names}


def _times(size: Triple) -> str:
    return "x".join(str(v) for v in size)
