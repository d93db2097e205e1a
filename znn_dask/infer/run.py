"""A prediction on the threads of this process: one reads ahead, this one computes, one writes behind.

Queues between them hold one tile each, so memory is bounded. A block is recorded after it is on the disk.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from znn_dask.infer.job import (
    Job,
    Stage,
    blend_step,
    compute_step,
    forget_tiles,
    read_step,
    stages,
    write_step,
)
from znn_dask.infer.journal import Journal

Progress = Callable[[int, int], None]
WAIT_S = 0.1  # between looks at whether the others still run
_END = object()


class _Pipe:
    """A queue of one place that can be given up from either side."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(1)
        self.stop = threading.Event()

    def put(self, item: Any) -> bool:
        """Put an item; return whether somebody will take it."""
        while not self.stop.is_set():
            try:
                self._queue.put(item, timeout=WAIT_S)
            except queue.Full:
                continue
            return True
        return False

    def get(self) -> Any:
        """Take an item; the end if the pipe was given up."""
        while True:
            try:
                return self._queue.get(timeout=WAIT_S)
            except queue.Empty:
                if self.stop.is_set():
                    return _END


def run_local(job: Job, journal: Journal, progress: Progress | None = None) -> None:
    """Do what is left of a job.

    Parameters
    ----------
    progress : callable(done, total), optional
        Told about blocks.
    """
    total = len(job.tiling)
    before, after = _Pipe(), _Pipe()
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # the caller raises it
            failures.append(error)
            before.stop.set()
            after.stop.set()

    def read() -> None:
        for stage in stages(job, set(journal.done)):
            images = None if stage.blend else read_step(job, stage.number)
            if not before.put((stage, images)):
                return
        before.put(_END)

    def write() -> None:
        for stage, values in _items(after):
            write_stage(job, journal, stage, values)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in (read, write)]
    for thread in threads:
        thread.start()
    try:
        for stage, images in _items(before):
            if progress is not None:
                progress(len(journal.done), total)
            values = None if stage.blend else compute_step(job, images)
            del images
            if not after.put((stage, values)):
                break
        after.put(_END)
        threads[1].join()
    finally:
        before.stop.set()
        after.stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    if progress is not None:
        progress(total, total)


def write_stage(job: Job, journal: Journal, stage: Stage, values: Any) -> None:
    """Write what came of a stage, and record it."""
    if stage.blend:
        blend_step(job, stage.number)
    else:
        write_step(job, stage.number, values)
        if job.tiling.blend:
            return
    record(job, journal, stage.number)


def record(job: Job, journal: Journal, number: int) -> None:
    """Record a block that is on the disk."""
    journal.add(number)
    forget_tiles(job, number, journal.done)


def _items(pipe: _Pipe) -> Iterator[Any]:
    while (item := pipe.get()) is not _END:
        yield item
