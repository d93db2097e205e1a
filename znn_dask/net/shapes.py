"""Sizes along a graph: sparsity forwards, what an output needs backwards, what an input gives forwards.

Backwards every operation is linear in the size, so the size of a node is `scale * n + offset` for an output
of size n. Two paths that meet must agree on that line; this is checked when a network is made. In a valid network the
sizes then fit for every n; where images are made smaller and larger again, scales are fractions and only some n fit.
Rules from the field-of-view arithmetic of valid networks: a window k at sparsity s takes (k - 1) * s voxels away, a
pool divides. What padding adds to a window's size is added to the image too.
"""

from collections.abc import Mapping
from fractions import Fraction
from math import ceil, lcm
from typing import NamedTuple, TypeAlias

from znn_dask.errors import NetworkError, ShapeError
from znn_dask.geometry import ONE, Triple, add, multiply, subtract
from znn_dask.net.graph import Edge, Graph
from znn_dask.net.operations import Convolution, Op, TransposedConvolution
from znn_dask.net.sampling import AveragePool, Crop, MaxFilter, MaxPool, Merge, Pad, Split, Upsample

Fractions: TypeAlias = tuple[Fraction, Fraction, Fraction]
NOTHING: Triple = (0, 0, 0)
MOST_SEARCHED = 65536  # sizes an axis


class Line(NamedTuple):
    """The size of a node, `scale * n + offset`, for an output of n voxels; each (z, y, x)."""

    scale: Fractions
    offset: Fractions

    def exactly(self, size: Triple) -> Fractions:
        """Return the size of the node for an output of ``size``, a fraction where that output cannot be."""
        z, y, x = (a * n + b for a, n, b in zip(self.scale, size, self.offset, strict=True))
        return z, y, x

    def fits(self, size: Triple) -> bool:
        """Return whether an output of ``size`` is possible as far as this node goes."""
        return all(n.denominator == 1 and n >= 1 for n in self.exactly(size))

    def at(self, size: Triple) -> Triple:
        """Return the size of the node for an output of ``size``, which must fit."""
        z, y, x = (int(n) for n in self.exactly(size))
        return z, y, x


IDENTITY = Line((Fraction(1),) * 3, (Fraction(0),) * 3)


class Change(NamedTuple):
    """What an operation does to sizes: its source has ``scale * m + rest`` voxels for m of its target."""

    scale: Fractions
    rest: Fractions


def window_of(op: Op) -> Triple:
    """Return the voxels (z, y, x) that one output voxel is computed from, counted on its own lattice."""
    if isinstance(op, Convolution | TransposedConvolution):
        return op.kernel
    if isinstance(op, MaxFilter | MaxPool | AveragePool):
        return op.window
    return ONE


def needs_dense(op: Op) -> bool:
    """Return whether an operation changes the lattice itself, which cannot be done to one that is dilated."""
    if isinstance(op, Convolution):
        return op.stride != ONE
    return isinstance(op, MaxPool | AveragePool | TransposedConvolution | Upsample | Split | Merge)


def pads(op: Op) -> bool:
    """Return whether an operation adds voxels around its image, or takes some away, instead of being valid."""
    return isinstance(op, Pad | Crop) or (isinstance(op, Convolution) and op.padding.total != NOTHING)


def change_of(op: Op, sparsity: Triple) -> Change:
    """Return what an operation does to sizes; ``sparsity`` is that of its source."""
    scale, rest = ONE, NOTHING
    match op:
        case Convolution():
            scale, rest = op.stride, multiply(op.rest, sparsity)
        case MaxFilter():
            rest = multiply(subtract(op.window, ONE), sparsity)
        case MaxPool() | AveragePool():
            scale = op.window
        case Crop():
            rest = op.total
        case Pad():
            rest = multiply(subtract(NOTHING, op.total), sparsity)
        case Split():
            scale = op.stride
        case Merge():
            return _inverse(op.stride, NOTHING)
        case Upsample():
            return _inverse(op.factor, NOTHING)
        case TransposedConvolution():
            return _inverse(op.stride, op.rest)
    return Change(_fractions(scale), _fractions(rest))


def sparsities(graph: Graph) -> dict[str, Triple]:
    """Return the sparsity (dilation) of the lattice of every node: the product of the strides upstream.

    Raises
    ------
    NetworkError
        If edges of different sparsity converge, or a pool, stride or upsampling follows a max-filter with a stride.
    """
    found: dict[str, Triple] = dict.fromkeys(graph.inputs, ONE)
    first: dict[str, str] = {}
    for edge in graph.edges:
        sparsity = found[edge.source]
        check_lattice(edge, sparsity)
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


