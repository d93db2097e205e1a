"""Overhead per empty task: ours with every policy, compiled and from the raw graph, beside Dask's local schedulers.

Each graph's tasks only add small integers. Every contender's answer is compared before anything is timed. Times
are wall-clock microseconds per key of the graph; ratios are medians over turns. The JSON holds every repetition,
the ratios and the environment::

    python bench/scheduler.py --workers 2 --json scheduler.json
"""

import argparse
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

import dask
import dask.threaded
from dask.task_spec import Task, TaskRef
from measure import alternate, environment, ratio, summary, write_json

from znn_dask.sched import Scheduler, get
from znn_dask.sched.policies import POLICIES
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


def contenders(dsk: dict[Hashable, Any], keys: list[Hashable], n: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield names and calls; those of ours keep their threads as a training loop would."""
    for policy in POLICIES:
        scheduler = Scheduler(num_workers=n, policy=policy)
        yield f"compiled run, {policy}", scheduler.compile(dsk, keys).run
        yield f"compile, {policy}", partial(scheduler.compile, dsk, keys)
    yield "znn get", lambda: get(dsk, keys, num_workers=n)
    yield "dask.get", lambda: dask.get(dsk, keys)
    yield "dask.threaded.get", lambda: dask.threaded.get(dsk, keys, num_workers=n)


def measure(graph: Graph, n_workers: int, repeats: int) -> dict[str, Any]:
    """Check every contender's answer, then time them in turn, so that a busy moment hits all alike."""
    dsk, keys = graph
    expected = dask.get(dsk, keys)
    calls = dict(contenders(dsk, keys, n_workers))
    for name, call in calls.items():
        if not name.startswith("compile,") and call() != expected:
            raise SystemExit(f"{name} gives a wrong answer")
    times = alternate(calls, repeats, warmup=0)
    per_key = {name: {k: s / len(dsk) * 1e6 for k, s in summary(t).items()} for name, t in times.items()}
    ratios = {
        f"{peer} / {ours}": ratio(times[peer], times[ours])
        for peer in ("dask.get", "dask.threaded.get")
        for ours in ("compiled run, locality", "znn get")
    }
    return {
        "keys": len(dsk),
        "seconds": times,
        "us_per_key": {name: {k.removesuffix("_s"): v for k, v in p.items()} for name, p in per_key.items()},
        "ratios": ratios,
    }


def main() -> None:
    """Print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=int, default=40, help="of the layered graph")
    parser.add_argument("--tasks", type=int, default=5000, help="of the other graphs")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    graphs = {
        "layered": layered(options.width),
        "layered, Reduce": layered(options.width, sums=True),
        "chain": chain(options.tasks),
        "fan": fan(options.tasks),
        "tree": tree(options.tasks),
    }
    report: dict[str, Any] = {"environment": environment(options.workers), "graphs": {}}
    for name, graph in graphs.items():
        result = report["graphs"][name] = measure(graph, options.workers, options.repeats)
        print(f"{name}: {result['keys']} keys, {options.workers} workers, us per key: median (least to most)")
        for contender, t in result["us_per_key"].items():
            print(f"  {contender:30}{t['median']:9.2f}   ({t['min']:.2f} to {t['max']:.2f})")
        for pair, value in result["ratios"].items():
            print(f"  {pair:48}{value:8.1f}")
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
