"""One execution of a compiled graph: the workers' loop and the state they share.

Nobody coordinates. A worker that has finished a task counts down its dependants, takes the best of what it
released or of the queue, wakes a sleeping worker if the queue still holds something, and goes on, all under
one short lock. The queue is a heap of the distinct priorities with a stack each (`queues`). Promises: each task runs
once and after all it needs; no worker sleeps while a task is ready; when `execute` returns nothing of the
run is running (except after an interrupt, where tasks that do not end soon are left to end alone).

Two runs may share their workers (`chain`): whoever finds nothing ready in the older works for the younger, and
goes back after the task at hand when the older has something again.
"""

import contextvars
import threading
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from time import sleep
from typing import Any

from znn_dask.sched.blas import one_thread_per_worker
from znn_dask.sched.crew import Crew, Seat
from znn_dask.sched.force import ClaimedError
from znn_dask.sched.queues import fill, push
from znn_dask.sched.tables import Tables
from znn_dask.sched.team import Team

GRACE_S = 0.5
"""How long an interrupted caller waits for tasks that are running already, seconds."""

LOOK_UP_S = 0.1
"""How long a caller sleeps at most before it looks for signals, seconds."""


class Run:
    """What changes during one run.

    `counts`, `readers`, `heap`, `stacks`, `active`, `n_awaited`, `error` and `failed` belong to the holder of the
    team's lock; an entry of `values` to the task that fills it, then to nobody, then to whoever drops it. `stop`
    is only ever appended to: once it holds something, no further task starts. `elder` is the heap of the run that
    goes first; `n_awaited` inputs are still to be given.
    """

    def __init__(self, tables: Tables, values: list[Any], team: Team, elder: Sequence[int] = ()) -> None:
        self.tables = tables
        self.values = values
        self.counts = tables.counts[:]
        self.readers = tables.readers[:]
        self.heap: list[int] = []
        self.elder = elder
        self.n_awaited = 0
        self.stop: list[bool] = []
        self.error: BaseException | None = None
        self.failed = -1
        self.cancelled = False
        self.context = contextvars.copy_context()
        self.done = threading.Lock()
        self.done.acquire()
        self.tell: Callable[[], object] = self.done.release
        self.team = team
        self.lock = team.lock
        self.active = 0
        self.stacks = dict(zip(team.seats, tables.queue(tables.n_ranks, len(team.seats)), strict=True))

    def start(self, ready: Sequence[int]) -> None:
        """Queue what waits for nothing, the first of the graph on top, and wake workers for it."""
        with self.lock:
            self.team.runs.append(self)
            fill(self.heap, list(self.stacks.values()), self.tables.rank, ready)
            self.team.wake(self, len(ready))

    def __call__(self, seat: Seat) -> None:
        """Work on a worker's thread, with the context variables of the caller; then for other runs that wait."""
        run: Run | None = self
        task = self.tables.n_tasks
        while run is not None:
            context = run.context.copy()
            try:
                ended, following, task = context.run(work, run, seat, context, task)
            except BaseException as error:  # a defect of ours; the caller must not wait for ever
                ended, following, task = run.abandon(seat, error)
            if ended:
                run.close()
            run = following

    def leave(self, seat: Seat) -> "tuple[bool, Run | None, int]":
        """Turn to another run that has work, or go to sleep, ready to be woken. Needs the lock.

        Returns
        -------
        Whether the run has ended and this was the last worker, the run to turn to, and its task without work.
        """
        self.active -= 1
        if not self.active and not self.stop and not self.heap and not self.n_awaited:
            # Cannot be, but waiting for ever would be worse.
            self.error = RuntimeError("the scheduler ran out of tasks before the end; its tables are damaged")
            self.failed = self.tables.n_tasks
            self.stop.append(True)
        ended = not self.active and bool(self.stop)
        if ended:
            self.team.runs.remove(self)
            self.heap.clear()  # of attempts that came too late; a younger run looks here for work that goes first
        following = self.team.next()
        task = -1
        if following is None:
            self.team.idle.append(seat)
        else:
            following.active += 1
            task = following.tables.n_tasks
        return ended, following, task

    def fail(self, task: int, error: BaseException) -> None:
        """Record the first error and drop the tasks that have not started."""
        with self.lock:
            if not self.stop:
                self.error, self.failed = error, task
            self.stop.append(True)
            self.heap.clear()

    def cancel(self) -> None:
        """Drop the tasks that have not started; the caller no longer wants the result."""
        with self.lock:
            self.cancelled = True
            # What has not started or has no workers is ended here: nobody else will.
            ended = not self.stop
            if self in self.team.runs:
                self.active = self.team.n_active(self)
                ended = not self.active
                if ended:
                    self.team.runs.remove(self)
            self.stop.append(True)
            self.heap.clear()
        if ended:
            self.close()

    def abandon(self, seat: Seat, error: BaseException) -> "tuple[bool, Run | None, int]":
        """Leave after an error outside of any task; returns what `leave` does."""
        self.fail(self.tables.n_tasks, error)
        with self.lock:
            return self.leave(seat)

    def close(self) -> None:
        """Give the threads back if no run needs them, and tell the caller; whoever ended the run does it."""
        if self.cancelled:
            self.values.clear()
        self.team.disband_if_done()
        self.tell()


