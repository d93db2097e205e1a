"""Sizes along a graph: sparsity forwards, what an output needs backwards, what an input gives forwards.

Backwards every operation is linear in the size, so the size of a node is `scale * n + offset` for an output
of size n. Two paths that meet must agree on that line; this is checked when a network is made, so that sizes
then fit for every n. Rules from the field-of-view arithmetic of valid networks: a window k at sparsity s
takes (k - 1) * s voxels away, a pool divides.
"""

from collections.abc import Mapping
from typing import NamedTuple

from znn_dask.errors import NetworkError, ShapeError
from znn_dask.geometry import ONE, Triple, add, multiply, subtract
from znn_dask.net.graph import Edge, Graph
from znn_dask.net.operations import Convolution, MaxFilter, MaxPool, Op


class Line(NamedTuple):
    """The size of a node, `scale * n + offset`, for an output of n voxels; each (z, y, x)."""

    scale: Triple
    offset: Triple

    def at(self, size: Triple) -> Triple:
        """Return the size of the node for an output of ``size``."""
        return add(multiply(self.scale, size), self.offset)


IDENTITY = Line(ONE, (0, 0, 0))


def window_of(op: Op) -> Triple:
    """Return the voxels (z, y, x) that one output voxel is computed from, counted on its own lattice."""
    if isinstance(op, Convolution):
        return op.kernel
    if isinstance(op, MaxFilter | MaxPool):
        return op.window
    return ONE


def sparsities(graph: Graph) -> dict[str, Triple]:
    """Return the sparsity (dilation) of the lattice of every node: the product of the strides upstream.

    Raises
    ------
    NetworkError
        If edges of different sparsity converge, or a max-pool follows a max-filter with a stride.
    """
    found: dict[str, Triple] = dict.fromkeys(graph.inputs, ONE)
    first: dict[str, str] = {}
    for edge in graph.edges:
        sparsity = found[edge.source]
        if isinstance(edge.op, MaxPool) and sparsity != ONE:
            raise NetworkError(
                f"edge {edge.name!r} is a max-pool after max-filters with a total stride of {sparsity}: "
                f"the image there is dense and cannot be pooled. Use a max-filter, or max-pools throughout",
                about=("edge", edge.name),
            )
        if isinstance(edge.op, MaxFilter):
            sparsity = multiply(sparsity, edge.op.stride)
        if found.setdefault(edge.target, sparsity) != sparsity:
            raise NetworkError(
                f"edges {first[edge.target]!r} and {edge.name!r} converge on node {edge.target!r} with "
                f"different sparsity, {found[edge.target]} and {sparsity} (z, y, x). Give both paths the "
                "same strides",
                about=("edge", edge.name),
            )
        first.setdefault(edge.target, edge.name)
    return found


def size_before(op: Op, sparsity: Triple, size: Triple) -> Triple:
    """Return the size (z, y, x) an operation needs to give ``size``; ``sparsity`` is that of its source."""
    if isinstance(op, MaxPool):
        return multiply(size, op.window)
    return add(size, multiply(subtract(window_of(op), ONE), sparsity))


def lines(graph: Graph, sparsity: Mapping[str, Triple]) -> dict[str, dict[str, Line]]:
    """Return the size of every node as a line in the size of every output it leads to.

    Raises
    ------
    NetworkError
        If two paths from a node to an output shrink the image differently.
    """
    found: dict[str, dict[str, Line]] = {}
    for node in reversed(graph.nodes):
        mine: dict[str, Line] = {} if graph.outgoing[node.name] else {node.name: IDENTITY}
        through: dict[str, str] = {}
        for edge in graph.outgoing[node.name]:
            for output, line in found[edge.target].items():
                here = _line_before(edge.op, sparsity[node.name], line)
                if mine.setdefault(output, here) != here:
                    raise NetworkError(
                        f"paths from node {node.name!r} to {output!r} converge with different sizes: for an "
                        f"output of one voxel, edge {through[output]!r} needs {mine[output].at(ONE)} voxels "
                        f"(z, y, x) and edge {edge.name!r} {here.at(ONE)}. Give both paths the same field of "
                        "view",
                        about=("edge", edge.name),
                    )
                through.setdefault(output, edge.name)
        found[node.name] = mine
    return {node.name: found[node.name] for node in graph.nodes}


