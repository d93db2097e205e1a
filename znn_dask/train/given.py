"""What a caller may give a `Trainer` instead of a configuration, brought to the form that the loop knows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.model import Model
from znn_dask.model.losses import targets_of
from znn_dask.train.config import Config
from znn_dask.train.config_file import make_config
from znn_dask.train.samples import Volume
from znn_dask.train.targets import Labels, TargetSpec


class Source(Protocol):
    """Gives the sample of an update."""

    def sample(self, step: int) -> Any:
        """Return (x, target[, weight]) as `Model.step` takes them."""


class Stepping(Protocol):
    """Makes the steps of a model, as `Model.steps` does."""

    def steps(self, samples: Iterable[tuple[Any, ...]]) -> Iterator[float]:
        """Make one step per sample (x, target[, weight]) and yield its loss."""


class _Called:
    def __init__(self, function: Callable[[int], Any]) -> None:
        self.sample = function


class _Repeated:
    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def sample(self, step: int) -> Any:
        return self._samples[step % len(self._samples)]


def as_samples(given: Any) -> Source:
    """Return samples by the number of their update.

    Parameters
    ----------
    given : object with a method ``sample``, callable(step), or sequence of (x, target[, weight])

    Raises
    ------
    ParameterError
        If it is none of these.
    """
    if callable(getattr(given, "sample", None)):
        source: Source = given
        return source
    if callable(given):
        return _Called(given)
    if isinstance(given, Sequence) and len(given):
        wrong = [sample for sample in given if not (isinstance(sample, tuple | list) and len(sample) in (2, 3))]
        if wrong:
            raise ParameterError(
                f"every sample must be (x, target) or (x, target, weight), got {type(wrong[0]).__name__}; one sample "
                "alone is [(x, target)]"
            )
        return _Repeated(given)
    raise ParameterError(
        f"samples must be a configuration, a function from the number of an update to (x, target[, weight]), or a "
        f"sequence of these that is not empty, got {type(given).__name__}. Of an iterator a resumed run could not tell "
        "what it has used; give a function of the number, or list(...)"
    )


def as_volumes(given: Sequence[tuple[Any, Any]], ids: bool = False) -> list[Volume]:
    """Return held-out volumes from pairs of image and target, which has 0 and 1 or else ids.

    Raises
    ------
    ShapeError, ParameterError
        If they do not fit.
    """
    volumes = []
    for number, pair in enumerate(given):
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise ParameterError(f"test must be a sequence of (image, target), got {type(pair).__name__} in it")
        image, target = np.asarray(pair[0], np.float32), np.asarray(pair[1])
        image = image[np.newaxis] if image.ndim == 3 else image
        if image.ndim != 4 or target.shape != image.shape[1:]:
            raise ShapeError(
                f"test volume {number}: image {np.shape(pair[0])} must be (z, y, x) or (channel, z, y, x), and target "
                f"{target.shape} of the same (z, y, x)"
            )
        if ids and (target.dtype.kind not in "iu" or target.min() < 0):
            raise ParameterError(f"the target of test volume {number} must hold ids, whole numbers of 0 or more")
        if not ids and not np.isin(target, (0, 1)).all():
            raise ParameterError(f"the target of test volume {number} must hold 0 and 1 only")
        z, y, x = target.shape
        box = (0, z), (0, y), (0, x)
        made = Labels(target, TargetSpec("ids")) if ids else target.astype(np.uint8)
        volumes.append(Volume(image, made, box, box, f"test volume {number}"))
    return volumes


def of_model(model: Model) -> dict[str, Any]:
    """Return the keys of the training section that a model decides: output size, loss."""
    size, loss = model.output_size, model.loss
    found: dict[str, Any] = {} if isinstance(size, dict) else {"output_size": list(size)}
    return found | {"loss": loss if isinstance(loss, str) else {name: list(pair) for name, pair in loss.items()}}


def config_for(model: Model, more: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return the configuration of a run on samples that were given: the defaults, the model's own, and more."""
    training = {
        **of_model(model),
        "learning_rate": model.learning_rate,
        "seed": model.seed,
        "batch": model.plan.plan.batch,
        **more.get("training", {}),
    }
    ids = learns_from_ids(model)
    # Images come as they are, and nothing says what a target of 1 means.
    data = {"preprocess": "none", "target": "ids" if ids else "binary"}
    log = {"segments": "auto" if ids else "none", **more.get("log", {})}
    return make_config({"training": training, "data": data, "log": log}, name="the settings")


def learns_from_ids(model: Model) -> bool:
    """Return whether the targets of a model are ids, as for MALIS."""
    return "segments" in targets_of(model.loss, model.net).values()


def with_changes(config: Config, more: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return a configuration with other values in some sections, checked."""
    raw = msgspec.to_builtins(config)
    for section, values in more.items():
        raw[section] = {**raw[section], **values}
    return make_config(raw, name="the settings")
