"""The operations an edge can be: frozen values, checked when they are made.

They say what is computed, never how: `znn_dask.ops` computes. Every value compares, hashes and pickles; lists
and ints are turned into tuples, names of ZNN's own files (``rectify_linear``) into ours (``relu``), and
missing arguments into their defaults, so that equal meaning is equal value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from znn_dask.errors import ParameterError
from znn_dask.geometry import ONE, Triple, add, as_triple, subtract
from znn_dask.net.initial import HE, ZERO, Init, arguments, number
from znn_dask.net.sampling import (
    PADDINGS,
    AveragePool,
    Crop,
    Identity,
    MaxFilter,
    MaxPool,
    Merge,
    Pad,
    Split,
    Upsample,
)

NORMALISATIONS = ("batch", "instance", "group")
FUNCTIONS: Mapping[str, tuple[float | None, ...]] = {
    "linear": (1.0, 0.0),
    "relu": (),
    "tanh": (1.0, 1.0),
    "logistic": (),
    "softsign": (),
    "elu": (1.0,),
    "leaky_relu": (0.01,),
    "forward_logistic": (),
    "softplus": (),
}

ALIASES: Mapping[str, str] = {
    "rectify_linear": "relu",
    "logistics": "logistic",
    "soft_sign": "softsign",
    "forward_logistics": "forward_logistic",
}


@dataclass(frozen=True)
class Padding:
    """Voxels added around an image before a window moves over it.

    Attributes
    ----------
    before, after : (z, y, x)
        At the sparsity of the image; ``after`` is ``before`` unless given.
    mode : "zero" | "mirror" | "replicate"
    """

    before: Triple = (0, 0, 0)
    after: Triple | None = None
    mode: str = "zero"

    def __post_init__(self) -> None:
        before = as_triple(self.before, name="padding", minimum=0)
        after = before if self.after is None else as_triple(self.after, name="padding", minimum=0)
        if self.mode not in PADDINGS:
            raise ParameterError(f"padding must be one of {', '.join(PADDINGS)}, got {self.mode!r}")
        object.__setattr__(self, "before", before)
        object.__setattr__(self, "after", after)
        if before == after == (0, 0, 0):
            object.__setattr__(self, "mode", "zero")

    @property
    def total(self) -> Triple:
        """Voxels added along every axis."""
        assert self.after is not None
        return add(self.before, self.after)

    @staticmethod
    def same(kernel: Triple, mode: str = "zero") -> "Padding":
        """Return what keeps the size under a kernel; of an odd total the larger part comes after, as in torch."""
        total = subtract(kernel, ONE)
        z, y, x = (n // 2 for n in total)
        return Padding((z, y, x), subtract(total, (z, y, x)), mode)


NO_PADDING = Padding()


def _padding(given: object, kernel: Triple) -> Padding:
    """Read a padding: a value, "valid", "same" or "mirror" (which keep the size), or a number of voxels."""
    match given:
        case Padding():
            return given
        case "valid":
            return NO_PADDING
        case "same":
            return Padding.same(kernel)
        case "mirror" | "replicate":
            return Padding.same(kernel, str(given))
        case str():
            raise ParameterError(f"padding must be 'valid', 'same', 'mirror' or a number of voxels, got {given!r}")
    return Padding(as_triple(given, name="padding", minimum=0))


@dataclass(frozen=True)
class Convolution:
    """Cross-correlation from every map of the source to every map of the target.

    A stride of 2 computes every second output voxel. It needs an image of n = stride * m + c voxels for an output of
    m; with "same" padding c is 0. What a larger image would have at its end is never read.

    Attributes
    ----------
    kernel : (z, y, x) voxels
    init : Init
        Of the weights.
    stride : (z, y, x)
    padding : Padding
        Given as one, as "valid", "same" (zeros), "mirror", "replicate", or as voxels on every side.
    """

    kind: ClassVar[str] = "convolution"
    kernel: Triple
    init: Init = HE
    stride: Triple = ONE
    padding: Padding = NO_PADDING

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", as_triple(self.kernel, name="kernel"))
        object.__setattr__(self, "stride", as_triple(self.stride, name="stride"))
        object.__setattr__(self, "padding", _padding(self.padding, self.kernel))

    @property
    def rest(self) -> Triple:
        """The c of ``n = stride * m + c``, in voxels at the sparsity of the source."""
        z, y, x = map(_rest, self.kernel, self.stride, self.padding.total)
        return z, y, x


def _rest(kernel: int, stride: int, padding: int) -> int:
    over = padding + stride - kernel
    # Where the padding is more than needed, an image may be up to stride - 1 voxels larger for the same output.
    return over % stride - over if over > 0 else -over


@dataclass(frozen=True)
class TransposedConvolution:
    """Every voxel v adds its value times the kernel to the output at ``stride * v``: the adjoint of a strided one.

    The output has ``stride * (n - 1) + kernel`` voxels less those cropped.

    Attributes
    ----------
    kernel : (z, y, x) voxels
        At least the stride along every axis.
    stride : (z, y, x)
    crop : Padding
        Voxels of the output that are left out before and after; it has no mode.
    init : Init
        Of the weights.
    """

    kind: ClassVar[str] = "transposed_convolution"
    kernel: Triple
    stride: Triple
    crop: Padding = NO_PADDING
    init: Init = HE

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", as_triple(self.kernel, name="kernel"))
        object.__setattr__(self, "stride", as_triple(self.stride, name="stride"))
        crop = self.crop if isinstance(self.crop, Padding) else Padding(as_triple(self.crop, name="crop", minimum=0))
        object.__setattr__(self, "crop", Padding(crop.before, crop.after))
        if any(k < s for k, s in zip(self.kernel, self.stride, strict=True)):
            raise ParameterError(
                f"a transposed convolution needs a kernel of at least its stride {self.stride} (z, y, x), got "
                f"{self.kernel}; between strides nothing would be written"
            )

    @property
    def rest(self) -> Triple:
        """The c of ``stride * n + c`` voxels that n voxels give."""
        return subtract(subtract(self.kernel, self.stride), self.crop.total)


@dataclass(frozen=True)
class PhasedConvolution(Convolution):
    """What strided and transposed convolutions are lowered to: a dense one between the phases of a lattice.

    Its source (``"down"``) or target (``"up"``) holds the phases of a lattice, see `Split`; a phase is connected by
    every stride-th tap of the kernel that is learned. ``kernel`` is that of the dense convolution,
    ceil(learned / phases).

    Attributes
    ----------
    learned : (z, y, x)
        The kernel that is learned.
    phases : (z, y, x)
    direction : "down" | "up"
    """

    learned: Triple = ONE
    phases: Triple = ONE
    direction: str = "down"


@dataclass(frozen=True)
class Transfer:
    """Add a bias to every map, then apply a function to every voxel.

    Attributes
    ----------
    function : str
        ``"linear"`` (a*x + b), ``"relu"``, ``"tanh"`` (a*tanh(b*x)), ``"logistic"``, ``"softsign"``,
        ``"elu"`` (alpha), ``"leaky_relu"`` (slope), ``"softplus"`` (log(1 + exp(x))), or
        ``"forward_logistic"``: logistic, whose gradient passes unchanged. Every one can be differentiated from
        its output alone, which the arguments must allow.
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
        args = arguments("transfer function", function, tuple(self.args), FUNCTIONS)
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
        rate = number(self.rate, "dropout rate")
        if not 0 <= rate < 1:
            raise ParameterError(f"dropout rate must be at least 0 and below 1, got {rate:g}")
        object.__setattr__(self, "rate", rate)


