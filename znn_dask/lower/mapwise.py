"""Edges that work map by map, forward and backward: one task for every channel block and batch group."""

from collections.abc import Callable
from typing import Any, NamedTuple

from znn_dask.geometry import divide
from znn_dask.lower import filtering
from znn_dask.lower.builder import Key, ref, refs
from znn_dask.lower.lowering import Lowering, Place, Values, activation_of
from znn_dask.net import (
    AveragePool,
    Crop,
    Dropout,
    Edge,
    Identity,
    MaxFilter,
    MaxPool,
    Merge,
    Pad,
    Split,
    Transfer,
    Upsample,
)
from znn_dask.ops import border, dropout, phases, pool, transfer, upsample


class Pass(NamedTuple):
    """An operation without parameters: its two functions and the arguments after the image, which they share."""

    kind: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    arguments: tuple[object, ...]


def forward(low: Lowering, edge: Edge) -> Values:
    """Add the tasks of an edge; return what it gives to its target."""
    values = low.values[edge.source]
    match edge.op:
        case Identity() | Dropout(0.0):
            return values
        case Dropout() if not low.training:
            return values
        case Pad() if low.absorbs(edge):
            return values
        case Pad() if low.plan.slabs > 1 and edge.op.total[0]:
            return _pad_slabs(low, edge, values)
        case MaxFilter() | MaxPool():
            return filtering.forward(low, edge)
        case Split():
            return _split(low, edge, values, "split")
        case Merge():
            return _merge(low, edge, values, "merge")
    found: Values = {}
    for block, group in low.places(edge.source):
        found |= _forward(low, edge, block, group)
    return found


def backward(low: Lowering, edge: Edge, d_values: Values) -> Values:
    """Add the tasks of an edge without parameters; return the gradient of its source."""
    match edge.op:
        case Identity() | Dropout(0.0):
            return d_values
        case Pad() if low.absorbs(edge):
            return d_values
        case Pad() if low.plan.slabs > 1 and edge.op.total[0]:
            return _unpad_slabs(low, edge, d_values)
        case MaxFilter() | MaxPool():
            return filtering.backward(low, edge, d_values)
        case Split():
            return _merge(low, edge, d_values, "backward-split")
        case Merge():
            return _split(low, edge, d_values, "backward-merge")
    return {place: _backward(low, edge, d_values, *place) for place in low.places(edge.source)}


def _slab_arguments(low: Lowering, edge: Edge, op: Pad, values: Values, place: Place) -> tuple[object, ...]:
    """Refer to a slab and to those beside it (None at an end), and say how much is padded."""
    block, group = place
    sides = [None if g is None else ref(values[block, g]) for g in low.beside(edge.source, group)]
    return (ref(values[place]), *sides, op.before, op.after)


def _pad_slabs(low: Lowering, edge: Edge, values: Values) -> Values:
    """Add the tasks that pad slabs with what lies beside them."""
    assert isinstance(edge.op, Pad)
    found = {}
    for block, group in low.places(edge.source):
        arguments = _slab_arguments(low, edge, edge.op, values, (block, group))
        index, priority = (edge.name, block, group), low.priorities.forward[edge.target]
        n_bytes = low.edge_bytes(edge, (block, group))
        found[block, group] = low.graph.task("pad", index, priority, border.pad_slab, *arguments, n_bytes=n_bytes)
    return found


def _unpad_slabs(low: Lowering, edge: Edge, d_values: Values) -> Values:
    """Add the tasks of the gradients of slabs, to which those beside them contribute."""
    assert isinstance(edge.op, Pad)
    found = {}
    for block, group in low.places(edge.source):
        arguments = _slab_arguments(low, edge, edge.op, d_values, (block, group))
        index, priority = (edge.name, block, group), low.priorities.backward[edge.source]
        n_bytes = low.n_bytes(edge.source, (block, group))
        function = border.pad_slab_backward
        found[block, group] = low.graph.task("backward-pad", index, priority, function, *arguments, n_bytes=n_bytes)
    return found


def _pass_of(low: Lowering, edge: Edge) -> Pass:
    match edge.op:
        case AveragePool() as op:
            return Pass("average-pool", pool.average_pool, pool.average_pool_backward, (op.window,))
        case Upsample() as op:
            return Pass("upsample", upsample.upsample, upsample.upsample_backward, (op.factor, op.mode))
        case Pad() as op:
            return Pass("pad", border.pad, border.pad_backward, (op.before, op.after, op.mode))
        case Crop() as op:
            sparsity = low.net.sparsity_of(edge.source)
            assert op.after is not None
            return Pass(
                "crop", border.crop, border.crop_backward, (divide(op.before, sparsity), divide(op.after, sparsity))
            )
    raise AssertionError(f"edge {edge.name!r} is no operation that works map by map: {edge.op}")


