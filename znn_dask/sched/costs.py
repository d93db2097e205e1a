"""What the tasks of a compiled graph take: their seconds, and the bytes that they read and write.

From a trace both are known: stamps say when a task began and ended, and how large its results were. Else somebody
says so by key.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from znn_dask.errors import ParameterError
from znn_dask.sched.recording import Recording
from znn_dask.sched.summary import slot_bytes
from znn_dask.sched.tables import Tables


@dataclass(frozen=True)
class Costs:
    """What a simulation plays.

    Attributes
    ----------
    tables : compiled graph
    seconds : per task, on one worker alone
    n_bytes : per task, read and written
    """

    tables: Tables
    seconds: list[float]
    n_bytes: list[float]

    @property
    def once(self) -> list[int]:
        """The tasks that a run executes: of the attempts at a deferred task, one."""
        late = {attempt for attempts in self.tables.attempts.values() for attempt in attempts[1:]}
        return [task for task in range(self.tables.n_tasks) if task not in late]


def costs_of(runs: Sequence[Recording]) -> Costs:
    """Return the medians over the complete runs of that program which took most of a trace's time.

    The times of a task have a long tail, so that medians add up to less than a run takes; all are made longer alike,
    until they add up to the median of the runs.

    Raises
    ------
    ParameterError
        If no run of the trace was complete.
    """
    of_program: dict[int, list[Recording]] = {}
    for run in runs:
        if _complete(run):
            # Runs of one program share this list, and no other does.
            of_program.setdefault(id(run.tables.reads), []).append(run)
    if not of_program:
        raise ParameterError(
            "simulate: the trace holds no complete run; let a graph run, or a step of a model, inside the block"
        )
    chosen = max(of_program.values(), key=lambda same: sum(map(_busy_ns, same)))
    tables = chosen[0].tables
    seconds: list[list[float]] = [[] for _ in range(tables.n_tasks)]
    for run in chosen:
        for stamps in run.stamps().values():
            for stamp in stamps:
                seconds[stamp.task].append((stamp.end - stamp.start) / 1e9)
    for attempts in tables.attempts.values():
        together = [each for attempt in attempts for each in seconds[attempt]]
        for attempt in attempts:
            seconds[attempt] = together
    costs = Costs(tables, [median(each) for each in seconds], _moved(chosen[-1]))
    total = sum(costs.seconds[task] for task in costs.once)
    longer = median(map(_busy_ns, chosen)) / 1e9 / total if total else 1.0
    return replace(costs, seconds=[longer * each for each in costs.seconds])


def _complete(run: Recording) -> bool:
    """Whether every task has ended, of the attempts at a deferred one any."""
    stamps = [stamp for of_thread in run.stamps().values() for stamp in of_thread]
    ran, attempts = {stamp.task for stamp in stamps}, run.tables.attempts.values()
    needed = set(range(run.tables.n_tasks)).difference(*attempts)
    whole = needed <= ran and all(not ran.isdisjoint(each) for each in attempts)
    return bool(stamps) and whole and all(stamp.sizes is not None for stamp in stamps)


def _busy_ns(run: Recording) -> int:
    return sum(stamp.end - stamp.start for stamps in run.stamps().values() for stamp in stamps)


def _moved(run: Recording) -> list[float]:
    """Return the bytes that each task reads and writes."""
    tables = run.tables
    held = [0] * len(tables.initial)
    for slot, n_bytes in run.given.items():
        held[slot] = n_bytes
    made = [0] * tables.n_tasks
    for stamps in run.stamps().values():
        for stamp in stamps:
            for slot, n_bytes in slot_bytes(run, stamp.task, stamp.sizes):
                held[slot] = n_bytes
                made[stamp.task] += n_bytes
    return [
        float(wrote + sum(held[slot] for slot in dict.fromkeys(reads)))
        for wrote, reads in zip(made, tables.reads, strict=False)
    ]


def costs_by_key(
    tables: Tables, seconds: Mapping[Hashable, float], n_bytes: Mapping[Hashable, float] | None = None
) -> Costs:
    """Return what somebody says of each task; of a sum, of each addition.

    Raises
    ------
    ParameterError
        If a task has no seconds, or a number is negative or not finite.
    """
    own_s = list(_numbers(tables, seconds, "seconds", None))
    moved = list(_numbers(tables, n_bytes or {}, "n_bytes", 0.0))
    for task in tables.attempts:
        own_s[task] = moved[task] = 0.0  # it only takes what an attempt has made
    return Costs(tables, own_s, moved)


def _numbers(tables: Tables, given: Mapping[Hashable, float], name: str, missing: float | None) -> Iterator[float]:
    for key in tables.keys[: tables.n_tasks]:
        value = given.get(key, missing)
        if value is None:
            raise ParameterError(f"simulate: {name} has no entry for the task {key!r}; give one for every task")
        if not 0 <= value < math.inf:
            raise ParameterError(f"simulate: {name} of the task {key!r} must be a finite number from 0, got {value!r}")
        yield float(value)
