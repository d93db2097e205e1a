"""How parameters change: SGD, Adam and AdamW as torch defines them, and what may be done with gradients before.

These are values that users make; what one parameter's update computes is a rule of `ops.update`.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, TypeAlias

import msgspec

from znn_dask.errors import CheckpointError, ParameterError, nearest
from znn_dask.net import Network
from znn_dask.ops.update import AdamRule, Clipping, SgdRule


class _Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all optimisers share.

    Attributes
    ----------
    clip_norm : float, optional
        Most that the norm of all gradients together may be; longer ones are scaled down, as by torch's
        clip_grad_norm_.
    clip_value : float, optional
        Most that one value of a gradient may be.
    accumulate : int
        Steps to one update, which follows the mean of their gradients.
    rates : mapping of str to float
        Factors on the learning rate, by a pattern of edges or parameters (``"conv1"``, ``"conv*"``, ``"*/bias"``). The
        first pattern that fits a parameter counts; 0 keeps it as it is.
    """

    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    rates: dict[str, float] = msgspec.field(default_factory=dict)

    def _set(self, name: str, value: object) -> None:
        msgspec.structs.force_setattr(self, name, value)

    def _check(self, *rates: str) -> None:
        for name in rates:
            # Numbers of numpy would pass here and fail when the model is saved.
            self._set(name, as_rate(name, getattr(self, name)))
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                self._set(name, as_rate(name, getattr(self, name)))
                if getattr(self, name) == 0:
                    raise ParameterError(f"{name} must be above 0, or None for no clipping, got 0")
        if self.clip_norm is not None and self.clip_value is not None:
            raise ParameterError(
                f"gradients are clipped by norm or by value, not both: got clip_norm={self.clip_norm:g} and "
                f"clip_value={self.clip_value:g}; leave one out"
            )
        count = self.accumulate
        if isinstance(count, bool) or not hasattr(count, "__index__") or int(count) < 1:
            raise ParameterError(f"accumulate must be a whole number of 1 or more, got {count!r}")
        self._set("accumulate", int(count))
        if not isinstance(self.rates, Mapping) or not all(isinstance(pattern, str) for pattern in self.rates):
            raise ParameterError(f"rates must be a mapping from patterns of edges to factors, got {self.rates!r}")
        self._set("rates", {p: as_rate(f"the factor of rates[{p!r}]", f) for p, f in self.rates.items()})

    def _below_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) >= 1:
                raise ParameterError(f"{name} must be below 1, got {getattr(self, name)!r}")

    @property
    def clipping(self) -> Clipping:
        """What is done with gradients first."""
        return Clipping(self.accumulate, self.clip_norm, self.clip_value)


class SGD(_Optimizer, frozen=True, forbid_unknown_fields=True):
    """Stochastic gradient descent as torch's: ``v = momentum*v + g + weight_decay*w; w -= learning_rate*v``.

    Parameters
    ----------
    learning_rate, momentum, weight_decay : float
    nesterov : bool
        ``w -= learning_rate * (g + weight_decay*w + momentum*v)`` instead.
    clip_norm, clip_value, accumulate, rates : optional
        By name. Most that the norm of all gradients or any value may be; steps to one update; factors on the learning
        rate by pattern, such as ``{"conv1": 0.1, "*/bias": 2}``.

    Raises
    ------
    ParameterError
        If a value is negative or not finite, or the momentum is not below 1.
    """

    learning_rate: float = msgspec.field(default=0.01)
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        self._check("learning_rate", "momentum", "weight_decay")
        self._below_one("momentum")
        if self.nesterov and self.momentum == 0:
            raise ParameterError("nesterov needs a momentum above 0, got 0")

    @property
    def rule(self) -> SgdRule:
        """What a step does with gradients."""
        return SgdRule(self.momentum, self.weight_decay, bool(self.nesterov), clipping=self.clipping)


