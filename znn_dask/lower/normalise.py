"""Edges that need all maps or all voxels at once: normalisation and softmax.

A normalisation is three rounds: sums over voxels, one task for every block and group; mean and deviation from all of
them, one small task; then every block and group by itself. Its gradient is the same three rounds again.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from dask.task_spec import List

from znn_dask.geometry import volume
from znn_dask.lower.builder import Key, ref, refs
from znn_dask.lower.lowering import Lowering, Values
from znn_dask.net import Edge, Normalisation
from znn_dask.ops import normalise, softmax
from znn_dask.ops.memory import Array
from znn_dask.tasks import fresh


def forward(low: Lowering, edge: Edge) -> Values:
    """Add the tasks of a normalisation; return what it gives to its target."""
    low.statistics[edge.name] = _statistics(low, edge)
    priority = low.priorities.forward[edge.target]
    found = {}
    for block, group in low.places(edge.source):
        scale, shift = (_parameter(low, name, edge, block) for name in ("scale", "shift"))
        found[block, group] = low.graph.task(
            "normalise",
            (edge.name, block, group),
            priority,
            normalise.apply,
            ref(low.values[edge.source][block, group]),
            ref(low.statistics[edge.name]),
            *_place(low, edge, block, group),
            scale,
            shift,
            n_bytes=low.edge_bytes(edge, (block, group)),
        )
    return found


def backward(low: Lowering, edge: Edge, d_values: Values, gradients: dict[Hashable, Key]) -> Values:
    """Add the tasks of a normalisation's gradients; return its source's and put its parameters' into ``gradients``."""
    op, graph, priority = edge.op, low.graph, low.priorities.backward[edge.source]
    assert isinstance(op, Normalisation)
    statistics = ref(low.statistics[edge.name])
    n_examples = low.arrangements[edge.source].n_examples
    moments = {}
    for block, group in low.places(edge.source):
        image, d_value = low.values[edge.source][block, group], d_values[block, group]
        arguments = (ref(d_value), ref(image), statistics, *_place(low, edge, block, group), n_examples)
        index = (edge.name, block, group)
        moments[block, group] = graph.task(
            "norm-gradient-moments", index, priority, normalise.gradient_moments, *arguments
        )
    blocks = range(low.n_blocks(edge.source))
    scales = [_parameter(low, "scale", edge, block) for block in blocks]
    coefficients = graph.task(
        "norm-coefficients",
        (edge.name,),
        priority,
        normalise.coefficients,
        _nested(low, edge, moments),
        List(*scales),
        _voxels(low, edge),
        op.over,
        op.groups,
    )
    if op.affine:
        _parameter_gradients(low, edge, moments, gradients)
    return {
        (block, group): graph.task(
            "backward-normalise",
            (edge.name, block, group),
            priority,
            normalise.backward,
            ref(d_values[block, group]),
            ref(low.values[edge.source][block, group]),
            statistics,
            ref(coefficients),
            *_place(low, edge, block, group),
            scales[block],
            n_bytes=low.n_bytes(edge.source, (block, group)),
        )
        for block, group in low.places(edge.source)
    }


def softmax_forward(low: Lowering, edge: Edge) -> Values:
    """Add the tasks of a softmax over maps, one for every batch group."""
    return _over_blocks(
        low, edge, "softmax", low.priorities.forward[edge.target], softmax.softmax, [low.values[edge.source]]
    )


def softmax_backward(low: Lowering, edge: Edge, d_values: Values) -> Values:
    """Add the tasks of a softmax's gradients."""
    outputs = low.contributions[edge.target][edge.name]
    priority = low.priorities.backward[edge.source]
    return _over_blocks(low, edge, "backward-softmax", priority, softmax.softmax_backward, [d_values, outputs])


