"""What a model holds between steps, and what describes it."""

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from dask.utils import format_bytes

from znn_dask.geometry import Triple
from znn_dask.lower.plan import ConvolutionPlan, Plan, describe
from znn_dask.model.shown import plan_html
from znn_dask.net import Network

Array = npt.NDArray[np.float32]


_versions = itertools.count()


def new_version() -> int:
    """Return a number that no state has had."""
    return next(_versions)


@dataclass(frozen=True)
class State:
    """Everything a step changes; replaced as a whole when a step has succeeded, so that none can be half done.

    Attributes
    ----------
    parameters : dict of block name to float32 array
    slots : dict of name to dict of block name to float32 array
        What the optimiser keeps of the gradients before: the "velocity" of SGD.
    pending : dict of block name to float32 array, or None
        Gradients whose update is still to be made, or sums of too few for one; None where there are none.
    parts : int
        Gradients in those sums.
    pending_rate, pending_norm : float
        The learning rate when they were computed, and the norm of all of them, if the optimiser asks for it.
    step_count : int
        Steps made.
    update_count : int
        Updates made since the slots were zero.
    version : int
        Another for every state that is not the one before with its pending updates made.
    """

    parameters: dict[Hashable, Array]
    slots: dict[str, dict[Hashable, Array]]
    pending: dict[Hashable, Array] | None = None
    parts: int = 0
    pending_rate: float = 0.0
    pending_norm: float = 0.0
    step_count: int = 0
    update_count: int = 0
    version: int = field(default_factory=new_version)

    def of_block(self, slots: Iterable[str], name: Hashable) -> list[Array]:
        """Return the arrays of some slots for a block."""
        return [self.slots[slot][name] for slot in slots]

    def check(self) -> None:
        """Raise AssertionError if the parts do not belong together."""
        assert self.pending is None or self.pending.keys() == self.parameters.keys()
        for slot in self.slots.values():
            assert slot.keys() <= self.parameters.keys()
            assert all(values.shape == self.parameters[name].shape for name, values in slot.items())


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
        What of that lives between steps: parameters, velocities (or what else the optimiser keeps) and the gradients of
        pending updates.
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
