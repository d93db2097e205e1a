"""How fast a graph would run on more workers than there are: discrete events over the compiled tables.

Workers come to the queue in the order and with the rules of the workers' loop (`play`). A task takes the seconds that
were measured on one worker, and what its dispatch costs (`dispatch`): a part under a lock, for which workers line
up, and the rest, which goes on beside the others and, if memory has a bandwidth, shares that (`contention`).
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from znn_dask.errors import ParameterError
from znn_dask.sched.contention import Contention, Memory
from znn_dask.sched.costs import Costs, costs_by_key, costs_of
from znn_dask.sched.dispatch import DISPATCHES, Dispatch, dispatches
from znn_dask.sched.play import Play
from znn_dask.sched.program import Program
from znn_dask.sched.simulation import Curve, Row, Simulation
from znn_dask.sched.tables import Tables
from znn_dask.sched.trace import Trace
from znn_dask.sched.traced import sources_of

COUNTS = (1, 2, 4, 8, 16, 30, 60, 90, 120, 180, 240)
GOOD = 0.9
"""Efficiency from which on nothing but the workers is said to bind."""
MANY = 4
"""Times the most workers that are asked for: as if there were enough."""
SMALL = 0.01
"""Share of the workers' time."""


def simulate(
    source: "Trace | Program | Tables",
    num_workers: int | Iterable[int] = COUNTS,
    seconds: Mapping[Hashable, float] | None = None,
    dispatch: "str | Dispatch | Iterable[str | Dispatch]" = tuple(DISPATCHES),
    bandwidth: float | None = None,
    core_bandwidth: float | None = None,
    n_bytes: Mapping[Hashable, float] | None = None,
) -> Simulation:
    """Simulate a compiled graph on other numbers of workers.

    Parameters
    ----------
    source : Trace or Program
        Of a trace, that program is played whose runs took most of the time, with the median seconds of each task;
        trace one worker alone, several have waited for each other. A program needs ``seconds``.
    num_workers : int or several
        The counts to play.
    seconds : mapping of key to float, optional
        What every task takes on one worker alone; of a sum, one addition of it.
    dispatch : names or `Dispatch`, one or several
        "gil": today's interpreter; "free-threaded": one without the lock; "native": a loop that is not Python.
    bandwidth : float, optional
        Bytes a second that memory gives to all workers together; None: memory never binds. Every task is taken to
        move all that it reads and writes, as if no cache held any of it.
    core_bandwidth : float, optional
        Bytes a second that one core can draw; None: as much as all together.
    n_bytes : mapping of key to float, optional
        What every task reads and writes, for a program; a trace knows.

    Returns
    -------
    Simulation
        Prints as a table, beside Brent's bounds.

    Raises
    ------
    ParameterError
        If an argument has no valid value, or a program comes without the seconds of its tasks.
    """
    costs = _costs(source, seconds, n_bytes)
    counts = _counts(num_workers)
    memory = Memory.of(bandwidth, core_bandwidth)
    curves = tuple(_curve(costs, each, counts, memory) for each in dispatches(dispatch))
    once = costs.once
    seconds_s, moved = (sum(each[task] for task in once) for each in (costs.seconds, costs.n_bytes))
    return Simulation(len(once), seconds_s, moved, bandwidth, core_bandwidth, curves)


def _costs(source: Any, seconds: Mapping[Hashable, float] | None, n_bytes: Mapping[Hashable, float] | None) -> Costs:
    if isinstance(source, Trace):
        if seconds is not None or n_bytes is not None:
            raise ParameterError("simulate: a trace has measured seconds and bytes; give them with a Program only")
        return costs_of(source.runs)
    tables = source.tables if isinstance(source, Program) else source
    if not isinstance(tables, Tables):
        raise ParameterError(
            f"simulate plays a Trace or a Program, got {type(source).__name__}; of a model, trace some steps: "
            "with znn.Trace() as trace: model.step(...)"
        )
    if seconds is None:
        raise ParameterError(
            "simulate: nobody knows what the tasks of this program take; give seconds={key: seconds}, or run it on one "
            "worker inside `with znn.Trace() as trace:` and simulate the trace"
        )
    return costs_by_key(tables, seconds, n_bytes)


def _counts(num_workers: "int | Iterable[int]") -> list[int]:
    given = list(num_workers) if isinstance(num_workers, Iterable) else [num_workers]
    for count in given:
        if isinstance(count, bool) or not hasattr(count, "__index__") or count < 1:
            raise ParameterError(f"simulate: num_workers must be ints of at least 1, got {count!r}")
    if not given:
        raise ParameterError("simulate: num_workers is empty; give one count or several")
    return sorted({int(count) for count in given})


