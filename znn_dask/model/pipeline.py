"""Steps with no barrier between them: the next begins while this one ends, and samples are provided meanwhile.

What a caller sees is what one `step` after the other gives, bit for bit, also if it changes the model in between: the
state of the model changes only when a step has ended, and a step that began from a state that the caller has
replaced is dropped and made again.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from dask.callbacks import Callback

from znn_dask.model.compiled import Compiled
from znn_dask.model.core import Core
from znn_dask.model.samples import Batch
from znn_dask.sched import Chain

Sample = tuple[Any, ...]


def pipelined(core: Core, samples: Iterator[Sample], read: Callable[..., Batch]) -> Iterator[float]:
    """Yield the loss of a step per sample, in order.

    Parameters
    ----------
    core : Core
        Whose steps they are.
    samples : iterator
        Asked on a thread of its own, for one sample at a time.
    read : callable
        Checks a sample.
    """
    batch: Batch | None = None
    with _Samples(samples, read) as coming, closing(_Line(core)) as line:
        while True:
            if batch is None and len(line.begun) < 2 and coming.wait(line.begun[0].ended if line.begun else None):
                batch = coming.take()
            if batch is not None and line.begin(batch):
                batch = None
            elif line.begun:
                yield line.finish()
                line.resume()
            elif coming.ended:
                break
    # The losses of steps under way have come before the error of a sample.
    if coming.error is not None:
        raise coming.error


class _Samples:
    """Samples asked for one ahead, on a thread of their own.

    Attributes
    ----------
    ended : bool
        Whether no more will come.
    error : Exception or None
        What ended them.
    """

    def __init__(self, samples: Iterator[Sample], read: Callable[..., Batch]) -> None:
        self._samples, self._read = samples, read
        self._provider = ThreadPoolExecutor(1, thread_name_prefix="znn-dask-samples")
        self._coming = self._provider.submit(next, samples, ())
        self.ended = False
        self.error: Exception | None = None

    def wait(self, unless: Future[None] | None) -> bool:
        """Wait for the next sample, or for a step to end; return whether there is something to take."""
        if not self.ended and unless is not None:
            either: list[Future[Any]] = [self._coming, unless]
            wait(either, return_when=FIRST_COMPLETED)
            return self._coming.done()
        return not self.ended

    def take(self) -> Batch | None:
        """Return the next sample, checked; None if there is none or it is wrong."""
        try:
            sample = self._coming.result()
            if sample:
                self._coming = self._provider.submit(next, self._samples, ())
                return self._read(*sample)
        except Exception as error:
            self.error = error
        self.ended = True
        return None

    def __enter__(self) -> "_Samples":
        return self

    def __exit__(self, *_: object) -> None:
        self._provider.shutdown(cancel_futures=True)


@dataclass
class _Begun:
    """A step under way, or one already made, whose loss is then known."""

    batch: Batch
    ended: Future[None]
    rate: float = 0.0
    loss: float | None = None


class _Line:
    """The steps that have begun and whose loss was not told yet, two at most, the oldest first."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.begun: deque[_Begun] = deque()
        self._program: Compiled | None = None
        self._chain: Chain | None = None
        self._links: dict[Any, Any] = {}
        self._version = core.state.version

    def begin(self, batch: Batch) -> bool:
        """Begin a step if it can begin now, the second only if it is of the same graph as the first."""
        return self._begin_second(batch) if self.begun else self._begin_first(batch)

    def _begin_first(self, batch: Batch) -> bool:
        core = self._core
        # A limit of memory is kept to by one step at a time; Dask's callbacks watch one run at a time.
        # While gradients are collected, steps are of two graphs by turns.
        collecting = core.optimizer.accumulate > 1
        apart = collecting or core.state.pending is None or core.options.memory is not None or Callback.active
        if apart:
            made = _Begun(batch, Future(), loss=core.step(batch))
            made.ended.set_result(None)
            self._version = core.state.version
            self.begun.append(made)
            return True
        program = core.program(batch, True)
        if program is not self._program:
            self._drop()
            self._links = _links(core)
            self._program, self._chain = program, program.chain(self._links)
        self._start(batch, program.given(core.values(batch)))
        return True

    def _begin_second(self, batch: Batch) -> bool:
        first, core = self.begun[0], self._core
        if len(self.begun) > 1 or first.loss is not None:
            return False
        program = core.program(batch, True)
        if program is not self._program:
            return False
        values = core.values(batch)
        values["step"] += 1
        values["pending-count"] += 1
        # The caller has told the rate of the step under way by asking for its loss.
        values["pending-rate"] = first.rate
        self._start(batch, program.given(values, self._links))
        return True

    def _start(self, batch: Batch, values: dict[Hashable, Any]) -> None:
        assert self._chain is not None
        self.begun.append(_Begun(batch, self._chain.start(values), self._core.learning_rate))

    def finish(self) -> float:
        """Wait for the oldest step, make its results the model's state, and return its loss."""
        first = self.begun[0]
        if first.loss is None:
            assert self._chain is not None
            assert self._program is not None
            try:
                results = self._program.named(self._chain.result())
            except BaseException:
                self.begun.clear()  # the step after it went with it
                raise
            first.loss = self._core.commit(results, first.rate)
            self._version = self._core.state.version
        del self.begun[0]
        return first.loss

    def resume(self) -> None:
        """Take note of what the caller did since it was told a loss."""
        core = self._core
        if core.state.version != self._version:
            batches = [step.batch for step in self.begun]
            self._drop()
            self.begun.clear()
            for batch in batches:
                self.begin(batch)
        for step in self.begun:
            step.rate = core.learning_rate

    def _drop(self) -> None:
        """Cancel what is under way."""
        self._program = None
        if self._chain is not None:
            self._chain.close()
            self._chain = None

    def close(self) -> None:
        """Cancel what is under way and give the threads back."""
        self._drop()


def _links(core: Core) -> dict[Any, Any]:
    """Return which result of a step each input of the next takes its value from, by name."""
    links: dict[Any, Any] = {"pending-norm": "norm"}
    for name in core.state.parameters:
        links[name] = "parameter", name
        links["pending", name] = "gradient", name
    for slot, blocks in core.state.slots.items():
        links |= {(slot, name): (slot, name) for name in blocks}
    return links
