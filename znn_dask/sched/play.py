"""A run that is only played: tasks pass on a clock of the simulation and nothing is computed.

The tables are executed as `run.work` does, with the same queue and order, the same arrays given away and the same
ends of life. So the policy is the one that the tables were compiled for, and for one worker the order is that of
every real run; for more it is that of a run whose tasks take what they were said to. What a task means, how long it
takes and what it holds, is the part of those who derive from `Play`.
"""

from heapq import heappop, heappush

from znn_dask.sched.queues import Stacks, fill, push
from znn_dask.sched.tables import Tables

WAKE_S = 30e-6  # until a sleeping worker asks for a task


class Play:
    """What changes while a run is played; names as in `run.Run`.

    `events` says when which worker asks for its next task: a heap of (seconds, order, task it ends, worker).
    """

    def __init__(self, tables: Tables, n_workers: int, wake_s: float = WAKE_S) -> None:
        self.tables = tables
        self.counts, self.readers = tables.counts[:], tables.readers[:]
        self.heap: list[int] = []
        self.n_workers = max(1, min(n_workers, tables.n_tasks))
        self.stacks = tables.queue(tables.n_ranks, self.n_workers)
        self.events: list[tuple[float, int, int, int]] = []
        self.n_events = 0
        self.idle = list(range(self.n_workers))
        self.wake_s = wake_s
        # Of a deferred task the first attempt is made; the others find that somebody has begun.
        self.deferred = {attempt: task for task, attempts in tables.attempts.items() for attempt in attempts}
        self.claimed: set[int] = set()

    def play(self) -> float:
        """Run all tasks; return when the last has ended, seconds."""
        tables, makespan = self.tables, 0.0
        fill(self.heap, self.stacks, tables.rank, tables.ready)
        for _ in range(min(len(self.idle), len(tables.ready))):
            self._wake(0.0)
        while event := self.next_event():
            now, task, worker = event
            if task < tables.n_tasks:
                self.end(task)
            now = self.enter(now)
            following, unread = self._take(task, self.stacks[worker])
            if self.heap and self.idle:
                self._wake(now + self.wake_s)
            for slot in unread:
                self.drop(slot)
            if following < tables.n_tasks:
                if self._claim(following):
                    self.begin(following, now, worker)
                else:
                    self.rest(now)
                    self.at(now, tables.n_tasks, worker)
            else:
                self.rest(now)
                self.idle.append(worker)
                if following == tables.n_tasks:
                    makespan = now
        return makespan

    def _claim(self, task: int) -> bool:
        """Whether a task is to be run at all: not an attempt that comes too late."""
        deferred = self.deferred.get(task)
        if deferred is None:
            return True
        late = deferred in self.claimed
        self.claimed.add(deferred)
        return not late

    # ---- what a task means

    def begin(self, task: int, now: float, worker: int) -> None:
        """Start a task, and see to it that it ends (`at`)."""
        raise NotImplementedError

    def end(self, task: int) -> None:
        """Note that a task has ended."""

    def drop(self, slot: int) -> None:
        """Note that nobody will read a slot any more."""

    def enter(self, now: float) -> float:
        """Return when a worker that asks for a task now has its turn."""
        return now

    def rest(self, now: float) -> None:
        """Note that a worker had its turn and found nothing."""

    # ---- the clock

    def at(self, seconds: float, task: int, worker: int) -> None:
        """Let a worker end a task then."""
        self.n_events += 1
        heappush(self.events, (seconds, self.n_events, task, worker))

    def next_event(self) -> tuple[float, int, int] | None:
        """Return when which task ends on which worker, None if nothing is left."""
        if not self.events:
            return None
        now, _, task, worker = heappop(self.events)
        return now, task, worker

    def _wake(self, now: float) -> None:
        """Let an idle worker come for a task."""
        self.at(now, self.tables.n_tasks, self.idle.pop())

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
