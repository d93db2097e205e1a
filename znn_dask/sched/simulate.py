"""How much memory a run will take, found by playing it before anything runs.

The tables are executed as `run.work` does, with the same queue and order, the same arrays given away and the same
ends of life, but tasks only pass their seconds on a clock of the simulation. So the policy is the one that the tables
were compiled for. For one worker the order, and so the peak, is that of every real run; for more it is that of a run
whose tasks take what they were said to.
"""

from collections.abc import Hashable, Mapping
from heapq import heappop, heappush

from znn_dask.sched.queues import Stacks, fill, push
from znn_dask.sched.tables import Tables
from znn_dask.tasks import Need

CALL_S = 5e-6  # what a task costs besides its own seconds
WAKE_S = 30e-6  # until a sleeping worker asks for a task

NOTHING = Need()


def peak_bytes(tables: Tables, needs: Mapping[Hashable, Need], n_workers: int = 1) -> int:
    """Return the most bytes of results alive at once, those asked for included and inputs not.

    Parameters
    ----------
    tables : compiled graph
    needs : mapping of task to Need
        A task that is not there makes no arrays.
    n_workers : int
    """
    run = _Simulation(tables, needs, n_workers)
    run.play()
    return run.peak


class _Simulation:
    """What changes while a run is played; names as in `run.Run`.

    `held` says how many bytes each slot holds, `events` when which task ends: a heap of (seconds, order, task, worker).
    """

    def __init__(self, tables: Tables, needs: Mapping[Hashable, Need], n_workers: int) -> None:
        self.tables = tables
        self.needs = [needs.get(key, NOTHING) for key in tables.keys]
        self.counts, self.readers = tables.counts[:], tables.readers[:]
        self.heap: list[int] = []
        n_workers = max(1, min(n_workers, tables.n_tasks))
        self.stacks = tables.queue(tables.n_ranks, n_workers)
        self.held = [0] * len(tables.initial)
        self.events: list[tuple[float, int, int, int]] = []
        self.n_events = 0
        self.idle = list(range(n_workers))
        self.alive = self.peak = 0

    def play(self) -> None:
        """Run all tasks."""
        tables = self.tables
        fill(self.heap, self.stacks, tables.rank, tables.ready)
        for _ in range(min(len(self.idle), len(tables.ready))):
            self._wake(0.0)
        while self.events:
            now, _, task, worker = heappop(self.events)
            if task < tables.n_tasks:
                self._end(task)
            following, unread = self._take(task, self.stacks[worker])
            if self.heap and self.idle:
                self._wake(now + WAKE_S)
            for slot in unread:
                self._drop(slot)
            if following < tables.n_tasks:
                self._begin(following, now, worker)
            else:
                self.idle.append(worker)

    def _wake(self, now: float) -> None:
        """Let an idle worker come for a task."""
        self._at(now, self.tables.n_tasks, self.idle.pop())

    def _at(self, seconds: float, task: int, worker: int) -> None:
        self.n_events += 1
        heappush(self.events, (seconds, self.n_events, task, worker))

    def _take(self, task: int, stacks: Stacks) -> tuple[int, list[int]]:
        """Count down what a task released; return what its worker does next and the slots nobody will read."""
        tables, rank = self.tables, self.tables.rank
        following = nothing = tables.n_tasks + 1
        for dependant in tables.dependants[task]:
            self.counts[dependant] -= 1
            if not self.counts[dependant]:
                if rank[dependant] <= rank[following]:
                    dependant, following = following, dependant
                if dependant != nothing:
                    push(self.heap, stacks, rank[dependant], dependant)
        unread = []
        for slot in tables.shared[task]:
            self.readers[slot] -= 1
            if not self.readers[slot]:
                unread.append(slot)
        if self.heap and self.heap[0] < tables.yields_to[following]:
            best = self.heap[0]
            first = stacks[best].pop()
            if not stacks[best]:
                heappop(self.heap)
            if following != nothing:
                push(self.heap, stacks, rank[following], following)
            following = first
        return following, unread

    def _begin(self, task: int, now: float, worker: int) -> None:
        need = self.needs[task]
        self.alive += need.n_bytes + need.extra
        # Of two that a sum may overwrite it takes the first; the other is dropped when it is done.
        for slot in self.tables.donated[task][:1]:
            self._drop(slot)
        self.peak = max(self.peak, self.alive)
        self._at(now + need.seconds + CALL_S, task, worker)

    def _end(self, task: int) -> None:
        need = self.needs[task]
        self.alive -= need.extra
        self.held[task] = need.n_bytes
        for index, slot in self.tables.splits[task] or ():
            self.held[slot] = need.parts.get(index, 0)
            self.held[task] -= self.held[slot]
        for slot in self.tables.drops[task]:
            self._drop(slot)

    def _drop(self, slot: int) -> None:
        self.alive -= self.held[slot]
        self.held[slot] = 0