def _forward(low: Lowering, edge: Edge, block: int, group: int) -> Values:
    graph, op, source = low.graph, edge.op, ref(low.values[edge.source][block, group])
    priority, index = low.priorities.forward[edge.target], (edge.name, block, group)
    n_bytes = low.edge_bytes(edge, (block, group))
    function: Callable[..., Any]
    arguments: tuple[object, ...]
    if isinstance(op, Transfer):
        kind, function, arguments = "transfer", transfer.forward, low.transfer_arguments(edge, block)
    elif isinstance(op, Dropout):
        kind, function, arguments = "dropout", dropout.apply, _dropout_arguments(low, edge, block, group)
    else:
        kind, function, _, arguments = _pass_of(low, edge)
    return {(block, group): graph.task(kind, index, priority, function, source, *arguments, n_bytes=n_bytes)}


def _dropout_arguments(low: Lowering, edge: Edge, block: int, group: int) -> tuple[object, ...]:
    """Return what `dropout.apply` takes after the image."""
    assert isinstance(edge.op, Dropout)
    arrangement = low.arrangements[edge.source]
    return arrangement, group, block, edge.op.rate, low.seed, ref(low.step), edge.name


def _split(low: Lowering, edge: Edge, values: Values, kind: str) -> Values:
    """Add the tasks that take images apart into their phases: those of the source, or their gradients' of a merge."""
    assert isinstance(edge.op, Split | Merge)
    ahead = isinstance(edge.op, Split)
    whole_node, phase_node = (edge.source, edge.target) if ahead else (edge.target, edge.source)
    priority = low.priorities.forward[edge.target] if ahead else low.priorities.backward[edge.source]
    found: Values = {}
    n_blocks = low.n_blocks(whole_node)
    for block, group in low.places(whole_node):
        index = (edge.name, block, group)
        whole = low.graph.task(kind, index, priority, phases.split, ref(values[block, group]), edge.op.stride)
        for phase in range(edge.op.n_phases):
            place = phase * n_blocks + block, group
            found[place] = low.graph.part(f"{kind}-phase", (edge.name, *place), whole, phase)
            low.graph.n_bytes[found[place]] = low.n_bytes(phase_node, place)
    return found


def _merge(low: Lowering, edge: Edge, values: Values, kind: str) -> Values:
    """Add the tasks that put phases together to images: those of a merge, or the gradients of a split."""
    assert isinstance(edge.op, Split | Merge)
    ahead = isinstance(edge.op, Merge)
    whole_node = edge.target if ahead else edge.source
    priority = low.priorities.forward[edge.target] if ahead else low.priorities.backward[edge.source]
    n_blocks = low.n_blocks(whole_node)
    return {
        (block, group): low.graph.task(
            kind,
            (edge.name, block, group),
            priority,
            phases.merge,
            refs([values[phase * n_blocks + block, group] for phase in range(edge.op.n_phases)]),
            edge.op.stride,
            n_bytes=low.n_bytes(whole_node, (block, group)),
        )
        for block, group in low.places(whole_node)
    }


def _backward(low: Lowering, edge: Edge, d_values: Values, block: int, group: int) -> Key:
    graph, op, priority = low.graph, edge.op, low.priorities.backward[edge.source]
    index, n_bytes = (edge.name, block, group), low.n_bytes(edge.source, (block, group))
    gradient = ref(d_values[block, group])
    if isinstance(op, Dropout):
        arguments = _dropout_arguments(low, edge, block, group)
        return graph.task("backward-dropout", index, priority, dropout.apply, gradient, *arguments, n_bytes=n_bytes)
    kind, _, function, arguments = _pass_of(low, edge)
    return graph.task(f"backward-{kind}", index, priority, function, gradient, *arguments, n_bytes=n_bytes)


def transfer_backward(low: Lowering, edge: Edge, d_values: Values) -> tuple[Values, dict[int, list[Key]]]:
    """Add the tasks of a transfer; return the gradient of its source, and of each block the parts of its bias's."""
    op, priority = edge.op, low.priorities.backward[edge.source]
    assert isinstance(op, Transfer)
    values: Values = {}
    biases: dict[int, list[Key]] = {}
    for block, group in low.edge_places(edge):
        index = (edge.name, block, group)
        output = low.contributions[edge.target][edge.name][block, group]
        arguments = ref(d_values[block, group]), ref(output), activation_of(op)
        whole = low.graph.task("backward-transfer", index, priority, transfer.backward, *arguments)
        values[block, group] = low.graph.part("transfer-gradient", index, whole, 0)
        low.graph.n_bytes[values[block, group]] = low.n_bytes(edge.source, (block, group))
        if op.bias:
            biases.setdefault(block, []).append(low.graph.part("bias-part", index, whole, 1))
    return values, biases
