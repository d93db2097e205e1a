"""How much memory a graph needs, found by walking through it before anything runs."""

import heapq
from collections.abc import Hashable, Iterable

from dask.task_spec import GraphNode

from znn_dask.lower.plan import Plan
from znn_dask.lower.step import StepGraph, lower_forward
from znn_dask.net import Network


def peak_bytes(graph: StepGraph) -> int:
    """Return the most bytes of results alive at once when one worker runs the graph by priority.

    A result lives until its last reader has finished; those asked for live on. More workers need somewhat more.
    Inputs, parameters and scratch memory are not counted.
    """
    tasks = _needed(graph)
    waiting = {key: sum(d in tasks for d in task.dependencies) for key, task in tasks.items()}
    readers: dict[Hashable, list[Hashable]] = {key: [] for key in tasks}
    for key, task in tasks.items():
        for dependency in task.dependencies:
            if dependency in tasks:
                readers[dependency].append(key)
    left = {key: len(keys) for key, keys in readers.items()}
    for key in graph.outputs.values():
        left[key] = left.get(key, 0) + 1
    ready = [(-graph.priority[key], order, key) for order, key in enumerate(tasks) if waiting[key] == 0]
    heapq.heapify(ready)
    alive = peak = 0
    count = len(tasks)
    while ready:
        _, _, key = heapq.heappop(ready)
        alive += graph.n_bytes.get(key, 0)
        peak = max(peak, alive)
        alive -= sum(_released(tasks[key].dependencies, left, graph))
        for reader in readers[key]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                count += 1
                # The newest first among equals, as the scheduler does.
                heapq.heappush(ready, (-graph.priority[reader], -count, reader))
    return peak


def _needed(graph: StepGraph) -> dict[Hashable, GraphNode]:
    """Return the tasks that the outputs depend on, in the graph's order."""
    seen: set[Hashable] = set()
    left = list(graph.outputs.values())
    while left:
        key = left.pop()
        if key in graph.dask and key not in seen:
            seen.add(key)
            left += graph.dask[key].dependencies
    return {key: task for key, task in graph.dask.items() if key in seen}


def _released(dependencies: Iterable[Hashable], left: dict[Hashable, int], graph: StepGraph) -> Iterable[int]:
    for key in dependencies:
        if key in left:
            left[key] -= 1
            if left[key] == 0:
                yield graph.n_bytes.get(key, 0)


def forward_bytes(net: Network, plan: Plan) -> int:
    """Return `peak_bytes` of a plan's forward pass."""
    return peak_bytes(lower_forward(net, plan, "estimate"))
