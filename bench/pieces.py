"""A graph whose long tasks are cut into pieces: what a plan could do for more workers than it was made for.

Every task that takes longer than a limit becomes equal pieces beside each other, each with its part of the bytes, and
an end without work for which its readers wait. Every piece has the cost of a call again; no other work is done twice.
Products cut by frequency, transforms by tile and direct convolutions by slab come close to that.
"""

import math
from collections.abc import Hashable
from typing import Any

from dask.task_spec import Task, TaskRef

from znn_dask.lower.cost import CALL_S
from znn_dask.sched import Program, Scheduler
from znn_dask.sched.costs import Costs
from znn_dask.sched.traced import sources_of

Numbers = dict[Hashable, float]


def nothing(*_: Any) -> None:
    """Stand for a task that is only played."""


def cut(costs: Costs, longest_s: float) -> tuple[Program, Numbers, Numbers]:
    """Return a program with no task longer than the limit, and the seconds and bytes of its tasks."""
    tables = costs.tables
    dsk: dict[Hashable, Any] = {}
    seconds: Numbers = {}
    n_bytes: Numbers = {}
    priority: dict[Hashable, int] = {}

    def add(key: Hashable, reads: list[TaskRef], rank: int, own_s: float, own_bytes: float) -> None:
        dsk[key] = Task(key, nothing, *reads)
        seconds[key], n_bytes[key], priority[key] = own_s, own_bytes, -rank

    once = dict.fromkeys(costs.once)
    sources = sources_of(tables)
    for task in once:
        reads = [TaskRef(read) for read in sources[task] if read in once]
        own_s, own_bytes, rank = costs.seconds[task], costs.n_bytes[task], tables.rank[task]
        n_pieces = math.ceil((own_s - CALL_S) / max(CALL_S, longest_s - CALL_S))
        if n_pieces < 2:
            add(task, reads, rank, own_s, own_bytes)
            continue
        pieces = [(task, piece) for piece in range(n_pieces)]
        for piece in pieces:
            add(piece, reads, rank, CALL_S + (own_s - CALL_S) / n_pieces, own_bytes / n_pieces)
        # Whoever ends the last piece goes on at once.
        add(task, [TaskRef(piece) for piece in pieces], 0, 0.0, 0.0)
    asked = [task for task in once if tables.dependants[task] == (tables.n_tasks,)]
    with Scheduler(num_workers=1) as scheduler:
        return scheduler.compile(dsk, asked, priority=priority), seconds, n_bytes
