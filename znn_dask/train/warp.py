"""Augmentations that move voxels: where each voxel of a patch comes from, and its value there.

A patch has coordinates of its own, 0 at the lowest corner of its output, before flips. All movements are added to one
field of coordinates, so that images are interpolated once (linearly) and labels are looked up once (nearest).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from znn_dask.geometry import Triple, subtract
from znn_dask.io.stored import Region
from znn_dask.model.predict import mirrored
from znn_dask.ops import warp
from znn_dask.ops.memory import Array
from znn_dask.train.augment import Elastic, Rotate, Shifted, named
from znn_dask.train.preprocess import greys_of, lies_in_memory
from znn_dask.train.volumes import Box

RandomOf = Callable[[str], np.random.Generator]
_SPLINE = 0.69  # the standard deviation that a cubic spline leaves, along one axis, of that of its coefficients


class Frame(NamedTuple):
    """How a patch lies in its volume.

    Attributes
    ----------
    origin : (z, y, x)
        The voxel of the volume at the patch's coordinates 0.
    signs : three ints
        -1 along the patch's axes that are flipped, else 1.
    order : three ints
        The axis of the patch behind each axis of the volume, and the other way round.
    """

    origin: Triple
    signs: Triple
    order: Triple


@dataclass
class Motion:
    """Where the voxels of a box of a patch come from.

    Attributes
    ----------
    low : (z, y, x)
        The lowest corner of the box, in coordinates of the patch.
    middle : (z, y, x)
        What `turn` leaves where it is.
    slip, step : int arrays of shape (z, 2)
        What images come from along y and x besides; of `step` labels, too.
    turn : float array of shape (3, 3)
        A voxel at `middle` + v is displaced by ``turn @ v``.
    splines : list of Spline
        Displacements along z, y and x besides, with weights for the voxels of the box.
    """

    low: Triple
    middle: np.ndarray
    slip: np.ndarray
    step: np.ndarray
    turn: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    splines: list[warp.Spline] = field(default_factory=list)

    def course(self, low: Triple, high: Triple, frame: Frame, labels: bool = False) -> warp.Course:
        """Return where the voxels of a smaller box come from, along the axes of the volume, from its origin on."""
        cut = [slice(a - o, b - o) for a, b, o in zip(low, high, self.low, strict=True)]
        size = high[0] - low[0], high[1] - low[1], high[2] - low[2]
        along_z = self.turn[0].any() or any(spline.coefficients[0].any() for spline in self.splines)
        # Of the volume's axes; exchanging y and x leaves z where it is.
        order, signs = list(frame.order), np.array(frame.signs)[list(frame.order)]
        maps = order if along_z else order[1:]
        turned = signs[-len(maps) :]
        affine = np.empty((3, 4))
        affine[:, :3] = np.eye(3) + self.turn
        affine[:, 3] = low + self.turn @ (low - self.middle)
        moved = np.zeros((size[0], 3), np.int32)
        moved[:, 1:] = self.step[cut[0]] if labels else (self.step + self.slip)[cut[0]]
        if not along_z:
            moved[:, 0] = np.arange(low[0], high[0])
        splines = [
            warp.Spline(
                s.coefficients[maps] * turned.astype(np.float32)[:, None, None, None],
                s.z[cut[0]],
                s.y[cut[1]],
                np.ascontiguousarray(s.x[:, cut[2]]),
            )
            for s in self.splines
        ]
        return warp.Course(
            np.asarray(affine[maps] * turned[:, None], np.float32),
            splines,
            np.ascontiguousarray(moved[:, order] * signs, np.int32),
            size,
        )


def moved_image(image: Region, course: warp.Course, origin: Triple, reach: Box) -> Array:
    """Return the image of a patch, float32 of shape (channel, z, y, x).

    Parameters
    ----------
    image : array of shape (channel, z, y, x), read by region
    course : Course
        From the voxel `origin` of the volume on.
    origin : (z, y, x)
    reach : three pairs (from, to) of int
        Voxels of the image that may be seen.
    """
    low, high = _needed([image], course, origin, reach)
    values, levels = greys_of(image, (slice(None), *map(slice, low, high)))
    return warp.interpolate(values, levels, course, _window(origin, reach, low))


def moved_labels(
    labels: Sequence[Region], course: warp.Course, origin: Triple, bounds: Box, region: Box
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the labels of a patch, exactly as they are, and where they come from inside a region.

    Parameters
    ----------
    labels : sequence of arrays of shape (z, y, x), read by region
    course, origin
        As for `moved_image`.
    bounds : three pairs (from, to) of int
        Voxels whose labels may be read.
    region : three pairs (from, to) of int

    Returns
    -------
    list of arrays of shape (z, y, x), bool array of that shape
    """
    low, high = _needed(labels, course, origin, bounds)
    parts = [np.ascontiguousarray(array[tuple(map(slice, low, high))]) for array in labels]
    z, y, x = parts[0].shape
    within = _corners(region, low)
    voxels, inside = warp.nearest((z, y, x), course, _window(origin, bounds, low), within)
    return [np.take(part, voxels) for part in parts], inside


