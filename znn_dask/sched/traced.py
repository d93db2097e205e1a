"""From stamps to tasks: who ran what, when, and from whom it had its inputs."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from dask.utils import key_split

from znn_dask.sched.recording import Recording, Stamp
from znn_dask.sched.tables import Tables


@dataclass(frozen=True, slots=True)
class TracedTask:
    """One execution of a task. An addition of a `Reduce` is a task with the key of the sum.

    Attributes
    ----------
    key : hashable
    kind : str
        What Dask's dashboard calls it, `dask.utils.key_split` of the key.
    run, task : int
        Number of the run in the trace, and of the task in the run's tables.
    worker : int
        Number of the thread in the trace, from 0 in the order of their first tasks.
    thread : int
        Its `threading.get_ident`.
    start_ns, end_ns : int
        `time.perf_counter_ns` before and after the call, nanoseconds.
    cpu_ns : int or None
        CPU time of the thread meanwhile, nanoseconds; None if it was not measured.
    n_bytes : int
        Of the numpy arrays it returned, in a tuple or alone; views count as if they were arrays of their own.
    reads : tuple of int
        The tasks it had inputs from, as indices into the list of all, each once.
    failed : bool
        Whether it raised.
    """

    key: Hashable
    kind: str
    run: int
    task: int
    worker: int
    thread: int
    start_ns: int
    end_ns: int
    cpu_ns: int | None
    n_bytes: int
    reads: tuple[int, ...]
    failed: bool

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9


def read_tasks(runs: Sequence[Recording]) -> list[TracedTask]:
    """Return the tasks of all runs by their start."""
    found = [
        (stamp, number, thread)
        for number, run in enumerate(runs)
        for thread, stamps in run.stamps().items()
        for stamp in stamps
    ]
    found.sort(key=lambda each: (each[0].start, each[0].end))
    index = {(run, stamp.task): i for i, (stamp, run, _) in enumerate(found)}
    worker: dict[int, int] = {}
    for _, _, thread in found:
        worker.setdefault(thread, len(worker))
    sources: dict[int, list[tuple[int, ...]]] = {}
    for run in runs:
        # Runs of one program share these lists.
        if id(run.tables.reads) not in sources:
            sources[id(run.tables.reads)] = sources_of(run.tables)
    tasks = []
    for stamp, number, thread in found:
        tables = runs[number].tables
        before = sources[id(tables.reads)][stamp.task]
        reads = tuple([index[number, task] for task in before if (number, task) in index])
        tasks.append(_traced(stamp, tables.keys[stamp.task], number, worker[thread], thread, reads))
    return tasks


def _traced(stamp: Stamp, key: Hashable, run: int, worker: int, thread: int, reads: tuple[int, ...]) -> TracedTask:
    sizes = stamp.sizes
    return TracedTask(
        key=key,
        kind=key_split(key),
        run=run,
        task=stamp.task,
        worker=worker,
        thread=thread,
        start_ns=stamp.start,
        end_ns=stamp.end,
        cpu_ns=None if stamp.cpu_ns < 0 else stamp.cpu_ns,
        n_bytes=sum(sizes) if isinstance(sizes, tuple) else sizes or 0,
        reads=reads,
        failed=sizes is None,
    )


def sources_of(tables: Tables) -> list[tuple[int, ...]]:
    """Return for each task the tasks it has inputs from, each once."""
    source = {slot: task for task, split in enumerate(tables.splits) for _, slot in split or ()}
    found = [dict.fromkeys([source.get(slot, slot) for slot in reads]) for reads in tables.reads]
    for task, attempts in tables.attempts.items():
        found[task] = dict.fromkeys(attempts)
    return [tuple(before for before in sources if before < tables.n_tasks) for sources in found]
