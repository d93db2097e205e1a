"""Graphs of tasks that do next to nothing, for measuring what a scheduler costs."""

import hashlib
import random
import time
from collections.abc import Hashable
from typing import Any

import presets
from dask.task_spec import DataNode, Task, TaskRef

from znn_dask.tasks import Reduce

Graph = tuple[dict[Hashable, Any], list[Hashable]]


def add(*numbers: int) -> int:
    """Return one more than the sum, modulo a prime so that numbers stay small."""
    return (1 + sum(numbers)) % 1009


def layered(width: int, n_layers: int = 8, sums: bool = False) -> Graph:
    """A network of fully connected layers, one task per edge and a sum per node; the first layer has one input."""
    dsk: dict[Hashable, Any] = {("node", 0, 0): Task(("node", 0, 0), add, 1)}
    before: list[Hashable] = [("node", 0, 0)]
    for layer in range(1, n_layers + 1):
        nodes: list[Hashable] = []
        for target in range(width):
            edges = [("edge", layer, source, target) for source in range(len(before))]
            for edge, source in zip(edges, before, strict=True):
                dsk[edge] = Task(edge, add, TaskRef(source))
            key = ("node", layer, target)
            dsk[key] = Reduce(key, *edges) if sums else Task(key, add, *map(TaskRef, edges))
            nodes.append(key)
        before = nodes
    return dsk, before


def chain(n_tasks: int) -> Graph:
    """Each task reads the one before it."""
    dsk: dict[Hashable, Any] = {0: Task(0, add, 1)}
    for i in range(1, n_tasks):
        dsk[i] = Task(i, add, TaskRef(i - 1))
    return dsk, [n_tasks - 1]


def fan(n_tasks: int) -> Graph:
    """One task, many that read it, one that reads them all."""
    dsk: dict[Hashable, Any] = {"out": Task("out", add, 1)}
    between = list(range(n_tasks - 2))
    for i in between:
        dsk[i] = Task(i, add, TaskRef("out"))
    dsk["in"] = Task("in", add, *map(TaskRef, between))
    return dsk, ["in"]


def tree(n_tasks: int) -> Graph:
    """A binary tree, from the leaves to the root."""
    first = n_tasks // 2
    dsk: dict[Hashable, Any] = {i: Task(i, add, i) for i in range(first, n_tasks)}
    for i in reversed(range(first)):
        children = [c for c in (2 * i + 1, 2 * i + 2) if c < n_tasks]
        dsk[i] = Task(i, add, *map(TaskRef, children))
    return dsk, [0]


def some(n_tasks: int) -> Graph:
    """Each task reads up to three of the hundred before it; asked for is what nobody reads."""
    rng = random.Random(0)
    dsk: dict[Hashable, Any] = {0: Task(0, add, 1)}
    for i in range(1, n_tasks):
        reads = {rng.randrange(max(0, i - 100), i) for _ in range(rng.randint(1, 3))}
        dsk[i] = Task(i, add, *map(TaskRef, sorted(reads)))
    read = {other for node in dsk.values() for other in node.dependencies}
    return dsk, [key for key in dsk if key not in read]


def step_graph(preset: str) -> Graph:
    """The graph of a step of a benchmark net, with additions in the place of its functions."""
    setting = presets.PRESETS[preset]
    model = presets.model(setting, 1)
    graph = model.graph("step", *presets.sample(setting, model))
    model.close()
    dsk: dict[Hashable, Any] = {}
    for key, node in graph.dask.items():
        if isinstance(node, DataNode):
            dsk[key] = DataNode(key, 1)
        elif isinstance(node, Reduce):
            dsk[key] = node
        else:
            dsk[key] = Task(key, add, *map(TaskRef, sorted(node.dependencies, key=str)))
    return dsk, list(graph.outputs.values())


def spinning(width: int, seconds: float) -> Graph:
    """The layered graph with tasks that compute for a while without the interpreter lock."""
    block = b"0" * _bytes_for(seconds)

    def spin(*numbers: int) -> int:
        hashlib.sha256(block)  # releases the lock
        return add(*numbers)

    dsk, keys = layered(width)
    return {key: Task(key, spin, *node.args) for key, node in dsk.items()}, keys


def _bytes_for(seconds: float) -> int:
    """Return how many bytes take so long to digest."""
    sample = b"0" * 100_000
    best = min(_timed(sample) for _ in range(50))
    return max(4096, int(len(sample) * seconds / best))


def _timed(sample: bytes) -> float:
    start = time.perf_counter()
    hashlib.sha256(sample)
    return time.perf_counter() - start
