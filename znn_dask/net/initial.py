"""How parameters start, and arguments by name with their defaults."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from znn_dask.errors import ParameterError, nearest

# Default arguments; None: the argument must be given.
INITS: Mapping[str, tuple[float | None, ...]] = {
    "he": (),
    "zero": (),
    "constant": (None,),
    "uniform": (-0.1, 0.1),
    "gaussian": (0.0, 0.01),
    "bernoulli": (0.5,),
    "xavier": (),
    "msra": (),
}


def arguments(
    what: str, name: str, args: tuple[float, ...], table: Mapping[str, tuple[float | None, ...]]
) -> tuple[float, ...]:
    if name not in table:
        known = list(table)
        raise ParameterError(f"unknown {what} {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}")
    defaults = table[name]
    if not args and None not in defaults:
        return tuple(value for value in defaults if value is not None)
    if len(args) != len(defaults):
        raise ParameterError(f"{what} {name!r} takes {len(defaults)} arguments, got {len(args)}: {args}")
    return tuple(number(value, f"an argument of {what} {name!r}") for value in args)


def number(value: float, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ParameterError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ParameterError(f"{name} must be finite, got {number}")
    return number


@dataclass(frozen=True)
class Init:
    """How a parameter starts. Pure data: whoever owns the arrays draws the numbers.

    Attributes
    ----------
    kind : str
        ``"he"`` and ``"msra"`` (gaussian of mean 0 and std sqrt(2 / fan_in)), ``"xavier"`` (uniform within
        +-sqrt(6 / (fan_in + fan_out))), ``"zero"``, ``"constant"`` (c), ``"uniform"`` (lo, hi),
        ``"gaussian"`` (mean, std) or ``"bernoulli"`` (probability of 1, else 0).
    args : tuple of float
        Uniform also takes one argument r for (-r, r). Left out: -0.1, 0.1; 0, 0.01; 0.5.

    Raises
    ------
    ParameterError
        If the kind is unknown, or the arguments are too many, too few or out of range.
    """

    kind: str = "he"
    args: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        args = tuple(self.args)
        if self.kind == "uniform" and len(args) == 1:
            args = (-args[0], args[0])
        args = arguments("initialiser", self.kind, args, INITS)
        if self.kind == "uniform" and args[0] > args[1]:
            raise ParameterError(f"initialiser 'uniform' needs lo <= hi, got {args[0]:g}, {args[1]:g}")
        if self.kind == "gaussian" and args[1] < 0:
            raise ParameterError(f"initialiser 'gaussian' needs a standard deviation of 0 or more, got {args[1]:g}")
        if self.kind == "bernoulli" and not 0 <= args[0] <= 1:
            raise ParameterError(f"initialiser 'bernoulli' needs a probability in [0, 1], got {args[0]:g}")
        object.__setattr__(self, "args", args)


HE = Init("he")
ZERO = Init("zero")
