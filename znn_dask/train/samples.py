"""Training patches: sample t is a pure function of the seed and t.

So samples do not depend on who draws them, in which order, or whether the run was interrupted; the original
ZNN lost its random state on a resume, and drew among volumes uniformly instead of by their size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from znn_dask.errors import ConfigError, ShapeError
from znn_dask.geometry import Triple, volume
from znn_dask.io.volumes import read_image, read_label
from znn_dask.model.predict import mirrored
from znn_dask.randomness import generator
from znn_dask.train.config import DataSection, VolumeSection
from znn_dask.train.mirror import margins
from znn_dask.train.preprocess import preprocess
from znn_dask.train.targets import target_map

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Volume:
    """An image with its target and the part of it that counts.

    Attributes
    ----------
    image : float32 array of shape (channel, z, y, x)
        Preprocessed.
    target : uint8 array of shape (z, y, x)
        0 or 1.
    region : three pairs (from, to) of int
        Voxels whose target may be used, along z, y and x.
    reach : three pairs (from, to) of int
        Voxels of the image that inputs may see.
    name : str
        For messages.
    """

    image: np.ndarray
    target: np.ndarray
    region: Box
    reach: Box
    name: str


class Sample(NamedTuple):
    """An input (batch, channel, z, y, x) float32 and its target, (batch, 1, z, y, x) float32."""

    image: np.ndarray
    target: np.ndarray


def load_volumes(data: DataSection, sections: Sequence[VolumeSection], role: str) -> list[Volume]:
    """Read and prepare volumes; each file is read once.

    Raises
    ------
    ConfigError
        If a volume has no image or label.
    DataError, ShapeError
        If a file cannot be used, or a region lies outside its volume.
    """
    images: dict[str, np.ndarray] = {}
    targets: dict[tuple[str, str], np.ndarray] = {}
    volumes = []
    for number, section in enumerate(sections):
        image, label = section.image or data.image, section.label or data.label
        for what, value in (("image", image), ("label", label)):
            if value is None:
                raise ConfigError(
                    f"data.{role}.{number} has no {what}; give data.{what}=FILE for all volumes "
                    f"or data.{role}.{number}.{what}=FILE for this one"
                )
        assert image is not None
        assert label is not None
        if image not in images:
            images[image] = preprocess(read_image(image), data.preprocess)
        if (image, label) not in targets:
            labels = read_label(label, images[image].shape)
            targets[image, label] = target_map(labels, data.target, data.threshold, data.invert, data.in_plane)
        region = _region(section, images[image].shape, f"data.{role}.{number}")
        reach = region if section.reach == "region" else _whole(images[image].shape)
        volumes.append(Volume(images[image], targets[image, label], region, reach, image))
    return volumes


class Samples:
    """Patches drawn at random from volumes, in proportion to the number of places each offers.

    Parameters
    ----------
    volumes : sequence of Volume
    field_of_view : (z, y, x)
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
        Whether inputs may reach over what they may see, by mirroring.
    purpose : str
        Names the random numbers; other purposes give other patches.

    Raises
    ------
    ShapeError
        If no patch fits into a volume.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        field_of_view: Triple,
        output_size: Triple,
        *,
        seed: int = 0,
        batch: int = 1,
        flip: str = "",
        transpose: bool = False,
        mirror: bool = True,
        purpose: str = "sample",
    ) -> None:
        self.volumes = tuple(volumes)
        self.output_size = output_size
        self.seed, self.batch, self.purpose = seed, batch, purpose
        self.flip, self.transpose, self.mirror = flip, transpose, mirror
        self._margins = margins(field_of_view)
        # By whether y and x are exchanged: the places (from, count) of each volume along its own axes.
        self._places = {False: self._all_places((0, 1, 2))}
        if transpose:
            self._places[True] = self._all_places((0, 2, 1))

    def sample(self, step: int) -> Sample:
        """Return the sample of a step.

        Returns
        -------
        Sample
            image : float32 array of shape (batch, channel, z, y, x); target : of shape (batch, 1, z, y, x).
        """
        random = generator(self.seed, step, self.purpose)
        patches = [self._patch(random) for _ in range(self.batch)]
        return Sample(np.stack([p.image for p in patches]), np.stack([p.target for p in patches]))

    def _patch(self, random: np.random.Generator) -> Sample:
        # Every choice draws its number whether or not it is used, so that options do not shift each other.
        flips = random.random(3) < 0.5
        exchange = bool(random.random() < 0.5) and self.transpose
        places = self._places[exchange]
        counts = [volume(count) for _, count in places]
        draw = int(random.integers(sum(counts)))
        number = 0
        while draw >= counts[number]:
            draw -= counts[number]
            number += 1
        first, count = places[number]
        corner = np.unravel_index(draw, count)
        start = tuple(int(c) + f for c, f in zip(corner, first, strict=True))
        return self._cut(self.volumes[number], start, flips, exchange)

    def _cut(self, source: Volume, start: Sequence[int], flips: np.ndarray, exchange: bool) -> Sample:
        """Cut a patch; `start` is the lowest corner of its target along the axes of the volume."""
        order = (0, 2, 1) if exchange else (0, 1, 2)  # the axis of the volume behind each axis of the patch
        inputs: list[np.ndarray] = [np.empty(0)] * 3
        outputs: list[np.ndarray] = [np.empty(0)] * 3
        for axis, name in enumerate("zyx"):
            own, size = order[axis], self.output_size[axis]
            before, after = self._margins[0][axis], self._margins[1][axis]
            offsets, reach = np.arange(size), np.arange(-before, size + after)
            if flips[axis] and name in self.flip:
                # The margins change sides, too: the network's "before" lies after.
                offsets, reach = size - 1 - offsets, size - 1 - reach
            outputs[own] = start[own] + offsets
            inputs[own] = mirrored(start[own] + reach, *source.reach[own])
        image = source.image[:, inputs[0][:, None, None], inputs[1][:, None], inputs[2]]
        target = source.target[outputs[0][:, None, None], outputs[1][:, None], outputs[2]]
        if exchange:
            image, target = image.transpose(0, 1, 3, 2), target.transpose(0, 2, 1)
        return Sample(np.ascontiguousarray(image), np.ascontiguousarray(target[None], dtype=np.float32))

    def _all_places(self, order: tuple[int, int, int]) -> list[tuple[Triple, Triple]]:
        """Return (from, count) of the lowest corners of targets, for each volume along its own axes."""
        places = []
        for item in self.volumes:
            first, count = [], []
            for own in range(3):
                axis = order[own]  # exchanging y and x is its own inverse
                low, high = item.region[own]
                if not self.mirror:
                    before, after = self._margins[0][axis], self._margins[1][axis]
                    if "zyx"[axis] in self.flip:  # flips exchange the margins, so a place must suit both
                        before = after = max(before, after)
                    low = max(low, item.reach[own][0] + before)
                    high = min(high, item.reach[own][1] - after)
                first.append(low)
                count.append(high - low - self.output_size[axis] + 1)
            if min(count) < 1:
                size = tuple(self.output_size[a] for a in order)
                raise ShapeError(
                    f"no output patch of {size} (z, y, x) fits into region {_text(item.region)} of "
                    f"{item.name}. "
                    "Use a smaller training.output_size or a larger region"
                )
            places.append(((first[0], first[1], first[2]), (count[0], count[1], count[2])))
        return places


