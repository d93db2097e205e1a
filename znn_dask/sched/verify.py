"""Check compiled tables against each other, independently of how they were made.

A wrong count loses a task or runs it too early, a wrong end of life or gift corrupts a value, and both may
show only now and then. So tests verify what they compile.
"""

from collections import Counter
from typing import Protocol

from znn_dask.sched.tables import Tables


class Compiled(Protocol):
    """Anything with tables."""

    tables: Tables


def verify(program: Compiled | Tables) -> None:
    """Check the tables of a program.

    Raises
    ------
    AssertionError
        Naming the first table that contradicts the others.
    """
    tables = program if isinstance(program, Tables) else program.tables
    _check_lengths(tables)
    source = _sources(tables)
    _check_waiting(tables, source)
    _check_attempts(tables)
    _check_order(tables)
    _check_lifetimes(tables, source)
    _check_gifts(tables, source)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _check_lengths(tables: Tables) -> None:
    n = tables.n_tasks + 1
    for name in ("keys", "reads", "splits", "drops", "shared", "dependants", "counts", "donated"):
        _require(len(getattr(tables, name)) == n, f"{name} needs one entry per task and one for the end")
    _require(len(tables.rank) == n + 1, "rank needs entries for the end and for no task")
    _require(len(tables.readers) == len(tables.initial), "readers and initial need one entry per slot")
    later = [rank and rank + 1 for rank in tables.rank]
    _require(tables.yields_to in (tables.rank, later), "yields_to is neither rank nor one more, additions apart")
    ranks = tables.rank[: n - 1]
    _require(all(0 <= r < tables.n_ranks - 1 for r in ranks), "a rank is not before the end's")
    _require(tables.rank[n - 1 :] == [tables.n_ranks - 1, tables.n_ranks], "the last ranks are not the end's")


def _sources(tables: Tables) -> dict[int, int]:
    """Return the task that fills each slot; the others hold inputs and constants."""
    source = {task: task for task in range(tables.n_tasks)}
    for task, split in enumerate(tables.splits):
        for _, slot in split or ():
            _require(slot not in source, f"slot {slot} is filled twice")
            source[slot] = task
    for slot in tables.inputs.values():
        _require(slot not in source, f"slot {slot} is an input and is filled by a task")
    return source


def _check_waiting(tables: Tables, source: dict[int, int]) -> None:
    n = tables.n_tasks
    before: list[set[int]] = [{source[s] for s in reads if s in source} for reads in tables.reads]
    before[n] = {task for task in range(n) if tables.dependants[task] == (n,)}
    dependants: list[set[int]] = [set() for _ in range(n + 1)]
    for task, attempts in tables.attempts.items():
        before[task] = set(attempts)
    for attempt in _attempts(tables):  # they wait for what they do not read too
        before[attempt] |= {task for task in range(n) if attempt in tables.dependants[task]}
    for task, sources in enumerate(before):
        n_awaited = 1 if task in tables.attempts else len(sources)
        _require(tables.counts[task] == n_awaited, f"task {task} waits for the wrong number of tasks")
        for s in sources:
            dependants[s].add(task)
    for task, expected in enumerate(dependants):
        given = tables.dependants[task]
        _require(len(given) == len(set(given)), f"a dependant of task {task} is told twice")
        _require(set(given) == expected, f"the dependants of task {task} are wrong")
        _require(bool(given) or task == n, f"nothing follows task {task}, not even the end")
    ready = [task for task in range(n) if not tables.counts[task]]
    _require(sorted(tables.ready) == ready, "ready is not what waits for nothing")


def _attempts(tables: Tables) -> set[int]:
    """Return the attempts at deferred tasks, which may come too late and then read nothing."""
    return {attempt for attempts in tables.attempts.values() for attempt in attempts}


def _check_attempts(tables: Tables) -> None:
    for task, attempts in tables.attempts.items():
        for attempt in attempts:
            _require(tables.dependants[attempt] == (task,), f"attempt {attempt} releases more than its task {task}")
            _require(tables.reads[attempt][0] == tables.reads[task][0], f"attempt {attempt} is not at task {task}")


def _check_order(tables: Tables) -> None:
    counts = tables.counts[:]
    order = list(tables.ready) or [tables.n_tasks]
    for task in order:
        for dependant in tables.dependants[task]:
            counts[dependant] -= 1
            if not counts[dependant]:
                order.append(dependant)
    _require(sorted(order) == list(range(tables.n_tasks + 1)), "tasks wait for each other in a circle")
    after = set(order[order.index(tables.n_tasks) + 1 :])
    _require(after <= _attempts(tables), "the end does not come last")


def _check_lifetimes(tables: Tables, source: dict[int, int]) -> None:
    requested = set(tables.results.values())
    readers: dict[int, list[int]] = {}
    attempts = _attempts(tables)
    for task, reads in enumerate(tables.reads):
        for slot in dict.fromkeys(reads) if task not in attempts else ():
            readers.setdefault(slot, []).append(task)
    inputs = set(tables.inputs.values())
    for slot in range(len(tables.initial)):
        found = readers.get(slot, [])
        dropped_by = [t for t, drops in enumerate(tables.drops) if slot in drops] if len(found) < 2 else []
        sharing = [t for t in found if slot in tables.shared[t]]
        if slot in requested or (slot not in source and slot not in inputs):
            _require(not dropped_by and not sharing, f"slot {slot} is requested or constant, and dropped")
        elif len(found) > 1:
            _require(sharing == found, f"slot {slot} is not counted down by all its readers")
            _require(tables.readers[slot] == len(found), f"slot {slot} has another number of readers")
        elif slot != tables.n_tasks:
            expected = found or ([source[slot]] if slot in source else [])
            _require(dropped_by == expected, f"slot {slot} is not dropped by its only reader")


def _check_gifts(tables: Tables, source: dict[int, int]) -> None:
    requested = set(tables.results.values())
    attempts = _attempts(tables)
    uses = Counter(slot for task, reads in enumerate(tables.reads) if task not in attempts for slot in reads)
    for task, given in enumerate(tables.donated):
        for slot in given:
            _require(slot in tables.reads[task], f"task {task} was given slot {slot}, which it does not read")
            _require(slot in source, f"task {task} was given an input or a constant, slot {slot}")
            _require(slot not in requested, f"task {task} was given slot {slot}, which is requested")
            _require(uses[slot] == 1, f"task {task} was given slot {slot}, which is read elsewhere")
            split = tables.splits[source[slot]]
            if split is not None:
                whole = source[slot]
                alone = slot != whole and not uses[whole] and whole not in requested
                _require(alone, f"task {task} was given slot {slot}, a part of a value that is read whole")
                _require(all(index >= 0 for index, _ in split), f"slot {slot} may be a part by another name")
