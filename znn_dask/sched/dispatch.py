"""What it costs that somebody runs the tasks: models of dispatch, for the simulator.

A worker that has ended a task comes to the queue for the next. Part of that, and of the task itself, may need a
lock that one worker holds at a time: today the interpreter's, since the loop and the function around every kernel are
Python. Everything else goes on beside the other workers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from znn_dask.errors import ParameterError, nearest


@dataclass(frozen=True)
class Dispatch:
    """What a task costs besides the work that it is there for.

    Attributes
    ----------
    seconds : float
        Of every task, besides what a trace says that it takes.
    serial : float
        Seconds of every task, of these and of its own, under the lock that all workers share. Of a task that takes less
        in all, the whole.
    saved : float
        Seconds of every task's own, as traced today, that this dispatch does without. Of a task that takes less, all.
    shared : float
        Seconds that every task takes longer as soon as there are several workers, under the lock too: what they all use
        goes from core to core.
    wake : float
        Seconds until a worker that slept asks for a task.
    name : str
        For tables and pictures.

    Raises
    ------
    ParameterError
        If a time is negative or not finite.
    """

    seconds: float = 0.0
    serial: float = 0.0
    saved: float = 0.0
    shared: float = 0.0
    wake: float = 0.0
    name: str = "dispatch"

    def __post_init__(self) -> None:
        for name in ("seconds", "serial", "saved", "shared", "wake"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ParameterError(f"Dispatch: {name} must be a finite number of seconds from 0, got {value!r}")

    def __str__(self) -> str:
        saved = f", {_us(self.saved)} of its own saved" if self.saved else ""
        saved += f", {_us(self.shared)} more with several workers" if self.shared else ""
        return f"{self.name}: {_us(self.seconds)} a task, {_us(self.serial)} of each under one lock{saved}"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


# Today's: between two tasks of an update pass 3 to 6 us, and the Python function around a kernel takes about 20
# (`lower.cost.CALL_S`). All of that holds the interpreter's lock. Beside a second worker the shorter half of the tasks
# of six networks took 2 to 7 us longer: objects and counts that the other core wrote last. What longer ones take more
# is memory's. (`bench/simulated.py --validate` says how far this is from the truth on a machine.)
GIL = Dispatch(seconds=5e-6, serial=20e-6, shared=5e-6, wake=30e-6, name="gil")
# Without that lock the same costs lie beside each other, but for the run's own lock around the queue. An assumption:
# nobody has measured it.
FREE_THREADED = Dispatch(seconds=5e-6, serial=1e-6, shared=5e-6, wake=30e-6, name="free-threaded")
# A loop that is no Python and calls kernels itself: a few cache misses to count down and to fetch arguments, the lock
# of the queue for a hundred nanoseconds, and nothing of the function around the kernel. Threads wake today's way. An
# estimate.
NATIVE = Dispatch(seconds=0.3e-6, serial=0.1e-6, saved=15e-6, shared=0.5e-6, wake=30e-6, name="native")

DISPATCHES = {each.name: each for each in (GIL, FREE_THREADED, NATIVE)}


def dispatches(given: "str | Dispatch | Iterable[str | Dispatch]") -> list[Dispatch]:
    """Return models of dispatch by their names.

    Raises
    ------
    ParameterError
        If there is none of a name; the message lists the valid ones.
    """
    several = [given] if isinstance(given, (str, Dispatch)) else list(given)
    found = []
    for each in several:
        if isinstance(each, Dispatch):
            found.append(each)
        elif isinstance(each, str) and each in DISPATCHES:
            found.append(DISPATCHES[each])
        else:
            hint = nearest(each, list(DISPATCHES)) if isinstance(each, str) else ""
            valid = ", ".join(map(repr, DISPATCHES))
            raise ParameterError(f"dispatch must be {valid}, a Dispatch or several of these, got {each!r}.{hint}")
    names = [each.name for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not found:
        raise ParameterError(
            "dispatch names no model; give one or several"
            if twice is None
            else f"dispatch has two models of the name {twice!r}; give each a name of its own"
        )
    return found