class Adam(_Optimizer, frozen=True, forbid_unknown_fields=True):
    """Adam as torch's (Kingma and Ba 2015): weight decay is added to the gradient.

    Parameters
    ----------
    learning_rate, weight_decay : float
    betas : (float, float)
        Of the running means of gradients and of their squares.
    epsilon : float
        Added to the root of the latter.
    clip_norm, clip_value, accumulate, rates : optional
        By name, as for `SGD`.

    Raises
    ------
    ParameterError
        If a value is negative or not finite, or a beta is not below 1.
    """

    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_adam(self)

    @property
    def rule(self) -> AdamRule:
        """What a step does with gradients."""
        return AdamRule(*self.betas, self.epsilon, self.weight_decay, False, clipping=self.clipping)


class AdamW(_Optimizer, frozen=True, forbid_unknown_fields=True):
    """AdamW as torch's (Loshchilov and Hutter 2019): weights shrink by ``learning_rate * weight_decay`` beside Adam.

    Parameters
    ----------
    learning_rate, betas, epsilon
        As for `Adam`.
    weight_decay : float
    clip_norm, clip_value, accumulate, rates : optional
        By name, as for `SGD`.

    Raises
    ------
    ParameterError
        If a value is negative or not finite, or a beta is not below 1.
    """

    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check_adam(self)

    @property
    def rule(self) -> AdamRule:
        """What a step does with gradients."""
        return AdamRule(*self.betas, self.epsilon, self.weight_decay, True, clipping=self.clipping)


Optimizer: TypeAlias = SGD | Adam | AdamW
OPTIMIZERS: dict[str, type[Optimizer]] = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}


def _check_adam(optimizer: Adam | AdamW) -> None:
    given = optimizer.betas
    if isinstance(given, str) or not hasattr(given, "__iter__") or len(tuple(given)) != 2:
        raise ParameterError(f"betas must be two numbers, got {given!r}")
    first, second = (as_rate("each of betas", beta) for beta in given)
    if max(first, second) >= 1:
        raise ParameterError(f"betas must be below 1, got {given!r}")
    optimizer._set("betas", (first, second))
    optimizer._check("learning_rate", "epsilon", "weight_decay")


def as_optimizer(given: Optimizer | None) -> Optimizer:
    """Return an optimiser, the default for None; raises a ParameterError for anything else."""
    if given is not None and not isinstance(given, SGD | Adam | AdamW):
        raise ParameterError(
            f"optimizer must be an SGD, Adam or AdamW, got {given!r}; for instance SGD(learning_rate=0.01)"
        )
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


def rate_factors(optimizer: Optimizer, net: Network) -> tuple[tuple[str, float], ...]:
    """Return the parameters whose learning rate has a factor, each with it.

    Raises
    ------
    ParameterError
        If a pattern fits nothing that the network learns.
    """
    found: dict[str, float] = {}
    learned = [name for name, parameter in net.parameters.items() if parameter.learned]
    for pattern, factor in optimizer.rates.items():
        names = [name for name in learned if _fits(pattern, name)]
        if not names:
            edges = list(dict.fromkeys(name.rpartition("/")[0] for name in learned))
            raise ParameterError(
                f"rates: {pattern!r} fits no edge or parameter.{nearest(pattern, [*edges, *learned])} "
                f"Edges that learn are {', '.join(edges)}"
            )
        for name in names:
            found.setdefault(name, factor)
    return tuple(found.items())


def _fits(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[0], pattern)


def to_plain(optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimiser as plain values that `from_plain` reads."""
    values: dict[str, Any] = msgspec.to_builtins(optimizer)
    return {"kind": type(optimizer).__name__} | values


def from_plain(values: Mapping[str, Any]) -> Optimizer:
    """Return the optimiser of plain values; without a kind, as older files have it, it is SGD.

    Raises
    ------
    CheckpointError
        If there can be no such optimiser.
    """
    kind = values.get("kind", "SGD")
    rest = {name: value for name, value in values.items() if name != "kind"}
    try:
        return msgspec.convert(rest, OPTIMIZERS[kind])
    except (KeyError, msgspec.ValidationError, ParameterError) as error:
        raise CheckpointError(f"its optimiser {kind!r} cannot be read: {error}") from error
