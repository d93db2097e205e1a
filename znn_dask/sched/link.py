"""Who waits for whom: tasks bound to slots, their dependants, the readers of every slot.

Works on the tables' own tasks (a sum is several) for counting, and on the graph's (a sum is one) for
policies.
"""

from dataclasses import dataclass, field

from znn_dask.sched.bind import Binding, bind, referred
from znn_dask.sched.graph import Key, Nodes
from znn_dask.sched.layout import Layout, cycle_error, is_tree
from znn_dask.sched.policies import Dependants
from znn_dask.sched.sums import addition
from znn_dask.tasks import tree_pairs


@dataclass(slots=True)
class Draft:
    """Tables in the making, one entry per task.

    `group` is the number of the task of the graph; `fresh` holds the slots whose values are newly made.
    """

    keys: list[Key] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    fresh: set[int] = field(default_factory=set)
    additions: set[int] = field(default_factory=set)


def draft(nodes: Nodes, layout: Layout, fuse: bool) -> Draft:
    """Bind every task of the graph, sums as the additions of their trees."""
    made = Draft()
    for group, key in enumerate(layout.keys):
        node = nodes[key]
        if fuse and is_tree(node):
            terms = [layout.slot_of(referred(arg)) for arg in node.args]
            first = layout.first[group]
            slots = terms + list(range(first, first + len(terms) - 1))
            for i, (left, right) in enumerate(tree_pairs(len(terms))):
                reads = slots[left], slots[right]
                made.bindings.append(Binding(addition(False, False), reads, reads))
                made.additions.add(first + i)
                made.fresh.add(first + i)
        else:
            made.bindings.append(bind(node, layout.slot_of, layout.constant))
            if getattr(getattr(node, "func", None), "__znn_fresh__", False):
                made.fresh.add(layout.whole[group])
        while len(made.keys) < len(made.bindings):
            made.keys.append(key)
            made.group.append(group)
    return made


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
        for slot in binding.uses:
            uses[slot] += 1
            if not readers[slot] or readers[slot][-1] != task:
                readers[slot].append(task)
        for before in dict.fromkeys([source[slot] for slot in binding.uses]):
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
    for task, dependants in enumerate(links.dependants):
        before = group[task]
        for after in dict.fromkeys([group[d] for d in dependants]):
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
