"""Training patches: sample t is a pure function of the seed and t.

So samples do not depend on who draws them, in which order, or whether the run was interrupted; the original
ZNN lost its random state on a resume, and drew among volumes uniformly instead of by their size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from znn_dask.geometry import Triple
from znn_dask.randomness import generator
from znn_dask.train.augment import Augmentation, Elastic, Rotate, Shifted, change_greys
from znn_dask.train.mirror import Margins, margins, read_box, reflected
from znn_dask.train.places import Blocks, Places
from znn_dask.train.targets import Labels, TargetSpec
from znn_dask.train.volumes import Box, Volume, check_channels, check_size, cut_region, load_volumes
from znn_dask.train.warp import Frame, Motion, make_motion, moved_image, moved_labels

__all__ = ["Sample", "Samples", "Volume", "check_channels", "check_size", "cut_region", "load_volumes"]

INPUT, OUTPUT = "input", "output"  # the names of the only input and output of a volume that gives none
_Ranges = tuple[Triple, Triple]


@dataclass(frozen=True)
class Sample:
    """What `Model.steps` takes: iterating gives image, target and, where not all counts, the weight.

    Attributes
    ----------
    image : float32 array of shape (batch, channel, z, y, x), or dict of input to these
    target : float32 array of shape (batch, channel, z, y, x), or dict of output to these
        Of classes and ids their numbers, int64, with one channel.
    weight : float32 array of shape (batch, 1 or channel, z, y, x), or dict of output to these, or None
        0 where the target does not count, else 1.
    """

    image: Any
    target: Any
    weight: Any = None

    def __iter__(self) -> Iterator[Any]:
        yield self.image
        yield self.target
        if self.weight is not None:
            yield self.weight


@dataclass(frozen=True)
class _Cut:
    """A patch: where it lies in a volume, and which way round.

    Coordinates of the patch are 0 at the lowest corner of its output, before flips.
    """

    start: Triple  # along the axes of the volume
    size: Triple  # along those of the patch
    flips: tuple[bool, bool, bool]
    exchange: bool

    @property
    def order(self) -> Triple:
        """The axis of the volume behind each of the patch, and the other way round."""
        return (0, 2, 1) if self.exchange else (0, 1, 2)

    def places(self, low: Triple, high: Triple) -> list[range]:
        """Return the coordinates in the volume, along its axes, of a box of the patch."""
        found = [range(0)] * 3
        for axis, own in enumerate(self.order):
            first, count = low[axis], high[axis] - low[axis]
            # The margins change sides with a flip, too: the network's "before" lies after.
            step = -1 if self.flips[axis] else 1
            start = self.start[own] + (self.size[axis] - 1 - first if self.flips[axis] else first)
            found[own] = range(start, start + step * count, step)
        return found

    def read(self, array: Any, bounds: Box, low: Triple, high: Triple) -> np.ndarray:
        """Return a box of the patch, mirrored at bounds in the volume; it may be a view."""
        places = [reflected(p, *pair) for p, pair in zip(self.places(low, high), bounds, strict=True)]
        values = read_box(array, places)
        return values.swapaxes(-1, -2) if self.exchange else values

    @property
    def frame(self) -> Frame:
        """How the patch lies in its volume."""
        order = self.order
        z, y, x = (self.start[own] + (self.size[axis] - 1 if self.flips[axis] else 0) for own, axis in enumerate(order))
        signs = [-1 if flip else 1 for flip in self.flips]
        return Frame((z, y, x), (signs[0], signs[1], signs[2]), order)

    def inside(self, bounds: Box, low: Triple, high: Triple) -> np.ndarray:
        """Return which voxels of a box of the patch lie inside bounds in the volume."""
        places = zip(self.places(low, high), bounds, strict=True)
        z, y, x = (np.fromiter((a <= place < b for place in p), bool, len(p)) for p, (a, b) in places)
        if self.exchange:
            y, x = x, y
        return np.asarray(z[:, None, None] & y[:, None] & x)


class Samples:
    """Patches drawn at random from volumes, in proportion to the number of places each offers.

    Parameters
    ----------
    volumes : sequence of Volume
    field_of_view : (z, y, x), Margins, or dict of input to Margins
        Of the network.
    output_size : (z, y, x)
        Of the patches' targets.
    seed : int
    batch : int
        Patches in a sample.
    flip : str
        Axes along which a patch is flipped with probability 1/2.
    transpose : bool
        Whether y and x are exchanged with probability 1/2.
    mirror : bool
        Whether inputs may reach over what they may see, by mirroring. What moves voxels always mirrors.
    purpose : str
        Names the random numbers; other purposes give other patches.
    augment : sequence of Augmentation
        What else is done to patches.

    Raises
    ------
    ShapeError
        If no patch fits into a volume.
    DataError
        If a mask leaves nothing of a region.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        field_of_view: Triple | Margins | Mapping[str, Margins],
        output_size: Triple,
        *,
        seed: int = 0,
        batch: int = 1,
        flip: str = "",
        transpose: bool = False,
        mirror: bool = True,
        purpose: str = "sample",
        augment: Sequence[Augmentation] = (),
    ) -> None:
        self.volumes = tuple(volumes)
        self.output_size = output_size
        self.seed, self.batch, self.purpose = seed, batch, purpose
        self.flip, self.transpose, self.mirror = flip, transpose, mirror
        self.augment = tuple(augment)
        self._margins = _by_input(field_of_view, self.volumes)
        warped = any(isinstance(item, Elastic | Rotate | Shifted) for item in self.augment)
        self._weighs = warped or any(
            v.mask is not None or any(s.spec.weighs for s in _targets(v).values()) for v in self.volumes
        )
        widest = _widest(list(self._margins.values()))
        blocks = [None if item.mask is None else Blocks(item) for item in self.volumes]
        # By whether y and x are exchanged.
        orders = {False: (0, 1, 2), True: (0, 2, 1)}
        self._places = {
            exchange: Places(self.volumes, output_size, widest, orders[exchange], mirror, flip, blocks)
            for exchange in ((False, True) if transpose else (False,))
        }

    def sample(self, step: int) -> Sample:
        """Return the sample of a step.

        Returns
        -------
        Sample
            With a weight for every step or for none.
        """
        random = generator(self.seed, step, self.purpose)
        patches = [self._patch(random, step, entry) for entry in range(self.batch)]
        return Sample(*(_stacked([patch[part] for patch in patches]) for part in range(3)))

    def targets(self, item: Volume, start: Triple, size: Triple) -> tuple[Any, Any]:
        """Return targets and weights of a box of a volume by output, as they are in patches; no weights: None."""
        cut = _Cut(start, size, (False, False, False), False)
        made = {name: self._target(item, labels, cut, None) for name, labels in _targets(item).items()}
        weights = {name: weight for name, (_, weight) in made.items()}
        return _only({name: values for name, (values, _) in made.items()}), _only(weights) if self._weighs else None

    def _patch(self, random: np.random.Generator, step: int, entry: int) -> tuple[Any, Any, Any]:
        # Every choice draws its number whether or not it is used, so that options do not shift each other.
        flips = random.random(3) < 0.5
        exchange = bool(random.random() < 0.5) and self.transpose
        number, start = self._places[exchange].draw(random)
        z, y, x = (bool(flips[axis]) and name in self.flip for axis, name in enumerate("zyx"))
        cut = _Cut(start, self.output_size, (z, y, x), exchange)
        random_of = partial(self._random_of, step, entry)
        item, motion = self.volumes[number], None
        if self.augment:
            motion = make_motion(self.augment, *self._box(item), self.output_size, random_of)
        images = self._images(item, cut, motion)
        if self.augment:
            images = change_greys(self.augment, images, random_of)
        made = {name: self._target(item, labels, cut, motion) for name, labels in _targets(item).items()}
        # Numbers of classes and ids stay whole.
        targets = {n: v.astype(np.float32) if v.dtype == np.uint8 else v for n, (v, _) in made.items()}
        weights = {name: weight for name, (_, weight) in made.items()}
        return _only(images), _only(targets), _only(weights) if self._weighs else None

    def _random_of(self, step: int, entry: int, name: str) -> np.random.Generator:
        return generator(self.seed, step, f"{self.purpose}/{entry}/{name}")

    def _box(self, item: Volume) -> _Ranges:
        """Return the box of a patch that any input or target needs."""
        low, high = [0, 0, 0], list(self.output_size)
        around = [*self._margins.values(), *(labels.spec.halo for labels in _targets(item).values())]
        for before, after in around:
            for axis in range(3):
                low[axis] = min(low[axis], -before[axis])
                high[axis] = max(high[axis], self.output_size[axis] + after[axis])
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def _images(self, item: Volume, cut: _Cut, motion: Motion | None) -> dict[str, np.ndarray]:
        images = {}
        for name, image in (item.images or {next(iter(self._margins)): item.image}).items():
            low, high = _around(self.output_size, *self._margins[name])
            if motion is None:
                images[name] = np.array(cut.read(image, item.reach, low, high), np.float32, order="C")
                continue
            frame = cut.frame
            images[name] = moved_image(image, motion.course(low, high, frame), frame.origin, item.reach)
        return images

    def _target(
        self, item: Volume, labels: Labels, cut: _Cut, motion: Motion | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the target and weights of a patch, (channel, z, y, x)."""
        low, high = _around(cut.size, *labels.spec.halo)
        bounds = _bounds(item, labels.spec)
        arrays = [labels.ids] if item.mask is None else [labels.ids, item.mask]
        known = None
        if motion is not None:
            frame = cut.frame
            course = motion.course(low, high, frame, labels=True)
            (ids, *masks), known = moved_labels(arrays, course, frame.origin, bounds, item.region)
        else:
            ids, *masks = (cut.read(array, bounds, low, high) for array in arrays)
            known = cut.inside(item.region, low, high) if self._weighs else None
        for mask in masks:
            known &= mask != 0
        target = labels.spec.make(ids, known)
        if not self._weighs:
            return target.values, None
        valid = np.ones((1, *cut.size), bool) if target.valid is None else target.valid
        return target.values, valid.astype(np.float32)


def _by_input(given: Triple | Margins | Mapping[str, Margins], volumes: Sequence[Volume]) -> dict[str, Margins]:
    """Return the margins of every input."""
    if isinstance(given, Mapping):
        return dict(given)
    same = given if isinstance(given, Margins) else margins(given)
    names = list(volumes[0].images) if volumes and volumes[0].images else [INPUT]
    return dict.fromkeys(names, same)


def _widest(found: list[Margins]) -> Margins:
    before, after = ([max(m[side][axis] for m in found) for axis in range(3)] for side in (0, 1))
    return Margins((before[0], before[1], before[2]), (after[0], after[1], after[2]))


def _around(size: Triple, before: Triple, after: Triple) -> _Ranges:
    return (-before[0], -before[1], -before[2]), (size[0] + after[0], size[1] + after[1], size[2] + after[2])


def _targets(item: Volume) -> dict[str, Labels]:
    """Return labels by output; a plain array is a target of 0 and 1 already."""
    given = item.targets or {OUTPUT: item.target}
    return {
        name: value if isinstance(value, Labels) else Labels(value, TargetSpec(threshold=0.5))
        for name, value in given.items()
    }


def _bounds(item: Volume, spec: TargetSpec) -> Box:
    """Return the voxels whose labels may be read: boundaries also look at those around the region."""
    if spec.kind != "boundary":
        return item.region
    pairs = zip(item.region, item.shape, *spec.halo, strict=True)
    z, y, x = ((max(0, low - b), min(n, high + a)) for (low, high), n, b, a in pairs)
    return z, y, x


def _stacked(values: list[Any]) -> Any:
    """Return the patches of a sample as one array, or one for every name."""
    if values[0] is None:
        return None
    if isinstance(values[0], dict):
        return {name: _stacked([v[name] for v in values]) for name in values[0]}
    return values[0][np.newaxis] if len(values) == 1 else np.stack(values)


def _only(values: Mapping[str, Any]) -> Any:
    """Return the only value, or all by name."""
    return next(iter(values.values())) if len(values) == 1 else dict(values)
