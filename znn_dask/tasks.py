"""The vocabulary shared by the graphs we lower and the scheduler that runs them.

A task of ours is an ordinary Dask task, so that any Dask scheduler may run it. What this module adds are
hints that our scheduler understands and others ignore: a function makes new arrays (`fresh`), a function can
work in the memory of one argument (`overwrites`), a task is a sum (`Reduce`). The promise: with or without
the hints the results are bitwise the same.
"""

import inspect
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from dask.task_spec import GraphNode, Task, TaskRef

from znn_dask.errors import ParameterError

Function = TypeVar("Function", bound=Callable[..., Any])


def fresh(func: Function) -> Function:
    """Mark a function as returning newly made arrays only.

    Its result (or each part of the tuple it returns) is never an input, a view of one, kept elsewhere, or
    shares memory with another part. Our scheduler may then let the only reader of that result write into it.

    Raises
    ------
    ParameterError
        If the callable cannot carry the mark, as built-in functions and ufuncs.
    """
    return _mark(func, "__znn_fresh__", True)


def overwrites(position: int) -> Callable[[Function], Function]:
    """Mark a function as able to write its result into one positional argument.

    The function takes a keyword ``out=None``. Our scheduler passes ``out=<that argument>`` when nobody else
    will read it; the function may use or ignore it, and gives the same values either way.

    Parameters
    ----------
    position : int
        Which positional argument, from 0.

    Raises
    ------
    ParameterError
        If the position is no such number, or the function takes no keyword ``out``.
    """
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:
        raise ParameterError(f"overwrites needs the position of an argument, from 0, got {position!r}")

    def mark(func: Function) -> Function:
        accepted = inspect.signature(func).parameters.values()
        if not any(p.name == "out" or p.kind is p.VAR_KEYWORD for p in accepted):
            raise ParameterError(f"overwrites: {func!r} must take a keyword out=None")
        return _mark(func, "__znn_overwrites__", position)

    return mark


def deferred(func: Function) -> Function:
    """Mark a function whose tasks may wait until they are needed, as the updates of parameters.

    Our scheduler runs such a task at its own priority if a worker gets there first, and else at that of a reader which
    has everything else that it needs: a forced update (Zlateski, Lee, Seung 2015, arXiv 1510.06706).

    Raises
    ------
    ParameterError
        If the callable cannot carry the mark, as built-in functions and ufuncs.
    """
    return _mark(func, "__znn_deferred__", True)


def _mark(func: Function, name: str, value: object) -> Function:
    try:
        setattr(func, name, value)
    except (AttributeError, TypeError):
        raise ParameterError(f"{func!r} cannot carry the mark {name}; wrap it in a function") from None
    return func


class Need(NamedTuple):
    """What a task needs, for those who plan.

    Attributes
    ----------
    n_bytes : int
        Of the new arrays it returns, all parts together; of a sum, of one of its terms.
    parts : mapping of index to bytes
        Of a result of several.
    extra : int
        Bytes of arrays that it holds only while it runs.
    seconds : float
        Roughly what it takes, which matters only beside other tasks.
    """

    n_bytes: int = 0
    parts: Mapping[int, int] = {}
    extra: int = 0
    seconds: float = 0.0


@lru_cache(maxsize=4096)
def tree_pairs(n_terms: int) -> tuple[tuple[int, int], ...]:
    """Return the additions of the fixed balanced tree, in an order in which they can be done.

    Terms have the numbers 0 to n - 1, the i-th addition makes number n + i, the last one is the sum.
    Neighbours are paired level by level; an odd one at the end goes up as it is::

        0   1   2   3   4
         \\ /     \\ /    |
          5       6     |
           \\     /      |
             -7-        |
               \\       /
                 - 8 -
    """
    level = list(range(n_terms))
    pairs: list[tuple[int, int]] = []
    while len(level) > 1:
        above = []
        for left, right in zip(level[::2], level[1::2], strict=False):
            above.append(n_terms + len(pairs))
            pairs.append((left, right))
        level = above + level[len(level) - len(level) % 2 :]
    return tuple(pairs)


def tree_sum(*terms: Any) -> Any:
    """Add the terms in the order of `tree_pairs`, so that the rounding is always the same.

    Parameters
    ----------
    *terms : arrays of one shape, or anything with ``+``
        At least one. A single term is returned as it is.

    Raises
    ------
    ParameterError
        If there is no term.
    """
    if not terms:
        raise ParameterError("tree_sum needs at least one term")
    values = list(terms)
    for left, right in tree_pairs(len(terms)):
        values.append(values[left] + values[right])
        values[left] = values[right] = None
    return values[-1]


class Reduce(Task):  # type: ignore[misc]  # dask ships no types
    """A task that sums other tasks' results in a fixed tree.

    To a foreign scheduler this is a task that calls `tree_sum`. Ours adds the contributions as they arrive:
    the later of two siblings adds, in place where it may, and moves up; bitwise the same sum.

    Parameters
    ----------
    key : hashable
        The key of the sum.
    *refs : TaskRef, Alias or key
        What to add, at least one.
    """

    __slots__ = ()

    def __init__(self, key: Hashable, /, *refs: Any) -> None:
        if not refs:
            raise ParameterError(f"Reduce {key!r} needs at least one contribution")
        super().__init__(key, tree_sum, *(_as_ref(key, ref) for ref in refs))

    def copy(self) -> "Reduce":
        """Return a task that is equal to this one."""
        return type(self)(self.key, *self.args)

    def substitute(self, subs: dict[Any, Any], key: Any = None) -> "Reduce":
        """Return this sum with other keys or nodes in the place of some; still a Reduce."""
        if not (self.dependencies & subs.keys()) and key in (None, self.key):
            return self
        return type(self)(self.key if key is None else key, *(arg.substitute(subs) for arg in self.args))


class ArrivalReduce(Reduce):
    """A sum whose terms our scheduler adds in the order in which they arrive, as ZNN does.

    Fewer terms are alive at once than in a tree, but floating-point sums differ in the last bits from run to run.
    A foreign scheduler calls `tree_sum`.
    """

    __slots__ = ()


def _as_ref(key: Hashable, ref: Any) -> Any:
    if isinstance(ref, (TaskRef, GraphNode)):
        return ref
    if isinstance(ref, (str, bytes, int, float, tuple)):
        return TaskRef(ref)
    raise ParameterError(f"Reduce {key!r} adds tasks: give keys or TaskRefs, got {type(ref).__name__}")
