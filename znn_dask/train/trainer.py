"""`Trainer`: a whole run from Python, as ``znn-dask train`` makes it."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from znn_dask.errors import ParameterError
from znn_dask.infer.metrics import SegmentationScores
from znn_dask.io.atomic import replacing
from znn_dask.model import Model
from znn_dask.train.balance import Balance, make_balance
from znn_dask.train.callbacks import Callback
from znn_dask.train.checkpoints import saving
from znn_dask.train.config import Config
from znn_dask.train.config_file import load_config, make_config
from znn_dask.train.curve import Row, read_rows
from znn_dask.train.given import Stepping, as_samples, as_volumes, config_for, learns_from_ids, of_model, with_changes
from znn_dask.train.heldout import HeldOut, evaluate_regions, plain_target
from znn_dask.train.loop import Loop
from znn_dask.train.pictures import Plot, draw_curve, draw_prediction, levels
from znn_dask.train.report import write_report
from znn_dask.train.resolve import check_parallel
from znn_dask.train.run import BEST, CURVE, CURVE_PICTURE, METRICS, MODEL, PREDICTION_PICTURE, REPORT
from znn_dask.train.samples import Volume
from znn_dask.train.session import find_position, fixed_samples, open_run, prepare, restore, segments_of
from znn_dask.train.tensorboard import TensorBoard

UNLEARNT = 0.99  # of the error of the more frequent class, from which on a run has learnt nothing

Settings: TypeAlias = Config | Mapping[str, Any] | str | Path


@dataclass(frozen=True, repr=False)
class Result:
    """What a run has come to; prints as a few lines.

    Attributes
    ----------
    reason : str
        Why it ended, see `Callback.on_end`.
    step : int
        Updates made.
    seconds : float
        Time spent, all resumed parts together.
    held_out : HeldOut or None
        What was measured on the held-out regions; None without any, or if the run was interrupted.
    folder : Path
    files : tuple of str
        What is in it.
    """

    reason: str
    step: int
    seconds: float
    held_out: HeldOut | None
    folder: Path
    files: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.step:,} updates in {self.seconds / 60:.1f} minutes"]
        if self.held_out is not None:
            lines.append(describe_error(self.held_out))
        return "\n".join([*lines, f"{self.folder}: {', '.join(self.files)}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        text = f"<pre>{escape(str(self))}</pre>"
        picture = self.folder / PREDICTION_PICTURE
        if self.held_out is None or not picture.exists():
            return text
        content = b64encode(picture.read_bytes()).decode()
        return f'{text}<img style="max-width: 100%" alt="prediction" src="data:image/png;base64,{content}">'


class Trainer:
    """Trains a model and keeps a folder about it: checkpoints, learning curve, pictures, a report.

    If the folder holds a checkpoint of this run, it goes on from there and ends bitwise as if nothing had happened.

    Parameters
    ----------
    model : Model or None
        Trained in place. None makes the one that a configuration describes.
    samples : configuration or samples
        A configuration: a mapping of sections, a `Config`, or the path of a YAML file. Or samples: a function from the
        number of the update (from 0) to (x, target[, weight]) as `Model.step` takes them, an object with such a method
        ``sample``, or a sequence of samples, which is repeated. A resumed run is the undisturbed one if a number always
        gives the same sample.
    folder : str or Path
    callbacks : sequence of Callback
        Told what happens, after our own.
    test : sequence of (image, target), optional
        With samples: held-out volumes, image of shape (z, y, x) or (channel, z, y, x), target (z, y, x) of 0 and 1. A
        configuration names its own.
    updates : int, optional
        How many to make; else what the configuration says.
    training, log : mapping, optional
        Keys of these sections of the configuration, for instance ``training={"schedule": "cosine"}``,
        ``log={"test_every": 100, "keep": 5}``; ``znn-dask train --keys`` lists them.
    schedule : callable(step) -> float, optional
        The learning rate of an update instead of the configuration's, asked every ``training.rate_every`` updates.
    parallel : callable(model), optional
        Makes the steps instead of the model alone: ``DataParallel.on(client)`` trains on a Dask cluster.
    restart : bool
        Start over; what the folder holds of an earlier run is replaced.
    progress : bool
        Whether to show a bar.

    Raises
    ------
    CheckpointError
        If the folder holds another run.
    ConfigError, DataError, ShapeError, NetworkError, ParameterError
        If something does not fit.
    MissingExtraError
        If ``log.tensorboard`` is on and its extra is not installed.

    Examples
    --------
    >>> trainer = znn.Trainer(None, "examples/isbi2012.yaml", folder="runs/isbi", updates=2000)
    >>> print(trainer.run())
    """

    def __init__(
        self,
        model: Model | None,
        samples: Settings | Callable[[int], Any] | Sequence[Any] | Any,
        *,
        folder: str | Path = "run",
        callbacks: Iterable[Callback] = (),
        test: Sequence[tuple[Any, Any]] = (),
        updates: int | None = None,
        training: Mapping[str, Any] | None = None,
        log: Mapping[str, Any] | None = None,
        schedule: Callable[[int], float] | None = None,
        parallel: Callable[[Model], Stepping] | None = None,
        restart: bool = False,
        progress: bool = True,
    ) -> None:
        if model is not None and not isinstance(model, Model):
            raise ParameterError(f"model must be a Model, or None for that of a configuration, got {model!r}")
        told = _callbacks(callbacks)
        more = {"training": dict(training or {}), "log": dict(log or {})}
        if updates is not None:
            more["training"]["updates"] = updates
        self._owns, self._progress, self._test = model is None, progress, list[Volume]()
        if isinstance(samples, Config | Mapping | str | Path):
            if len(test):
                raise ParameterError("a configuration names its own held-out volumes: data.test; leave test out")
            config = with_changes(_config(samples, model), more)
            check_parallel(config, parallel is not None)
            board = _own_callbacks(config)
            self._loop, self._test = open_run(config, Path(folder), restart, model)
        elif model is None:
            raise ParameterError("samples need a model to train; only a configuration describes one")
        else:
            config = config_for(model, more)
            board = _own_callbacks(config)
            self._loop = _open_given(model, samples, config, Path(folder), test, restart)
            self._test = list(self._loop.regions)
        self._loop.callbacks = [*board, *told]
        self._loop.schedule = schedule
        try:
            self._loop.parallel = None if parallel is None else parallel(self.model)
        except BaseException:
            self.close()
            raise

    @property
    def model(self) -> Model:
        """The model in training."""
        return self._loop.model

    @property
    def config(self) -> Config:
        """The whole configuration, defaults included."""
        return self._loop.config

    @property
    def parallel(self) -> Stepping | None:
        """What makes the steps instead of the model."""
        return self._loop.parallel

    @property
    def balance(self) -> Balance:
        """What is done about unequal classes; prints what was counted of each."""
        return self._loop.balance

    @property
    def folder(self) -> Path:
        """Where the run leaves its files."""
        return self._loop.folder

    @property
    def step(self) -> int:
        """Updates made, those of resumed parts included."""
        return self._loop.step

    @property
    def curve(self) -> list[Row]:
        """The learning curve so far."""
        return read_rows(self.folder / CURVE)

    def run(self) -> Result:
        """Train to the end, the limit of time, `Callback` or Ctrl-C; then measure, draw and report.

        The first Ctrl-C (or SIGTERM) finishes the update and saves; the second stops at once. After an interruption
        nothing is measured. Another call goes on.

        Raises
        ------
        DivergenceError
            If the loss is not finite or grows; the last checkpoint stays.
        SaveError
            If a file cannot be written; the last checkpoint stays.
        """
        loop = self._loop
        loop.run(progress=self._progress)
        files = [MODEL, CURVE, CURVE_PICTURE]
        found: HeldOut | None = None
        if loop.reason != "interrupted":
            found = self._measure()
            with saving(self.folder / CURVE_PICTURE, loop.kept()):
                draw_curve(self.folder, levels(found) if found else None)
            files += [METRICS, PREDICTION_PICTURE] if found else []
            if self.config.log.report:
                with saving(self.folder / REPORT, loop.kept()):
                    write_report(loop, found)
                files.append(REPORT)
        if (self.folder / BEST).exists():
            files.insert(1, BEST)
        return Result(loop.reason, loop.step, loop.seconds, found, self.folder, tuple(files))

    @property
    def stopped_by(self) -> int:
        """Number of the signal that ended the last run, 0 for none."""
        return self._loop.stopped_by

    def _measure(self) -> HeldOut | None:
        """Predict the held-out regions, unless that was just done, and write figures and pictures."""
        loop, test = self._loop, self._test
        if not test:
            return None
        known = loop.validation if loop.validated_at == loop.step else None
        learnt: Sequence[Volume] = getattr(loop.samples, "volumes", ())
        found = evaluate_regions(loop.model, test, loop.segments, known, learnt)
        figures = {"updates": loop.step, "seconds": loop.seconds, **found.figures()}
        with saving(self.folder / METRICS, loop.kept()):
            with replacing(self.folder / METRICS) as temporary:
                temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
            where = tuple(slice(low, high) for low, high in test[0].region)
            image, target = np.asarray(test[0].image[(slice(0, 1), *where)])[0], plain_target(test[0], loop.model.loss)
            draw_prediction(self.folder, image, target, found.predictions[0], found.scores.error)
        return found

    def close(self) -> None:
        """End the threads of a model that the trainer made; one that was given stays open."""
        if self._owns:
            self.model.close()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Trainer: update {self.step:,} of {self.config.training.updates:,}, folder {self.folder}>"


def describe_error(found: HeldOut) -> str:
    """Return the held-out error and what it compares with, in a line or two."""
    scores, baseline = found.scores, found.baseline
    text = (
        f"held-out error {scores.error:.4f} (precision {scores.precision:.3f}, recall {scores.recall:.3f}, "
        f"F1 {scores.f1:.3f}); always the more frequent class: {scores.majority_error:.4f}; "
        f"best threshold on the smoothed image: {baseline.error:.4f}"
    )
    if scores.error >= UNLEARNT * scores.majority_error > 0:
        text += (
            "\nno better than always the more frequent class: nothing was learnt. Try more updates, a smaller or "
            "larger learning_rate, transfer: leaky_relu(0.1) or init: he"
        )
    if found.segments is not None:
        text += f"\nsegments: {_describe_cut(found.segments)}"
    if found.chosen is not None:
        text += f"\nat the threshold that is best where was learnt from: {_describe_cut(found.chosen)}"
    return text


def _describe_cut(cut: SegmentationScores) -> str:
    return (
        f"adapted Rand error {cut.rand_error:.4f}, variation of information {cut.voi_split:.3f} split "
        f"+ {cut.voi_merge:.3f} merge bits ({cut.segments:,} segments at {cut.threshold:g}, {cut.cells:,} cells)"
    )


def _config(given: Settings, model: Model | None) -> Config:
    """Return a configuration; a model's own output size and loss count."""
    if isinstance(given, Config):
        config = given
    elif isinstance(given, Mapping):
        config = make_config(dict(given))
    else:
        config = load_config(given)
    return config if model is None else with_changes(config, {"training": of_model(model)})