@dataclass(frozen=True)
class Normalisation:
    """Subtract the mean and divide by the standard deviation, then scale and shift every map.

    Attributes
    ----------
    over : "batch" | "instance" | "group"
        What mean and variance are taken over besides the voxels: the examples of the batch (Ioffe and Szegedy 2015;
        outside training running averages are used), nothing, or the maps of a group (Wu and He 2018).
    groups : int
        Of maps; only for "group".
    epsilon : float
        Added to the variance.
    affine : bool
        Whether scale and shift are learned; they start at one and zero.
    momentum : float
        How much of the running averages of "batch" a step replaces.
    """

    kind: ClassVar[str] = "normalisation"
    over: str = "instance"
    groups: int = 1
    epsilon: float = 1e-5
    affine: bool = True
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if self.over not in NORMALISATIONS:
            raise ParameterError(f"a normalisation must be over one of {', '.join(NORMALISATIONS)}, got {self.over!r}")
        if isinstance(self.groups, bool) or not isinstance(self.groups, int) or self.groups < 1:
            raise ParameterError(f"groups of a normalisation must be an int of at least 1, got {self.groups!r}")
        if self.over != "group" and self.groups != 1:
            raise ParameterError(f"only a normalisation over 'group' has groups, got {self.groups} for {self.over!r}")
        if number(self.epsilon, "epsilon") <= 0:
            raise ParameterError(f"epsilon of a normalisation must be above 0, got {self.epsilon!r}")
        if not 0 <= number(self.momentum, "momentum") <= 1:
            raise ParameterError(f"momentum of a normalisation must be in [0, 1], got {self.momentum!r}")
        object.__setattr__(self, "epsilon", float(self.epsilon))
        object.__setattr__(self, "momentum", float(self.momentum))
        object.__setattr__(self, "affine", bool(self.affine))


@dataclass(frozen=True)
class Softmax:
    """At every voxel, exponentials of the maps divided by their sum."""

    kind: ClassVar[str] = "softmax"


Op: TypeAlias = (
    Convolution
    | TransposedConvolution
    | Transfer
    | MaxFilter
    | MaxPool
    | AveragePool
    | Dropout
    | Normalisation
    | Softmax
    | Upsample
    | Crop
    | Identity
    | Pad
    | Split
    | Merge
)
