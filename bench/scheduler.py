"""Overhead per empty task: ours with every policy, compiled and from the raw graph, beside other schedulers.

Each graph's tasks only add small integers. Every contender's answer is compared before anything is timed. Times
are wall-clock microseconds per key of the graph; ratios are medians over turns. Beside ours stand Dask's local
schedulers, dask.distributed in this process, and for the fan, the only form it knows, joblib's threads. At last the
layered graph with tasks of 50 microseconds that let go of the interpreter lock, at one worker and at all. The JSON
holds every repetition, the ratios and the environment::

    python bench/scheduler.py --workers 2 --json scheduler.json
"""

import argparse
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import dask
import dask.threaded
from graphs import Graph, add, chain, fan, layered, some, spinning, step_graph, tree
from measure import alternate, environment, ratio, summary, write_json

from znn_dask.sched import Scheduler, get
from znn_dask.sched.policies import POLICIES


def contenders(
    dsk: dict[Hashable, Any], keys: list[Hashable], n: int, client: Any
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield names and calls; those of ours keep their threads as a training loop would."""
    for policy in POLICIES:
        scheduler = Scheduler(num_workers=n, policy=policy)
        yield f"compiled run, {policy}", scheduler.compile(dsk, keys).run
        yield f"compile, {policy}", partial(scheduler.compile, dsk, keys)
    yield "znn get", lambda: get(dsk, keys, num_workers=n)
    yield "dask.get", lambda: dask.get(dsk, keys)
    yield "dask.threaded.get", lambda: dask.threaded.get(dsk, keys, num_workers=n)
    if client is not None:
        yield "distributed in process", lambda: tuple(client.get(dsk, keys))
    if keys == ["in"]:
        joblib = _import("joblib")
        if joblib is not None:
            yield "joblib threads", lambda: (_joblib_fan(joblib, len(dsk) - 2, n),)


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        print(f"{name} is not installed and is left out")
        return None


def _joblib_fan(joblib: Any, n_between: int, n_workers: int) -> int:
    out = add(1)
    tasks = (joblib.delayed(add)(out) for _ in range(n_between))
    return add(*joblib.Parallel(n_jobs=n_workers, backend="threading")(tasks))


def start_client(n_workers: int, stack: ExitStack) -> Any:
    """Return a client of dask.distributed with threads in this process, or None where it is not installed."""
    distributed = _import("distributed")
    if distributed is None:
        return None
    return stack.enter_context(
        distributed.Client(processes=False, n_workers=1, threads_per_worker=n_workers, dashboard_address=None)
    )


def measure(graph: Graph, n_workers: int, repeats: int, client: Any) -> dict[str, Any]:
    """Check every contender's answer, then time them in turn, so that a busy moment hits all alike."""
    dsk, keys = graph
    expected = dask.get(dsk, keys)
    calls = dict(contenders(dsk, keys, n_workers, client))
    for name, call in calls.items():
        if not name.startswith("compile,") and call() != expected:
            raise SystemExit(f"{name} gives a wrong answer")
    times = alternate(calls, repeats, warmup=0)
    per_key = {name: {k: s / len(dsk) * 1e6 for k, s in summary(t).items()} for name, t in times.items()}
    ratios = {
        f"{peer} / {ours}": ratio(times[peer], times[ours])
        for peer in ("dask.get", "dask.threaded.get", "distributed in process", "joblib threads")
        if peer in times
        for ours in ("compiled run, locality", "znn get")
    }
    return {
        "keys": len(dsk),
        "seconds": times,
        "us_per_key": {name: {k.removesuffix("_s"): v for k, v in p.items()} for name, p in per_key.items()},
        "ratios": ratios,
    }


def measure_spinning(width: int, n_workers: int, repeats: int, seconds: float = 50e-6) -> dict[str, Any]:
    """Time tasks that need no interpreter lock, with one worker and with several."""
    dsk, keys = spinning(width, seconds)
    expected = dask.get(dsk, keys)
    calls = {str(n): Scheduler(num_workers=n).compile(dsk, keys).run for n in (1, n_workers)}
    for call in calls.values():
        if call() != expected:
            raise SystemExit("a wrong answer")
    times = alternate(calls, repeats, warmup=0)
    return {"keys": len(dsk), "seconds": times, "speedup": ratio(times["1"], times[str(n_workers)])}


def main() -> None:
    """Print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=int, default=40, help="of the layered graph")
    parser.add_argument("--tasks", type=int, default=5000, help="of the other graphs")
    parser.add_argument("--steps", nargs="*", default=["k5-w40"], help="benchmark nets whose step graphs are taken")
    parser.add_argument("--distributed", action="store_true", help="beside dask.distributed in this process")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    graphs = {
        "layered": layered(options.width),
        "layered, Reduce": layered(options.width, sums=True),
        "chain": chain(options.tasks),
        "fan": fan(options.tasks),
        "tree": tree(options.tasks),
        "random": some(options.tasks),
        **{f"step of {preset}": step_graph(preset) for preset in options.steps},
    }
    report: dict[str, Any] = {"environment": environment(options.workers), "graphs": {}}
    with ExitStack() as stack:
        client = start_client(options.workers, stack) if options.distributed else None
        for name, graph in graphs.items():
            result = report["graphs"][name] = measure(graph, options.workers, options.repeats, client)
            print(f"{name}: {result['keys']} keys, {options.workers} workers, us per key: median (least to most)")
            for contender, t in result["us_per_key"].items():
                print(f"  {contender:30}{t['median']:9.2f}   ({t['min']:.2f} to {t['max']:.2f})")
            for pair, value in result["ratios"].items():
                print(f"  {pair:56}{value:8.1f}", flush=True)
    spun = report["spinning"] = measure_spinning(options.width, options.workers, options.repeats)
    print(f"tasks of 50 us without the lock: {options.workers} workers are {spun['speedup']:.2f} times as fast as one")
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
