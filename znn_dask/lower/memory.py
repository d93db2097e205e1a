"""How much memory the tasks of a graph and the values between steps take, known before anything runs.

Counted is what the pool counts: the arrays that tasks return, in whole pages, and those that a task holds while it
runs. Not counted are the samples, which belong to the caller, and what a worker's thread keeps for itself: the scratch
memory of its kernels and the plans of its transforms, a few tiles each.
"""

import operator

from dask.task_spec import Task

from znn_dask.lower.builder import Key
from znn_dask.lower.plan import Plan
from znn_dask.lower.step import StepGraph, block_bytes
from znn_dask.net import Network
from znn_dask.ops.memory import pooled_bytes
from znn_dask.tasks import Need

MEMORY_RATE = 8e9  # bytes a second


def needs(graph: StepGraph) -> dict[Key, Need]:
    """Return what every task of a graph needs."""
    n_bytes = {key: pooled_bytes(n) if n else 0 for key, n in graph.n_bytes.items()}
    parts: dict[Key, dict[int, int]] = {}
    for key, task in graph.dask.items():
        if type(task) is Task and task.func is operator.getitem:
            whole, index = task.args
            parts.setdefault(whole.key, {})[index] = n_bytes[key]
    found = {}
    for key, task in graph.dask.items():
        made = n_bytes.get(key, 0) + sum(parts.get(key, {}).values())
        moved = made + sum(n_bytes.get(other, 0) for other in task.dependencies)
        extra = graph.extra_bytes.get(key, 0)
        found[key] = Need(made, parts.get(key, {}), pooled_bytes(extra) if extra else 0, moved / MEMORY_RATE)
    return found


def parameter_bytes(net: Network, plan: Plan) -> int:
    """Return the bytes of one array per parameter block."""
    return sum(pooled_bytes(n) for n in block_bytes(net, plan).values())