def check_lattice(edge: Edge, sparsity: Triple) -> None:
    """Raise unless an operation can be done to a lattice of this sparsity."""
    if needs_dense(edge.op) and sparsity != ONE:
        what = edge.op.kind.replace("_", "-")
        what = f"strided {what}" if isinstance(edge.op, Convolution) else what
        raise NetworkError(
            f"edge {edge.name!r} is a {what} after max-filters with a total stride of {sparsity}: "
            f"the image there is dense and its lattice cannot change. Use max-filters, or pools and strides, "
            "throughout",
            about=("edge", edge.name),
        )
    if isinstance(edge.op, Crop):
        assert edge.op.after is not None
        if any(n % s for n, s in zip((*edge.op.before, *edge.op.after), sparsity * 2, strict=True)):
            raise NetworkError(
                f"edge {edge.name!r} crops {edge.op.before} and {edge.op.after} voxels (z, y, x), which must be "
                f"multiples of the sparsity {sparsity} there",
                about=("edge", edge.name),
            )


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
                here = _before(edge.op, sparsity[node.name], line)
                if mine.setdefault(output, here) != here:
                    raise NetworkError(
                        f"paths from node {node.name!r} to {output!r} converge with different sizes: for an "
                        f"output of one voxel, edge {through[output]!r} needs {_told(mine[output].exactly(ONE))} "
                        f"voxels (z, y, x) and edge {edge.name!r} {_told(here.exactly(ONE))}. Give both paths the "
                        "same field of view, pad, or crop the larger",
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
        If two outputs need different sizes of one node, or an output cannot be of its size.
    """
    sizes: dict[str, Triple] = {}
    for name, by_output in table.items():
        for output, line in by_output.items():
            if not line.fits(outputs[output]):
                raise ShapeError(_impossible(table, output, outputs[output], name, line))
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
    """Return the size of every input for the smallest output there can be."""
    least = smallest_output(table)
    sizes = {name: [line.at(least) for line in table[name].values() if line.fits(least)] for name in graph.inputs}
    return {name: largest(*some) if some else ONE for name, some in sizes.items()}


def smallest_output(table: Mapping[str, Mapping[str, Line]]) -> Triple:
    """Return the smallest size that all outputs can have at once; one voxel if none was found."""
    some = [line for by_output in table.values() for line in by_output.values()]
    z, y, x = (_smallest(some, axis, 1, 1) or 1 for axis in range(3))
    return z, y, x


def output_within(table: Mapping[str, Mapping[str, Line]], most: Triple) -> Triple | None:
    """Return the largest size, not above ``most`` along any axis, that all outputs can have at once; None if none."""
    some = [line for by_output in table.values() for line in by_output.values()]
    z, y, x = (_smallest(some, axis, most[axis], -1) for axis in range(3))
    return None if z is None or y is None or x is None else (z, y, x)


def field_of_view(graph: Graph, sparsity: Mapping[str, Triple]) -> Triple:
    """Return the input voxels (z, y, x) that one output voxel depends on; the largest of all inputs and outputs.

    A normalisation over voxels makes every voxel depend on all; that is not counted.
    """
    view = dict.fromkeys(graph.outputs, ONE)
    for edge in reversed(graph.edges):
        if edge.target in view:
            here = _view_before(edge.op, sparsity[edge.source], view[edge.target])
            view[edge.source] = largest(here, view.get(edge.source, ONE))
    return largest(*(view.get(name, ONE) for name in graph.inputs))


def largest(*sizes: Triple) -> Triple:
    """Return the maximum of some sizes, axis by axis."""
    z, y, x = (max(axis) for axis in zip(*sizes, strict=True))
    return z, y, x


def _view_before(op: Op, sparsity: Triple, view: Triple) -> Triple:
    # Of a window of outputs: strides spread it, a larger lattice gathers it, a kernel widens it on its own lattice.
    reach = multiply(subtract(window_of(op), ONE), sparsity)
    match op:
        case Convolution():
            return add(add(multiply(subtract(view, ONE), op.stride), ONE), reach)
        case MaxPool() | AveragePool():
            return multiply(view, op.window)
        case Split():
            return multiply(view, op.stride)
        case Merge():
            return _gathered(view, op.stride)
        case Upsample():
            return _gathered(add(view, op.factor) if op.mode == "trilinear" else view, op.factor)
        case TransposedConvolution():
            return _gathered(add(view, reach), op.stride)
    return add(view, reach)


def _gathered(view: Triple, factor: Triple) -> Triple:
    """Return the most voxels that a window of a larger lattice lies over."""
    z, y, x = (n if f == 1 else (n - 1 + f - 1) // f + 1 for n, f in zip(view, factor, strict=True))
    return z, y, x


def _before(op: Op, sparsity: Triple, line: Line) -> Line:
    scale, rest = change_of(op, sparsity)
    z, y, x = (a * b for a, b in zip(scale, line.scale, strict=True))
    u, v, w = (a * b + c for a, b, c in zip(scale, line.offset, rest, strict=True))
    return Line((z, y, x), (u, v, w))


def _inverse(scale: Triple, rest: Triple) -> Change:
    z, y, x = (Fraction(1, s) for s in scale)
    u, v, w = (Fraction(-c, s) for c, s in zip(rest, scale, strict=True))
    return Change((z, y, x), (u, v, w))


def _fractions(values: Triple) -> Fractions:
    z, y, x = (Fraction(v) for v in values)
    return z, y, x


def _told(values: Fractions) -> str:
    return f"({', '.join(str(v) for v in values)})"


def _smallest(some: list[Line], axis: int, start: int, step: int) -> int | None:
    """Return the first size from ``start`` on at which an axis of all lines fits."""
    pairs = {(line.scale[axis], line.offset[axis]) for line in some}
    least = max(1, *(ceil((1 - offset) / scale) for scale, offset in pairs))
    first = max(start, least) if step > 0 else start
    # Whether sizes are whole comes round with the denominators of the scales.
    period = min(lcm(*(scale.denominator for scale, _ in pairs)), MOST_SEARCHED)
    whole = [
        (scale.numerator * offset.denominator, offset.numerator * scale.denominator, common)
        for scale, offset in pairs
        if (common := scale.denominator * offset.denominator) > 1
    ]
    for n in range(first, first + step * period, step):
        if n >= least and all((a * n + b) % common == 0 for a, b, common in whole):
            return n
    return None


def _impossible(table: Mapping[str, Mapping[str, Line]], output: str, size: Triple, node: str, line: Line) -> str:
    some = [by_output[output] for by_output in table.values() if output in by_output]
    axis = next(a for a, n in enumerate(line.exactly(size)) if n.denominator != 1 or n < 1)
    near = [n for n in (_smallest(some, axis, size[axis], step) for step in (-1, 1)) if n is not None]
    advice = f" Sizes near it that fit along {'zyx'[axis]}: {' and '.join(map(str, near))}" if near else ""
    return (
        f"output {output!r} cannot have {size} voxels (z, y, x): node {node!r} would have "
        f"{_told(line.exactly(size))}.{advice}"
    )


def _size_after(edge: Edge, sparsity: Triple, size: Triple, smallest: Mapping[str, Triple]) -> Triple:
    scale, rest = change_of(edge.op, sparsity)
    exact = tuple((n - c) / a for n, c, a in zip(size, rest, scale, strict=True))
    advice = " and ".join(f"{name!r} to at least {fov}" for name, fov in smallest.items())
    if min(exact) < 1:
        z, y, x = (max(1, int(a + c)) for a, c in zip(scale, rest, strict=True))
        what = "kernel" if isinstance(edge.op, Convolution) else "window"
        raise ShapeError(
            f"edge {edge.name!r} needs an input of at least {(z, y, x)} voxels (z, y, x), got {size} from node "
            f"{edge.source!r}. Its {what} is {window_of(edge.op)} at sparsity {sparsity}. Raise {advice}"
        )
    if any(n.denominator != 1 for n in exact):
        rule = (
            f"a multiple of its window {window_of(edge.op)}"
            if isinstance(edge.op, MaxPool | AveragePool)
            else (f"a multiple of {_told(scale)}" + (f" plus {_told(rest)}" if any(rest) else ""))
        )
        raise ShapeError(
            f"edge {edge.name!r} needs an input that is {rule} (z, y, x), got "
            f"{size} voxels from node {edge.source!r}. input_size(output_size) gives the sizes that fit"
        )
    z, y, x = (int(n) for n in exact)
    return z, y, x
