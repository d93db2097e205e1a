"""From a graph to tables, once, so that running costs microseconds per task.

Passes, each from data to data: `lay_out` gives every result a number, `draft` turns each task into a
callable and slots, `link` finds who waits for whom, a policy orders the graph's tasks, and here priorities
become ranks, inputs that nobody else reads are given away, and every slot gets its end of life.
"""

import gc
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from znn_dask.sched.force import add_attempts, find_forces, n_attempts
from znn_dask.sched.graph import Key, Nodes, cull, flatten
from znn_dask.sched.layout import Layout, lay_out
from znn_dask.sched.link import Draft, Links, add_publishers, draft, group_table, link
from znn_dask.sched.policies import Policy, Priority, prioritize, queue_of, seconds_of
from znn_dask.sched.queues import Queue, oldest_first
from znn_dask.sched.tables import Tables


def compile_tables(
    nodes: Nodes,
    keys: Any,
    policy: Policy,
    priority: Priority = None,
    fuse: bool = True,
    seconds: Mapping[Hashable, float] | None = None,
    publish: Sequence[Key] = (),
) -> Tables:
    """Compile what the requested keys need.

    Parameters
    ----------
    nodes : graph, as `graph.read` returns it
    keys : requested keys, nested in lists
    policy : orders the tasks
    priority : mapping or callable, key to int, larger first; None leaves it to the policy
    fuse : bool
        Whether aliases, parts and sums are made cheap and inputs given away; without, each node is one task.
    seconds : mapping of key to float, optional
        What tasks take, for policies that ask.
    publish : requested keys whose values are handed on as soon as they are made, see `chain`

    Raises
    ------
    KeyError
        If a requested key is not in the graph.
    ParameterError
        If tasks wait for each other in a circle, or the priorities lack a task.
    """
    with _collector_paused():
        nodes = cull(nodes, keys)
        forces = find_forces(nodes) if fuse else {}
        layout = lay_out(nodes, fuse, n_attempts(forces) + len(publish))
        made = draft(nodes, layout, fuse)
        results = {key: layout.slot_of(key) for key in flatten(keys)}
        links = link(made, layout)
        table = group_table(made, layout, links)
        table = replace(table, keys=layout.keys, nodes=nodes, seconds=seconds_of(layout.keys, seconds))
        priorities = prioritize(table, layout.keys, policy, priority)
        layout.attempts = add_attempts(made, layout, forces)
        if publish:
            layout.outlet = add_publishers(made, layout, publish)
        if forces or publish:
            links = link(made, layout)
        for task in layout.attempts:
            links.counts[task] = 1  # the first attempt that is made releases it
        return _tables(made, layout, links, results, priorities, queue_of(policy, priority), fuse)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python from looking for garbage: compiling makes some ten objects a task and none in circles, and passes
    over everything alive cost as much as half of it."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _tables(
    made: Draft,
    layout: Layout,
    links: Links,
    results: dict[Key, int],
    priorities: Sequence[float],
    queue: Queue,
    fuse: bool,
) -> Tables:
    """Put the tables together."""
    rank, n_ranks = _ranks(made, priorities)
    in_line = queue is oldest_first
    ready = [t for t, n in enumerate(links.counts) if not n]
    requested = set(results.values())
    donated = _give_away(made, layout, links, requested, fuse)
    drops, shared = _ends(layout, links, requested)
    ends = [t for t, dependants in enumerate(links.dependants) if not dependants]
    return Tables(
        keys=[*made.keys, None],
        calls=[*_calls(made, donated), _no_work],
        reads=[*(binding.reads for binding in made.bindings), ()],
        splits=[*_splits(layout), None],
        drops=[*drops, ()],
        shared=[*shared, ()],
        dependants=[*(tuple(d) or (layout.n_tasks,) for d in links.dependants), ()],
        counts=[*links.counts, len(ends)],
        rank=rank,
        # Who stands in line lets the others of the same rank go first.
        yields_to=[r and r + 1 for r in rank] if in_line else rank,
        donated=[*donated, ()],
        ready=ready[::-1] if in_line else ready,
        queue=queue,
        n_ranks=n_ranks,
        readers=[len(r) for r in links.readers],
        initial=[layout.values.get(slot) for slot in range(layout.n_slots)],
        inputs=layout.inputs,
        states=layout.states,
        outlet=layout.outlet,
        attempts=layout.attempts,
        results=results,
    )


