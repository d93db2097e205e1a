"""Augmentation: what may be done to a patch, each a small value with its parameters, as a configuration lists them.

Those of this file change grey values; those that move voxels (`Elastic`, `Rotate`, `Shifted`) are carried out together
in `warp`, so that an image is interpolated once. Whatever is drawn depends on seed, step, the patch's number and the
augmentation's name alone. Grey values are those after preprocessing, so that 1 is a standard deviation.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np

from znn_dask.ops.greys import add_noise, grade, smooth

Chance: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


class _Augmentation(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag=str.lower
):
    """What all have: the chance that a patch is changed at all."""

    probability: Chance = 1.0

    @property
    def kind(self) -> str:
        """The name in configurations."""
        return str(self.__struct_config__.tag)


class _OfGreyValues(_Augmentation, frozen=True, kw_only=True):
    """Changes grey values, of all inputs of the network or of those named."""

    inputs: tuple[str, ...] | None = None

    def apply(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return a changed image, float32 of shape (channel, z, y, x); the one given may be overwritten."""
        raise NotImplementedError


class Grey(_OfGreyValues, frozen=True, kw_only=True):
    """Contrast, brightness and gamma, one of each for the patch or for every section.

    Values become ``(v ** g) * (1 + c) + b`` with c and b uniform up to `contrast` and `brightness`, and g = 2**u with u
    uniform up to `gamma`; for the power, the patch's values are taken to go from 0 to 1.
    """

    contrast: Amount = 0.2
    brightness: Amount = 0.2
    gamma: Amount = 0.3
    sections: bool = False

    def apply(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return an image of another look."""
        count = image.shape[1] if self.sections else 1
        levels = np.empty((3, image.shape[1]), np.float32)
        for number, amount in enumerate((self.gamma, self.contrast, self.brightness)):
            levels[number] = random.uniform(-1, 1, count) * amount
        levels[0] = np.exp2(levels[0])
        levels[1] += 1
        return grade(image, levels)


class Noise(_OfGreyValues, frozen=True, kw_only=True):
    """Independent noise of a standard deviation that is uniform up to `sigma`."""

    sigma: Amount = 0.2

    def apply(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return a noisier image."""
        sigma = self.sigma * random.random()
        add_noise(image, int(random.integers(0, 1 << 64, dtype=np.uint64)), sigma)
        return image


class Blur(_OfGreyValues, frozen=True, kw_only=True):
    """A Gaussian of a width in voxels that is uniform up to `sigma` in the section, and up to `sigma_z` across."""

    sigma: Amount = 1.0
    sigma_z: Amount = 0.0

    def apply(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return a smoother image."""
        share = random.random()
        return smooth(image, self.sigma_z * share, np.full(image.shape[1], self.sigma * share))


class Missing(_OfGreyValues, frozen=True, kw_only=True):
    """Sections without an image, each with a chance of `share`; the first always stays, and a single section.

    They hold `value`, or a grey that is drawn between the least and the greatest of the patch.
    """

    probability: Chance = 0.5
    share: Chance = 0.1
    value: float | None = None

    def apply(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return an image with gaps."""
        depth = image.shape[1]
        gone = np.asarray(random.random(depth) < self.share)
        level = random.random()
        gone[int(random.integers(depth))] = False  # something is left to see
        if not gone.any():
            return image
        low, high = image.min(), image.max()
        image[:, gone] = low + level * (high - low) if self.value is None else self.value
        return image


class OutOfFocus(_OfGreyValues, frozen=True, kw_only=True, tag="out_of_focus"):
    """Sections that are blurred, each with a chance of `share`, by a width that is uniform up to `sigma` voxels."""

    probability: Chance = 0.5
    share: Chance = 0.1
    sigma: Amount = 3.0

    def apply(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return an image with blurred sections."""
        depth = image.shape[1]
        blurred = np.asarray(random.random(depth) < self.share)
        widths = np.asarray(self.sigma * random.random(depth))
        if depth == 1:  # the chance of the patch is that of its only section
            blurred[:] = True
        return smooth(image, 0.0, np.where(blurred, widths, 0.0))


class Boxes(_OfGreyValues, frozen=True, kw_only=True):
    """Up to `count` boxes, each of a size that is drawn up to `size` (z, y, x), which hold nothing.

    They hold `value`, or the least of the patch: dark, as dirt and cracks are.
    """

    probability: Chance = 0.5
    count: Count = 2
    size: tuple[Count, Count, Count] = (2, 24, 24)
    value: float | None = None

    def apply(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return an image with boxes."""
        value = image.min() if self.value is None else self.value
        for _ in range(int(random.integers(1, self.count + 1))):
            box = []
            for length, most in zip(image.shape[1:], self.size, strict=True):
                side = int(random.integers(1, min(most, length) + 1))
                start = int(random.integers(length - side + 1))
                box.append(slice(start, start + side))
            image[(slice(None), *box)] = value
        return image


class Elastic(_Augmentation, frozen=True, kw_only=True):
    """A smooth displacement: of `amplitude` voxels (a standard deviation) in y and x, of `amplitude_z` in z.

    It is drawn every `spacing` (z, y, x) voxels, a cubic spline between. Amplitudes below a fifth of the spacing
    do not fold the image.
    """

    amplitude: Amount = 2.0
    amplitude_z: Amount = 0.0
    # Not an int or a tuple: with limits on both, msgspec 0.22 crashes when Python collects garbage.
    spacing: tuple[Count, Count, Count] = (24, 24, 24)


class Rotate(_Augmentation, frozen=True, kw_only=True):
    """A rotation by up to `degrees` in the section and `tilt` degrees out of it; `zoom` 0.1 is 0.9 to 1.1."""

    degrees: Annotated[float, msgspec.Meta(ge=0, le=180)] = 15.0
    tilt: Annotated[float, msgspec.Meta(ge=0, le=45)] = 0.0
    zoom: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class Shifted(_Augmentation, frozen=True, kw_only=True):
    """Sections that are displaced by up to `distance` whole voxels along y and x.

    Either one section slips alone, and the labels stay; or, with a chance of `step`, all sections from one on are
    displaced, and the labels with them. A patch of a single section stays as it is.
    """

    probability: Chance = 0.5
    distance: Count = 8
    step: Chance = 0.5


Augmentation: TypeAlias = Grey | Noise | Blur | Missing | OutOfFocus | Boxes | Elastic | Rotate | Shifted
KINDS: dict[str, type[_Augmentation]] = {
    str(made.__struct_config__.tag): made
    for made in (Grey, Noise, Blur, Elastic, Rotate, Missing, Shifted, OutOfFocus, Boxes)
}


def describe_kinds() -> list[str]:
    """Return a line for every augmentation: its name, keys with defaults, and meaning."""
    lines = []
    for name, made in KINDS.items():
        keys = ", ".join(f"{f.name}={_text(f.default)}" for f in msgspec.structs.fields(made))
        lines.append(f"{name}: {(made.__doc__ or '').splitlines()[0]} [{keys}]")
    return lines


def change_greys(augmentations: Sequence[Any], images: dict[str, np.ndarray], random_of: Any) -> dict[str, np.ndarray]:
    """Apply those that change grey values, in their order, to the images of a patch by input; overwrites them.

    Parameters
    ----------
    augmentations : sequence of Augmentation
    images : dict of input to float32 array of shape (channel, z, y, x)
    random_of : callable(name) -> Generator
    """
    for name, item in named(augmentations):
        if not isinstance(item, _OfGreyValues):
            continue
        random = random_of(name)
        if random.random() >= item.probability:
            continue
        for key, image in images.items():
            if item.inputs is None or key in item.inputs:
                images[key] = item.apply(image, random)
    return images


def named(augmentations: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return augmentations with names that tell those of one kind apart: grey0, grey1, noise0."""
    return _named(tuple(augmentations))


@functools.lru_cache
def _named(augmentations: tuple[Any, ...]) -> list[tuple[str, Any]]:
    counts: dict[str, int] = {}
    found = []
    for item in augmentations:
        number = counts.get(item.kind, 0)
        counts[item.kind] = number + 1
        found.append((f"{item.kind}{number}", item))
    return found


def _text(value: object) -> str:
    return "all" if value is None else str(value)
