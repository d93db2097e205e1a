"""The workers that runs share: one for most runs, two where a run begins while the one before it ends."""

import threading
from typing import TYPE_CHECKING

from znn_dask.sched.crew import Crew

if TYPE_CHECKING:
    from znn_dask.sched.run import Run


class Team:
    """Seats that work together, and the runs that they work on.

    Attributes
    ----------
    lock : lock
        Of all that changes in the runs of the team.
    idle : list of Seat
        Those asleep; belongs to the holder of the lock.
    seats : tuple of Seat
        All of them.
    runs : list of Run
        Those that have not ended, the oldest first: what it has ready goes before what younger ones have. Belongs to
        the holder of the lock.
    closing : bool
        Whether no further run will start, so that the seats go back with the end of the last one.
    """

    def __init__(self, crew: Crew, n_workers: int, closing: bool = False) -> None:
        self.lock = threading.Lock()
        self.idle = crew.take(n_workers)
        self.seats = tuple(self.idle)
        self.runs: list[Run] = []
        self.closing = closing
        self._crew = crew

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
            done = self.closing and not self.runs
            seats = self.idle[:] if done else []
            if done:
                self.idle.clear()
        if seats:
            self._crew.give_back(seats)