def _no_work() -> None:
    """The task that follows all others; it is never called."""


def _ranks(made: Draft, priorities: Sequence[float]) -> tuple[list[int], int]:
    """Return the ranks of the tasks (small ones: 0), of the end and of no task; and how many there are to the end."""
    distinct = {priority: 1 + i for i, priority in enumerate(sorted(set(priorities), reverse=True))}
    of_group = [distinct[priority] for priority in priorities]
    rank = [0 if task in made.small else of_group[group] for task, group in enumerate(made.group)]
    n_ranks = len(distinct) + 2
    return [*rank, n_ranks - 1, n_ranks], n_ranks


def owned_slots(made: Draft, layout: Layout, links: Links, requested: set[int]) -> set[int]:
    """Return the slots whose only reader may write into them.

    The value is newly made (by a `fresh` function or a sum, or it is one part of what a fresh function
    returns), it is read at exactly one place of one task, and it is not requested. Parts of a value that is
    read whole as well, or that are counted from its end, could share memory, so they are not owned.
    """
    entire = {whole for whole, _ in layout.parts}
    mixed = {whole for whole, index in layout.parts if index < 0 or links.uses[whole] or whole in requested}
    owned = made.fresh - entire
    owned |= {slot for (w, _), slot in layout.parts.items() if w in made.fresh and w not in mixed}
    return {slot for slot in owned if links.uses[slot] == 1 and slot not in requested}


def _give_away(made: Draft, layout: Layout, links: Links, requested: set[int], fuse: bool) -> list[tuple[int, ...]]:
    """Return for each task the slots that it may overwrite."""
    owned = owned_slots(made, layout, links, requested) if fuse else set()
    donated: list[tuple[int, ...]] = [()] * layout.n_tasks
    for slot in owned:
        (task,) = links.readers[slot]
        small = made.small.get(task)
        candidates = small.terms if small is not None else (made.bindings[task].overwritable,)
        if slot in candidates and not donated[task]:
            donated[task] = tuple(each for each in candidates if each in owned)
    return donated


def _calls(made: Draft, donated: list[tuple[int, ...]]) -> list[Callable[..., Any]]:
    calls = [binding.call for binding in made.bindings]
    for task, given in enumerate(donated):
        if given and task not in made.small:
            calls[task] = made.bindings[task].donating()
    for task, small in made.small.items():
        calls[task] = small.call(*[term in donated[task] for term in small.terms])
    return calls


def _splits(layout: Layout) -> list[tuple[tuple[int, int], ...] | None]:
    splits: list[tuple[tuple[int, int], ...] | None] = [None] * layout.n_tasks
    for (whole, index), slot in layout.parts.items():
        splits[whole] = (*(splits[whole] or ()), (index, slot))
    return splits


def _ends(layout: Layout, links: Links, requested: set[int]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return for each task the slots it is the only reader of, and those it shares with other readers."""
    drops: list[list[int]] = [[] for _ in range(layout.n_tasks)]
    shared: list[list[int]] = [[] for _ in range(layout.n_tasks)]
    for slot, readers in enumerate(links.readers):
        if slot in requested or slot in layout.values:
            continue
        if len(readers) == 1:
            drops[readers[0]].append(slot)
        elif not readers and slot < layout.n_tasks:
            drops[slot].append(slot)
        else:
            for task in readers:
                shared[task].append(slot)
    return [tuple(d) for d in drops], [tuple(s) for s in shared]
