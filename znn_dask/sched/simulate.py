"""How much memory a run will take, found by playing it before anything runs.

Tasks only pass their seconds on the clock of `play`. For one worker the peak is that of every real run; for more it is
that of a run whose tasks take what they were said to. How fast a run will be is another question: `speedup`.
"""

from collections.abc import Hashable, Mapping

from znn_dask.sched.play import Play
from znn_dask.sched.sums import ArrivalSum, finish
from znn_dask.sched.tables import Tables
from znn_dask.tasks import Need

CALL_S = 5e-6  # what a task costs besides its own seconds

NOTHING = Need()


def peak_bytes(tables: Tables, needs: Mapping[Hashable, Need], n_workers: int = 1) -> int:
    """Return the most bytes of results alive at once, those asked for included and inputs not.

    Parameters
    ----------
    tables : compiled graph
    needs : mapping of task to Need
        A task that is not there makes no arrays.
    n_workers : int
    """
    run = _Memory(tables, needs, n_workers)
    run.play()
    return run.peak


class _Memory(Play):
    """What is alive while a run is played; `held` says how many bytes each slot holds."""

    def __init__(self, tables: Tables, needs: Mapping[Hashable, Need], n_workers: int) -> None:
        super().__init__(tables, n_workers)
        self.needs = [needs.get(key, NOTHING) for key in tables.keys]
        for task, attempts in tables.attempts.items():
            # The attempt takes the time, and what it leaves counts where the task takes it over, at once.
            for attempt in attempts:
                self.needs[attempt] = Need(extra=self.needs[task].extra, seconds=self.needs[task].seconds)
            self.needs[task] = self.needs[task]._replace(extra=0, seconds=0.0)
        # Of a sum in order of arrival: the slot of its state, where its bytes are held, by each of its tasks.
        self.state = {
            task: reads[0]
            for task, reads in enumerate(tables.reads)
            if reads and getattr(tables.states.get(reads[0]), "func", None) is ArrivalSum
        }
        self.owned: dict[int, bool] = {}  # by state: whether what lies there may be overwritten
        self.held = [0] * len(tables.initial)
        self.alive = self.peak = 0

    def begin(self, task: int, now: float, worker: int) -> None:
        need = self.needs[task]
        if task in self.state:
            self.arrive(task, self.state[task], need.n_bytes)
            self.at(now + need.seconds + CALL_S, task, worker)
            return
        self.alive += need.n_bytes + need.extra
        # Of two that a sum may overwrite it takes the first; the other is dropped when it is done.
        for slot in self.tables.donated[task][:1]:
            self.drop(slot)
        self.peak = max(self.peak, self.alive)
        self.at(now + need.seconds + CALL_S, task, worker)

    def arrive(self, task: int, state: int, n_bytes: int) -> None:
        """Put a term to a sum, which is held by its state; the last task takes it over."""
        if self.tables.calls[task] is finish:
            self.move(state, task)
            return
        given = self.tables.donated[task]
        if not self.owned.get(state, False):
            if given:
                self.move(given[0], state)
            elif state in self.owned:  # neither of two may be overwritten
                self.alive += n_bytes
                self.held[state] = n_bytes
        self.owned[state] = self.held[state] > 0
        self.peak = max(self.peak, self.alive)

    def move(self, source: int, target: int) -> None:
        """Let another slot hold what a slot holds."""
        self.held[target], self.held[source] = self.held[source], 0

    def end(self, task: int) -> None:
        need = self.needs[task]
        if task not in self.state:
            self.alive -= need.extra
            self.held[task] = need.n_bytes
        for index, slot in self.tables.splits[task] or ():
            self.held[slot] = need.parts.get(index, 0)
            self.held[task] -= self.held[slot]
        for slot in self.tables.drops[task]:
            self.drop(slot)

    def drop(self, slot: int) -> None:
        self.alive -= self.held[slot]
        self.held[slot] = 0
