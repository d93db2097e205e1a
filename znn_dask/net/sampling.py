"""Operations that choose, move or interpolate voxels map by map: filters, pools, crops, upsampling.

`Pad`, `Split` and `Merge` are what other operations are lowered to; no file and no user needs them.
"""

from dataclasses import dataclass
from typing import ClassVar

from znn_dask.errors import ParameterError
from znn_dask.geometry import Triple, as_triple, volume

PADDINGS = ("zero", "mirror", "replicate")
UPSAMPLINGS = ("nearest", "trilinear")


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
class AveragePool:
    """Mean over windows side by side: the image shrinks by the window.

    Attributes
    ----------
    window : (z, y, x) voxels
    """

    kind: ClassVar[str] = "average_pool"
    window: Triple

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", as_triple(self.window, name="window"))


@dataclass(frozen=True)
class Upsample:
    """Make the image larger by whole factors.

    Attributes
    ----------
    factor : (z, y, x)
    mode : "nearest" | "trilinear"
        Every voxel repeated; or interpolated between voxel centres, values beyond the outermost centres being theirs
        (torch's ``align_corners=False``).
    """

    kind: ClassVar[str] = "upsample"
    factor: Triple
    mode: str = "nearest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", as_triple(self.factor, name="factor"))
        if self.mode not in UPSAMPLINGS:
            raise ParameterError(f"mode of an upsampling must be one of {', '.join(UPSAMPLINGS)}, got {self.mode!r}")


@dataclass(frozen=True)
class Crop:
    """Leave voxels out at the ends of every axis.

    Attributes
    ----------
    before, after : (z, y, x)
        Voxels of the dense lattice, multiples of the sparsity; ``after`` is ``before`` unless given.
    """

    kind: ClassVar[str] = "crop"
    before: Triple
    after: Triple | None = None

    def __post_init__(self) -> None:
        before = as_triple(self.before, name="crop", minimum=0)
        after = before if self.after is None else as_triple(self.after, name="crop", minimum=0)
        object.__setattr__(self, "before", before)
        object.__setattr__(self, "after", after)

    @property
    def total(self) -> Triple:
        """Voxels left out along every axis."""
        assert self.after is not None
        z, y, x = (b + a for b, a in zip(self.before, self.after, strict=True))
        return z, y, x


@dataclass(frozen=True)
class Identity:
    """Nothing: a skip connection, or what ZNN calls a dummy."""

    kind: ClassVar[str] = "identity"


@dataclass(frozen=True)
class Pad:
    """Add voxels at the ends of every axis; of every fragment where the image is dilated.

    Attributes
    ----------
    before, after : (z, y, x)
        Voxels at the sparsity of the source.
    mode : "zero" | "mirror" | "replicate"
        Zeros; reflected without the outermost voxel (numpy's "reflect"); the outermost voxel again.
    """

    kind: ClassVar[str] = "pad"
    before: Triple
    after: Triple
    mode: str = "zero"

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", as_triple(self.before, name="padding", minimum=0))
        object.__setattr__(self, "after", as_triple(self.after, name="padding", minimum=0))
        if self.mode not in PADDINGS:
            raise ParameterError(f"padding must be one of {', '.join(PADDINGS)}, got {self.mode!r}")

    @property
    def total(self) -> Triple:
        """Voxels added along every axis."""
        z, y, x = (b + a for b, a in zip(self.before, self.after, strict=True))
        return z, y, x


@dataclass(frozen=True)
class Split:
    """Every phase of a lattice as maps of its own: ``c`` maps of n voxels become ``c * volume(stride)`` of n / stride.

    Phases come in C order before maps: map ``phase * c + i`` at v is map i at ``v * stride + phase``.

    Attributes
    ----------
    stride : (z, y, x)
    """

    kind: ClassVar[str] = "split"
    stride: Triple

    @property
    def n_phases(self) -> int:
        """Phases of the lattice."""
        return volume(self.stride)


@dataclass(frozen=True)
class Merge:
    """The inverse of `Split`: maps that are phases become one larger image.

    Attributes
    ----------
    stride : (z, y, x)
    """

    kind: ClassVar[str] = "merge"
    stride: Triple

    @property
    def n_phases(self) -> int:
        """Phases of the lattice."""
        return volume(self.stride)
