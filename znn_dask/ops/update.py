"""What is done with a gradient, as torch defines it: SGD, Adam, and running averages, which are no gradients at all.

A *rule* says what one parameter's update is; it is a value, so that it can be part of a task. Its *slots* are the
arrays that the rule keeps of the gradients before, one of the parameter's shape for each. New arrays, never in place:
a step that is interrupted must leave the model as it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from znn_dask import _kernels
from znn_dask.ops import normalise, reference_update
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


@dataclass(frozen=True)
class Clipping:
    """How a sum of gradients is made the gradient that counts.

    Attributes
    ----------
    parts : int
        Gradients in the sum, of which the mean counts.
    norm, value : float or None
        Most that the norm of all gradients together may be, and the size of one value.
    """

    parts: int = 1
    norm: float | None = None
    value: float | None = None

    def scale(self, norm: float | None) -> float:
        """Return the factor for a sum of gradients of this norm, as torch's clip_grad_norm_."""
        if self.norm is None or norm is None:
            return 1.0 / self.parts
        return min(1.0, self.norm / (norm / self.parts + 1e-6)) / self.parts

    @property
    def most(self) -> float:
        """The largest value there may be."""
        return math.inf if self.value is None else self.value


@dataclass(frozen=True)
class SgdRule:
    """Stochastic gradient descent; ``factor`` multiplies the learning rate."""

    momentum: float = 0.0
    decay: float = 0.0
    nesterov: bool = False
    factor: float = 1.0
    clipping: Clipping = Clipping()
    slots: ClassVar[tuple[str, ...]] = ("velocity",)
    counts: ClassVar[bool] = False


@dataclass(frozen=True)
class AdamRule:
    """Adam; with ``decoupled`` weight decay AdamW."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.0
    decoupled: bool = False
    factor: float = 1.0
    clipping: Clipping = Clipping()
    slots: ClassVar[tuple[str, ...]] = ("moment", "square")
    counts: ClassVar[bool] = True


@dataclass(frozen=True)
class AverageRule:
    """A running average: the "gradient" is the newest value, of which a share is taken; no rate, decay or clipping."""

    share: float = 0.1
    slots: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[bool] = False


PLAIN = SgdRule()
"""Gradient descent, with a velocity that is the gradient."""

Rule: TypeAlias = SgdRule | AdamRule | AverageRule
SLOTS = (*SgdRule.slots, *AdamRule.slots)
"""The names of all slots that there are."""


@fresh
def apply(
    rule: Rule,
    parameter: Array,
    gradient: Array,
    rate: float,
    norm: float | None,
    count: int,
    *slots: Array,
) -> tuple[Array, ...]:
    """Return the new parameter, then its new slots.

    Parameters
    ----------
    rule : Rule
    parameter, gradient : float32 arrays of one shape
    rate : float
        The learning rate.
    norm : float or None
        Of the sums of all gradients together, if the rule clips by it.
    count : int
        Number of this update, from 1, if the rule counts.
    *slots : arrays of the same shape
    """
    if isinstance(rule, AverageRule):
        return (normalise.average(parameter, gradient, rule.share),)
    scale, most, rate = rule.clipping.scale(norm), rule.clipping.most, rule.factor * rate
    if isinstance(rule, SgdRule):
        return sgd(parameter, slots[0], gradient, rate, rule.momentum, rule.decay, rule.nesterov, scale, most)
    return adam(parameter, slots[0], slots[1], gradient, rate, count, rule, scale, most)


@fresh
@twin(reference_update.sgd)
def sgd(
    parameter: Array,
    velocity: Array,
    gradient: Array,
    rate: float,
    momentum: float,
    decay: float,
    nesterov: bool = False,
    scale: float = 1.0,
    most: float = math.inf,
) -> tuple[Array, Array]:
    """Return the new parameter and velocity; all arrays have one shape.

    ``v = m*v + g + decay*w``, ``w -= rate * v``: the rate is outside the velocity, which matters when it changes. The
    gradient is multiplied by ``scale`` and kept within ``most`` first.
    """
    new = empty(parameter.shape), empty(parameter.shape)
    old = _flat(parameter), _flat(velocity), _flat(gradient)
    _kernels.sgd(*old, rate, momentum, decay, nesterov, scale, most, *(array.reshape(-1) for array in new))
    return new


@fresh
@twin(reference_update.adam)
def adam(
    parameter: Array,
    moment: Array,
    square: Array,
    gradient: Array,
    rate: float,
    count: int,
    rule: AdamRule,
    scale: float = 1.0,
    most: float = math.inf,
) -> tuple[Array, Array, Array]:
    """Return the new parameter, mean of gradients and mean of their squares; ``count`` is 1 for the first update."""
    step = rate / (1.0 - rule.beta1**count)
    root = math.sqrt(1.0 - rule.beta2**count)
    shrink, decay = (1.0 - rate * rule.decay, 0.0) if rule.decoupled else (1.0, rule.decay)
    new = empty(parameter.shape), empty(parameter.shape), empty(parameter.shape)
    old = _flat(parameter), _flat(moment), _flat(square), _flat(gradient)
    numbers = step, shrink, root, rule.epsilon, rule.beta1, rule.beta2, decay, scale, most
    _kernels.adam(*old, *numbers, *(array.reshape(-1) for array in new))
    return new


def square_sum(gradient: Array) -> float:
    """Return the sum of squares, in double precision."""
    return float(_kernels.square_sum(_flat(gradient)))


def norm_of(square_sums: Sequence[float]) -> float:
    """Return the norm of several arrays together."""
    return math.sqrt(math.fsum(square_sums)) if all(map(math.isfinite, square_sums)) else math.nan


def _flat(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1)
