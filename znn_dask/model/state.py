"""What a model holds between steps, and what describes it."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError
from znn_dask.geometry import Triple
from znn_dask.lower.plan import ConvolutionPlan, Plan, describe
from znn_dask.net import Network

Array = npt.NDArray[np.float32]


class SGD(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stochastic gradient descent as torch's: ``v = momentum*v + g + weight_decay*w; w -= learning_rate*v``.

    Raises
    ------
    ParameterError
        If a value is negative or not finite, or the momentum is not below 1.
    """

    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_rate(self.learning_rate)
        if not 0 <= self.momentum < 1:
            raise ParameterError(f"momentum must be at least 0 and below 1, got {self.momentum!r}")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ParameterError(f"weight_decay must be 0 or more, got {self.weight_decay!r}")


def check_rate(rate: float) -> None:
    """Raise a ParameterError unless the learning rate is a finite number of 0 or more."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (rate >= 0 and math.isfinite(rate)):
        raise ParameterError(f"learning_rate must be a finite number of 0 or more, got {rate!r}")


@dataclass(frozen=True)
class State:
    """Everything a step changes; replaced as a whole when a step has succeeded, so that none can be half done.

    Attributes
    ----------
    parameters, velocities : dict of block name to float32 array
    pending : dict of block name to float32 array, or None
        Gradients whose update is still to be made; None where there are none.
    pending_rate : float
        The learning rate when they were computed.
    step_count : int
        Steps made.
    """

    parameters: dict[Hashable, Array]
    velocities: dict[Hashable, Array]
    pending: dict[Hashable, Array] | None = None
    pending_rate: float = 0.0
    step_count: int = 0

    def check(self) -> None:
        """Raise AssertionError if the parts do not belong together."""
        assert self.parameters.keys() == self.velocities.keys()
        assert self.pending is None or self.pending.keys() == self.parameters.keys()
        for name, values in self.parameters.items():
            assert values.shape == self.velocities[name].shape


@dataclass(frozen=True)
class PlanReport:
    """What was chosen for a model; prints as a table.

    Attributes
    ----------
    plan : Plan
        Every choice.
    peak_bytes : int
        Estimate of the memory that the values of a step take at most.
    """

    net: Network
    plan: Plan
    peak_bytes: int

    @property
    def convolutions(self) -> dict[str, ConvolutionPlan]:
        """Algorithm and tile of every convolution."""
        return self.plan.convolutions

    @property
    def output_size(self) -> dict[str, Triple]:
        """Size of every output."""
        return self.plan.output_size

    def __str__(self) -> str:
        return describe(self.net, self.plan, self.peak_bytes)

    __repr__ = __str__
