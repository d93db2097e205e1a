"""Runs of one program, each fed by the one before it, with no barrier between them.

A run begins while the one before it ends. What a run hands on is given to the next as soon as it is made, so a task
of the next starts when what it reads is there, and a worker that finds nothing ready in the older run works for the
younger. At most two runs are under way.
"""

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

from znn_dask.errors import ParameterError
from znn_dask.sched.blas import one_thread_per_worker
from znn_dask.sched.crew import Crew
from znn_dask.sched.graph import Key, nested
from znn_dask.sched.queues import push
from znn_dask.sched.recording import recorded
from znn_dask.sched.run import GRACE_S, Run, fail
from znn_dask.sched.tables import Tables
from znn_dask.sched.team import Team


class Outlet:
    """What one run hands on, kept until there is a next run; belongs to the holder of the team's lock."""

    def __init__(self) -> None:
        self.values: dict[Key, Any] = {}
        self.receive: Callable[[Key, Any], None] | None = None


class Link:
    """A run of a chain.

    Attributes
    ----------
    ended : Future
        Done when nothing of the run is running any more; has no result of its own.
    """

    def __init__(
        self, tables: Tables, inputs: Mapping[Key, Any], given: dict[int, int], team: Team, elder: "Link | None"
    ) -> None:
        values = tables.values()
        self.outlet = Outlet()
        if tables.outlet >= 0:
            values[tables.outlet] = partial(self._hand_on, team)
        for key, value in inputs.items():
            values[tables.inputs[key]] = value
        self.run: Run = Run(tables, values, team, elder.run.heap if elder else ())
        self.ended: Future[None] = Future()
        self.ended.set_running_or_notify_cancel()  # the caller cannot cancel it; `Chain.cancel` does
        self.run.tell = partial(self.ended.set_result, None)
        self._elder = elder
        self._given = given
        self._awaited: dict[Key, list[int]] = {}
        self._readers: Mapping[int, tuple[int, ...]] = {}

    def start(self, links: Mapping[Key, Key], readers: Mapping[int, tuple[int, ...]]) -> None:
        """Start, with inputs still to come from the run before.

        Parameters
        ----------
        links : from each input still to come to the key of the run before
        readers : per slot of such an input, the tasks that wait for it
        """
        tables, counts = self.run.tables, self.run.counts
        self.run.n_awaited = len(links)
        for name, key in links.items():
            slot = tables.inputs[name]
            self._awaited.setdefault(key, []).append(slot)
            for task in readers[slot]:
                counts[task] += 1
        self._readers = readers
        self.run.start([task for task in tables.ready if not counts[task]])
        if self._elder is not None:
            outlet, self._elder = self._elder.outlet, None
            with self.run.lock:
                outlet.receive = self._receive
                for key, value in outlet.values.items():
                    self._receive(key, value)
                outlet.values.clear()

    def _hand_on(self, team: Team, key: Key, value: Any) -> None:
        """Give a value to the next run, or keep it until there is one; a task of this run calls it."""
        outlet = self.outlet
        with team.lock:
            if outlet.receive is None:
                outlet.values[key] = value
                return
            outlet.receive(key, value)

    def _receive(self, key: Key, value: Any) -> None:
        """Take an input, queue what waited for it alone and wake a worker, who wakes others in turn. Needs the lock."""
        run = self.run
        if run.stop:
            return
        stacks = next(iter(run.stacks.values()))
        for slot in self._awaited[key]:
            run.values[slot] = value
            self._given[slot] = getattr(value, "nbytes", 0)
            run.n_awaited -= 1
            for task in self._readers[slot]:
                run.counts[task] -= 1
                if not run.counts[task]:
                    push(run.heap, stacks, run.tables.rank[task], task)
        if run.heap:
            run.team.wake(run, 1)