def _needed(arrays: Sequence[Region], course: warp.Course, origin: Triple, bounds: Box) -> tuple[Triple, Triple]:
    """Return the box (from, to) of a volume to read: all of what lies in memory, else what the patch comes from."""
    if all(map(lies_in_memory, arrays)):
        z, y, x = (int(n) for n in arrays[0].shape[-3:])
        return (0, 0, 0), (z, y, x)
    low, high = [], []
    for values, first, (least, end) in zip(course.field(), origin, bounds, strict=True):
        ends = math.floor(values.min()) + first, math.ceil(values.max()) + first + 1
        places = mirrored(np.arange(*ends), least, end)
        low.append(int(places.min()))
        high.append(int(places.max()) + 1)
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _window(origin: Triple, bounds: Box, low: Triple) -> warp.Window:
    return warp.Window(subtract(origin, low), *_corners(bounds, low))


def _corners(box: Box, low: Triple) -> tuple[Triple, Triple]:
    """Return the corners of a box, counted from `low`."""
    (z, z_end), (y, y_end), (x, x_end) = box
    return subtract((z, y, x), low), subtract((z_end, y_end, x_end), low)


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
    slip, step = np.zeros((box[0], 2), np.int64), np.zeros((box[0], 2), np.int64)
    motion, moves = Motion(low, (np.array(size) - 1) / 2, slip, step), False
    for name, item in named(augmentations):
        if not isinstance(item, Elastic | Rotate | Shifted):
            continue
        random = random_of(name)
        if random.random() >= item.probability:
            continue
        if isinstance(item, Shifted):
            _shift(item, random, slip, step)
            continue
        moves = True
        if isinstance(item, Rotate):
            motion.turn += _rotation(item, random)
        else:
            motion.splines.append(_elastic(item, random, box))
    return motion if moves or slip.any() or step.any() else None


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


def _rotation(item: Rotate, random: np.random.Generator) -> np.ndarray:
    """Return what a rotation displaces: its matrix without the identity."""
    angle, tilt_y, tilt_x = (
        math.radians(m) * u for m, u in zip((item.degrees, item.tilt, item.tilt), random.uniform(-1, 1, 3), strict=True)
    )
    zoom = 1 + item.zoom * random.uniform(-1, 1)
    (c, s), (cy, sy), (cx, sx) = ((math.cos(turn), math.sin(turn)) for turn in (angle, tilt_y, tilt_x))
    in_plane = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    about_x, about_y = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]),
        np.array([[cx, 0, -sx], [0, 1, 0], [sx, 0, cx]]),
    )
    matrix = in_plane @ about_x @ about_y
    # Thick sections are not zoomed through.
    matrix /= np.array([[1.0], [zoom], [zoom]]) if item.tilt == 0 else zoom
    return np.asarray(matrix - np.eye(3))


def _elastic(item: Elastic, random: np.random.Generator, box: Triple) -> warp.Spline:
    """Return smooth displacements: a cubic B-spline's coefficients on a coarse grid, and their weights."""
    z, y, x = (_spline_basis(n, s, float(random.random())) for n, s in zip(box, item.spacing, strict=True))
    coefficients = np.zeros((3, z.shape[1], y.shape[1], x.shape[1]), np.float32)
    left = math.prod(1.0 if n == 1 else _SPLINE for n in box)
    amplitudes = {1: item.amplitude, 2: item.amplitude}
    if item.amplitude_z and box[0] > 1:
        amplitudes[0] = item.amplitude_z  # drawn last, so that it does not shift the others
    for axis, amplitude in amplitudes.items():
        coefficients[axis] = random.standard_normal(coefficients.shape[1:], np.float32) * np.float32(amplitude / left)
    return warp.Spline(coefficients, z, y, np.ascontiguousarray(x.T))


def _spline_basis(length: int, spacing: int, phase: float) -> np.ndarray:
    """Return the weights of coefficients at every voxel, float32 of shape (length, coefficients)."""
    if length == 1:
        return np.ones((1, 1), np.float32)
    places = np.arange(length) / spacing + phase
    away = np.abs(places[:, np.newaxis] - np.arange(-1, int(places[-1]) + 3))
    basis = np.maximum(2 - away, 0) ** 3 - 4 * np.maximum(1 - away, 0) ** 3
    return np.asarray(basis / 6, np.float32)
