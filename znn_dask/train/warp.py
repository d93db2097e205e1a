"""Augmentations that move voxels: where each voxel of a patch comes from, and its value there.

A patch has coordinates of its own, 0 at the lowest corner of its output, before flips. All movements are added to one
field of coordinates, so that images are interpolated once (linearly) and labels are looked up once (nearest).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from znn_dask.geometry import Triple
from znn_dask.ops.warp import interpolate
from znn_dask.train.augment import Elastic, Rotate, Shifted, named

RandomOf = Callable[[str], np.random.Generator]
_SPLINE = 0.69  # the standard deviation that a cubic spline leaves, along one axis, of that of its coefficients


@dataclass(frozen=True)
class Motion:
    """Where the voxels of a box of a patch come from.

    Attributes
    ----------
    low : (z, y, x)
        The lowest corner of the box, in coordinates of the patch.
    size : (z, y, x)
    field : three float32 arrays, or None
        Coordinates z, y, x, each of a shape that broadcasts to `size`; z is None within sections. None: nothing is
        warped.
    slip, step : int arrays of shape (z, 2)
        What images come from along y and x besides; of `step` labels, too.
    """

    low: Triple
    size: Triple
    field: tuple[np.ndarray | None, np.ndarray, np.ndarray] | None
    slip: np.ndarray
    step: np.ndarray

    def part(self, low: Triple, high: Triple, labels: bool = False) -> "Part":
        """Return where the voxels of a smaller box come from."""
        cut = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, self.low, strict=True))
        moved = self.step[cut[0]] if labels else (self.step + self.slip)[cut[0]]
        size = high[0] - low[0], high[1] - low[1], high[2] - low[2]
        if self.field is None:
            return Part(low, size, None, moved)
        z, y, x = self.field
        return Part(low, size, (None if z is None else _of_box(z, cut), _of_box(y, cut), _of_box(x, cut)), moved)


@dataclass(frozen=True)
class Part:
    """A box of a patch, with the field of coordinates of its voxels and the displacement of its sections."""

    low: Triple
    size: Triple
    field: tuple[np.ndarray | None, np.ndarray, np.ndarray] | None
    moved: np.ndarray

    def source(self) -> tuple[Triple, Triple]:
        """Return the box (low, high), in coordinates of the patch, that holds all it comes from."""
        low, high = [self.low[0], 0, 0], [self.low[0] + self.size[0], 0, 0]
        for axis in range(3):
            values = None if self.field is None else self.field[axis]
            first, last = self.low[axis], self.low[axis] + self.size[axis] - 1
            if values is not None:
                first, last = math.floor(float(values.min())), math.ceil(float(values.max()))
            if axis:
                moved = self.moved[:, axis - 1]
                first, last = first + int(moved.min(initial=0)), last + int(moved.max(initial=0))
            low[axis], high[axis] = first, last + 1
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def image(self, values: np.ndarray, low: Triple) -> np.ndarray:
        """Return an image, float32 of shape (channel, z, y, x), from that of its source, which begins at `low`."""
        result = np.empty((values.shape[0], *self.size), np.float32)
        if self.field is None:
            for z in range(self.size[0]):
                y, x = (int(m) + a - o for m, a, o in zip(self.moved[z], self.low[1:], low[1:], strict=True))
                result[:, z] = values[:, z + self.low[0] - low[0], y : y + self.size[1], x : x + self.size[2]]
            return result
        z, y, x = self.field
        # Without a field along z the kernel counts sections from the first.
        first = low[0] - (self.low[0] if z is None else 0)
        moved = self.moved.astype(np.int32)
        return interpolate(np.ascontiguousarray(values), z, y, x, moved, (first, low[1], low[2]), self.size)

    def nearest(self, values: np.ndarray, low: Triple) -> np.ndarray:
        """Return labels of shape (z, y, x) from those of its source, exactly as they are."""
        z, y, x = (np.rint(f).astype(np.intp) for f in self._field(low))
        return np.asarray(values[tuple(np.broadcast_arrays(z, y, x))])

    def _field(self, low: Triple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return coordinates in the source."""
        grid = [
            (np.arange(n, dtype=np.float32) + o).reshape([-1 if a == axis else 1 for a in range(3)])
            for axis, (n, o) in enumerate(zip(self.size, self.low, strict=True))
        ]
        z, y, x = grid if self.field is None else [g if f is None else f for f, g in zip(self.field, grid, strict=True)]
        moved = self.moved.astype(np.float32)
        if moved.any():
            y, x = y + moved[:, 0].reshape(-1, 1, 1), x + moved[:, 1].reshape(-1, 1, 1)
        return z - np.float32(low[0]), y - np.float32(low[1]), x - np.float32(low[2])


