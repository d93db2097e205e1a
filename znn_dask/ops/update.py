"""Stochastic gradient descent with momentum and weight decay, as torch defines it: ``v = m*v + g + decay*w``,
``w -= rate * v`` (the rate outside the velocity, which matters when it changes)."""

import numpy as np

from znn_dask import _kernels
from znn_dask.ops import normalise, reference
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


@fresh
@twin(reference.sgd)
def sgd(
    parameter: Array, velocity: Array, gradient: Array, rate: float, momentum: float, decay: float
) -> tuple[Array, Array]:
    """Return the new parameter and velocity; all arrays have one shape.

    New arrays, never in place: a step that is interrupted must leave the model as it was.
    """
    new_parameter, new_velocity = empty(parameter.shape), empty(parameter.shape)
    _kernels.sgd(
        _flat(parameter),
        _flat(velocity),
        _flat(gradient),
        rate,
        momentum,
        decay,
        new_parameter.reshape(-1),
        new_velocity.reshape(-1),
    )
    return new_parameter, new_velocity


def average(parameter: Array, velocity: Array, new: Array, share: float) -> tuple[Array, Array]:
    """Return a running average with a share of it replaced by a new value, and the velocity that it does not have."""
    return normalise.average(parameter, new, share), velocity


def _flat(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1)