def sizes_for_outputs(table: Mapping[str, Mapping[str, Line]], outputs: Mapping[str, Triple]) -> dict[str, Triple]:
    """Return the size of every node for given sizes of the outputs.

    Raises
    ------
    ShapeError
        If two outputs need different sizes of one node.
    """
    sizes: dict[str, Triple] = {}
    for name, by_output in table.items():
        needed = {output: line.at(outputs[output]) for output, line in by_output.items()}
        first, *rest = needed
        for other in rest:
            if needed[other] != needed[first]:
                raise ShapeError(
                    f"node {name!r} would need {needed[first]} voxels (z, y, x) for output {first!r} of "
                    f"{outputs[first]} and {needed[other]} for output {other!r} of {outputs[other]}. "
                    f"Give output sizes that agree, one for each output; output_size(input_size) finds them"
                )
        sizes[name] = needed[first]
    return sizes


def sizes_for_inputs(
    graph: Graph, sparsity: Mapping[str, Triple], smallest: Mapping[str, Triple], inputs: Mapping[str, Triple]
) -> dict[str, Triple]:
    """Return the size of every node for given sizes of the inputs.

    Parameters
    ----------
    smallest : mapping of str to (z, y, x)
        The smallest size of every input, for the advice in messages.

    Raises
    ------
    ShapeError
        If an image is too small for an edge, does not divide by a pool, or converging images differ in size.
    """
    sizes = dict(inputs)
    for edge in graph.edges:
        size = _size_after(edge, sparsity[edge.source], sizes[edge.source], smallest)
        if sizes.setdefault(edge.target, size) != size:
            raise ShapeError(
                f"edge {edge.name!r} gives {size} voxels (z, y, x) to node {edge.target!r}, where another "
                f"edge gives {sizes[edge.target]}. Give inputs whose sizes agree; input_size(output_size) "
                "finds them"
            )
    return {node.name: sizes[node.name] for node in graph.nodes}


def smallest_inputs(graph: Graph, table: Mapping[str, Mapping[str, Line]]) -> dict[str, Triple]:
    """Return the field of view of every input: its size for the output that needs most, at one voxel."""
    return {name: largest(*(line.at(ONE) for line in table[name].values())) for name in graph.inputs}


def largest(*sizes: Triple) -> Triple:
    """Return the maximum of some sizes, axis by axis."""
    z, y, x = (max(axis) for axis in zip(*sizes, strict=True))
    return z, y, x


def _line_before(op: Op, sparsity: Triple, line: Line) -> Line:
    offset = size_before(op, sparsity, line.offset)
    return Line(multiply(line.scale, op.window), offset) if isinstance(op, MaxPool) else Line(line.scale, offset)


def _size_after(edge: Edge, sparsity: Triple, size: Triple, smallest: Mapping[str, Triple]) -> Triple:
    window = window_of(edge.op)
    least = size_before(edge.op, sparsity, ONE)
    if any(have < need for have, need in zip(size, least, strict=True)):
        what = "kernel" if isinstance(edge.op, Convolution) else "window"
        advice = " and ".join(f"{name!r} to at least {fov}" for name, fov in smallest.items())
        raise ShapeError(
            f"edge {edge.name!r} needs an input of at least {least} voxels (z, y, x), got {size} from node "
            f"{edge.source!r}. Its {what} is {window} at sparsity {sparsity}. Raise {advice}"
        )
    if not isinstance(edge.op, MaxPool):
        return subtract(size, multiply(subtract(window, ONE), sparsity))
    if any(have % need for have, need in zip(size, window, strict=True)):
        raise ShapeError(
            f"edge {edge.name!r} needs an input that is a multiple of its window {window} (z, y, x), got "
            f"{size} voxels from node {edge.source!r}. input_size(output_size) gives the sizes that fit"
        )
    z, y, x = (have // need for have, need in zip(size, window, strict=True))
    return z, y, x
