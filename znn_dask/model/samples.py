"""From what users give to the arrays a graph takes: public arrays with a batch axis, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.geometry import Triple, as_triple
from znn_dask.net import Network
from znn_dask.ops.losses import Target

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Images, targets and weights by node name, each ``(batch, channel, z, y, x)``.

    Attributes
    ----------
    squeezed : bool
        Whether they were given without a batch axis, so that outputs are returned without.
    """

    images: dict[str, Values]
    targets: dict[str, Values]
    weights: dict[str, Values]
    size: int
    squeezed: bool


def by_name(given: Any, names: list[str], what: str) -> dict[str, Any]:
    """Return a mapping of names; a bare value stands for the only one.

    Raises
    ------
    ParameterError
        If names are missing or unknown, or there are several and no mapping is given.
    """
    if not isinstance(given, Mapping):
        if len(names) != 1:
            raise ParameterError(f"the network has the {what}s {', '.join(names)}: give a dict of them")
        return {names[0]: given}
    if set(given) != set(names):
        raise ParameterError(
            f"{what}s must be given for {', '.join(names)}, got {', '.join(map(str, given)) or 'none'}"
        )
    return {name: given[name] for name in names}


def read_images(x: Any, channels: Mapping[str, int], sizes: Mapping[str, Triple]) -> Batch:
    """Check input images.

    Parameters
    ----------
    x : array of shape (channel, z, y, x), (batch, channel, z, y, x), or (z, y, x) for one channel; or dict of them
    channels, sizes : dict of input to channels and (z, y, x)

    Raises
    ------
    ShapeError
        If a shape does not fit the network and output size.
    ParameterError
        If an input is missing or unknown, or not numeric.
    """
    images, squeezed = {}, True
    for name, value in by_name(x, list(channels), "input").items():
        image, bare = _five_axes(value, channels[name], sizes[name], f"input {name!r}")
        images[name], squeezed = image, squeezed and bare
    counts = {image.shape[0] for image in images.values()}
    if len(counts) > 1:
        raise ShapeError(f"inputs have different numbers of examples: {sorted(counts)}")
    return Batch(images, {}, {}, counts.pop(), squeezed)


def read_sample(
    x: Any,
    target: Any,
    weight: Any,
    inputs: tuple[Mapping[str, int], Mapping[str, Triple]],
    outputs: tuple[Mapping[str, int], Mapping[str, Triple]],
    kinds: Mapping[str, Target],
) -> Batch:
    """Check a training sample; ``kinds`` says what the target of each output holds.

    Raises
    ------
    ShapeError, ParameterError
        As `read_images`; also for a class outside the channels, an id that cannot be, or a weight that does not fit.
    """
    batch = read_images(x, *inputs)
    channels, sizes = outputs
    targets = {}
    for name, value in by_name(target, list(channels), "target").items():
        whole = kinds[name] != "values"
        targets[name], _ = _five_axes(value, 1 if whole else channels[name], sizes[name], f"target {name!r}", whole)
        if kinds[name] == "classes":
            _check_classes(targets[name], channels[name], name)
        elif kinds[name] == "segments":
            _check_segments(targets[name], name)
    weights = {} if weight is None else _weights(weight, channels, sizes, kinds)
    for name, values in (*targets.items(), *weights.items()):
        if values.shape[0] != batch.size:
            raise ShapeError(f"{name!r}: {values.shape[0]} examples of target or weight, {batch.size} of the input")
    return Batch(batch.images, targets, weights, batch.size, batch.squeezed)


def _weights(
    weight: Any, channels: Mapping[str, int], sizes: Mapping[str, Triple], kinds: Mapping[str, Target]
) -> dict[str, Values]:
    given = weight if isinstance(weight, Mapping) else by_name(weight, list(channels), "weight")
    unknown = [name for name in given if name not in channels]
    if unknown:
        raise ParameterError(f"weights must be given for {', '.join(channels)}, got {', '.join(map(str, unknown))}")
    weights = {}
    for name, value in given.items():
        if value is None:
            continue
        shape, classes = np.shape(value), kinds[name] == "classes"
        # One weight per voxel, for all channels, unless there is one for each.
        count = 1 if classes or len(shape) == 3 or (len(shape) in (4, 5) and shape[-4] == 1) else channels[name]
        per_voxel, _ = _five_axes(value, count, sizes[name], f"weight {name!r}", classes)
        weights[name] = per_voxel.astype(np.float32, copy=False)
    return weights


def _five_axes(value: Any, channels: int, size: Triple, what: str, classes: bool = False) -> tuple[Values, bool]:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ParameterError(f"{what} must be an array of numbers, got dtype {array.dtype}")
    shape = array.shape
    if channels == 1 and shape == size:
        array = array[np.newaxis, np.newaxis]
    elif shape == (channels, *size):
        array = array[np.newaxis]
    elif classes and len(shape) == 4 and shape[1:] == size:
        return np.ascontiguousarray(array[:, np.newaxis]), False
    elif not (len(shape) == 5 and shape[1:] == (channels, *size) and shape[0] > 0):
        raise ShapeError(
            f"{what} must have shape {(channels, *size)} (channel, z, y, x), with or without a batch axis before, "
            f"got {shape}; the size follows from output_size and the field of view"
        )
    if not classes:
        array = array.astype(np.float32, copy=False)
    return array, len(shape) < 5


def _check_classes(classes: Values, n_classes: int, name: str) -> None:
    if not _whole(classes):
        raise ParameterError(f"target {name!r} of the softmax loss must hold whole numbers, one class per voxel")
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= n_classes:
        raise ParameterError(
            f"target {name!r} holds class {low if low < 0 else high}, but classes go from 0 to {n_classes - 1}: "
            f"the output has {n_classes} channels. Give the network as many output channels as there are classes "
            "(out_channels), or number the labels from 0"
        )


def _check_segments(ids: Values, name: str) -> None:
    if not _whole(ids) or ids.min() < 0:
        raise ParameterError(
            f"target {name!r} of MALIS must hold the id of each voxel's segment, whole numbers of 0 (background) or "
            f"more, got {ids.dtype} from {ids.min()} to {ids.max()}"
        )


def _whole(values: Values) -> bool:
    return values.dtype.kind != "f" or np.array_equal(values, np.round(values))


def output_sizes(net: Network, given: Any) -> dict[str, Triple]:
    """Return the size of every output; one size counts for all."""
    names = list(net.outputs)
    sizes = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
    if set(sizes) != set(names):
        raise ShapeError(f"output_size must be given for {', '.join(names)}, got {', '.join(map(str, sizes))}")
    return {name: as_triple(sizes[name], net.ndim, "output_size") for name in names}


def as_seed(seed: Any) -> int:
    """Return a seed as an int; raises a ParameterError if it is no whole number."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ParameterError(f"seed must be a whole number, got {seed!r}")
    return int(seed)


def single(values: Mapping[str, Any]) -> Any:
    """Return the only value, or a dict where there are several."""
    return next(iter(values.values())) if len(values) == 1 else dict(values)
