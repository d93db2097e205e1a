"""The workers that runs share: one for most runs, two where a run begins while the one before it ends."""

import threading
from typing import TYPE_CHECKING

from znn_dask.sched.crew import Crew, Seat, dismiss, send_all
from znn_dask.sched.pinning import pin

if TYPE_CHECKING:
    from znn_dask.sched.run import Run


class Team:
    """Seats that work together, and the runs that they work on.

    Attributes
    ----------
    lock : lock
        Of all that changes in the runs of the team.
    idle : list of Seat
        Those asleep; belongs to the holder of the lock. All others are among the `active` of one run each.
    seats : tuple of Seat
        All of them.
    runs : list of Run
        Those that have not ended, the oldest first: what it has ready goes before what younger ones have. Belongs to
        the holder of the lock.
    closing : bool
        Whether no further run will start, so that the seats go back with the end of the last one.
    """

    def __init__(self, crew: Crew, n_workers: int, closing: bool = False) -> None:
        self.idle: list[Seat] = []
        self.lock = threading.Lock()
        self.runs: list[Run] = []
        self.closing = closing
        self._crew = crew
        crew.take(n_workers, self.idle)
        self.seats = tuple(self.idle)
        if crew.pinned:
            pin(self.seats)

    def wake(self, run: "Run", n_workers: int) -> None:
        """Wake workers for a run, at most as many as sleep. Needs the lock."""
        n_woken = min(len(self.idle), n_workers)
        run.active += n_woken
        send_all(self.idle, run, n_woken)

    def n_active(self, run: "Run") -> int:
        """Return how many workers a run has, also if `wake` was interrupted for it. Needs the lock."""
        return len(self.seats) - len(self.idle) - sum([each.active for each in self.runs if each is not run])

    def next(self) -> "Run | None":
        """Return the oldest run that has something ready. Needs the lock."""
        for run in self.runs:
            if run.heap and not run.stop:
                return run
        return None

    def close(self) -> None:
        """Give the seats back, at once or when the last run has ended; no further run may start."""
        with self.lock:
            self.closing = True
        self.disband_if_done()

    def disband_if_done(self) -> None:
        """Give the seats back if the team is closing and nothing is under way."""
        with self.lock:
            if self.closing and not self.runs:
                self._crew.give_back(self.idle)

    def __del__(self) -> None:
        # Nobody closed it, as after an interrupt: its threads must not sleep for ever. No lock may be taken here.
        dismiss(getattr(self, "idle", []))
