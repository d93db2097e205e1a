"""The five operations an edge can be, and how parameters start: frozen values, checked when they are made.

They say what is computed, never how: `znn_dask.ops` computes. Every value compares, hashes and pickles; lists
and ints are turned into tuples, names of ZNN's own files (``rectify_linear``) into ours (``relu``), and
missing arguments into their defaults, so that equal meaning is equal value.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from znn_dask.errors import ParameterError, nearest
from znn_dask.geometry import Triple, as_triple, volume

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

FUNCTIONS: Mapping[str, tuple[float | None, ...]] = {
    "linear": (1.0, 0.0),
    "relu": (),
    "tanh": (1.0, 1.0),
    "logistic": (),
    "softsign": (),
    "elu": (1.0,),
    "leaky_relu": (0.01,),
    "forward_logistic": (),
}

ALIASES: Mapping[str, str] = {
    "rectify_linear": "relu",
    "logistics": "logistic",
    "soft_sign": "softsign",
    "forward_logistics": "forward_logistic",
}


def _arguments(
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
    return tuple(_number(value, f"an argument of {what} {name!r}") for value in args)


def _number(value: float, name: str) -> float:
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
        args = _arguments("initialiser", self.kind, args, INITS)
        if self.kind == "uniform" and args[0] > args[1]:
            raise ParameterError(f"initialiser 'uniform' needs lo <= hi, got {args[0]:g}, {args[1]:g}")
        if self.kind == "gaussian" and args[1] < 0:
            raise ParameterError(f"initialiser 'gaussian' needs a standard deviation of 0 or more, got {args[1]:g}")
        if self.kind == "bernoulli" and not 0 <= args[0] <= 1:
            raise ParameterError(f"initialiser 'bernoulli' needs a probability in [0, 1], got {args[0]:g}")
        object.__setattr__(self, "args", args)


HE = Init("he")
ZERO = Init("zero")


@dataclass(frozen=True)
class Convolution:
    """Valid cross-correlation from every map of the source to every map of the target.

    Attributes
    ----------
    kernel : (z, y, x) voxels
    init : Init
        Of the weights.
    """

    kind: ClassVar[str] = "convolution"
    kernel: Triple
    init: Init = HE

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", as_triple(self.kernel, name="kernel"))


@dataclass(frozen=True)
class Transfer:
    """Add a bias to every map, then apply a function to every voxel.

    Attributes
    ----------
    function : str
        ``"linear"`` (a*x + b), ``"relu"``, ``"tanh"`` (a*tanh(b*x)), ``"logistic"``, ``"softsign"``,
        ``"elu"`` (alpha), ``"leaky_relu"`` (slope), or ``"forward_logistic"``: logistic, whose gradient
        passes unchanged. Every one can be differentiated from its output alone, which the arguments must
        allow.
    args : tuple of float
        Left out: linear 1, 0; tanh 1, 1; elu 1; leaky_relu 0.01.
    bias : bool
        False leaves the bias out.
    init : Init
        Of the bias.

    Raises
    ------
    ParameterError
        If the function is unknown, or the arguments are too many, too few or out of range.
    """

    kind: ClassVar[str] = "transfer"
    function: str = "relu"
    args: tuple[float, ...] = ()
    bias: bool = True
    init: Init = ZERO

    def __post_init__(self) -> None:
        function = ALIASES.get(self.function, self.function)
        args = _arguments("transfer function", function, tuple(self.args), FUNCTIONS)
        if function == "tanh" and args[0] == 0:
            raise ParameterError("transfer function 'tanh' is a*tanh(b*x) and needs an a other than 0")
        if function in ("elu", "leaky_relu") and args[0] < 0:
            raise ParameterError(f"transfer function {function!r} needs an argument of 0 or more, got {args[0]:g}")
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "bias", bool(self.bias))
        if not self.bias:
            object.__setattr__(self, "init", ZERO)


@dataclass(frozen=True)
class MaxFilter:
    """Maximum over a sliding window; the output stays dense and everything after it is dilated.

    Attributes
    ----------
    window : (z, y, x) voxels, at the sparsity of the source
    stride : (z, y, x)
        The factor on the sparsity of everything downstream; not a step.
    """

    kind: ClassVar[str] = "max_filter"
    window: Triple
    stride: Triple

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", as_triple(self.window, name="window"))
        object.__setattr__(self, "stride", as_triple(self.stride, name="stride"))


@dataclass(frozen=True)
class MaxPool:
    """Maximum over windows side by side: the image shrinks by the window, the sparsity stays.

    Attributes
    ----------
    window : (z, y, x) voxels
    """

    kind: ClassVar[str] = "max_pool"
    window: Triple

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", as_triple(self.window, name="window"))


@dataclass(frozen=True)
class Dropout:
    """Set voxels to zero at random while training, and scale the others by 1 / (1 - rate).

    Attributes
    ----------
    rate : float
        Probability of dropping, at least 0 and below 1, as in torch. (ZNN's files hold the probability of
        keeping.)
    """

    kind: ClassVar[str] = "dropout"
    rate: float = 0.5

    def __post_init__(self) -> None:
        rate = _number(self.rate, "dropout rate")
        if not 0 <= rate < 1:
            raise ParameterError(f"dropout rate must be at least 0 and below 1, got {rate:g}")
        object.__setattr__(self, "rate", rate)


Op: TypeAlias = Convolution | Transfer | MaxFilter | MaxPool | Dropout


@dataclass(frozen=True)
class Parameter:
    """One array that is learned.

    Attributes
    ----------
    name : str
        ``"conv1/kernel"`` or ``"transfer1/bias"``: the edge, then what it is.
    shape : tuple of int
        (out, in, z, y, x) of a kernel, (channels,) of a bias.
    fan_in, fan_out : int
        Of a kernel: in*z*y*x and out*z*y*x. Of a bias: 1, since it acts on one map only.
    init : Init
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    init: Init
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", math.prod(self.shape))


def parameters_of(edge: str, op: Op, n_in: int, n_out: int) -> tuple[Parameter, ...]:
    """Return what an operation from ``n_in`` to ``n_out`` maps learns: nothing, a kernel or a bias."""
    if isinstance(op, Convolution):
        voxels = volume(op.kernel)
        shape = (n_out, n_in, *op.kernel)
        return (Parameter(f"{edge}/kernel", shape, n_in * voxels, n_out * voxels, op.init),)
    if isinstance(op, Transfer) and op.bias:
        return (Parameter(f"{edge}/bias", (n_out,), 1, 1, op.init),)
    return ()