class Played(Play):
    """One run on some workers.

    Attributes
    ----------
    waited, stalled : float
        Seconds of all workers together in the line for the lock, and for memory that others used.
    """

    def __init__(self, costs: Costs, dispatch: Dispatch, n_workers: int, memory: Memory | None = None) -> None:
        super().__init__(costs.tables, n_workers, dispatch.wake)
        more = dispatch.shared if self.n_workers > 1 else 0.0
        self.total = [each + more for each in totals(costs, dispatch)]
        self.lock_s = dispatch.serial + (more if dispatch.serial else 0.0)
        self.pause_s = min(dispatch.serial, dispatch.seconds)
        self.n_bytes = costs.n_bytes
        self.shared = None if memory is None else Contention(memory, self.n_workers)
        self.free = 0.0
        self.started = [0.0] * self.n_workers
        self.waited = self.stalled = 0.0
        self.makespan = self.play()

    def enter(self, now: float) -> float:
        if self.free <= now:
            return now
        self.waited += self.free - now
        return self.free

    def begin(self, task: int, now: float, worker: int) -> None:
        total = self.total[task]
        if self.lock_s:
            self.free = now + min(total, self.lock_s)
        if self.shared is None:
            self.at(now + total, task, worker)
        else:
            locked = min(total, self.lock_s)
            self.started[worker] = now + total
            self.shared.add(now + locked, task, worker, total - locked, self.n_bytes[task])

    def rest(self, now: float) -> None:
        if self.pause_s:
            self.free = now + self.pause_s

    def next_event(self) -> tuple[float, int, int] | None:
        if self.shared is None:
            return super().next_event()
        ended = self.shared.next_end(self.events[0][0] if self.events else float("inf"))
        if ended is None:
            return super().next_event()
        self.stalled += ended[0] - self.started[ended[2]]
        return ended


def totals(costs: Costs, dispatch: Dispatch) -> list[float]:
    """Return what each task takes with its dispatch on one worker."""
    return [dispatch.seconds + max(0.0, own - dispatch.saved) for own in costs.seconds]


def path_s(costs: Costs, total: list[float]) -> float:
    """Return the seconds of the longest path."""
    sources, once = sources_of(costs.tables), frozenset(costs.once)
    end: list[float] = [0.0] * len(total)
    for task in in_order(costs.tables, once):
        end[task] = total[task] + max([end[before] for before in sources[task] if before in once], default=0.0)
    return max(end, default=0.0)


def in_order(tables: Tables, once: frozenset[int]) -> Iterator[int]:
    """Yield the tasks that are run, each after all that it reads."""
    counts, ready = tables.counts[:], list(tables.ready)
    while ready:
        task = ready.pop()
        if task not in once:
            continue
        yield task
        for dependant in tables.dependants[task]:
            counts[dependant] -= 1
            if not counts[dependant] and dependant < tables.n_tasks:
                ready.append(dependant)


def _curve(costs: Costs, dispatch: Dispatch, counts: list[int], memory: Memory | None) -> Curve:
    total = totals(costs, dispatch)
    work = sum(total[task] for task in costs.once)
    unlimited: float | None = None  # the makespan of many workers, played once and only if it is asked for
    rows = []
    for count in counts:
        played = Played(costs, dispatch, count, memory)
        available = count * played.makespan or 1.0
        waiting, stalled = played.waited / available, max(0.0, played.stalled / available)
        shared = len(costs.once) * dispatch.shared / available if played.n_workers > 1 else 0.0
        binds = "workers"
        if work < GOOD * available:
            if unlimited is None:
                unlimited = Played(costs, dispatch, MANY * counts[-1], memory).makespan
            spans = {"workers": unlimited, "dependencies": _apart_s(costs, dispatch, count, memory)}
            # What takes less than a hundredth of the workers' time is not played without.
            if waiting > SMALL:
                spans["dispatch lock"] = Played(costs, replace(dispatch, serial=0.0), count, memory).makespan
            if stalled > SMALL:
                spans["memory"] = Played(costs, dispatch, count).makespan
            binds = min(spans, key=spans.__getitem__)
        idle = max(0.0, 1 - work / available - waiting - stalled - shared)
        rows.append(Row(count, played.makespan, work, idle, waiting, stalled, shared, binds))
    return Curve(dispatch, work, path_s(costs, total), tuple(rows))


def _apart_s(costs: Costs, dispatch: Dispatch, count: int, memory: Memory | None) -> float:
    """Return the least seconds in which the tasks could be run if none needed another's result."""
    every = totals(costs, dispatch)
    more = dispatch.shared if count > 1 else 0.0
    total = [every[task] + more for task in costs.once]
    serial = sum(min(each, dispatch.serial + more) for each in total) if dispatch.serial else 0.0
    moved = sum(costs.n_bytes[task] for task in costs.once) / memory.bandwidth if memory else 0.0
    return max(sum(total) / count, max(total, default=0.0), serial, moved)
