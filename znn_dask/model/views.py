"""The graphs of a model as it is now, with its values inside, for any Dask scheduler."""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.task_spec import DataNode, Task

from znn_dask.lower import Plan, StepGraph, lower_forward, lower_step
from znn_dask.lower.builder import refs
from znn_dask.lower.step import parameter_blocks
from znn_dask.model.compiled import fresh_token, order_for
from znn_dask.model.core import Core
from znn_dask.model.samples import Batch
from znn_dask.net import Network
from znn_dask.ops.layout import kernel_to_public

Array = npt.NDArray[np.float32]


def graph_of(core: Core, kind: str, batch: Batch | None) -> StepGraph:
    """Return the "forward" or "step" graph of a model as it is now; without a batch its sample stays an input."""
    if kind == "forward":
        core.flush()
    plan = core.plan if batch is None else core.plan_for(batch.size)
    token, order = fresh_token(), order_for(core.scheduler.policy)
    if kind == "forward":
        graph = lower_forward(core.net, plan, token, order)
    else:
        weights = frozenset() if batch is None else frozenset(batch.weights)
        options = replace(core.step_options(weights, core.state.pending is not None), updates=core.completes)
        step = lower_step(core.net, plan, options, token, order)
        graph = _with_parameters(core.net, plan, step, token)
    return _filled(core.net, graph, core.values(batch))


def _with_parameters(net: Network, plan: Plan, graph: StepGraph, token: str) -> StepGraph:
    """Return a step with the loss and each new parameter by name as its outputs."""
    outputs = {"loss": graph.outputs["loss"]}
    tasks = dict(graph.dask)
    priority = dict(graph.priority)
    blocks: dict[str, list[tuple[Hashable, tuple[slice, ...]]]] = {name: [] for name in net.parameters}
    for block, name, part in parameter_blocks(net, plan):
        kept = graph.outputs.get(("parameter", block), graph.inputs.get(block))
        blocks[name].append((graph.outputs.get(("new-parameter", block), kept), part))
    for name, pairs in blocks.items():
        key = (f"parameter-{token}", name)
        parts = [part for _, part in pairs]
        tasks[key] = Task(key, put_together, refs([k for k, _ in pairs]), parts, net.parameters[name].shape)
        priority[key] = min(graph.priority.values())
        outputs[name] = key
    return StepGraph(tasks, graph.inputs, outputs, priority, graph.n_bytes, graph.extra_bytes)


def put_together(blocks: list[Array], parts: list[tuple[slice, ...]], shape: tuple[int, ...]) -> Array:
    """Return a public parameter from its blocks."""
    whole = np.empty(shape, np.float32)
    for block, part in zip(blocks, parts, strict=True):
        whole[part] = kernel_to_public(block) if block.ndim == 5 else block
    return whole


def _filled(net: Network, graph: StepGraph, values: Mapping[Any, Any]) -> StepGraph:
    tasks, inputs = dict(graph.dask), {}
    for name, key in graph.inputs.items():
        if name in values:
            tasks[key] = DataNode(key, values[name])
        else:
            kind, node = name
            alone = len(net.inputs if kind == "input" else net.outputs) == 1
            inputs[kind if alone else f"{kind}/{node}"] = key
    return StepGraph(tasks, inputs, graph.outputs, graph.priority, graph.n_bytes, graph.extra_bytes)
