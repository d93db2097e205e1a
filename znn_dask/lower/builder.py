"""Collecting the tasks of one graph: keys, priorities and the bytes each result takes."""

import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask.task_spec import GraphNode, List, Task, TaskRef

from znn_dask.net import Network
from znn_dask.tasks import Reduce

Key = Hashable


@dataclass
class Builder:
    """The tasks made so far.

    Attributes
    ----------
    token : str
        Ends the first element of every key, so that graphs never share a key.
    tasks : dict of key to task
    priority : dict of key to int
        Larger runs first.
    n_bytes : dict of key to int
        Of the results that are new arrays.
    extra_bytes : dict of key to int
        Of the arrays that a task holds only while it runs.
    inputs : dict of name to key
        What the graph needs from outside.
    """

    token: str
    tasks: dict[Key, GraphNode] = field(default_factory=dict)
    priority: dict[Key, int] = field(default_factory=dict)
    n_bytes: dict[Key, int] = field(default_factory=dict)
    extra_bytes: dict[Key, int] = field(default_factory=dict)
    inputs: dict[Hashable, Key] = field(default_factory=dict)

    def key(self, kind: str, *index: Hashable) -> Key:
        """Return a key that reads like a sentence: words first, then what and where."""
        return (f"{kind}-{self.token}", *index)

    def input(self, name: Hashable, kind: str, *index: Hashable) -> Key:
        """Declare something that comes from outside, and return its key."""
        return self.inputs.setdefault(name, self.key(kind, *index))

    def task(
        self,
        kind: str,
        index: Sequence[Hashable],
        priority: int,
        function: Callable[..., Any],
        *args: Any,
        n_bytes: int = 0,
    ) -> Key:
        """Add a task; arguments that refer to others are wrapped by `ref` and `refs`."""
        key = self.key(kind, *index)
        self.tasks[key] = Task(key, function, *args)
        self.priority[key] = priority
        self.n_bytes[key] = n_bytes
        return key

    def part(self, kind: str, index: Sequence[Hashable], whole: Key, position: int) -> Key:
        """Add the task that takes one part of a result of several."""
        return self.task(kind, index, self.priority[whole] + 1, operator.getitem, ref(whole), position)

    def total(self, kind: str, index: Sequence[Hashable], priority: int, terms: Sequence[Key]) -> Key:
        """Add the sum of some results; one alone is its own sum."""
        if len(terms) == 1:
            return terms[0]
        key = self.key(kind, *index)
        self.tasks[key] = Reduce(key, *(ref(term) for term in terms))
        self.priority[key] = priority
        self.n_bytes[key] = self.n_bytes.get(terms[0], 0)
        return key


def ref(key: Key) -> TaskRef:
    """Refer to another task's result."""
    return TaskRef(key)


def refs(keys: Sequence[Key]) -> List:
    """Refer to several results, given as a list."""
    return List(*(TaskRef(key) for key in keys))


@dataclass(frozen=True)
class Priorities:
    """Strict orders of the nodes by distance; larger priorities run first (ZNN's order, arXiv 1510.06706).

    A forward task of edge (u, v) takes v's place in the order by longest distance to an output, a backward task u's
    place in that by longest distance to an input, farthest first in both. Backward outranks forward, updates are last.
    Places are two apart, so that parts of a result can be taken at once.
    """

    forward: dict[str, int]
    backward: dict[str, int]
    update: dict[str, int]

    @staticmethod
    def of(net: Network) -> "Priorities":
        """Return the orders of a network's nodes."""
        names = list(net.nodes)
        to_output = dict.fromkeys(names, 0)
        to_input = dict.fromkeys(names, 0)
        for edge in net.edges.values():
            to_input[edge.target] = max(to_input[edge.target], to_input[edge.source] + 1)
        for edge in reversed(net.edges.values()):
            to_output[edge.source] = max(to_output[edge.source], to_output[edge.target] + 1)
        n = len(names)
        first = sorted(names, key=lambda name: -to_output[name])
        last = sorted(names, key=lambda name: -to_input[name])
        return Priorities(
            forward={name: 2 * (n - place) for place, name in enumerate(first)},
            backward={name: 2 * (2 * n - place) for place, name in enumerate(last)},
            update={name: -2 * place - 2 for place, name in enumerate(first)},
        )