def _callbacks(given: Iterable[Callback]) -> list[Callback]:
    callbacks = list(given)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ParameterError(f"callbacks must be objects of classes that derive from Callback, got {callback!r}")
    return callbacks


def _own_callbacks(config: Config) -> list[Callback]:
    return [Plot(), *([TensorBoard()] if config.log.tensorboard else [])]


def _open_given(
    model: Model, samples: Any, config: Config, folder: Path, test: Sequence[tuple[Any, Any]], restart: bool
) -> Loop:
    """Make everything ready for samples that were given; the counterpart of `open_run`."""
    provider, regions = as_samples(samples), as_volumes(test, learns_from_ids(model))
    if regions and (len(model.net.inputs) != 1 or len(model.net.outputs) != 1):
        raise ParameterError("held-out volumes need a network with one input and one output; leave test out")
    held_out = []
    if regions:
        size = model.output_size
        assert not isinstance(size, dict)
        held_out = fixed_samples(config, regions, model.net, size, "test")
    resumed, position = find_position(config, folder, restart, model)
    restore(model, folder, position, resumed)
    prepare(config, folder, position, resumed)
    how = segments_of(config, model.net)
    balance = make_balance(config.training.rebalance, model.loss, model.net.outputs, None)
    return Loop(config, folder, model, provider, position, held_out, [], regions, how, balance=balance)
