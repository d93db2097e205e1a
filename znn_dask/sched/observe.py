"""Runs that are watched by Dask's callbacks (ProgressBar, Profiler, CacheProfiler, your own).

Callbacks expect one event per key of the graph and Dask's own state dictionary. So a watched run compiles
each node to one task, keeps that dictionary with Dask's own functions, and wraps the calls; the workers'
loop is the same, and a run that nobody watches pays nothing. Events come from the worker threads, one at a
time, and none after the end, though tasks of an interrupted run may still be running then.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock, get_ident
from typing import Any

from dask.callbacks import local_callbacks, unpack_callbacks
from dask.local import finish_task, start_state_from_dask
from dask.task_spec import DataNode

from znn_dask.sched.compile import compile_tables
from znn_dask.sched.crew import Crew
from znn_dask.sched.evaluate import evaluate
from znn_dask.sched.graph import Key, Nodes, flatten, read
from znn_dask.sched.policies import Policy, Priority
from znn_dask.sched.tables import Tables


class _Ready(dict[Hashable, None]):
    """The keys that are ready, in order; a list for Dask's functions, with fast removal for ours."""

    def append(self, key: Hashable) -> None:
        self[key] = None


def evaluate_observed(
    nodes: Nodes,
    keys: Any,
    policy: Policy,
    priority: Priority,
    crew: Crew,
    n_workers: int,
    callbacks: Any = None,
    rerun: bool = False,
    seconds: Mapping[Hashable, float] | None = None,
    cache: MutableMapping[Key, Any] | None = None,
) -> Any:
    """Run a graph with callbacks, the active ones where none are given, and with a cache for its values.

    As with Dask's schedulers, graphs that tasks compute meanwhile are not watched by the active callbacks, and what
    the graph gives is computed whether or not it is in the cache.
    """
    dsk, state, turn = dict(nodes), dict[str, Any](), Turn()
    with local_callbacks(callbacks) as active, told(active, dsk, state, turn):
        dsk.update(read(dsk))  # a callback may have put in results that it remembers
        results = set(flatten(keys))
        cache = {} if cache is None else cache
        supply(dsk, results, cache)
        tables = compile_tables(dsk, keys, policy, complete(priority, dsk), False, seconds)
        position = {key: i for i, key in enumerate(dsk)}
        state.update(start_state_from_dask(dsk, cache=cache, keys=list(results), sortkey=position.get))
        state["ready"] = _Ready.fromkeys(state["ready"])
        for _, start_state, _, _, _ in active:
            if start_state:
                start_state(dsk, state)
        watched_tables = watched(tables, dsk, state, results, position.__getitem__, active, turn)
        again = tables.calls[:-1] if rerun else ()
        return evaluate(watched_tables, keys, {}, crew, n_workers, again)


class Turn:
    """Whose turn it is to tell the callbacks something; `over`, which belongs to the holder of `lock`: nobody's."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.over = False


@contextmanager
def told(callbacks: Any, dsk: Nodes, state: dict[str, Any], turn: Turn) -> Iterator[None]:
    """Tell the callbacks of the start and, those that were told, of the end, whatever happens in between."""
    started: list[Any] = []
    succeeded = False
    try:
        for callback in callbacks:
            if callback[0]:
                callback[0](dsk)
            started.append(callback)
        yield
        succeeded = True
    finally:
        with turn.lock:
            turn.over = True
        for *_, finish in started:
            if finish:
                finish(dsk, state, not succeeded)


def supply(dsk: Nodes, results: set[Key], cache: MutableMapping[Key, Any]) -> None:
    """Put values that the graph lacks into it, and take values that it will compute out of the cache."""
    wanted = results.union(*(node.dependencies for node in dsk.values()))
    dsk.update({key: DataNode(key, cache[key]) for key in wanted if key not in dsk and key in cache})
    for key in dsk:
        if key in cache:
            del cache[key]


def complete(priority: Priority, dsk: Nodes) -> Priority:
    """Return priorities that rank aliases and parts, which are tasks only here, before all others."""
    if not isinstance(priority, Mapping):
        return priority
    return {**dict.fromkeys(dsk, max(priority.values(), default=0)), **priority}


def watched(
    tables: Tables,
    dsk: Nodes,
    state: dict[str, Any],
    results: set[Key],
    sortkey: Callable[[Key], int],
    callbacks: Any,
    turn: Turn,
) -> Tables:
    """Return tables whose calls keep Dask's state and tell the callbacks."""
    _, _, before, after, _ = unpack_callbacks(callbacks)

    def watch(key: Key, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched_call(*values: Any) -> Any:
            with turn.lock:
                if turn.over:
                    return None
                del state["ready"][key]
                state["running"].add(key)
                for pretask in before:
                    pretask(key, dsk, state)
            result = call(*values)
            with turn.lock:
                if turn.over:
                    return result
                state["cache"][key] = result
                finish_task(dsk, key, state, results, sortkey)
                for posttask in after:
                    posttask(key, result, dsk, state, get_ident())
            return result

        return watched_call

    calls = [watch(key, call) for key, call in zip(tables.keys, tables.calls, strict=True)]
    return replace(tables, calls=calls)