def work(run: Run, seat: Seat, context: contextvars.Context, task: int) -> tuple[bool, Run | None, int]:
    """Run tasks until none is ready, then leave.

    The loop is one function, longer than others, because a call costs as much as everything it does for a task.

    Parameters
    ----------
    run, seat : what to work on, and as whom
    context : the one that this is called in, a copy of the run's
    task : the one just finished; at first the task without work

    Returns
    -------
    What `Run.leave` does; after a task that set a context variable, the same run and that task, to go on from there
    in a new copy: a copy for each task would cost ten times what it costs to look whether one is needed.
    """
    tables = run.tables
    calls, reads, splits, drops = tables.calls, tables.reads, tables.splits, tables.drops
    shared, dependants, rank, yields_to = tables.shared, tables.dependants, tables.rank, tables.yields_to
    values, counts, readers, stop, lock = run.values, run.counts, run.readers, run.stop, run.lock
    heap, stacks, idle, elder = run.heap, run.stacks[seat], run.team.idle, run.elder
    value_of, locked = values.__getitem__, lock.locked
    last, nothing, clean = tables.n_tasks, tables.n_tasks + 1, run.context
    unread: list[int] = []
    while True:
        following, helper = nothing, None
        # Who sleeps for a lock gets it before it gets the interpreter, and then holds up all others: from there on
        # every task costs two wake-ups. So wait for the holder to go on, not for the lock.
        while locked():
            sleep(0)
        with lock:
            if stop:
                return run.leave(seat)
            for dependant in dependants[task]:
                left = counts[dependant] - 1
                counts[dependant] = left
                if not left:
                    if rank[dependant] <= rank[following]:
                        dependant, following = following, dependant
                    if dependant != nothing:
                        stack = stacks[rank[dependant]]
                        if not stack:
                            heappush(heap, rank[dependant])
                        stack.append(dependant)
            for slot in shared[task]:
                left = readers[slot] - 1
                readers[slot] = left
                if not left:
                    unread.append(slot)
            if elder:
                if following != nothing:
                    push(heap, stacks, rank[following], following)
                    following = nothing
                if not unread:
                    return run.leave(seat)
            elif heap:
                best = heap[0]
                if best < yields_to[following]:
                    stack = stacks[best]
                    first = stack.pop()
                    if not stack:
                        heappop(heap)
                    if following != nothing:
                        push(heap, stacks, rank[following], following)
                    following = first
                if heap and idle:
                    helper = idle.pop()
                    run.active += 1
            elif following == nothing and not unread:
                return run.leave(seat)
        if helper is not None:
            helper.send(run)
        if unread:
            for slot in unread:
                values[slot] = None
            unread.clear()
        task = following
        if task >= last:
            if task == last:
                stop.append(True)
            task = last
            continue
        try:
            values[task] = calls[task](*map(value_of, reads[task]))
            split = splits[task]
            if split is not None:
                for index, slot in split:
                    values[slot] = values[task][index]
        except ClaimedError:
            task = last
            continue
        except BaseException as error:
            run.fail(task, error)
            task = last
            continue
        for slot in drops[task]:
            values[slot] = None
        try:
            if context != clean:
                return False, run, task
        except Exception:  # values of variables that cannot be compared, so they are not the same
            return False, run, task


def execute(
    tables: Tables, values: list[Any], crew: Crew, n_workers: int, rerun: Sequence[Callable[..., Any]] = ()
) -> None:
    """Run all tasks; afterwards the requested slots of `values` are filled.

    Parameters
    ----------
    tables : compiled graph
    values : list, one entry per slot
        A copy of ``tables.initial`` with the inputs filled in. Belongs to the run until this returns.
    crew : where the threads come from
    n_workers : int
        Threads to use, at most.
    rerun : per task, what to call once more on the calling thread if it fails, for a debugger to stop there

    Raises
    ------
    BaseException
        Whatever a task raised first, with its own traceback and a note that names the task's key.
    """
    n_workers = min(n_workers, tables.n_tasks)
    if not n_workers:
        return
    with one_thread_per_worker(n_workers):
        run = Run(tables, values, Team(crew, n_workers, closing=True))
        try:
            run.start(tables.ready)
            wait(run.done)
        except BaseException:
            run.cancel()
            run.done.acquire(timeout=GRACE_S)
            raise
    if run.error is not None:
        fail(run, rerun)


def fail(run: Run, rerun: Sequence[Callable[..., Any]] = ()) -> None:
    """Raise what a task raised; as `execute` does."""
    error, run.error = run.error, None
    values, tables = run.values, run.tables
    try:
        if run.failed < len(rerun):
            rerun[run.failed](*[values[slot] for slot in tables.reads[run.failed]])
        assert error is not None
        raise named(error, tables, run.failed)
    finally:
        # The traceback holds this frame; this frame must hold neither the error nor the values.
        del error
        values.clear()


def wait(done: threading.Lock) -> None:
    """Wait for a lock so that Ctrl-C can end the waiting.

    A signal does not end it if it comes between the last look and the sleep, nor ever on Windows; so we look up.
    """
    while not done.acquire(timeout=LOOK_UP_S):
        pass


def named(error: BaseException, tables: Tables, task: int) -> BaseException:
    """Return the error with a note that names its task, and without the frame of the workers' loop."""
    if task < tables.n_tasks:
        note = f"while running task {tables.keys[task]!r}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    return error
