"""The obvious numpy twins of updates: what torch.optim does, one line after the other.

Promises as in `reference`: arithmetic in float64, results of the parameter's dtype, inputs are never written to.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def sgd(
    parameter: Array,
    velocity: Array,
    gradient: Array,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    scale: float = 1.0,
    most: float = math.inf,
) -> tuple[Array, Array]:
    """Return parameter and velocity after one update of torch's SGD: v = m v + (g + wd w), w = w - lr v."""
    w, v, g = (array.astype(np.float64) for array in (parameter, velocity, gradient))
    g = np.clip(scale * g, -most, most) + weight_decay * w
    v = momentum * v + g
    step = g + momentum * v if nesterov else v
    return (w - learning_rate * step).astype(parameter.dtype), v.astype(velocity.dtype)


def adam(
    parameter: Array,
    moment: Array,
    square: Array,
    gradient: Array,
    learning_rate: float,
    count: int,
    rule: Any,
    scale: float = 1.0,
    most: float = math.inf,
) -> tuple[Array, Array, Array]:
    """Return parameter, moment and square after update number ``count`` of torch's Adam or AdamW (an AdamRule)."""
    w, m, v, g = (array.astype(np.float64) for array in (parameter, moment, square, gradient))
    g = np.clip(scale * g, -most, most)
    if rule.decoupled:
        w = w - learning_rate * rule.decay * w
    else:
        g = g + rule.decay * w
    m = rule.beta1 * m + (1.0 - rule.beta1) * g
    v = rule.beta2 * v + (1.0 - rule.beta2) * g * g
    corrected_m, corrected_v = m / (1.0 - rule.beta1**count), v / (1.0 - rule.beta2**count)
    w = w - learning_rate * corrected_m / (np.sqrt(corrected_v) + rule.epsilon)
    dtype = parameter.dtype
    return w.astype(dtype), m.astype(dtype), v.astype(dtype)
