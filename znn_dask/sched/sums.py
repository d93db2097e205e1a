"""One addition of a `Reduce`, in place where an operand is owned.

Which operand may be overwritten is known when the graph is compiled; whether it fits (same type, same shape,
writable) is seen when the arrays are there. In place or not, the sum is bitwise the same.
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def addition(left_owned: bool, right_owned: bool) -> Callable[[Any, Any], Any]:
    """Return a function that adds two values and may write into those that are owned."""
    if left_owned:
        return _into_either if right_owned else _into_left
    return _into_right if right_owned else _plain


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
