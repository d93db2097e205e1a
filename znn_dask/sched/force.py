"""Forced updates: a task that waits at a low priority is run at once when another needs it (ZNN, arXiv 1510.06706).

A task of a `deferred` function is run by whoever attempts it first. One attempt waits in the queue at the task's own
priority. For each reader there is one more, at the reader's priority, which is ready when the reader has everything
else but other deferred tasks: if the task is done or running by then there is nothing to do, and the reader starts
when it is done; if it still waits in the queue it is run here. So nobody ever waits for it, and it is run once.

A reader may be deferred itself, as the next update of a parameter is. Then who reads that one forces both: there is an
attempt for each reader further on as well, ready when that reader and all between lack nothing but deferred tasks: of
n updates in a row that are all read elsewhere too, n (n + 1) / 2.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dask.task_spec import Task

from znn_dask.sched.bind import Binding
from znn_dask.sched.graph import Key, Nodes
from znn_dask.sched.layout import Layout, is_item
from znn_dask.sched.link import Draft, Small

Forces = Mapping[Key, Mapping[Key, Sequence[Key]]]
"""From each deferred task to those that force it, its readers and theirs if they are deferred, and for each of these
the deferred tasks between."""


class ClaimedError(Exception):
    """Raised by an attempt that comes too late; what waits for the task is not released by it."""


class Deferred:
    """The result of a deferred task in one run, and whether somebody has taken it on."""

    __slots__ = ("_open", "result")

    def __init__(self) -> None:
        self._open = [True]
        self.result: Any = None

    def attempt(self, call: Callable[..., Any], values: Sequence[Any]) -> None:
        """Call and keep the result, unless somebody has begun to."""
        try:
            self._open.pop()  # atomic: exactly one succeeds
        except IndexError:
            raise ClaimedError from None
        self.result = call(*values)


def find_forces(nodes: Nodes) -> Forces:
    """Return the deferred tasks of a graph that others read, each with those that force it."""
    deferred = {key for key, node in nodes.items() if type(node) is Task and hasattr(node.func, "__znn_deferred__")}
    if not deferred:
        return {}
    whole = {key: next(iter(node.dependencies)) for key, node in nodes.items() if is_item(node)}
    readers: dict[Key, list[Key]] = {}
    for key, node in nodes.items():
        if type(node) is not Task or key in whole:
            continue
        for read in dict.fromkeys([whole.get(each, each) for each in node.dependencies]):
            if read in deferred:
                readers.setdefault(read, []).append(key)
    return {key: _forced_by(key, readers) for key in readers}


def _forced_by(key: Key, readers: Mapping[Key, Sequence[Key]]) -> dict[Key, list[Key]]:
    """Return all that reads a deferred task, at once or by way of deferred ones, each with those between."""
    between: dict[Key, dict[Key, None]] = {key: {}}
    pending = [key]
    while pending:
        before = pending.pop()
        way = between[before] if before == key else {**between[before], before: None}
        for after in readers.get(before, ()):
            known = between.get(after)
            if known is None or not known.keys() >= way.keys():
                between[after] = {**(known or {}), **way}
                pending.append(after)
    del between[key]
    return {after: list(way) for after, way in between.items()}


def n_attempts(forces: Forces) -> int:
    """Return how many tasks `add_attempts` adds."""
    return sum(1 + len(readers) for readers in forces.values())


def add_attempts(made: Draft, layout: Layout, forces: Forces) -> dict[int, tuple[int, ...]]:
    """Turn deferred tasks into attempts and the task that takes the result; return the attempts of each."""
    group_of = {key: group for group, key in enumerate(layout.keys)}
    source = {slot: whole for (whole, _), slot in layout.parts.items()}
    # A reader of several would otherwise force none: each attempt would wait for the others.
    late = {layout.whole[group_of[key]] for key in forces}
    attempts: dict[int, tuple[int, ...]] = {}
    for key, readers in forces.items():
        group = group_of[key]
        task = layout.whole[group]
        state = layout.state(Deferred)
        binding = made.bindings[task]
        first = len(made.bindings)
        for after, needy in ((key, ()), *((reader, (reader, *between)) for reader, between in readers.items())):
            waits = binding.uses
            for each in needy:
                needed = made.bindings[layout.whole[group_of[each]]].uses
                waits += tuple(slot for slot in needed if source.get(slot, slot) not in late)
            made.keys.append(key)
            made.group.append(group_of[after])
            made.bindings.append(Binding(partial(_attempt, binding.call), (state, *binding.reads), (), waits=waits))
        attempts[task] = tuple(range(first, len(made.bindings)))
        made.small[task] = Small((), lambda: _result)
        made.bindings[task] = Binding(_result, (state, *binding.uses), binding.uses, waits=attempts[task])
    return attempts


def _attempt(call: Callable[..., Any], state: Deferred, *values: Any) -> None:
    state.attempt(call, values)


def _result(state: Deferred, *read: Any) -> Any:
    """Return the result of the attempt that was made; the values that it read may be forgotten after this."""
    result, state.result = state.result, None
    return result
