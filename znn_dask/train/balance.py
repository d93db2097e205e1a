"""Rebalancing in a run: the weights of every sample, by its own classes or by those of the training data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np

from znn_dask.errors import ConfigError
from znn_dask.geometry import Triple, volume
from znn_dask.model.losses import Losses
from znn_dask.ops.balance import balanced_weights, class_counts
from znn_dask.ops.losses import parse_loss
from znn_dask.randomness import generator
from znn_dask.train.samples import Samples, Volume

MOST = 1 << 28  # voxels that are counted; of more a part, spread evenly
BLOCK: Triple = (16, 256, 256)
Counts: TypeAlias = dict[str, list[list[int]]]


@dataclass(frozen=True)
class Balance:
    """What is done about unequal classes.

    Attributes
    ----------
    mode : "none" | "global" | "patch"
    classes : dict of output to int or None
        How many classes its target has; None for 0 and 1 per channel.
    counts : dict of output to array
        Of global: how many voxels of each class there are.
    """

    mode: Literal["none", "global", "patch"] = "none"
    classes: dict[str, int | None] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)

    def recorded(self) -> Counts | None:
        """Return the counts as a run keeps them; None if there are none."""
        return {name: np.asarray(counts).tolist() for name, counts in self.counts.items()} or None

    def __str__(self) -> str:
        """Say which share of the voxels each class has, channel by channel."""
        parts = []
        for name, counts in self.counts.items():
            for channel, of_class in enumerate(np.asarray(counts)):
                where = (f"{name}, " if len(self.counts) > 1 else "") + (f"map {channel}, " if len(counts) > 1 else "")
                shares = ", ".join(f"{c}: {n / max(1, of_class.sum()):.2%}" for c, n in enumerate(of_class))
                parts.append(f"{where}{of_class.sum():,} voxels: {shares}")
        return "; ".join(parts)

    def apply(self, step: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what `Model.step` takes, (x, target[, weight]), with the weights of its classes."""
        if self.mode == "none":
            return step
        x, target, weight = (*step, None)[:3]
        targets, weights = _by_output(target, self.classes), _by_output(weight, self.classes)
        made = {}
        for name, classes in self.classes.items():
            values, own = _with_channels(targets[name], classes), weights.get(name)
            own = None if own is None else _with_channels(own, classes)
            made[name] = balanced_weights(values, own, classes, self.counts.get(name))
        return x, target, made if isinstance(target, dict) else made[next(iter(made))]


UNBALANCED = Balance()


def make_balance(
    mode: Literal["none", "global", "patch"],
    loss: Losses,
    channels: Mapping[str, int],
    samples: Samples | None,
    known: Counts | None = None,
) -> Balance:
    """Return what a run does about unequal classes.

    For "global" they are counted over the labels of all regions, block by block; of more than 2^28 voxels, in blocks
    that are spread evenly and have about so many.

    Parameters
    ----------
    mode : "none" | "global" | "patch"
    loss : str, or dict of output to (str, factor)
    channels : mapping of output to int
    samples : Samples, optional
        Their volumes are counted. None if samples are given by a program.
    known : mapping of output to lists of counts, optional
        What was counted before, for a run that goes on.

    Raises
    ------
    ConfigError
        If the target of an output has no classes, or they cannot be counted.
    """
    if mode == "none":
        return UNBALANCED
    classes: dict[str, int | None] = {}
    for name, count in channels.items():
        kind = parse_loss(loss if isinstance(loss, str) else loss[name][0])
        if kind.target == "segments":
            raise ConfigError(
                f"training.rebalance: {mode} weighs classes, and the target of loss {kind.kind!r} has none; "
                "set it to none"
            )
        classes[name] = count if kind.target == "classes" else None
    if mode == "patch":
        return Balance(mode, classes)
    if samples is None:
        raise ConfigError("training.rebalance: global counts the classes of volumes, and samples are given; set patch")
    counts = _counted(samples, classes) if known is None else {n: np.array(c, np.int64) for n, c in known.items()}
    return Balance(mode, classes, counts)


def _counted(samples: Samples, classes: Mapping[str, int | None]) -> dict[str, Any]:
    """Return how many voxels of each class the regions of all volumes have."""
    blocks = [(item, *box) for item in samples.volumes for box in _blocks(item)]
    total = sum(volume(size) for _, _, size in blocks)
    count = len(blocks) if total <= MOST else max(1, len(blocks) * MOST // total)
    counts: dict[str, Any] = {}
    # One of as many as it stands for, at random: every n-th could all lie in one column.
    places = np.arange(count) if count == len(blocks) else _spread(count, len(blocks), samples.seed)
    for place in places:
        item, start, size = blocks[int(place)]
        found, valid = samples.targets(item, start, size)
        targets, weights = _by_output(found, classes), _by_output(valid, classes)
        for name, values in targets.items():
            counts[name] = counts.get(name, 0) + class_counts(values, weights.get(name), classes[name])
    return counts


def _spread(count: int, total: int, seed: int) -> np.ndarray:
    """Return the numbers of some of all blocks, spread evenly."""
    return np.floor((np.arange(count) + generator(seed, 0, "balance").random(count)) * total / count).astype(np.int64)


def _blocks(item: Volume) -> Iterator[tuple[Triple, Triple]]:
    """Yield corner and size of blocks that make up a region."""
    (z, z1), (y, y1), (x, x1) = item.region
    for low in product(range(z, z1, BLOCK[0]), range(y, y1, BLOCK[1]), range(x, x1, BLOCK[2])):
        a, b, c = (min(n, high - at) for n, high, at in zip(BLOCK, (z1, y1, x1), low, strict=True))
        yield low, (a, b, c)


def _by_output(values: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by the name of the output; bare ones belong to the only one."""
    return dict(values) if isinstance(values, Mapping) else {} if values is None else {next(iter(outputs)): values}


def _with_channels(values: Any, classes: int | None) -> np.ndarray:
    """Return a target or weight with an axis of channels, which those of classes may lack."""
    array = np.asarray(values)
    return array[:, np.newaxis] if classes is not None and array.ndim == 4 else array
