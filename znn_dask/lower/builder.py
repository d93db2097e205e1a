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
    reduce : type
        Of the sums.
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
    reduce: type[Reduce] = Reduce
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
        self.tasks[key] = self.reduce(key, *(ref(term) for term in terms))
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
    """Strict orders of the nodes; larger priorities run first (ZNN's order, arXiv 1510.06706).

    A forward task of edge (u, v) takes v's place in the first order, a backward task u's place in the second. Backward
    outranks forward, updates are last. Transforms of a finished node go before what it converges on. Places are two
    apart, so that parts of a result can be taken at once. Of ZNN's order there are two readings, see `by_distance` and
    `by_depth`.

    Attributes
    ----------
    forward, backward, update : dict of node to int
        Of the tasks of edges.
    image_spectrum, gradient_spectrum : dict of node to int
        Of the transforms of a node's image and of its gradient.
    """

    forward: dict[str, int]
    backward: dict[str, int]
    update: dict[str, int]
    image_spectrum: dict[str, int]
    gradient_spectrum: dict[str, int]

    @staticmethod
    def by_distance(net: Network) -> "Priorities":
        """Return the orders by longest distance to an output and to an input, farthest first in both."""
        to_output, to_input = _distances(net)
        first = sorted(net.nodes, key=lambda name: -to_output[name])
        last = sorted(net.nodes, key=lambda name: -to_input[name])
        n = len(first)
        forward, backward = _places(first, 0), _places(last, n)
        return Priorities(forward, backward, _places(first, -n - 1), forward, backward)

    @staticmethod
    def by_depth(net: Network) -> "Priorities":
        """Return the orders by level, highest first, and of one level the last node first.

        A node's forward level is one more than the highest before it, its backward level one more than its forward
        level and the highest backward level after it. Deeper nodes outrank those that they are computed from, so
        transforms have places of their own above them.
        """
        to_output, forward = _distances(net)
        backward = {name: forward[name] + 1 for name in net.nodes}
        for edge in reversed(net.edges.values()):
            backward[edge.source] = max(backward[edge.source], backward[edge.target] + 1)
        turned = list(reversed(net.nodes))
        first = sorted(turned, key=lambda name: -forward[name])
        last = sorted(turned, key=lambda name: -backward[name])
        # Whatever the order, the forward pass needs first what is nearest to the input.
        updates = sorted(net.nodes, key=lambda name: -to_output[name])
        n = len(first)
        return Priorities(
            _places(first, 0), _places(last, 2 * n), _places(updates, -n - 1), _places(first, n), _places(last, 3 * n)
        )


def _places(names: Sequence[str], above: int) -> dict[str, int]:
    """Return priorities two apart for nodes in their order, above a number of other nodes."""
    return {name: 2 * (above + len(names) - place) for place, name in enumerate(names)}


ORDERS: dict[str, Callable[[Network], Priorities]] = {
    "locality": Priorities.by_distance,
    "locality-depth": Priorities.by_depth,
}
"""The policies of the scheduler for which a network gives the priorities itself."""

DEFAULT_ORDER = "locality"


def _distances(net: Network) -> tuple[dict[str, int], dict[str, int]]:
    """Return every node's longest distance, in edges, to an output and to an input."""
    to_output, to_input = dict.fromkeys(net.nodes, 0), dict.fromkeys(net.nodes, 0)
    for edge in net.edges.values():
        to_input[edge.target] = max(to_input[edge.target], to_input[edge.source] + 1)
    for edge in reversed(net.edges.values()):
        to_output[edge.source] = max(to_output[edge.source], to_output[edge.target] + 1)
    return to_output, to_input
