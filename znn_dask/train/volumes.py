"""Volumes to learn from: images, labels and masks, opened once, prepared where they are read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from znn_dask.errors import ConfigError, ShapeError
from znn_dask.geometry import Triple
from znn_dask.io.stored import Region
from znn_dask.io.volumes import FiniteVolume, open_image, open_label
from znn_dask.train.config import DataSection, TargetSection, VolumeSection
from znn_dask.train.mirror import Margins, margins, read_box, reflected
from znn_dask.train.preprocess import Prepared
from znn_dask.train.targets import Labels, TargetSpec

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Volume:
    """Images with their target and the part of it that counts.

    Attributes
    ----------
    image : float32 array of shape (channel, z, y, x), read by region
        Preprocessed; the first where there are several inputs.
    target : uint8 array of shape (z, y, x), or (channel, z, y, x) for affinities, read by region
        0 or 1; or the number of a class. The first where there are several outputs.
    region : three pairs (from, to) of int
        Voxels whose target may be used, along z, y and x.
    reach : three pairs (from, to) of int
        Voxels of the image that inputs may see.
    name : str
        For messages.
    mask : array of shape (z, y, x), read by region, optional
        0 where the target does not count.
    images, targets : dict of input or output to array
        All of them by name; empty where there is one.
    """

    image: Any
    target: Any
    region: Box
    reach: Box
    name: str
    mask: Region | None = None
    images: Mapping[str, Any] = field(default_factory=dict)
    targets: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> Triple:
        """The size of the volume (z, y, x)."""
        z, y, x = (int(n) for n in self.image.shape[1:])
        return z, y, x

    def counts(self) -> np.ndarray | None:
        """Return where in the region targets count, bool of the shape of a target there; None: everywhere."""
        box = tuple(slice(low, high) for low, high in self.region)
        valid = None if self.mask is None else np.asarray(self.mask[box]) != 0
        labels = self.target
        if isinstance(labels, Labels) and labels.spec.weighs:
            known = labels.box(box).valid
            if known is not None:
                known = known if labels.spec.kind == "affinity" else known[0]
                valid = known if valid is None else known & valid
        return valid


class Opened:
    """Files that were opened, each once, and kept in memory as long as they fit.

    Parameters
    ----------
    data : DataSection
    """

    def __init__(self, data: DataSection) -> None:
        self.data = data
        self._left = int(data.in_memory * 2**30)
        self._images: dict[str, Prepared] = {}
        self._labels: dict[str, Region] = {}
        self._targets: dict[tuple[str, TargetSpec], Labels] = {}

    def image(self, name: str) -> Prepared:
        """Return a prepared image."""
        if name not in self._images:
            self._images[name] = Prepared(self._kept(open_image(name)), self.data.preprocess, self.data.clip)
        return self._images[name]

    def label(self, name: str, shape: tuple[int, ...], what: str = "label") -> Region:
        """Return labels or a mask as stored."""
        if name not in self._labels:
            self._labels[name] = self._kept(open_label(name, shape, what))
        elif tuple(self._labels[name].shape) != tuple(shape[-3:]):
            open_label(name, shape, what).close()  # raises
        return self._labels[name]

    def target(self, name: str, shape: tuple[int, ...], spec: TargetSpec) -> Labels:
        """Return a target."""
        if (name, spec) not in self._targets:
            self._targets[name, spec] = Labels(self.label(name, shape), spec, name)
        return self._targets[name, spec]

    def _kept(self, volume: FiniteVolume) -> Region:
        if volume.nbytes > self._left:
            return volume
        self._left -= volume.nbytes
        values = np.array(volume[...])
        volume.close()
        return values


def load_volumes(
    data: DataSection,
    sections: Sequence[VolumeSection],
    role: str,
    inputs: Iterable[str] = ("input",),
    outputs: Iterable[str] = ("output",),
    opened: Opened | None = None,
) -> list[Volume]:
    """Open and prepare volumes; each file is opened once.

    Parameters
    ----------
    data, sections, role
        Of a configuration; the role is "train" or "test", for messages.
    inputs, outputs : names
        Of the network.
    opened : Opened, optional
        Files that are open already.

    Raises
    ------
    ConfigError
        If a volume has no image or label.
    DataError, ShapeError
        If a file cannot be used, or a region lies outside its volume.
    """
    opened = Opened(data) if opened is None else opened
    inputs, outputs = list(inputs), list(outputs)
    volumes = []
    for number, section in enumerate(sections):
        key = f"data.{role}.{number}"
        files = _files("image", section.image, data.image, inputs, key)
        images = {name: opened.image(file) for name, file in files.items()}
        first = next(iter(images.values()))
        for name, image in images.items():
            if image.shape[1:] != first.shape[1:]:
                raise ShapeError(
                    f"{key}: the image of input {name!r} has size {image.shape[1:]} (z, y, x), that of {inputs[0]!r} "
                    f"{first.shape[1:]}; images of one volume must have one size"
                )
        labels = _files("label", section.label, data.label, outputs, key)
        targets = {name: opened.target(file, first.shape, target_spec(data, name)) for name, file in labels.items()}
        mask_file = section.mask or data.mask
        mask = None if mask_file is None else opened.label(mask_file, first.shape, "mask")
        region = _region(section, first.shape, key)
        reach = region if section.reach == "region" else _whole(first.shape)
        volumes.append(
            Volume(
                first,
                next(iter(targets.values())),
                region,
                reach,
                files[inputs[0]],
                mask,
                images if len(images) > 1 else {},
                targets if len(targets) > 1 else {},
            )
        )
    return volumes


def target_spec(data: DataSection, output: str = "output") -> TargetSpec:
    """Return how the target of an output is made."""
    own = data.targets.get(output)
    section: DataSection | TargetSection = data if own is None else own
    return TargetSpec(
        section.target,
        section.threshold,
        section.invert,
        section.in_plane,
        tuple(section.offsets),
        section.classes,
        section.ignore,
    )


def _files(
    what: str,
    own: str | dict[str, str] | None,
    common: str | dict[str, str] | None,
    names: list[str],
    key: str,
) -> dict[str, str]:
    """Return the file for every input or output."""
    given = own if own is not None else common
    end = "input" if what == "image" else "output"
    if given is None:
        raise ConfigError(
            f"{key} has no {what}; give data.{what}=FILE for all volumes or {key}.{what}=FILE for this one"
        )
    if isinstance(given, str):
        # Several outputs may say different things of the same labels.
        if len(names) > 1 and what == "image":
            raise ConfigError(
                f"{key}.{what} names one file, but the network has the {end}s {', '.join(names)}; give a mapping from "
                f"{end} to file"
            )
        return dict.fromkeys(names, given)
    if set(given) != set(names):
        if len(names) == len(given) == 1:
            return dict.fromkeys(names, next(iter(given.values())))
        raise ConfigError(
            f"{key}.{what} names files for {', '.join(given) or 'nothing'}, but the network has the {end}s "
            f"{', '.join(names)}"
        )
    return {name: given[name] for name in names}


def check_size(item: Volume, field_of_view: Triple) -> None:
    """Raise unless what inputs may see holds at least one field of view (of a padded network: its margins).

    Raises
    ------
    ShapeError
    """
    size = tuple(high - low for low, high in item.reach)
    if any(s < f for s, f in zip(size, field_of_view, strict=True)):
        around = "'reach: volume' for the region, to see what lies around it, " if size != item.shape else ""
        where = ", ".join(f"{axis} {low}:{high}" for axis, (low, high) in zip("zyx", item.reach, strict=True))
        raise ShapeError(
            f"{item.name} offers {size} voxels (z, y, x), less than the network's field of view {field_of_view}: "
            f"inputs may see {where}. Use {around}a larger volume or region, or a network with a smaller field of view"
        )


def check_channels(item: Volume, channels: int | Mapping[str, int]) -> None:
    """Raise unless the images have as many channels as the network reads.

    Raises
    ------
    ShapeError
    """
    expected = channels if isinstance(channels, Mapping) else {"input": channels}
    for name, count in expected.items():
        found = item.images.get(name, item.image).shape[0]
        if found != count:
            raise ShapeError(
                f"{item.name} has {found} channels, but the network reads {count}; set network.in_channels"
            )


def cut_region(item: Volume, field_of_view: Triple | Margins) -> Any:
    """Return the input whose output is the region of a volume, mirrored at the border of what may be seen.

    Parameters
    ----------
    item : Volume
    field_of_view : (z, y, x), or Margins for a network that is not valid

    Returns
    -------
    float32 array of shape (channel, z, y, x), or dict of input to these
        Larger than the region by ``field_of_view - 1``.
    """
    around = field_of_view if isinstance(field_of_view, Margins) else margins(field_of_view)
    places = [
        reflected(range(low - b, high + a), *reach)
        for (low, high), reach, b, a in zip(item.region, item.reach, around.before, around.after, strict=True)
    ]
    if item.images:
        return {name: np.ascontiguousarray(read_box(image, places)) for name, image in item.images.items()}
    return np.ascontiguousarray(read_box(item.image, places))


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