def _over_blocks(
    low: Lowering, edge: Edge, kind: str, priority: int, function: Callable[..., Any], values: list[Values]
) -> Values:
    found: Values = {}
    blocks = range(low.n_blocks(edge.source))
    for group in range(len(low.arrangements[edge.source].groups)):
        arguments = [refs([each[block, group] for block in blocks]) for each in values]
        whole = low.graph.task(kind, (edge.name, group), priority, function, *arguments)
        for block in blocks:
            found[block, group] = low.graph.part(f"{kind}-part", (edge.name, block, group), whole, block)
            low.graph.n_bytes[found[block, group]] = low.n_bytes(edge.source, (block, group))
    return found


def _statistics(low: Lowering, edge: Edge) -> Key:
    """Return mean and inverse deviation of every example and map."""
    op, graph, priority = edge.op, low.graph, low.priorities.forward[edge.target]
    assert isinstance(op, Normalisation)
    n_examples = low.arrangements[edge.source].n_examples
    blocks = range(low.n_blocks(edge.source))
    if op.over == "batch" and not low.training:
        running = [refs([low.parameters[name, edge.name, block] for block in blocks]) for name in ("mean", "variance")]
        return graph.task(
            "norm-statistics", (edge.name,), priority, _fixed_statistics, *running, n_examples, op.epsilon
        )
    moments = {}
    for block, group in low.places(edge.source):
        arguments = ref(low.values[edge.source][block, group]), _place(low, edge, block, group)[0], n_examples
        moments[block, group] = graph.task(
            "norm-moments", (edge.name, block, group), priority, normalise.moments, *arguments
        )
    nested, voxels = _nested(low, edge, moments), _voxels(low, edge)
    if op.over == "batch":
        for block in blocks:
            terms = List(*(refs([moments[block, g]]) for g in range(len(low.arrangements[edge.source].groups))))
            index = (edge.name, block)
            whole = graph.task("norm-running", index, priority, normalise.batch_averages, terms, voxels * n_examples)
            for position, name in enumerate(("mean", "variance")):
                low.averages[name, edge.name, block] = graph.part(f"norm-{name}", index, whole, position)
    most = (nested, voxels, op.over, op.groups, op.epsilon)
    return graph.task("norm-statistics", (edge.name,), priority, normalise.statistics, *most)


@fresh
def _fixed_statistics(means: Sequence[Array], variances: Sequence[Array], n_examples: int, epsilon: float) -> Array:
    return normalise.fixed_statistics(np.concatenate(means), np.concatenate(variances), n_examples, epsilon)


def _parameter_gradients(low: Lowering, edge: Edge, moments: Values, gradients: dict[Hashable, Key]) -> None:
    for block in range(low.n_blocks(edge.source)):
        terms = [moments[block, group] for group in range(len(low.arrangements[edge.source].groups))]
        index, priority = (edge.name, block), low.priorities.backward[edge.source]
        whole = low.graph.task("norm-gradients", index, priority, normalise.parameter_gradients, refs(terms))
        for position, name in enumerate(("scale", "shift")):
            gradients[name, edge.name, block] = low.graph.part(f"{name}-gradient", index, whole, position)


def _place(low: Lowering, edge: Edge, block: int, group: int) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Return the example of every entry of a group, and the channels of a block."""
    arrangement = low.arrangements[edge.source]
    return tuple(entry.example for entry in arrangement.groups[group]), arrangement.blocks[block]


def _parameter(low: Lowering, name: str, edge: Edge, block: int) -> object:
    assert isinstance(edge.op, Normalisation)
    return ref(low.parameters[name, edge.name, block]) if edge.op.affine else None


def _voxels(low: Lowering, edge: Edge) -> int:
    """Return the voxels of one example and map."""
    arrangement = low.arrangements[edge.source]
    return volume(arrangement.size) * volume(arrangement.sparsity) * low.plan.slabs


def _nested(low: Lowering, edge: Edge, keys: Values) -> List:
    """Refer to the results of all places: for every batch group, those of its blocks."""
    blocks = range(low.n_blocks(edge.source))
    return List(
        *(refs([keys[block, group] for block in blocks]) for group in range(len(low.arrangements[edge.source].groups)))
    )
