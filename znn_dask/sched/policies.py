"""Orders: which of the tasks that are ready a worker should take first.

A policy is a pure function from the table of dependants to one priority per task. Larger runs first, and tasks of
equal priority newest first, except under "fifo" and "steal", which have queues of their own (`queues`). Nothing
else about a run depends on the policy, above all no result. The additions of a sum are no choice: whoever brings the
second of two terms adds at once.

Where priorities are given they are the whole order: larger first, ties newest first, whatever the policy.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from dask.order import order as dask_order

from znn_dask.errors import ParameterError, nearest
from znn_dask.sched.graph import Nodes
from znn_dask.sched.queues import Queue, newest_first, oldest_first, own_first


@dataclass(frozen=True, slots=True)
class Dependants:
    """Who reads whom: all that a policy may know.

    Attributes
    ----------
    of : per task, the tasks that read one of its results
    order : the tasks, each after all that it reads
    keys : per task, its key
    nodes : the graph that the tasks are of
    seconds : per task, what it takes; empty where that is not known
    """

    of: Sequence[Sequence[int]]
    order: Sequence[int]
    keys: Sequence[Hashable] = ()
    nodes: Nodes = field(default_factory=dict)
    seconds: Sequence[float] = ()


Policy: TypeAlias = Callable[[Dependants], Sequence[float]]
Priority: TypeAlias = "Mapping[Hashable, int] | Callable[[Hashable], int] | None"


def distances(table: Dependants) -> list[int]:
    """Return each task's longest distance, in tasks, to one that nobody reads (which is a requested one)."""
    distance = [0] * len(table.of)
    for task in reversed(table.order):
        readers = table.of[task]
        if readers:
            distance[task] = 1 + max([distance[r] for r in readers])
    return distance


def locality(table: Dependants) -> list[int]:
    """Farthest from the output first, then by the consumer they share.

    Tasks that converge on the same consumer get one priority, next to each other, so that what the consumer
    reads is still in the cache when it runs (Zlateski, Lee, Seung 2015, arXiv 1510.06706, for edges that
    converge on a node; here for any graph). The consumers of one distance are strictly ordered by their own
    consumers.
    """
    distance = distances(table)
    levels: list[list[int]] = [[] for _ in range(max(distance, default=-1) + 1)]
    for task, far in enumerate(distance):
        levels[far].append(task)
    place = [0] * len(distance)
    consumer = [-1] * len(distance)
    for far, level in enumerate(levels):
        for task in level:
            if far:
                consumer[task] = min([place[r] for r in table.of[task] if distance[r] == far - 1])
        level.sort(key=consumer.__getitem__)
        for position, task in enumerate(level):
            place[task] = position
    return _numbered(levels, consumer)


def _numbered(levels: Sequence[Sequence[int]], consumer: Sequence[int]) -> list[int]:
    """Return larger numbers for later levels and, within one, for earlier tasks; one for those of one consumer."""
    number_of = [0] * len(consumer)
    number = 0
    for level in levels:
        previous: int | None = None
        for task in reversed(level):
            if consumer[task] != previous:
                previous = consumer[task]
                number += 1
            number_of[task] = number
    return number_of


def locality_depth(table: Dependants) -> list[int]:
    """Farthest from the inputs first, then by the consumer they share.

    The other reading of ZNN's order: a level is one more than the highest before it, as of a network's nodes in the
    forward pass. So what is begun is carried on to the end. Of its consumers a task belongs to the one that goes first.
    """
    depth = [0] * len(table.of)
    for task in table.order:
        for reader in table.of[task]:
            depth[reader] = max(depth[reader], depth[task] + 1)
    levels: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for task, far in enumerate(depth):
        levels[far].append(task)
    place = [0] * len(depth)
    consumer = [-1] * len(depth)
    n_placed = 0
    for level in reversed(levels):
        for task in level:
            consumer[task] = min([place[r] for r in table.of[task]], default=-1)
        level.sort(key=consumer.__getitem__)
        for task in level:
            place[task] = n_placed
            n_placed += 1
    return _numbered(levels, consumer)


def critical_path(table: Dependants) -> Sequence[float]:
    """Longest way to the end first: in seconds where they are known, else in tasks."""
    if not table.seconds:
        return distances(table)
    length = list(table.seconds)
    for task in reversed(table.order):
        length[task] += max([length[r] for r in table.of[task]], default=0.0)
    return length


def lifo(table: Dependants) -> list[int]:
    """One stack: the task that became ready last runs first."""
    return [0] * len(table.of)


def fifo(table: Dependants) -> list[int]:
    """One line: the task that became ready first runs first."""
    return [0] * len(table.of)


def steal(table: Dependants) -> list[int]:
    """A deque per worker: each takes what it released last; one without work takes the oldest of another.

    What is ready at the start is dealt out in equal pieces, in the order of the graph.
    """
    return [0] * len(table.of)


def dask(table: Dependants) -> list[int]:
    """The order of `dask.order.order`, with which Dask's own schedulers run."""
    place = dask_order(table.nodes)
    return [-place[key] for key in table.keys]


POLICIES: dict[str, Policy] = {
    "locality": locality,
    "locality-depth": locality_depth,
    "critical-path": critical_path,
    "fifo": fifo,
    "lifo": lifo,
    "steal": steal,
    "dask": dask,
}

QUEUES: dict[Policy, Queue] = {fifo: oldest_first, steal: own_first}
"""The queues of the policies that need another than the heap of stacks."""


def policy_named(name: object) -> Policy:
    """Return a policy by its name.

    Raises
    ------
    ParameterError
        If there is none; the message lists the valid ones.
    """
    if isinstance(name, str) and name in POLICIES:
        return POLICIES[name]
    valid = list(POLICIES)
    hint = nearest(name, valid) if isinstance(name, str) else ""
    raise ParameterError(f"policy must be one of {', '.join(map(repr, valid))}, got {name!r}.{hint}")


def queue_of(policy: Policy, priority: Priority) -> Queue:
    """Return the queue that a policy needs; given priorities need the heap of stacks."""
    return QUEUES.get(policy, newest_first) if priority is None else newest_first


def seconds_of(keys: Sequence[Hashable], seconds: Mapping[Hashable, float] | None) -> list[float]:
    """Return what each task takes, nothing for those not mentioned; an empty list where no seconds are given.

    Raises
    ------
    ParameterError
        If a task is said to take less than nothing, or for ever.
    """
    if seconds is None:
        return []
    found = [seconds.get(key, 0.0) for key in keys]
    for key, taken in zip(keys, found, strict=True):
        if not 0 <= taken < math.inf:
            raise ParameterError(f"seconds of the task {key!r} must be a finite number from 0, got {taken!r}")
    return found


def prioritize(table: Dependants, keys: Sequence[Hashable], policy: Policy, priority: Priority) -> Sequence[float]:
    """Return one priority per task: the given one, or the policy's where none is given.

    Raises
    ------
    ParameterError
        If a given mapping lacks the key of a task.
    """
    if priority is None:
        return policy(table)
    if callable(priority):
        return [priority(key) for key in keys]
    missing = next((key for key in keys if key not in priority), None)
    if missing is not None:
        raise ParameterError(f"priority has no entry for the task {missing!r}; give one for every task, or None")
    return [priority[key] for key in keys]
