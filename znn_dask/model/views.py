"""The graphs of a model as it is now, with its values inside, for any Dask scheduler."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.task_spec import DataNode, Task

from znn_dask.lower import Plan, StepGraph, lower_forward, lower_step
from znn_dask.lower.builder import refs
from znn_dask.lower.step import StepOptions, parameter_blocks
from znn_dask.net import Network
from znn_dask.ops.layout import kernel_to_public

Array = npt.NDArray[np.float32]


def forward_graph(net: Network, plan: Plan, values: Mapping[Any, Any], token: str) -> StepGraph:
    """Return the forward graph; what ``values`` does not have stays an input."""
    return _filled(net, lower_forward(net, plan, token), values)


def step_graph(
    net: Network, plan: Plan, options: StepOptions, values: Mapping[Any, Any], rate: float, token: str
) -> StepGraph:
    """Return the step graph with its own updates; its outputs are the loss and each new parameter by name."""
    graph = lower_step(net, plan, options, token)
    outputs = {"loss": graph.outputs["loss"]}
    tasks = dict(graph.dask)
    priority = dict(graph.priority)
    blocks: dict[str, list[tuple[Hashable, tuple[slice, ...]]]] = {name: [] for name in net.parameters}
    for block, name, part in parameter_blocks(net, plan):
        blocks[name].append((graph.outputs["new-parameter", block], part))
    for name, pairs in blocks.items():
        key = (f"parameter-{token}", name)
        parts = [part for _, part in pairs]
        tasks[key] = Task(key, put_together, refs([k for k, _ in pairs]), parts, net.parameters[name].shape)
        priority[key] = min(graph.priority.values())
        outputs[name] = key
    whole = StepGraph(tasks, graph.inputs, outputs, priority, graph.n_bytes)
    return _filled(net, whole, {**values, "learning-rate": rate})


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
    return StepGraph(tasks, inputs, graph.outputs, graph.priority, graph.n_bytes)
