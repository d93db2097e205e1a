"""The training loop: updates, learning curve, test errors, checkpoints, and a clean end on Ctrl-C.

Updates run in stretches between the events that are due at fixed numbers of updates, so that the model can
pipeline them, and so that what happens never depends on the clock (only when the run is stopped does).
"""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
from tqdm.auto import tqdm

from znn_dask.errors import DivergenceError
from znn_dask.model import Model
from znn_dask.train.config import Config
from znn_dask.train.curve import Row, append_row
from znn_dask.train.losses import foreground, mean_loss, pixel_error
from znn_dask.train.resolve import learning_rate
from znn_dask.train.run import CURVE, MODEL, Position, to_metadata
from znn_dask.train.samples import Sample, Samples


@dataclass
class Loop:
    """Everything a run needs; `position` and `stopped_by` change, the rest does not.

    Attributes
    ----------
    test, train_test : lists of Sample
        Fixed patches on which errors are measured; empty for none.
    on_checkpoint : callable
        Called after every checkpoint, for instance to draw the learning curve.
    stopped_by : int
        Number of the signal that asked for an end, 0 for none. Set by the signal handler.
    """

    config: Config
    folder: Path
    model: Model
    samples: Samples
    position: Position
    test: list[Sample] = field(default_factory=list)
    train_test: list[Sample] = field(default_factory=list)
    on_checkpoint: Callable[[], None] = lambda: None
    stopped_by: int = 0
    last_test_error: float | None = None

    def run(self, progress: bool = True) -> Position:
        """Train to the end, the limit of time or a signal; a checkpoint is written in each case.

        Raises
        ------
        DivergenceError
            If the loss is not finite; the last checkpoint stays.
        """
        training = self.config.training
        saved = _Saved(copy(self.position))
        started = time.monotonic() - self.position.seconds
        with _signals(self), self._bar(progress) as bar:
            while not self._ends():
                rate = learning_rate(training, self.position.step)
                if self.model.learning_rate != rate:
                    self.model.learning_rate = rate
                self._stretch(self._next_event(), started, saved, bar)
                self.position.seconds = time.monotonic() - started
                self._row_if_due(bar)
                if self._checkpoint_due(saved):
                    self.checkpoint()
                    saved = _Saved(copy(self.position))
            if saved.position != self.position or not (self.folder / MODEL).exists():
                self.checkpoint()
        return self.position

    def checkpoint(self) -> None:
        """Write the model file; whoever reads it sees the old or the new one."""
        self.model.save(self.folder / MODEL, metadata=to_metadata(self.config, self.position))
        self.on_checkpoint()

    def measure(self, samples: list[Sample]) -> tuple[float, float]:
        """Return the mean loss and the pixel error over patches."""
        loss = self.config.training.loss
        results = []
        for sample in samples:
            probability = foreground(self._outputs(sample), loss)
            target = sample.target[:, 0]
            results.append((mean_loss(probability, target, loss), pixel_error(probability, target)))
        mean = np.mean(results, axis=0)
        return float(mean[0]), float(mean[1])

    def _outputs(self, sample: Sample) -> np.ndarray:
        if sample.target.shape[2:] == self.model.output_size:
            return np.asarray(self.model.forward(sample.image))
        # A held-out region may be smaller than the patches of training.
        return np.stack([np.asarray(self.model.predict(image, border=None)) for image in sample.image])

    def _stretch(self, until: int, started: float, saved: "_Saved", bar: "tqdm[None]") -> None:
        position = self.position
        for loss in self.model.steps(self._provide(until, started, saved)):
            if not math.isfinite(loss):
                raise DivergenceError(
                    f"the loss is {loss} at update {position.step + 1}. The checkpoint of update "
                    f"{saved.step} is kept; "
                    f"lower training.learning_rate (now {self.model.learning_rate:g}) and give --restart"
                )
            position.step += 1
            position.loss_sum += float(loss)
            position.loss_count += 1
            position.seconds = time.monotonic() - started
            bar.update()
            bar.set_postfix_str(self._postfix(float(loss)), refresh=False)

    def _provide(self, until: int, started: float, saved: "_Saved") -> Iterator[tuple[np.ndarray, np.ndarray]]:
        limit = self.config.training.max_minutes
        for step in range(self.position.step, until):
            over = limit is not None and time.monotonic() - started >= 60 * limit
            # At least one update lies between two checkpoints, however long it takes.
            if self.stopped_by or over or (step > saved.step and self._overdue(saved)):
                return
            yield as_step(self.samples.sample(step), self.config.training.loss)

    def _ends(self) -> bool:
        limit = self.config.training.max_minutes
        over = limit is not None and self.position.seconds >= 60 * limit
        return bool(self.stopped_by) or over or self.position.step >= self.config.training.updates

    def _next_event(self) -> int:
        """Return the number of updates at which something is due next."""
        log, step = self.config.log, self.position.step
        periods = [self.config.training.rate_every, log.every, log.checkpoint_every]
        periods += [log.test_every] if self.test or self.train_test else []
        return min(self.config.training.updates, *((step // period + 1) * period for period in periods))

    def _checkpoint_due(self, saved: "_Saved") -> bool:
        at_number = self.position.step % self.config.log.checkpoint_every == 0
        return self.position.step > saved.step and (at_number or self._overdue(saved))

    def _overdue(self, saved: "_Saved") -> bool:
        return time.monotonic() - saved.at > 60 * self.config.log.checkpoint_minutes

    def _row_if_due(self, bar: "tqdm[None]") -> None:
        position, log = self.position, self.config.log
        last = position.step == self.config.training.updates
        tests = (self.test or self.train_test) and (last or position.step % log.test_every == 0)
        if position.loss_count == 0 or not (last or tests or position.step % log.every == 0):
            return
        train_error = test_loss = test_error = None
        if tests and self.train_test:
            _, train_error = self.measure(self.train_test)
        if tests and self.test:
            test_loss, test_error = self.measure(self.test)
            self.last_test_error = test_error
        mean = position.loss_sum / position.loss_count
        rate = self.model.learning_rate
        row = Row(position.step, position.seconds, rate, mean, train_error, test_loss, test_error)
        append_row(self.folder / CURVE, row)
        position.loss_sum, position.loss_count = 0.0, 0
        bar.set_postfix_str(self._postfix(mean))

    def _postfix(self, loss: float) -> str:
        limit = self.config.training.max_minutes
        parts = [f"loss {loss:.4f}"]
        if self.last_test_error is not None:
            parts.append(f"error {self.last_test_error:.4f}")
        if limit is not None:
            parts.append(f"{self.position.seconds / 60:.1f} of at most {limit:g} min")
        return ", ".join(parts)

    def _bar(self, progress: bool) -> "tqdm[None]":
        return tqdm(
            total=self.config.training.updates,
            initial=self.position.step,
            unit=" updates",
            desc="training",
            disable=not progress,
            dynamic_ncols=True,
            # Into a file a line now and then will do.
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
        )


@dataclass(frozen=True)
class _Saved:
    """The last checkpoint: of which position, and when."""

    position: Position
    at: float = field(default_factory=time.monotonic)

    @property
    def step(self) -> int:
        return self.position.step


def as_step(sample: Sample, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a sample as `Model.step` wants it: for softmax a class per voxel, without the channel."""
    if loss == "softmax":
        return sample.image, sample.target[:, 0].astype(np.int64)
    return sample.image, sample.target


@contextmanager
def _signals(loop: Loop) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) end the loop after its update; a second one acts as usual."""

    def stop(number: int, frame: FrameType | None) -> None:
        loop.stopped_by = number
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, stop)
    except ValueError:  # not in the main thread, where signals do not arrive either
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
