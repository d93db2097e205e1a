"""A prediction on a Dask cluster: a task reads a tile, one computes it, one writes its block into the output.

The job with the network's parameters is sent to every worker once. A few tiles per worker are under way at a time, so
workers hold no more than that. What a worker wrote is recorded here, so a worker that dies costs the tiles it had, and
if this process or the scheduler dies the same call goes on from the record. Workers must see the files: on several
machines, a file system that they share.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from znn_dask.errors import DataError, ZnnError
from znn_dask.infer.job import Job, Stage, blend_step, compute_step, read_step, stages, write_step
from znn_dask.infer.journal import Journal
from znn_dask.infer.run import Progress, record

AHEAD = 2  # tiles under way for every worker
RETRIES = 3  # of a task whose worker died
ATTEMPTS = 3  # to send the job again after every worker that had it was lost
PATIENCE_S = 60.0  # for the first worker


def run_on_cluster(client: Any, job: Job, journal: Journal, progress: Progress | None = None) -> None:
    """Do what is left of a job on a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    job : Job
    journal : Journal
    progress : callable(done, total), optional

    Raises
    ------
    DataError
        If there is no worker, the cluster is lost, or workers keep dying.
    """
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    for attempt in range(ATTEMPTS):
        try:
            client.wait_for_workers(1, timeout=PATIENCE_S)
            _attempt(client, job, journal, progress)
        except TimeoutError as error:
            raise DataError(
                f"the Dask cluster has no worker after {PATIENCE_S:.0f} s; start some and run the command again"
            ) from error
        except KilledWorker as error:
            raise DataError(
                f"workers of the cluster died {RETRIES} times or more over one tile; give them more memory or predict "
                "with less (--memory), and run the command again: it goes on where it stopped"
            ) from error
        except ZnnError:
            raise
        except Exception as error:  # a client whose scheduler is gone raises whatever it likes
            lost = client.status != "running"
            if not lost and not isinstance(error, CancelledError | CommClosedError):
                raise
            if lost or attempt + 1 == ATTEMPTS:
                raise DataError(
                    "the connection to the Dask cluster was lost; run the command again: it goes on where it stopped"
                ) from error
        else:
            return


def _attempt(client: Any, job: Job, journal: Journal, progress: Progress | None) -> None:
    from distributed import as_completed

    total = len(job.tiling)
    (sent,) = client.scatter([job], broadcast=True, hash=False)
    tasks = _Tasks(client, sent, job)
    left = stages(job, set(journal.done))
    under_way: dict[Any, Stage] = {}
    done = as_completed()
    try:
        _feed(client, tasks, left, under_way, done)
        if progress is not None:
            progress(len(journal.done), total)
        while under_way:
            future = next(done)
            stage = under_way.pop(future)
            future.result()
            if stage.blend or not job.tiling.blend:
                tasks.forget(stage)
                record(job, journal, stage.number)
                if progress is not None:
                    progress(len(journal.done), total)
            _feed(client, tasks, left, under_way, done)
    finally:
        if under_way:
            with contextlib.suppress(Exception):  # the cluster may be gone, which is being said
                client.cancel(list(under_way))


def _feed(client: Any, tasks: "_Tasks", left: Iterator[Stage], under_way: dict[Any, Stage], done: Any) -> None:
    """Hand out stages until every worker has enough."""
    most = AHEAD * max(1, len(client.nthreads()))
    while len(under_way) < most:
        stage = next(left, None)
        if stage is None:
            return
        future = tasks.submit(stage)
        under_way[future] = stage
        done.add(future)


class _Tasks:
    """The tasks of an attempt; their names say on the dashboard what they do."""

    def __init__(self, client: Any, sent: Any, job: Job) -> None:
        self._client, self._sent, self._job = client, sent, job
        self._token = uuid4().hex  # several programs may use one cluster
        self._kept: dict[int, Any] = {}  # tiles that are blended, by number

    def submit(self, stage: Stage) -> Any:
        """Hand out what a stage needs, and return its last task."""
        n, sent = stage.number, self._sent
        if stage.blend:
            tiles = [self._kept[i] for i in self._job.tiling.overlapping(n) if i in self._kept]
            return self._task("blend", n, blend_after, sent, n, tiles)
        images = self._task("read", n, read_step, sent, n)
        values = self._task("compute", n, compute_step, sent, images)
        written = self._task("write", n, write_step, sent, n, values)
        if self._job.tiling.blend:
            self._kept[n] = written
        return written

    def forget(self, stage: Stage) -> None:
        """Drop the tiles that no later block needs."""
        for n in self._job.tiling.overlapping(stage.number):
            if self._job.tiling.readers(n)[-1] <= stage.number:
                self._kept.pop(n, None)

    def _task(self, kind: str, n: int, function: Any, *args: Any) -> Any:
        # Tiles in order, and what a tile has begun before the next: fewer are held.
        key, rank = (f"{kind}-{self._token}", n), {"read": 0, "compute": 1, "write": 2, "blend": 3}[kind]
        return self._client.submit(function, *args, key=key, retries=RETRIES, priority=rank - n, pure=False)


def blend_after(job: Job, number: int, tiles: Any) -> int:
    """Blend a block; the tiles that it waits for are in their folder."""
    return blend_step(job, number)
