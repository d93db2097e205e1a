"""The course of the learning rate over a run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from znn_dask.errors import ParameterError, nearest

Course: TypeAlias = Literal["constant", "step", "exponential", "linear", "cosine"]
COURSES = ("constant", "step", "exponential", "linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """A learning rate by the number of a step, from 0; `Trainer` takes one as ``schedule``.

    Parameters
    ----------
    rate : float
        At the start.
    course : "constant" | "step" | "exponential" | "linear" | "cosine"
        What becomes of it. Linear and cosine reach 0 at ``updates``, and stay there.
    updates : int
        The length of the run, for linear and cosine.
    decay : float
        The factor of step at each of the milestones, of exponential every ``every`` steps.
    milestones : sequence of int
        Of step.
    warmup : int
        Steps during which the rate rises to its course.
    every : int
        Steps between changes: in between the rate is that of the last multiple. Milestones count from the next one.

    Raises
    ------
    ParameterError
        If there is no such course, or a number is none that it can have.
    """

    rate: float
    course: Course = "constant"
    updates: int = 0
    decay: float = 0.1
    milestones: tuple[int, ...] = ()
    warmup: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        if self.course not in COURSES:
            near = nearest(str(self.course), list(COURSES))
            raise ParameterError(f"course must be one of {', '.join(COURSES)}, got {self.course!r}.{near}")
        if not isinstance(self.milestones, Iterable):
            raise ParameterError(f"milestones must be numbers of steps, got {self.milestones!r}")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if self.course in ("linear", "cosine") and self.updates < 1:
            raise ParameterError(f"course {self.course!r} needs updates, the length of the run, got {self.updates!r}")
        if self.course == "step" and not self.milestones:
            raise ParameterError("course 'step' needs milestones, the steps at which the rate changes")
        if self.every < 1 or self.warmup < 0 or not 0 <= self.rate < math.inf or not 0 < self.decay <= 1:
            raise ParameterError(
                f"a schedule needs a finite rate of 0 or more, decay above 0 and at most 1, warmup of 0 or more and "
                f"every of 1 or more; got rate={self.rate!r}, decay={self.decay!r}, warmup={self.warmup!r}, "
                f"every={self.every!r}"
            )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        rounds = step // self.every
        # Steps up to the full rate, which the first updates of a fresh network could not bear.
        rise = min(1.0, (rounds + 1) * self.every / self.warmup) if self.warmup else 1.0
        return rise * self.rate * self._share(rounds)

    def _share(self, rounds: int) -> float:
        step = rounds * self.every
        if self.course == "exponential":
            return float(self.decay**rounds)
        if self.course == "step":
            return float(self.decay ** sum(milestone <= step for milestone in self.milestones))
        part = min(1.0, step / self.updates) if self.updates else 0.0
        if self.course == "linear":
            return 1.0 - part
        return 0.5 * (1.0 + math.cos(math.pi * part)) if self.course == "cosine" else 1.0
