"""What the edges of a network learn: names, shapes, how they start."""

import math
from dataclasses import dataclass, field

from znn_dask.geometry import Triple, volume
from znn_dask.net.initial import ZERO, Init
from znn_dask.net.operations import Convolution, Normalisation, Op, PhasedConvolution, Transfer, TransposedConvolution


@dataclass(frozen=True)
class Parameter:
    """One array that is learned, or kept with what is learned.

    Attributes
    ----------
    name : str
        ``"conv1/kernel"``, ``"transfer1/bias"`` or ``"norm1/scale"``: the edge, then what it is.
    shape : tuple of int
        (out, in, z, y, x) of a kernel, (channels,) of the others.
    fan_in, fan_out : int
        Of a kernel: in*z*y*x and out*z*y*x. Of a bias: 1, since it acts on one map only.
    init : Init
    learned : bool
        False for the running averages of a normalisation over the batch, which steps update by themselves.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    init: Init
    learned: bool = True
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", math.prod(self.shape))


def parameters_of(edge: str, op: Op, n_in: int, n_out: int) -> tuple[Parameter, ...]:
    """Return what an operation from ``n_in`` to ``n_out`` maps learns or keeps."""
    if isinstance(op, PhasedConvolution):
        down, n = op.direction == "down", volume(op.phases)
        return _kernel(edge, op.learned, op.init, n_in // n if down else n_in, n_out if down else n_out // n)
    if isinstance(op, Convolution | TransposedConvolution):
        return _kernel(edge, op.kernel, op.init, n_in, n_out)
    if isinstance(op, Transfer) and op.bias:
        # The target may hold the maps of other edges beside these.
        return (Parameter(f"{edge}/bias", (n_in,), 1, 1, op.init),)
    if isinstance(op, Normalisation):
        return _normalisation(edge, op, n_in)
    return ()


def _kernel(edge: str, kernel: Triple, init: Init, n_in: int, n_out: int) -> tuple[Parameter, ...]:
    voxels = volume(kernel)
    return (Parameter(f"{edge}/kernel", (n_out, n_in, *kernel), n_in * voxels, n_out * voxels, init),)


def _normalisation(edge: str, op: Normalisation, n: int) -> tuple[Parameter, ...]:
    ones = Init("constant", (1.0,))
    learned = [("scale", ones), ("shift", ZERO)] if op.affine else []
    kept = [("mean", ZERO), ("variance", ones)] if op.over == "batch" else []
    return (
        *(Parameter(f"{edge}/{name}", (n,), 1, 1, init) for name, init in learned),
        *(Parameter(f"{edge}/{name}", (n,), 1, 1, init, learned=False) for name, init in kept),
    )
