"""Running the reference twin beside an operation: ``ZNN_DASK_VALIDATE=1``.

The habit that finds most defects: each operation can be compared with its obvious numpy twin wherever it runs.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from znn_dask.config import validate

P = ParamSpec("P")
R = TypeVar("R")

# Relative to the largest value: sums of many float32 products in another order.
TOLERANCE = 2e-4


class ValidationError(AssertionError):
    """An operation and its reference disagree: a defect of ours."""


def twin(reference: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate an operation with its reference, a function of the same positional arguments."""

    def decorate(operation: Callable[P, R]) -> Callable[P, R]:
        if not validate():
            return operation

        @functools.wraps(operation)
        def both(*args: P.args, **kwargs: P.kwargs) -> R:
            # The operation may overwrite an argument, so the reference goes first.
            expected = reference(*args)
            result = operation(*args, **kwargs)
            _compare(operation.__name__, result, expected)
            return result

        return both

    return decorate


def _compare(name: str, result: Any, expected: Any) -> None:
    if isinstance(expected, tuple | list):
        for part, other in zip(result, expected, strict=True):
            _compare(name, part, other)
        return
    result, expected = np.asarray(result, np.float64), np.asarray(expected, np.float64)
    if result.shape != expected.shape:
        raise ValidationError(f"{name}: shape {result.shape}, its reference has {expected.shape}")
    if np.array_equal(result, expected, equal_nan=True):
        return
    error = float(np.abs(result - expected).max()) / (float(np.abs(expected).max()) or 1.0)
    if not error <= TOLERANCE:
        raise ValidationError(f"{name}: differs from its reference by {error:.3g} of the largest value")
