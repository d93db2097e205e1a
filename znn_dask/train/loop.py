"""The training loop: updates, learning curve, test errors, checkpoints, and a clean end on Ctrl-C.

Updates run in stretches between the events that are due at fixed numbers of updates, so that the model can
pipeline them, and so that what happens never depends on the clock (only when the run is stopped does).
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from znn_dask.model import Model
from znn_dask.model.losses import Losses
from znn_dask.train import divergence
from znn_dask.train.balance import UNBALANCED, Balance
from znn_dask.train.callbacks import Callback
from znn_dask.train.checkpoints import saving, write_checkpoint_files
from znn_dask.train.config import Config
from znn_dask.train.curve import Row, append_row, read_rows
from znn_dask.train.given import Source, Stepping
from znn_dask.train.heldout import NO_SEGMENTS, Segments, Validation, validate
from znn_dask.train.losses import measured
from znn_dask.train.progress import progress_bar
from znn_dask.train.resolve import learning_rate
from znn_dask.train.run import CURVE, MODEL, Position, to_metadata
from znn_dask.train.samples import Sample, Volume
from znn_dask.train.signals import first_signal

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass
class Loop:
    """Everything a run needs, and how far it is; callbacks are given it as the run.

    Attributes
    ----------
    samples : object with a method ``sample(step)``
        What update ``step`` (from 0) learns from.
    test, train_test : lists of Sample
        Fixed patches on which errors are measured; empty for none.
    regions : list of Volume
        Predicted as a whole now and then; empty for none.
    segments : Segments
        What of them is compared as segments.
    callbacks : list of Callback
    schedule : callable(step) -> float, optional
        The learning rate instead of the configuration's.
    balance : Balance
        What is done about unequal classes.
    parallel : object with a method ``steps(samples)``, optional
        What makes the steps of the model instead of the model itself.
    stopped_by : int
        Number of the signal that asked for an end, 0 for none. Set by the signal handler.
    validation : Validation or None
        The last one of the held-out regions, after update `validated_at`.
    reason : str
        Why the run ended, see `Callback.on_end`.
    """

    config: Config
    folder: Path
    model: Model
    samples: Source
    position: Position
    test: list[Sample] = field(default_factory=list)
    train_test: list[Sample] = field(default_factory=list)
    regions: Sequence[Volume] = ()
    segments: Segments = NO_SEGMENTS
    callbacks: list[Callback] = field(default_factory=list)
    schedule: Callable[[int], float] | None = None
    balance: Balance = UNBALANCED
    parallel: Stepping | None = None
    stopped_by: int = 0
    last_test_error: float | None = None
    validation: Validation | None = None
    validated_at: int | None = None
    reason: str = ""
    _stopping: bool = False

    def __post_init__(self) -> None:
        self._saved = _Saved(copy(self.position))
        self._started = time.monotonic()
        self._ahead = _Ahead(self._made)

    @property
    def step(self) -> int:
        """Updates made."""
        return self.position.step

    @property
    def seconds(self) -> float:
        """Time spent, all resumed parts together."""
        return self.position.seconds

    @property
    def rows(self) -> list[Row]:
        """The learning curve so far."""
        return read_rows(self.folder / CURVE)

    def stop(self) -> None:
        """End the run after this update, with a checkpoint."""
        self._stopping = True

    def run(self, progress: bool = True) -> Position:
        """Train to the end, the limit of time or a signal; a checkpoint is written in each case.

        Raises
        ------
        DivergenceError
            If the loss is not finite or grows; the last checkpoint stays.
        SaveError
            If a file cannot be written; the last checkpoint stays.
        """
        self._saved = _Saved(copy(self.position))
        self._started = time.monotonic() - self.position.seconds
        self.stopped_by, self._stopping, self.reason = 0, False, "failed"
        try:
            self._tell(lambda callback: callback.on_start(self))
            total = self.config.training.updates
            with first_signal(self._signalled), self._ahead, progress_bar(total, self.step, progress) as bar:
                self._train(bar)
        except BaseException as error:
            self.reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(OSError):  # what stopped the run is told, not what followed from it
                self._tell(lambda callback: callback.on_end(self, self.reason))
            raise
        self._tell(lambda callback: callback.on_end(self, self.reason))
        return self.position

    def _train(self, bar: "tqdm[None]") -> None:
        ended = self._ends()
        while not ended:
            rate = self._rate()
            if self.model.learning_rate != rate:
                self.model.learning_rate = rate
            self._stretch(self._next_event(), bar)
            self.position.seconds = time.monotonic() - self._started
            self._ends()  # all is measured at the last update, whatever makes it the last; but for a signal
            best = self._row_if_due(bar)
            if best or self._checkpoint_due():
                self.checkpoint(best)
            ended = self._ends()
        if self._saved.position != self.position or not (self.folder / MODEL).exists():
            self.checkpoint()

    def checkpoint(self, best: bool = False) -> None:
        """Write the model file; whoever reads it sees the old or the new one.

        Parameters
        ----------
        best : bool
            Whether it is the best so far, and to be kept as that too.
        """
        wrong = divergence.grows(self.position) or divergence.broken(self.model.parameters.items())
        if wrong:
            raise divergence.error(wrong, self.kept(), self.model.learning_rate)

        def save(path: Path) -> None:
            self.model.save(path, metadata=to_metadata(self.config, self.position))

        path = self.folder / MODEL
        with saving(path, self.kept()):
            write_checkpoint_files(save, self.folder, self.step, self.config.log.keep, best)
        self._saved = _Saved(copy(self.position))
        self._tell(lambda callback: callback.on_checkpoint(self, path))

    def measure(self, samples: list[Sample]) -> tuple[float, float]:
        """Return the mean loss and the pixel error over patches."""
        results = []
        for sample in samples:
            results.append(measured(self._outputs(sample), sample.target, sample.weight, self.model.loss))
        mean = np.mean(results, axis=0)
        return float(mean[0]), float(mean[1])

    def _outputs(self, sample: Sample) -> np.ndarray:
        if sample.target.shape[2:] == self.model.output_size:
            return np.asarray(self.model.forward(sample.image))
        # A held-out region may be smaller than the patches of training.
        return np.stack([np.asarray(self.model.predict(image, border=None)) for image in sample.image])

    def _stretch(self, until: int, bar: "tqdm[None]") -> None:
        position = self.position
        before = time.monotonic()
        steps = (self.model if self.parallel is None else self.parallel).steps(self._provide(until))
        with closing(cast(Generator[float, None, None], steps)) as losses:
            for loss in losses:
                wrong = divergence.watch(position, float(loss))
                if wrong:
                    raise divergence.error(wrong, self.kept(), self.model.learning_rate)
                position.step += 1
                position.loss_sum += float(loss)
                position.loss_count += 1
                now = time.monotonic()
                position.seconds = now - self._started
                position.step_seconds += now - before
                before = now
                bar.update()
                bar.set_postfix_str(self._postfix(float(loss)), refresh=False)
                for callback in self.callbacks:
                    callback.on_step(self, float(loss))
                if self._stopping:
                    break

    def _provide(self, until: int) -> Iterator[tuple[Any, ...]]:
        limit = self.config.training.max_minutes
        for step in range(self.position.step, until):
            over = limit is not None and time.monotonic() - self._started >= 60 * limit
            # At least one update lies between two checkpoints, however long it takes.
            if self.stopped_by or over or (step > self._saved.step and self._overdue()):
                return
            yield self._ahead.take(step)
        # What is due now takes a while: the next sample is made meanwhile.
        if until < self.config.training.updates:
            self._ahead.ask(until)

    def _made(self, step: int) -> tuple[Any, ...]:
        return self.balance.apply(as_step(self.samples.sample(step), self.model.loss))

    def _ends(self) -> bool:
        limit = self.config.training.max_minutes
        if self.stopped_by:
            self.reason = "interrupted"
        elif self._stopping:
            self.reason = "stopped"
        elif self.step >= self.config.training.updates:
            self.reason = "updates"
        elif limit is not None and self.position.seconds >= 60 * limit:
            self.reason = "time"
        else:
            return False
        return True

    def _rate(self) -> float:
        if self.schedule is not None:
            return float(self.schedule(self.step))
        return learning_rate(self.config.training, self.step)

    def _next_event(self) -> int:
        """Return the number of updates at which something is due next."""
        log, step = self.config.log, self.position.step
        periods = [self.config.training.rate_every, log.every, log.checkpoint_every]
        periods += [log.test_every] if self.test or self.train_test else []
        periods += [log.validate_every] if self._validates else []
        return min(self.config.training.updates, *((step // period + 1) * period for period in periods))

    @property
    def _validates(self) -> bool:
        return bool(self.regions) and self.config.log.validate_every > 0

    def _due(self, period: int) -> bool:
        return self.reason in ("updates", "time", "stopped") or self.step % period == 0

    def _checkpoint_due(self) -> bool:
        at_number = self.position.step % self.config.log.checkpoint_every == 0
        return self.position.step > self._saved.step and (at_number or self._overdue())

    def _overdue(self) -> bool:
        return time.monotonic() - self._saved.at > 60 * self.config.log.checkpoint_minutes

    def _row_if_due(self, bar: "tqdm[None]") -> bool:
        """Measure what is due and note it; return whether the model is the best so far."""
        position, log = self.position, self.config.log
        tests = bool(self.test or self.train_test) and self._due(log.test_every)
        regions = self._validates and self._due(log.validate_every)
        if position.loss_count == 0 or not (tests or regions or self._due(log.every)):
            return False
        measured: dict[str, float] = {}
        if tests and self.train_test:
            measured["train_error"] = self.measure(self.train_test)[1]
        if tests and self.test:
            measured["test_loss"], measured["test_error"] = self.measure(self.test)
            self.last_test_error = measured["test_error"]
        if regions:
            measured |= self.validate().row()
        mean = position.loss_sum / position.loss_count
        row = Row(position.step, position.seconds, self.model.learning_rate, mean, **measured)
        with saving(self.folder / CURVE, self.kept()):
            append_row(self.folder / CURVE, row)
        position.loss_sum, position.loss_count = 0.0, 0
        bar.set_postfix_str(self._postfix(mean))
        best = self._is_best(row)
        self._tell(lambda callback: callback.on_log(self, row))
        if row.measured:
            self._tell(lambda callback: callback.on_test(self, row))
        return best

    def validate(self) -> Validation:
        """Predict the held-out regions as a whole and measure."""
        self.validation = validate(self.model, self.regions, self.segments)
        self.validated_at = self.step
        return self.validation

    def _is_best(self, row: Row) -> bool:
        error, position = row.region_error if self._validates else row.test_error, self.position
        if self._validates and self.config.data.target == "ids" and self.segments.of != "none":
            error = row.rand_error  # what MALIS is about
        if error is None or (position.best_error is not None and error >= position.best_error):
            return False
        position.best_error, position.best_step = error, row.step
        return True

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for callback in self.callbacks:
            call(callback)

    def _signalled(self, number: int) -> None:
        self.stopped_by = number

    def kept(self) -> str:
        """Say which checkpoint there is."""
        if not (self.folder / MODEL).exists():
            return "No checkpoint was written yet."
        return f"The checkpoint of update {self._saved.step} is kept."

    def _postfix(self, loss: float) -> str:
        limit = self.config.training.max_minutes
        parts = [f"loss {loss:.4f}"]
        if self.last_test_error is not None:
            parts.append(f"error {self.last_test_error:.4f}")
        if limit is not None:
            parts.append(f"{self.position.seconds / 60:.1f} of at most {limit:g} min")
        return ", ".join(parts)


class _Ahead:
    """The sample of an update, made before it is asked for, on a thread of its own, while the block runs."""

    def __init__(self, make: Callable[[int], tuple[Any, ...]]) -> None:
        self._make = make
        self._threads: ThreadPoolExecutor | None = None
        self._coming: tuple[int, Future[tuple[Any, ...]]] | None = None

    def ask(self, step: int) -> None:
        """Begin to make the sample of an update."""
        if self._threads is not None:
            self._coming = step, self._threads.submit(self._make, step)

    def take(self, step: int) -> tuple[Any, ...]:
        """Return the sample of an update, made by now if it was asked for."""
        coming, self._coming = self._coming, None
        if coming is None:
            return self._make(step)
        # Samples are asked for one at a time, also by who asks for another one.
        sample = coming[1].result()
        return sample if coming[0] == step else self._make(step)

    def __enter__(self) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="znn-dask-ahead")

    def __exit__(self, *_: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._threads = self._coming = None


@dataclass(frozen=True)
class _Saved:
    """The last checkpoint: of which position, and when."""

    position: Position
    at: float = field(default_factory=time.monotonic)

    @property
    def step(self) -> int:
        return self.position.step


def as_step(sample: Sample | tuple[Any, ...], loss: Losses) -> tuple[Any, ...]:
    """Return a sample as `Model.step` wants it: for softmax a class per voxel, without the channel."""
    if not isinstance(sample, Sample):
        return tuple(sample)
    target = sample.target[:, 0].astype(np.int64) if loss == "softmax" else sample.target
    return (sample.image, target) if sample.weight is None else (sample.image, target, sample.weight)