def make_motion(
    augmentations: Sequence[Any], low: Triple, high: Triple, size: Triple, random_of: RandomOf
) -> Motion | None:
    """Draw how a patch is moved.

    Parameters
    ----------
    augmentations : sequence of Augmentation
        Others than those that move voxels are passed over.
    low, high : (z, y, x)
        The box of the patch whose voxels are wanted.
    size : (z, y, x)
        Of the patch's output, whose middle rotations leave where it is.
    random_of : callable(name) -> Generator

    Returns
    -------
    Motion, or None if the patch stays as it is.
    """
    box = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    field: tuple[Any, Any, Any] | None = None
    slip, step = np.zeros((box[0], 2), np.int64), np.zeros((box[0], 2), np.int64)
    for name, item in named(augmentations):
        if not isinstance(item, Elastic | Rotate | Shifted):
            continue
        random = random_of(name)
        if random.random() >= item.probability:
            continue
        if isinstance(item, Shifted):
            _shift(item, random, slip, step)
        else:
            change = (
                _rotation(item, random, low, box, size) if isinstance(item, Rotate) else _elastic(item, random, box)
            )
            field = change if field is None else tuple(_sum(a, b) for a, b in zip(field, change, strict=True))  # type: ignore[assignment]
    if field is None:
        return Motion(low, box, None, slip, step) if slip.any() or step.any() else None
    grid = [
        np.arange(a, b, dtype=np.float32).reshape([-1 if n == axis else 1 for n in range(3)])
        for axis, (a, b) in enumerate(zip(low, high, strict=True))
    ]
    z, y, x = field
    return Motion(
        low,
        box,
        (
            None if z is None else _full(z + grid[0], box),
            _full(y + grid[1], box, z is None),
            _full(x + grid[2], box, z is None),
        ),
        slip,
        step,
    )


def _full(values: np.ndarray, size: Triple, may_share: bool = False) -> np.ndarray:
    """Return a field for every voxel, or for every voxel of a section that stands for all."""
    depth = 1 if may_share and values.shape[0] == 1 else size[0]
    return np.ascontiguousarray(np.broadcast_to(values, (depth, *size[1:])), np.float32)


def _sum(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _of_box(field: np.ndarray, cut: Sequence[slice]) -> np.ndarray:
    """Return a part of a field; an axis of one voxel stands for all."""
    return np.ascontiguousarray(
        field[tuple(slice(None) if n == 1 else c for c, n in zip(cut, field.shape, strict=True))]
    )


def _shift(item: Shifted, random: np.random.Generator, slip: np.ndarray, step: np.ndarray) -> None:
    depth = len(slip)
    moved = random.integers(-item.distance, item.distance + 1, 2)
    place, all_of_them = int(random.integers(depth)), random.random() < item.step
    if depth == 1:
        return
    if all_of_them:
        step[max(1, place) :] += moved
    else:
        slip[place] += moved


def _rotation(
    item: Rotate, random: np.random.Generator, low: Triple, box: Triple, size: Triple
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the displacements of a rotation about the middle of the output."""
    angle, tilt_y, tilt_x = (
        math.radians(m) * u for m, u in zip((item.degrees, item.tilt, item.tilt), random.uniform(-1, 1, 3), strict=True)
    )
    zoom = 1 + item.zoom * random.uniform(-1, 1)
    matrix = np.eye(3)
    for (i, j), turn in (((1, 2), angle), ((0, 1), tilt_y), ((0, 2), tilt_x)):
        plane = np.eye(3)
        plane[i, i] = plane[j, j] = math.cos(turn)
        plane[i, j], plane[j, i] = -math.sin(turn), math.sin(turn)
        matrix = matrix @ plane
    flat = item.tilt == 0
    # Thick sections are not zoomed through.
    matrix /= np.array([[1.0], [zoom], [zoom]]) if flat else zoom
    z, y, x = (
        (np.arange(n) + a - (s - 1) / 2).astype(np.float32).reshape([-1 if m == axis else 1 for m in range(3)])
        for axis, (n, a, s) in enumerate(zip(box, low, size, strict=True))
    )
    moves = (matrix - np.eye(3)).astype(np.float32)
    rows = [m[0] * z + m[1] * y + m[2] * x for m in moves]
    return (
        (None, (moves[1, 1] * y + moves[1, 2] * x), (moves[2, 1] * y + moves[2, 2] * x))
        if flat
        else (rows[0], rows[1], rows[2])
    )


def _elastic(
    item: Elastic, random: np.random.Generator, box: Triple
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Return smooth displacements; a cubic B-spline of coefficients on a coarse grid, axis by axis."""
    bases = [_spline_basis(n, s, float(random.random())) for n, s in zip(box, item.spacing, strict=True)]
    shape = tuple(basis.shape[1] for basis in bases)
    left = math.prod(1.0 if n == 1 else _SPLINE for n in box)

    def displacement(amplitude: float) -> np.ndarray:
        values = random.standard_normal(shape, np.float32) * np.float32(amplitude / left)
        # The short axis last, so that inner loops are long. Not a product of BLAS, which would start threads.
        for product, basis in zip(("zyx,nx->zyn", "zyx,ny->znx", "zyx,nz->nyx"), bases[::-1], strict=True):
            values = np.einsum(product, values, basis)
        return values

    y, x = displacement(item.amplitude), displacement(item.amplitude)
    return (displacement(item.amplitude_z) if item.amplitude_z and box[0] > 1 else None), y, x


def _spline_basis(length: int, spacing: int, phase: float) -> np.ndarray:
    """Return the weights of coefficients at every voxel, float32 of shape (length, coefficients)."""
    if length == 1:
        return np.ones((1, 1), np.float32)
    places = np.arange(length) / spacing + phase
    first, rest = np.floor(places).astype(int), places - np.floor(places)
    weights = [(1 - rest) ** 3, 3 * rest**3 - 6 * rest**2 + 4, -3 * rest**3 + 3 * rest**2 + 3 * rest + 1, rest**3]
    basis = np.zeros((length, int(first[-1]) + 4), np.float32)
    for number, weight in enumerate(weights):
        basis[np.arange(length), first + number] = weight / 6
    return basis
