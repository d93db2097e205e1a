"""A run on disk: what it was told, where it is, and whether a checkpoint is its own.

The checkpoint is the model file. Parameters, velocities, learning rate, step, plan and FFT wisdom are in it
by `Model.save`; what only the loop knows travels in its metadata. Samples need nothing: they are counted,
not drawn.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from znn_dask.errors import CheckpointError, ConfigError
from znn_dask.io.checkpoint import read_metadata
from znn_dask.train.config import Config
from znn_dask.train.config_file import flat, from_json, to_json

MODEL, BEST, KEPT = "model.safetensors", "best.safetensors", "checkpoints"
CURVE, CURVE_PICTURE, CONFIG = "learning_curve.csv", "learning_curve.png", "config.yaml"
METRICS, PREDICTION_PICTURE, REPORT, BOARD = "metrics.json", "prediction.png", "report.html", "tensorboard"


# Keys that name files, also one for every input or output.
_FILE = re.compile(r"^network\.file$|^data\.(\w+\.\d+\.)?(image|label|mask)(\.|$)")


class Position(msgspec.Struct, kw_only=True):
    """Where a run is; changed by the loop alone.

    Attributes
    ----------
    step : int
        Updates made.
    before : int
        Steps that the model had made before the run.
    seconds : float
        Time spent, all resumed parts together.
    step_seconds : float
        What of that was spent on updates alone, not on tests and files.
    loss_sum, loss_count
        Losses since the last row of the learning curve.
    best_error, best_step
        The smallest held-out error so far, and after which update; None before the first.
    window_sum, window_count, first_mean
        Losses since the last look at whether they grow, and the mean over the first window.
    counts
        Of global rebalancing: voxels by output, channel and class, counted when the run began.
    """

    step: int = 0
    before: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    best_error: float | None = None
    best_step: int | None = None
    window_sum: float = 0.0
    window_count: int = 0
    first_mean: float | None = None
    counts: dict[str, list[list[int]]] | None = None


@dataclass(frozen=True)
class Stored:
    """What a model file says of the run that made it."""

    config: Config
    position: Position


def to_metadata(config: Config, position: Position) -> dict[str, str]:
    """Return what the loop adds to a model file."""
    return {"train.config": to_json(config), "train.position": msgspec.json.encode(position).decode()}


def read_stored(path: Path) -> Stored:
    """Read what `to_metadata` added to a model file.

    Raises
    ------
    CheckpointError
        If the file is no model, or was not made by training.
    """
    metadata = read_metadata(path)
    try:
        config = from_json(metadata["train.config"])
        return Stored(config, msgspec.json.decode(metadata["train.position"], type=Position))
    except KeyError as error:
        raise CheckpointError(
            f"{path} was not made by `znn-dask train`; it has no {error.args[0]}. To predict with it, give --preprocess"
        ) from error
    except (ConfigError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path} was made by another version of znn-dask: {error}") from error


def check_same_run(path: Path, stored: Config, config: Config) -> None:
    """Raise if a configuration describes another run than a checkpoint's.

    What does not shape the run may differ: how long it lasts (unless the learning rate depends on that),
    what is logged, the number of workers, and the folders of the volumes.

    Raises
    ------
    CheckpointError
        Naming what differs.
    """
    there, here = (_shaping(flat(c), c) for c in (stored, config))
    differences = [
        f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
        for key in dict.fromkeys([*there, *here])
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"{path} belongs to another run: {'; '.join(differences)}. "
            "Give --restart to start over, or --out for another folder"
        )


def _shaping(values: dict[str, Any], config: Config) -> dict[str, Any]:
    free = {"training.max_minutes", "data.in_memory", "compute.workers", "compute.cluster", "compute.scheduler"}
    if config.training.schedule in ("constant", "step", "exponential"):
        free.add("training.updates")
    kept = {k: v for k, v in values.items() if k not in free and not k.startswith("log.")}
    for key, value in kept.items():
        if _FILE.search(key) and isinstance(value, str):
            kept[key] = Path(value).name
    return kept
