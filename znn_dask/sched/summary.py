"""What a trace says: where the time went, who was idle, what could not have been faster.

Pure functions from recordings to figures, so that figures can be checked on stamps made by hand.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

from dask.utils import format_bytes

from znn_dask.sched.recording import Recording
from znn_dask.sched.traced import TracedTask, read_tasks

RECENT = (1, 2, 4)


@dataclass(frozen=True)
class Kind:
    """The tasks of one kind: how many, their seconds together, the share of all tasks' time, their CPU seconds."""

    name: str
    count: int
    seconds: float
    share: float
    cpu_s: float | None


@dataclass(frozen=True)
class Worker:
    """One thread: its tasks, its seconds in them, its idle share of the runs that it ran a task of."""

    number: int
    count: int
    seconds: float
    idle_share: float


@dataclass(frozen=True)
class Summary:
    """Figures of a trace; prints as a table. Of several runs, seconds add up.

    Attributes
    ----------
    n_runs, n_tasks : int
    kinds : tuple of Kind
        Longest first.
    workers : tuple of Worker
    n_workers : int
        The most that a run could use; some may have had no task.
    span_s : float
        From the first start to the last end of each run, seconds; time that runs share counts once.
    busy_s : float
        Of all tasks together, seconds.
    idle_share : float
        Of the spans of all workers that the runs could use.
    path_s : float
        The longest path through the measured times, seconds: no number of workers makes it shorter.
    path_kinds : tuple of Kind
        What lies along it; shares are of the path.
    n_reads : int
        How often a task read from another, counted once however many parts it read.
    same_worker : float
        Share of these where the same worker had made the input.
    recent : dict of int to float
        Share of these where it was among the last so many tasks of that worker.
    peak_bytes : int
        The most bytes of results alive at once, played from the stamps: a result counts from the start of its task to
        the end of its last reader; what its reader may overwrite, to the start of that; one that is asked for, to the
        end of its run. What a run is given and what tasks hold while they run are not known to a trace.
    """

    n_runs: int
    n_tasks: int
    kinds: tuple[Kind, ...]
    workers: tuple[Worker, ...]
    n_workers: int
    span_s: float
    busy_s: float
    idle_share: float
    path_s: float
    path_kinds: tuple[Kind, ...]
    n_reads: int
    same_worker: float
    recent: dict[int, float]
    peak_bytes: int

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def summarize(runs: Sequence[Recording]) -> Summary:
    """Return the figures of some runs."""
    tasks = read_tasks(runs)
    of_run: dict[int, list[TracedTask]] = defaultdict(list)
    for task in tasks:
        of_run[task.run].append(task)
    stretches = _stretches([(runs[run].n_workers, of) for run, of in of_run.items()])
    available = sum(stretch.n_workers * stretch.seconds for stretch in stretches)
    busy = sum(task.seconds for task in tasks)
    path = longest_path(tasks)
    distance = _distances(tasks)
    return Summary(
        n_runs=len(runs),
        n_tasks=len(tasks),
        kinds=_kinds(tasks),
        workers=_workers(tasks, stretches),
        n_workers=max((run.n_workers for run in runs), default=0),
        span_s=sum(stretch.seconds for stretch in stretches),
        busy_s=busy,
        idle_share=1 - busy / available if available else 0.0,
        path_s=sum(task.seconds for task in path),
        path_kinds=_kinds(path),
        n_reads=len(distance),
        same_worker=_share(distance, len(tasks)),
        recent={n: _share(distance, n) for n in RECENT},
        peak_bytes=peak_bytes(runs),
    )


def _kinds(tasks: Sequence[TracedTask]) -> tuple[Kind, ...]:
    of: dict[str, list[TracedTask]] = defaultdict(list)
    for task in tasks:
        of[task.kind].append(task)
    total = sum(task.seconds for task in tasks) or 1.0
    kinds = []
    for name, members in of.items():
        seconds = sum(task.seconds for task in members)
        cpu = [task.cpu_ns / 1e9 for task in members if task.cpu_ns is not None]
        kinds.append(Kind(name, len(members), seconds, seconds / total, sum(cpu) if cpu else None))
    return tuple(sorted(kinds, key=lambda kind: -kind.seconds))


@dataclass
class _Stretch:
    """The time of runs that overlap and share workers, as the steps of `Model.steps` do."""

    n_workers: int
    start_ns: int
    end_ns: int
    workers: set[int]

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


def _stretches(runs: Sequence[tuple[int, Sequence[TracedTask]]]) -> list[_Stretch]:
    """Return the stretches of runs, each given by how many workers it could use and its tasks."""
    found: list[_Stretch] = []
    for n_workers, tasks in runs:
        start, end = min(t.start_ns for t in tasks), max(t.end_ns for t in tasks)
        new = _Stretch(n_workers, start, end, {t.worker for t in tasks})
        for other in found[:]:
            if other.workers & new.workers and other.start_ns < new.end_ns and new.start_ns < other.end_ns:
                found.remove(other)
                new.n_workers = max(new.n_workers, other.n_workers)
                new.start_ns, new.end_ns = min(new.start_ns, other.start_ns), max(new.end_ns, other.end_ns)
                new.workers |= other.workers
        found.append(new)
    return found


def _workers(tasks: Sequence[TracedTask], stretches: Sequence[_Stretch]) -> tuple[Worker, ...]:
    of: dict[int, list[TracedTask]] = defaultdict(list)
    for task in tasks:
        of[task.worker].append(task)
    found = []
    for number in sorted(of):
        seconds = sum(task.seconds for task in of[number])
        available = sum(stretch.seconds for stretch in stretches if number in stretch.workers)
        found.append(Worker(number, len(of[number]), seconds, 1 - seconds / available if available else 0.0))
    return tuple(found)


