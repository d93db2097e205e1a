"""Orders: which of the tasks that are ready a worker should take first.

A policy is a pure function from the table of dependants to one priority per task; larger runs first, and
tasks of equal priority run newest first. Nothing else about a run depends on the policy, above all no
result.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from znn_dask.errors import ParameterError, nearest


@dataclass(frozen=True, slots=True)
class Dependants:
    """Who reads whom: all that a policy may know.

    Attributes
    ----------
    of : per task, the tasks that read one of its results
    order : the tasks, each after all that it reads
    """

    of: Sequence[Sequence[int]]
    order: Sequence[int]


Policy: TypeAlias = Callable[[Dependants], list[int]]
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
    priority = [0] * len(distance)
    number = 0
    for level in levels:
        previous: int | None = None
        for task in reversed(level):
            if consumer[task] != previous:
                previous = consumer[task]
                number += 1
            priority[task] = number
    return priority


def lifo(table: Dependants) -> list[int]:
    """One stack: the task that became ready last runs first."""
    return [0] * len(table.of)


POLICIES: dict[str, Policy] = {"locality": locality, "lifo": lifo}


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


def prioritize(table: Dependants, keys: Sequence[Hashable], policy: Policy, priority: Priority) -> list[int]:
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
