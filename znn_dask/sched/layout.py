"""Numbers for tasks and slots: the first pass of compiling.

Three things become cheaper here than they look in the graph: aliases vanish, ``getitem(task, i)`` becomes a
slot that is filled when the task ends, and a `Reduce` of n terms becomes n - 1 additions (n arrivals and an end, if
they are added as they arrive). Without ``fuse`` each node stays a task of its own, as those who watch a run (Dask's
callbacks) expect.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import getitem
from typing import Any

from dask.task_spec import Alias, DataNode, GraphNode, Task, TaskRef

from znn_dask.errors import CycleError
from znn_dask.sched.bind import referred
from znn_dask.sched.graph import Key, Nodes
from znn_dask.tasks import ArrivalReduce, Reduce


@dataclass(slots=True)
class Layout:
    """The numbers of tasks and slots.

    Attributes
    ----------
    keys : the tasks of the graph, in its order
    first : per task of the graph, the number of its first task in the tables
    whole : per task of the graph, its last one's number, which is also the slot of its result
    slots : slot of every key that has one so far
    parts : (slot of the whole, index) of each part and its slot
    alias : key -> the key whose slot it shares
    values : slot and value of each constant
    inputs : key -> slot, for keys that the graph refers to only
    states : slot -> what makes its value for each run
    attempts : per deferred task the tasks that attempt it
    outlet : slot of what values are handed on by, if they are
    n_slots : how many slots are given
    """

    keys: list[Key] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    slots: dict[Key, int] = field(default_factory=dict)
    parts: dict[tuple[int, int], int] = field(default_factory=dict)
    alias: dict[Key, Key] = field(default_factory=dict)
    values: dict[int, Any] = field(default_factory=dict)
    inputs: dict[Key, int] = field(default_factory=dict)
    states: dict[int, Callable[[], Any]] = field(default_factory=dict)
    literals: dict[int, int] = field(default_factory=dict)
    attempts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    outlet: int = -1
    n_tasks: int = 0
    n_slots: int = 0

    def new_slot(self) -> int:
        """Return a slot that nobody has."""
        self.n_slots += 1
        return self.n_slots - 1

    def constant(self, value: Any) -> int:
        """Return the slot of a literal; the same object gets the same slot."""
        slot = self.literals.get(id(value))
        if slot is None:
            slot = self.literals[id(value)] = self.new_slot()
            self.values[slot] = value
        return slot

    def state(self, make: Callable[[], Any]) -> int:
        """Return a slot whose value every run makes for itself."""
        slot = self.new_slot()
        self.states[slot] = make
        return slot

    def slot_of(self, key: Key) -> int:
        """Return the slot of a key, a new input's if the graph does not give it."""
        slot = self.slots.get(key)
        if slot is None:
            target = self.resolve(key)
            slot = self.slots.get(target)
            if slot is None:
                slot = self.inputs[target] = self.new_slot()
                self.slots[target] = slot
            self.slots[key] = slot
        return slot

    def resolve(self, key: Key) -> Key:
        """Follow aliases to the key that has the value."""
        seen: dict[Key, None] = {}
        while key in self.alias:
            if key in seen:
                raise cycle_error(seen)
            seen[key] = None
            key = self.alias[key]
        return key


def lay_out(nodes: Nodes, fuse: bool, n_more: int = 0) -> Layout:
    """Number the tasks and give every key of the graph a slot; tasks that stand for no node come last."""
    layout = Layout()
    tasks: set[Key] = set()
    items: list[Key] = []
    for key, node in nodes.items():
        kind = type(node)
        if kind is DataNode:
            continue
        if fuse and kind is Alias:
            layout.alias[key] = node.target
        elif fuse and isinstance(node, Reduce) and len(node.args) == 1 and isinstance(node.args[0], (TaskRef, Alias)):
            layout.alias[key] = referred(node.args[0])
        elif fuse and is_item(node):
            items.append(key)
        else:
            tasks.add(key)
    targets = {key: layout.resolve(referred(nodes[key].args[0])) for key in items}
    parts = {key: target for key, target in targets.items() if target in tasks}
    for key, node in nodes.items():
        if key in tasks or (key in targets and key not in parts):
            layout.keys.append(key)
            layout.first.append(layout.n_tasks)
            layout.n_tasks += _n_tasks(node) if fuse else 1
            layout.whole.append(layout.n_tasks - 1)
            layout.slots[key] = layout.n_tasks - 1
    layout.n_tasks += n_more
    layout.n_slots = layout.n_tasks + 1
    for key, node in nodes.items():
        if type(node) is DataNode:
            layout.slots[key] = slot = layout.new_slot()
            layout.values[slot] = node.value
    for key, target in parts.items():
        place = layout.slots[target], nodes[key].args[1]
        if place not in layout.parts:
            layout.parts[place] = layout.new_slot()
        layout.slots[key] = layout.parts[place]
    return layout


def is_item(node: GraphNode) -> bool:
    """Whether a task takes one part, by number, of another task's result."""
    return (
        type(node) is Task
        and node.func is getitem
        and len(node.args) == 2
        and isinstance(node.args[0], (TaskRef, Alias))
        and type(node.args[1]) is int
    )


def is_sum(node: GraphNode) -> bool:
    """Whether a task is a sum of other tasks' results and of nothing else."""
    of_results = isinstance(node, Reduce) and all(isinstance(arg, (TaskRef, Alias)) for arg in node.args)
    return of_results and len(node.args) > 1


def _n_tasks(node: GraphNode) -> int:
    """Return the tasks that a node becomes: a tree's additions, or an arrival for each term and the end of the sum."""
    if not is_sum(node):
        return 1
    return len(node.args) + (1 if isinstance(node, ArrivalReduce) else -1)


def cycle_error(keys: Iterable[Key]) -> CycleError:
    """Return the error that names keys which wait for each other."""
    names = [repr(key) for key in keys]
    shown = names[:8] + (["..."] if len(names) > 8 else []) + names[:1]
    return CycleError(f"Cycle detected between the following keys: {' -> '.join(shown)}")