def longest_path(tasks: Sequence[TracedTask]) -> list[TracedTask]:
    """Return the tasks along the longest path of each run, one run after the other.

    Parameters
    ----------
    tasks : all tasks of a trace, by their start
    """
    length: list[float] = []
    before: list[int] = []
    last: dict[int, int] = {}
    for i, task in enumerate(tasks):
        # Only a task without length starts when its reader does, and may then stand behind it.
        previous = max((read for read in task.reads if read < i), key=length.__getitem__, default=-1)
        length.append(task.seconds + (length[previous] if previous >= 0 else 0.0))
        before.append(previous)
        if length[i] >= length[last.setdefault(task.run, i)]:
            last[task.run] = i
    path = []
    for run in sorted(last, reverse=True):
        at = last[run]
        while at >= 0:
            path.append(tasks[at])
            at = before[at]
    return path[::-1]


def _distances(tasks: Sequence[TracedTask]) -> list[int | None]:
    """Return for each read how many tasks of its worker ago the input was made, None if another worker made it."""
    place, n_of = [], [0] * len(tasks)
    for task in tasks:
        place.append(n_of[task.worker])
        n_of[task.worker] += 1
    return [
        place[i] - place[read] if tasks[read].worker == task.worker else None
        for i, task in enumerate(tasks)
        for read in task.reads
    ]


def _share(distance: Sequence[int | None], most: int) -> float:
    return sum(1 for each in distance if each is not None and each <= most) / len(distance) if distance else 0.0


def peak_bytes(runs: Sequence[Recording]) -> int:
    """Return the most bytes of results alive at once, see `Summary`."""
    # At one time ends come first, then what is given away at a start, then what the task makes instead.
    changes = sorted(change for run in runs for change in _changes(run))
    return max(accumulate(n_bytes for _, _, n_bytes in changes), default=0)


def _changes(run: Recording) -> Iterator[tuple[int, int, int]]:
    """Yield (time, 0 at an end or 1 at a start, bytes more) for every life of a result."""
    tables = run.tables
    ran = {stamp.task: stamp for stamps in run.stamps().values() for stamp in stamps}
    if not ran:
        return
    last = max(stamp.end for stamp in ran.values())
    asked = set(tables.results.values())
    readers: dict[int, list[int]] = defaultdict(list)
    for task, reads in enumerate(tables.reads):
        for slot in reads:
            readers[slot].append(task)
    giver = {given[0]: task for task, given in enumerate(tables.donated) if given and task in ran}
    for task, stamp in ran.items():
        for slot, n_bytes in slot_bytes(run, task, stamp.sizes):
            yield stamp.start, 1, n_bytes
            if slot in giver:
                yield ran[giver[slot]].start, 1, -n_bytes
            elif slot in asked or any(reader not in ran for reader in readers[slot]):
                yield last, 0, -n_bytes
            else:
                yield max((ran[reader].end for reader in readers[slot]), default=stamp.end), 0, -n_bytes


def slot_bytes(run: Recording, task: int, sizes: int | tuple[int, ...] | None) -> Iterator[tuple[int, int]]:
    """Yield the slots that a task filled and the bytes in each."""
    split = run.tables.splits[task]
    if split is None or not isinstance(sizes, tuple):
        yield task, sum(sizes) if isinstance(sizes, tuple) else sizes or 0
        return
    taken = {index % len(sizes): slot for index, slot in split}
    yield from ((slot, sizes[index]) for index, slot in taken.items())
    yield task, sum(n_bytes for index, n_bytes in enumerate(sizes) if index not in taken)


def _lines(summary: Summary) -> Iterator[str]:
    if not summary.n_tasks:
        yield "Nothing was traced: no scheduler of znn-dask ran a task inside the block."
        return
    yield (
        f"{summary.n_runs} {'run' if summary.n_runs == 1 else 'runs'}, {summary.n_tasks:,} tasks, "
        f"{summary.n_workers} {'worker' if summary.n_workers == 1 else 'workers'}: {_ms(summary.span_s)} ms, "
        f"{summary.idle_share:.1%} idle"
    )
    yield ""
    width = max(10, *(len(kind.name) for kind in summary.kinds))
    measured = any(kind.cpu_s is not None for kind in summary.kinds)
    yield f"{'kind':{width}}{'tasks':>8}{'ms':>12}{'share':>8}" + ("      CPU ms" if measured else "")
    for kind in summary.kinds:
        cpu = "" if kind.cpu_s is None else f"{_ms(kind.cpu_s):>12}"
        yield f"{kind.name:{width}}{kind.count:>8,}{_ms(kind.seconds):>12}{kind.share:>8.1%}{cpu}"
    yield ""
    for worker in summary.workers:
        busy = f"{worker.count:>8,}{_ms(worker.seconds):>12}"
        yield f"{f'worker {worker.number}':{width}}{busy}{worker.idle_share:>8.1%} idle"
    yield ""
    along = ", ".join(f"{kind.name} {kind.share:.0%}" for kind in summary.path_kinds[:5])
    yield f"longest path: {_ms(summary.path_s)} ms ({along}{', ...' if len(summary.path_kinds) > 5 else ''})"
    if summary.n_reads:
        recent = ", ".join(f"{share:.0%} in its last {n}" for n, share in summary.recent.items())
        yield f"inputs made by the same worker: {summary.same_worker:.0%} of {summary.n_reads:,} ({recent} tasks)"
    yield f"peak of results: {format_bytes(summary.peak_bytes)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.3f}" if seconds < 0.01 else f"{seconds * 1e3:,.1f}"
