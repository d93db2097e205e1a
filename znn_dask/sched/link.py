"""Who waits for whom: tasks bound to slots, their dependants, the readers of every slot.

Works on the tables' own tasks (a sum is several) for counting, and on the graph's (a sum is one) for
policies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from znn_dask.sched.bind import Binding, bind, referred
from znn_dask.sched.graph import Key, Nodes
from znn_dask.sched.layout import Layout, cycle_error, is_sum
from znn_dask.sched.policies import Dependants
from znn_dask.sched.sums import ArrivalSum, addition, arrival, finish
from znn_dask.tasks import ArrivalReduce, tree_pairs


@dataclass(frozen=True, slots=True)
class Small:
    """The slots that a small task may write into where they are owned, and what it calls given which of them are."""

    terms: tuple[int, ...]
    call: Callable[..., Callable[..., Any]]


@dataclass(slots=True)
class Draft:
    """Tables in the making, one entry per task.

    `group` is the number of the task of the graph; `fresh` holds the slots whose values are newly made; `small` the
    tasks that are done at once by whoever releases them: the parts of sums, and those that hand a value on.
    """

    keys: list[Key] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    fresh: set[int] = field(default_factory=set)
    small: dict[int, Small] = field(default_factory=dict)


def draft(nodes: Nodes, layout: Layout, fuse: bool) -> Draft:
    """Bind every task of the graph; a sum is several."""
    made = Draft()
    for group, key in enumerate(layout.keys):
        node = nodes[key]
        if fuse and is_sum(node):
            terms = [layout.slot_of(referred(arg)) for arg in node.args]
            (_in_order_of_arrival if isinstance(node, ArrivalReduce) else _in_a_tree)(made, layout, terms)
        else:
            made.bindings.append(bind(node, layout.slot_of, layout.constant))
            if getattr(getattr(node, "func", None), "__znn_fresh__", False):
                made.fresh.add(layout.whole[group])
        while len(made.keys) < len(made.bindings):
            made.keys.append(key)
            made.group.append(group)
    return made


def add_publishers(made: Draft, layout: Layout, keys: Sequence[Key]) -> int:
    """Add a task for each key that hands its value on as soon as it is made; return the slot of what they call."""
    outlet = layout.new_slot()
    for key in keys:
        slot = layout.slot_of(key)
        made.small[len(made.bindings)] = Small((), lambda: _hand_on)
        made.bindings.append(Binding(_hand_on, (outlet, layout.constant(key), slot), (slot,)))
        made.keys.append(key)
        made.group.append(0)  # any: small tasks have a rank of their own
    return outlet


def _hand_on(outlet: Callable[[Key, Any], None], key: Key, value: Any) -> None:
    outlet(key, value)


def _in_a_tree(made: Draft, layout: Layout, terms: list[int]) -> None:
    """Add the additions of a fixed tree."""
    first = len(made.bindings)
    slots = terms + list(range(first, first + len(terms) - 1))
    for left, right in tree_pairs(len(terms)):
        reads = slots[left], slots[right]
        made.fresh.add(len(made.bindings))
        made.small[len(made.bindings)] = Small(reads, addition)
        made.bindings.append(Binding(addition(False, False), reads, reads))


def _in_order_of_arrival(made: Draft, layout: Layout, terms: list[int]) -> None:
    """Add a task for the arrival of each term, and one that takes the sum."""
    state = layout.state(partial(ArrivalSum, len(terms)))
    first = len(made.bindings)
    for term in terms:
        made.small[len(made.bindings)] = Small((term,), arrival)
        made.bindings.append(Binding(arrival(False), (state, term), (term,)))
    arrived = tuple(range(first, first + len(terms)))
    made.fresh.add(len(made.bindings))
    made.small[len(made.bindings)] = Small((), lambda: finish)
    made.bindings.append(Binding(finish, (state, *arrived), arrived))


@dataclass(slots=True)
class Links:
    """Who waits for whom, and how often each slot is read."""

    dependants: list[list[int]]
    counts: list[int]
    readers: list[list[int]]
    uses: list[int]


def link(made: Draft, layout: Layout) -> Links:
    """Find the dependants of every task and the readers of every slot."""
    n_tasks = layout.n_tasks
    source = list(range(n_tasks)) + [-1] * (layout.n_slots - n_tasks)
    for (whole, _), slot in layout.parts.items():
        source[slot] = whole
    dependants: list[list[int]] = [[] for _ in range(n_tasks)]
    counts = [0] * n_tasks
    readers: list[list[int]] = [[] for _ in range(layout.n_slots)]
    uses = [0] * layout.n_slots
    for task, binding in enumerate(made.bindings):
        if len(binding.uses) == 1 and binding.waits is None:  # the same as below, sooner
            (slot,) = binding.uses
            uses[slot] += 1
            readers[slot].append(task)
            if source[slot] >= 0:
                dependants[source[slot]].append(task)
                counts[task] = 1
            continue
        for slot in binding.uses:
            uses[slot] += 1
            if not readers[slot] or readers[slot][-1] != task:
                readers[slot].append(task)
        waits = binding.uses if binding.waits is None else binding.waits
        for before in dict.fromkeys([source[slot] for slot in waits]):
            if before >= 0:
                dependants[before].append(task)
                counts[task] += 1
    return Links(dependants, counts, readers, uses)


def group_table(made: Draft, layout: Layout, links: Links) -> Dependants:
    """Return who reads whom in the graph's own tasks, sums as one, in an order in which they can run.

    Raises
    ------
    ParameterError
        If tasks wait for each other in a circle.
    """
    group = made.group
    of: list[list[int]] = [[] for _ in layout.keys]
    waits = [0] * len(of)
    for task, before in enumerate(group):
        for after in dict.fromkeys([group[d] for d in links.dependants[task]]):
            if after != before or task == layout.whole[before]:
                of[before].append(after)
                waits[after] += 1
    order = [g for g, n in enumerate(waits) if not n]
    for g in order:
        for after in of[g]:
            waits[after] -= 1
            if not waits[after]:
                order.append(after)
    if len(order) < len(of):
        raise cycle_error([layout.keys[g] for g in _circle(of, waits)])
    return Dependants(of, order)


def _circle(of: list[list[int]], waits: list[int]) -> list[int]:
    """Return tasks that wait for each other: walk backwards among those that never became ready."""
    before = {after: g for g, n in enumerate(waits) if n for after in of[g]}
    at = next(g for g, n in enumerate(waits) if n)
    path: dict[int, None] = {}
    while at not in path:
        path[at] = None
        at = before[at]
    walked = list(path)
    return walked[walked.index(at) :][::-1]
