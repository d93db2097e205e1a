"""From one task of a graph to a callable and the slots of its arguments.

Nearly all tasks are flat: each argument is another task's result or a literal, and the function is called as
it is. Arguments nested in containers, keyword arguments that refer to tasks, and tasks inside tasks are put
together by a template around the function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

from dask.task_spec import Alias, DataNode, GraphNode, List, Task, TaskRef

from znn_dask.sched.graph import Key

Part: TypeAlias = Callable[[tuple[Any, ...]], Any]
"""Makes one argument from the values that a task reads."""


@dataclass(slots=True)
class Binding:
    """What a task calls and reads.

    Attributes
    ----------
    call : takes the values of `reads` as positional arguments
    reads : slots, in the order of the call
    uses : slots, one entry for every place where the task refers to them
    overwritable : slot of the argument that the function can write into, -1 if none
    position : where that argument is among `reads`
    waits : slots that must be filled before; None for those of `uses`
    """

    call: Callable[..., Any]
    reads: tuple[int, ...]
    uses: tuple[int, ...]
    overwritable: int = -1
    position: int = 0
    waits: tuple[int, ...] | None = None

    def donating(self) -> Callable[..., Any]:
        """Return the call that also passes the overwritable argument as ``out``."""
        call, position = self.call, self.position

        def into(*values: Any) -> Any:
            return call(*values, out=values[position])

        return into


def bind(node: GraphNode, slot_of: Callable[[Key], int], constant: Callable[[Any], int]) -> Binding:
    """Bind a task's arguments to slots.

    Parameters
    ----------
    node : any node but data
    slot_of : gives the slot of a key
    constant : gives a slot for a literal
    """
    if not isinstance(node, Task):
        return _wrapped(node, slot_of)
    kwargs = node.kwargs
    if kwargs and any(isinstance(value, (GraphNode, TaskRef)) for value in kwargs.values()):
        return _assembled(node, slot_of)
    reads, uses = [], []
    for arg in node.args:
        kind = type(arg)
        if kind is TaskRef or kind is Alias:
            slot = slot_of(arg.key if kind is TaskRef else arg.target)
            reads.append(slot)
            uses.append(slot)
        elif isinstance(arg, TaskRef):  # a future of distributed
            return _assembled(node, slot_of)
        elif kind is DataNode:
            reads.append(constant(arg.value))
        elif isinstance(arg, GraphNode):
            return _assembled(node, slot_of)
        else:
            reads.append(constant(arg))
    call = partial(node.func, **kwargs) if kwargs else node.func
    of_results = tuple(uses)
    binding = Binding(call, of_results if len(uses) == len(reads) else tuple(reads), of_results)
    key = _overwritten(node)
    if key is not None:
        binding.position = node.func.__znn_overwrites__
        binding.overwritable = slot_of(key)
    return binding


def referred(ref: Any) -> Key:
    """Return the key that a TaskRef or an Alias stands for."""
    key: Key = ref.target if isinstance(ref, Alias) else ref.key
    return key


def _overwritten(node: Task) -> Key | None:
    """Return the key of the argument that the task's function can write into, if that is another's result."""
    position = getattr(node.func, "__znn_overwrites__", None)
    if position is None or position >= len(node.args) or "out" in node.kwargs:
        return None
    arg = node.args[position]
    return referred(arg) if isinstance(arg, (TaskRef, Alias)) else None


class _Assembled:
    """Calls a function with arguments put together from the values of a task."""

    __slots__ = ("func", "keywords", "parts")

    def __init__(self, func: Callable[..., Any], parts: Sequence[Part], keywords: dict[str, Part]) -> None:
        self.func = func
        self.parts = parts
        self.keywords = keywords

    def __call__(self, *values: Any, **out: Any) -> Any:
        return self.build(values, out)

    def build(self, values: tuple[Any, ...], out: dict[str, Any]) -> Any:
        """Make the arguments and call."""
        for name, part in self.keywords.items():
            out[name] = part(values)
        return self.func(*[part(values) for part in self.parts], **out)


class _Places:
    """The distinct slots that a nested task reads, in order of appearance, and every use of them."""

    def __init__(self, slot_of: Callable[[Key], int]) -> None:
        self.slot_of = slot_of
        self.place: dict[int, int] = {}
        self.uses: list[int] = []

    def __call__(self, key: Key) -> int:
        slot = self.slot_of(key)
        self.uses.append(slot)
        return self.place.setdefault(slot, len(self.place))


def _assembled(node: Task, slot_of: Callable[[Key], int]) -> Binding:
    places = _Places(slot_of)
    call = _template(node, places)
    binding = Binding(call, tuple(places.place), tuple(places.uses))
    key = _overwritten(node)
    if key is not None:
        binding.overwritable = slot_of(key)
        binding.position = places.place[binding.overwritable]
    return binding


def _template(node: Task, places: _Places) -> _Assembled:
    parts = [_part(arg, places) for arg in node.args]
    keywords = {name: _part(arg, places) for name, arg in node.kwargs.items()}
    return _Assembled(node.func, parts, keywords)


def _part(arg: Any, places: _Places) -> Part:
    if isinstance(arg, (TaskRef, Alias)):
        return itemgetter(places(referred(arg)))
    if isinstance(arg, DataNode):
        return _literal(arg.value)
    if type(arg) is List:
        parts = [_part(item, places) for item in arg.args]
        return lambda values: [part(values) for part in parts]
    if isinstance(arg, Task):
        template = _template(arg, places)
        return lambda values: template.build(values, {})
    if isinstance(arg, GraphNode):
        return _foreign(arg, places)
    return _literal(arg)


def _literal(value: Any) -> Part:
    return lambda _: value


def _foreign(node: GraphNode, places: _Places) -> Part:
    """A kind of node that we do not know evaluates itself."""
    found = [(key, places(key)) for key in sorted(node.dependencies, key=str)]
    return lambda values: node({key: values[place] for key, place in found})


def _wrapped(node: GraphNode, slot_of: Callable[[Key], int]) -> Binding:
    places = _Places(slot_of)
    part = _foreign(node, places)
    return Binding(lambda *values: part(values), tuple(places.place), tuple(places.uses))
