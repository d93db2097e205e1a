"""Rebalancing in a run: the weights of every sample, by its own classes or by those of the training data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from znn_dask.errors import ConfigError
from znn_dask.model.losses import Losses
from znn_dask.ops.balance import balanced_weights, class_counts
from znn_dask.ops.losses import parse_loss
from znn_dask.train.samples import Samples

_PATCHES = 64


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
    mode: Literal["none", "global", "patch"], loss: Losses, channels: Mapping[str, int], samples: Samples | None
) -> Balance:
    """Return what a run does about unequal classes.

    For "global" they are counted in 64 patches.

    Parameters
    ----------
    mode : "none" | "global" | "patch"
    loss : str, or dict of output to (str, factor)
    channels : mapping of output to int
    samples : Samples, optional
        Of a purpose of their own, so that they are no patches of training. None if samples are given by a program.

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
    counts: dict[str, Any] = {}
    for number in range(-(-_PATCHES // samples.batch)):
        sample = samples.sample(number)
        targets, weights = _by_output(sample.target, classes), _by_output(sample.weight, classes)
        for name, values in targets.items():
            found = class_counts(values, weights.get(name), classes[name]).sum(axis=0)
            counts[name] = counts.get(name, 0) + found
    return Balance(mode, classes, counts)


def _by_output(values: Any, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by the name of the output; bare ones belong to the only one."""
    return dict(values) if isinstance(values, Mapping) else {} if values is None else {next(iter(outputs)): values}


def _with_channels(values: Any, classes: int | None) -> np.ndarray:
    """Return a target or weight with an axis of channels, which those of classes may lack."""
    array = np.asarray(values)
    return array[:, np.newaxis] if classes is not None and array.ndim == 4 else array