class Chain:
    """Runs of one program, each fed by the one before it; `Program.chain` makes it.

    A chain belongs to one thread at a time. Its runs are made by `start` and awaited by `result`, in the same order.
    """

    def __init__(self, tables: Tables, keys: Any, links: Mapping[Key, Key], crew: Crew, n_workers: int) -> None:
        self.tables, self._keys = tables, keys
        self._links = dict(links)
        self._own = [key for key in tables.inputs if key not in links]
        self._readers = _readers(tables, [tables.inputs[name] for name in links])
        self._n_workers = max(1, min(n_workers, tables.n_tasks))
        self._under_way: list[Link] = []
        self._team = Team(crew, self._n_workers)
        self._limit = one_thread_per_worker(self._n_workers)
        self._limit.__enter__()

    def start(self, inputs: Mapping[Key, Any]) -> Future[None]:
        """Start a run.

        Parameters
        ----------
        inputs : mapping
            A value for each input that is not handed on; all inputs if no run is under way.

        Returns
        -------
        Future
            Done when the run has ended; `result` says how.

        Raises
        ------
        ParameterError
            If an input is missing or unknown, two runs are under way, or the chain is closed.
        """
        if self._team.closing:
            raise ParameterError("this chain is closed and has no threads any more; make a new one")
        if len(self._under_way) > 1:
            raise ParameterError("a chain has at most two runs under way; ask for a result first")
        elder = self._under_way[-1] if self._under_way else None
        _check(self._own if elder else list(self.tables.inputs), inputs)
        given: dict[int, int] = {}  # for traces
        link = Link(recorded(self.tables, self._n_workers, inputs, given), inputs, given, self._team, elder)
        self._under_way.append(link)
        try:
            link.start(self._links if elder else {}, self._readers)
        except BaseException:
            self.cancel()
            raise
        return link.ended

    def result(self) -> Any:
        """Wait for the oldest run that has not been asked for, and return its results as `Program.run` does.

        Raises
        ------
        ParameterError
            If no run is under way.
        BaseException
            What a task of the run raised first. The run after it, which lacks inputs then, is cancelled, as all are
            if waiting is interrupted.
        """
        if not self._under_way:
            raise ParameterError("no run of this chain is under way; start one first")
        link = self._under_way[0]
        try:
            link.ended.result()
            if link.run.error is not None:
                fail(link.run)
        except BaseException:
            self.cancel()
            raise
        del self._under_way[0]
        values = link.run.values
        results = nested(self._keys, lambda key: values[self.tables.results[key]])
        values.clear()
        return results

    def cancel(self) -> None:
        """Drop all runs that are under way; tasks that are running end, and are waited for a while."""
        links, self._under_way = self._under_way, []
        for link in reversed(links):
            link.run.cancel()
        for link in links:
            with suppress(TimeoutError):
                link.ended.exception(timeout=GRACE_S)

    def close(self) -> None:
        """Cancel what is under way and give the threads back."""
        try:
            self.cancel()
        finally:
            self._team.close()
            self._limit.__exit__(None, None, None)

    def __enter__(self) -> "Chain":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _check(needed: list[Hashable], inputs: Mapping[Key, Any]) -> None:
    """Refuse inputs that are not the needed ones."""
    for key in needed:
        if key not in inputs:
            raise ParameterError(f"a run of this chain needs the input {key!r}; it is not handed on")
    if len(inputs) > len(needed):
        unknown = next(key for key in inputs if key not in needed)
        raise ParameterError(f"{unknown!r} is no input of this run: it is unknown, or handed on by the run before")


def _readers(tables: Tables, slots: list[int]) -> dict[int, tuple[int, ...]]:
    """Return the tasks that wait for each slot; the end waits for those that nobody reads."""
    wanted: dict[int, list[int]] = {slot: [] for slot in slots}
    for task, reads in enumerate(tables.reads):
        for slot in dict.fromkeys(reads):
            if slot in wanted:
                wanted[slot].append(task)
    return {slot: tuple(tasks) or (tables.n_tasks,) for slot, tasks in wanted.items()}
