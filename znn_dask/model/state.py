"""What a model holds between steps, and what describes it."""

import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from numbers import Real

import msgspec
import numpy as np
import numpy.typing as npt
from dask.utils import format_bytes

from znn_dask.errors import ParameterError
from znn_dask.geometry import Triple
from znn_dask.lower.plan import ConvolutionPlan, Plan, describe
from znn_dask.model.shown import plan_html
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
        for name in ("learning_rate", "momentum", "weight_decay"):
            # Numbers of numpy would pass here and fail when the model is saved.
            msgspec.structs.force_setattr(self, name, as_rate(name, getattr(self, name)))
        if self.momentum >= 1:
            raise ParameterError(f"momentum must be below 1, got {self.momentum!r}")


def as_optimizer(given: SGD | None) -> SGD:
    """Return an optimiser, the default for None; raises a ParameterError for anything else."""
    if given is not None and not isinstance(given, SGD):
        raise ParameterError(f"optimizer must be an SGD, got {given!r}; for instance SGD(learning_rate=0.01)")
    return given or SGD()


def as_rate(name: str, value: object) -> float:
    """Return a number as a float.

    Raises
    ------
    ParameterError
        Unless it is a finite number of 0 or more.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise ParameterError(f"{name} must be a finite number of 0 or more, got {value!r}")
    return float(value)


_versions = itertools.count()


def new_version() -> int:
    """Return a number that no state has had."""
    return next(_versions)


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
    version : int
        Another for every state that is not the one before with its pending updates made.
    """

    parameters: dict[Hashable, Array]
    velocities: dict[Hashable, Array]
    pending: dict[Hashable, Array] | None = None
    pending_rate: float = 0.0
    step_count: int = 0
    version: int = field(default_factory=new_version)

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
        Prediction of the memory that a step takes at most: all arrays of the model, not the sample.
    kept_bytes : int
        What of that lives between steps: parameters, velocities and the gradients of pending updates.
    num_workers : int
        For which it is predicted.
    """

    net: Network
    plan: Plan
    peak_bytes: int
    kept_bytes: int
    num_workers: int

    @property
    def convolutions(self) -> dict[str, ConvolutionPlan]:
        """Algorithm and tile of every convolution."""
        return self.plan.convolutions

    @property
    def output_size(self) -> dict[str, Triple]:
        """Size of every output."""
        return self.plan.output_size

    def __str__(self) -> str:
        workers = f"{self.num_workers} worker{'s' * (self.num_workers > 1)}"
        memory = (
            f"peak memory of a step with {workers} about {format_bytes(self.peak_bytes)}, "
            f"of which {format_bytes(self.kept_bytes)} parameters, velocities and pending gradients"
        )
        return describe(self.net, self.plan, memory)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        sizes = ", ".join("x".join(map(str, size)) for size in self.output_size.values())
        return plan_html(f"Plan for an output of {sizes}, {format_bytes(self.peak_bytes)} at the peak", str(self))
