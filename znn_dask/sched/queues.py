"""Queues: where tasks that are ready wait for a worker.

A queue is a heap of the ranks at which something waits, and for each worker one stack per rank, in the form that the
workers' loop uses: anything with `append`, `pop` and a length. Most policies order tasks by rank, and all workers
share plain lists, newest first. Two need other stacks, and only they pay for them. The tasks of rank 0, the
additions of sums, wait in a list whatever the queue. Everything here belongs to the holder of the run's lock.
"""

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappush
from typing import Protocol, TypeAlias


class Stack(Protocol):
    """Tasks of one rank, as one worker sees them."""

    def append(self, task: int, /) -> object:
        """Put a task in."""

    def pop(self) -> int:
        """Take the task whose turn it is."""

    def __len__(self) -> int:
        """Return how many there are for this worker to take."""


Stacks: TypeAlias = "Sequence[Stack]"
Queue: TypeAlias = Callable[[int, int], list[Stacks]]
"""From the number of ranks and of workers to each worker's stacks."""


class _Line(deque[int]):
    """First come, first served."""

    pop = deque.popleft


class _Hand:
    """A worker's view of the deques of all: its own newest task, else the oldest of the next who has one."""

    __slots__ = ("_all", "_others", "_own", "append")

    def __init__(self, deques: Sequence[deque[int]], worker: int) -> None:
        self._all = deques
        self._own = deques[worker]
        self._others = [*deques[worker + 1 :], *deques[:worker]]
        self.append = self._own.append

    def pop(self) -> int:
        if self._own:
            return self._own.pop()
        return next(filter(None, self._others)).popleft()

    def __len__(self) -> int:
        return sum(map(len, self._all))


def newest_first(n_ranks: int, n_workers: int) -> list[Stacks]:
    """Return the stacks that all workers share."""
    stacks: list[list[int]] = [[] for _ in range(n_ranks)]
    return [stacks] * n_workers


def oldest_first(n_ranks: int, n_workers: int) -> list[Stacks]:
    """Return lines that all workers share."""
    additions: list[int] = []
    stacks = [additions, *(_Line() for _ in range(n_ranks - 1))]
    return [stacks] * n_workers


def own_first(n_ranks: int, n_workers: int) -> list[Stacks]:
    """Return for each worker a view of a deque per rank of its own and of the others'."""
    additions: list[int] = []
    deques: list[list[deque[int]]] = [[deque() for _ in range(n_workers)] for _ in range(n_ranks - 1)]
    return [[additions, *(_Hand(row, worker) for row in deques)] for worker in range(n_workers)]


def push(heap: list[int], stacks: Stacks, rank: int, task: int) -> None:
    """Put a task on the stack of its rank."""
    stack = stacks[rank]
    if not stack:
        heappush(heap, rank)
    stack.append(task)


def fill(heap: list[int], stacks: Sequence[Stacks], rank: Sequence[int], ready: Sequence[int]) -> None:
    """Queue what is ready at the start, the last first; workers with stacks of their own get a piece each."""
    n_shares = 1 if stacks[0] is stacks[-1] else len(stacks)
    bounds = [share * len(ready) // n_shares for share in range(n_shares + 1)]
    for theirs, first, end in zip(stacks, bounds, bounds[1:], strict=False):
        for task in reversed(ready[first:end]):
            push(heap, theirs, rank[task], task)
