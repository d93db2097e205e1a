"""The compiled form of a graph: integer tables and a list of callables, nothing else.

Tasks and value slots are numbered. Task t leaves its result in slot t; parts of results, inputs and
constants have slots of their own. A run copies the few lists that change and looks everything else up here,
so one compiled graph serves any number of runs, also at the same time.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from znn_dask.sched.queues import Queue


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that stays the same from run to run.

    Lists are indexed by task (``n_tasks + 1`` entries; the last one is a task without work that follows
    all that nothing else follows, and ends the run) or by slot.

    Attributes
    ----------
    keys : per task, the key to name in an error; the parts of a `Reduce` carry the key of the sum
    calls : per task, what to call with its arguments
    reads : per task, the slots of its arguments in order
    splits : per task, the (index, slot) of the parts of its result, None for most
    drops : per task, the slots that nobody can read any more once it has run, whatever else happened
    shared : per task, the slots it reads that others read too; they are counted down
    dependants : per task, the tasks that read a result of it
    counts : per task, how many tasks it waits for
    rank : per task, 0 first; what makes a sum has rank 0, so whoever releases one does it at once
    yields_to : per task, a task of the queue goes before it, though it was just released, if its rank is below this
    donated : per task, the slots that it may overwrite
    ready : the tasks that wait for nothing, queued from the last to the first
    queue : makes the stacks of the queue
    n_ranks : int
    readers : per slot, how many tasks read it; requested slots and constants are never dropped
    initial : per slot, the value at the start: constants, None elsewhere
    inputs : slot of each key that the graph refers to without giving it
    results : slot of each requested key
    states : per slot whose value every run makes for itself, what makes it; nobody drops it
    attempts : per deferred task those that attempt it: the first to begin releases it, others raise `ClaimedError`
    outlet : slot of what is called with a key and its value where values are handed on
    """

    keys: list[Hashable]
    calls: list[Callable[..., Any]]
    reads: list[tuple[int, ...]]
    splits: list[tuple[tuple[int, int], ...] | None]
    drops: list[tuple[int, ...]]
    shared: list[tuple[int, ...]]
    dependants: list[tuple[int, ...]]
    counts: list[int]
    rank: list[int]
    yields_to: list[int]
    donated: list[tuple[int, ...]]
    ready: list[int]
    queue: Queue
    n_ranks: int
    readers: list[int]
    initial: list[Any]
    inputs: Mapping[Hashable, int]
    results: Mapping[Hashable, int]
    states: Mapping[int, Callable[[], Any]]
    outlet: int
    attempts: Mapping[int, tuple[int, ...]]

    def values(self) -> list[Any]:
        """Return the values of all slots at the start of a run; its inputs are still to be filled in."""
        values = self.initial[:]
        for slot, make in self.states.items():
            values[slot] = make()
        return values

    @property
    def n_tasks(self) -> int:
        """How many tasks a run executes; also the number of the task without work that ends it."""
        return len(self.calls) - 1
