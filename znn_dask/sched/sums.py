"""The sums of a `Reduce`: one addition of a tree, and ZNN's almost wait-free sum in order of arrival.

Additions are in place where an operand is owned. Which may be overwritten is known when the graph is compiled; whether
it fits (same type, same shape, writable) is seen when the arrays are there. In place or not, the result of an addition
is bitwise the same.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np


def addition(left_owned: bool, right_owned: bool) -> Callable[[Any, Any], Any]:
    """Return a function that adds two values and may write into those that are owned."""
    if left_owned:
        return _into_either if right_owned else _into_left
    return _into_right if right_owned else _plain


_EMPTY = object()


class ArrivalSum:
    """The almost wait-free sum of one run (Zlateski, Lee, Seung 2015, arXiv 1510.06706).

    Whoever brings a term puts it into the slot if that is empty; else it takes out what is there, adds the two while
    others may use the slot, and tries again. The lock is held to move a reference, never for an addition, so nobody
    waits for one.

    Parameters
    ----------
    n_terms : int
        How many terms make the sum.
    """

    __slots__ = ("_lock", "_n_missing", "_owned", "_slot")

    def __init__(self, n_terms: int) -> None:
        self._lock = threading.Lock()
        self._n_missing = n_terms
        self._slot: Any = _EMPTY
        self._owned = False  # whether the array in the slot may be overwritten

    def add(self, term: Any, owned: bool = False) -> bool:
        """Add a term, which may be overwritten if it is owned; return whether it was the last, exactly one is."""
        while True:
            with self._lock:
                other, self._slot = self._slot, _EMPTY
                if other is _EMPTY:
                    self._slot, self._owned = term, owned
                    self._n_missing -= 1
                    return not self._n_missing
                other_owned = self._owned
            term, owned, other = addition(other_owned, owned)(other, term), True, None

    def take(self) -> Any:
        """Return the sum, once all terms have been added."""
        total, self._slot = self._slot, _EMPTY
        return total


def arrive(total: ArrivalSum, term: Any) -> None:
    """Add a term that others may read too."""
    total.add(term)


def arrive_owned(total: ArrivalSum, term: Any) -> None:
    """Add a term that may be overwritten."""
    total.add(term, True)


def arrival(owned: bool) -> Callable[[ArrivalSum, Any], None]:
    """Return what adds a term to a sum, and may write into it if it is owned."""
    return arrive_owned if owned else arrive


def finish(total: ArrivalSum, *arrived: None) -> Any:
    """Return the sum, once all terms have arrived."""
    return total.take()


def _plain(left: Any, right: Any) -> Any:
    return left + right


def _into_left(left: Any, right: Any) -> Any:
    return np.add(left, right, out=left) if _fits(left, left, right) else left + right


def _into_right(left: Any, right: Any) -> Any:
    return np.add(left, right, out=right) if _fits(right, left, right) else left + right


def _into_either(left: Any, right: Any) -> Any:
    return _into_left(left, right) if _fits(left, left, right) else _into_right(left, right)


def _fits(out: Any, left: Any, right: Any) -> bool:
    # Exactly ndarray: subclasses may give `+` another meaning. Arrays without axes add up to scalars.
    return (
        type(left) is np.ndarray
        and type(right) is np.ndarray
        and left.dtype == right.dtype
        and left.shape == right.shape
        and left.ndim > 0
        and bool(out.flags.writeable)
    )