def check_size(item: Volume, field_of_view: Triple) -> None:
    """Raise unless what inputs may see holds at least one field of view.

    Raises
    ------
    ShapeError
    """
    size = tuple(high - low for low, high in item.reach)
    if any(s < f for s, f in zip(size, field_of_view, strict=True)):
        raise ShapeError(
            f"{item.name} offers {size} voxels (z, y, x), less than the network's field of view "
            f"{field_of_view}. "
            "Use a larger volume or region, or a network with a smaller field of view"
        )


def check_channels(item: Volume, channels: int) -> None:
    """Raise unless the image has as many channels as the network reads.

    Raises
    ------
    ShapeError
    """
    if item.image.shape[0] != channels:
        raise ShapeError(
            f"{item.name} has {item.image.shape[0]} channels, but the network reads {channels}; set network.in_channels"
        )


def cut_region(item: Volume, field_of_view: Triple) -> np.ndarray:
    """Return the input whose valid output is the region of a volume, mirrored at the border of what may be
    seen.

    Returns
    -------
    float32 array of shape (channel, z, y, x)
        Larger than the region by ``field_of_view - 1``.
    """
    before, after = margins(field_of_view)
    z, y, x = (
        mirrored(np.arange(low - b, high + a), *reach)
        for (low, high), reach, b, a in zip(item.region, item.reach, before, after, strict=True)
    )
    cut: np.ndarray = item.image[:, z[:, None, None], y[:, None], x]
    return cut


def _region(section: VolumeSection, shape: tuple[int, ...], name: str) -> Box:
    box = []
    for axis, length in zip("zyx", shape[1:], strict=True):
        pair = getattr(section, axis)
        low, high = (0, length) if pair is None else pair
        if not 0 <= low < high <= length:
            raise ShapeError(f"{name}.{axis} is [{low}, {high}), but its volume has 0 to {length} along {axis}")
        box.append((low, high))
    return box[0], box[1], box[2]


def _whole(shape: tuple[int, ...]) -> Box:
    return (0, shape[1]), (0, shape[2]), (0, shape[3])


def _text(region: Box) -> str:
    return ", ".join(f"{axis} {low}:{high}" for axis, (low, high) in zip("zyx", region, strict=True))
