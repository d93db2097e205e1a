"""`Callback`: what a run of training tells while it goes on."""

from pathlib import Path
from typing import TYPE_CHECKING

from znn_dask.train.curve import Row

if TYPE_CHECKING:
    from znn_dask.train.loop import Loop


class Callback:
    """Is told what happens in a run; override what you need, the rest does nothing.

    Every method receives the run: ``run.model``, ``run.step`` and ``run.seconds`` so far, ``run.rows`` (the learning
    curve), ``run.folder``, ``run.config``, ``run.validation`` (the last of the held-out regions, with its predictions),
    and ``run.stop()``, which ends it after this update. Methods are called in the thread that called ``run``, between
    two updates, so they may read or change the model; training waits for them. A run that is resumed makes again what
    came after its checkpoint, and tells it again. An exception ends the run, and the last checkpoint stays.
    """

    def on_start(self, run: "Loop") -> None:
        """Before the first update of this start, new or resumed."""

    def on_step(self, run: "Loop", loss: float) -> None:
        """After every update; ``loss`` is the one before it."""

    def on_log(self, run: "Loop", row: Row) -> None:
        """After every row of the learning curve."""

    def on_test(self, run: "Loop", row: Row) -> None:
        """After every row for which something was measured: on fixed patches, on the held-out regions, or both."""

    def on_checkpoint(self, run: "Loop", path: Path) -> None:
        """After every checkpoint."""

    def on_end(self, run: "Loop", reason: str) -> None:
        """At the end, also after an error.

        Parameters
        ----------
        run : the run
        reason : "updates" | "time" | "stopped" | "interrupted" | "failed"
            All updates were made, the limit of time was reached, `stop` was called, a signal came (Ctrl-C), or an
            exception is on its way.
        """
