"""Threads that wait for work, and are reused.

A `Seat` is one thread with a mailbox. A run borrows seats, sends itself to those it has work for, and gives
all of them back when it ends; a seat without work sleeps in its mailbox and costs nothing. Threads are
daemons, so the interpreter always exits; idle ones are also dismissed and joined when their crew is closed,
collected, or at exit.

A seat that sleeps is always in a list of somebody who is responsible for it, also for whoever is interrupted
between two bytecodes: `move` and `send_all` are one call of C each.
"""

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from itertools import islice, repeat, starmap
from operator import attrgetter, call
from queue import SimpleQueue
from typing import TypeAlias

Job: TypeAlias = "Callable[[Seat], None]"

MAX_IDLE = 64
"""Idle threads kept by one crew; wide nested computations may need more for a while."""


class Seat:
    """One thread, its mailbox, and a way to send it work; the CPU that it is bound to, if any (see `pinning`)."""

    __slots__ = ("_mailbox", "cpu", "send", "thread")

    def __init__(self) -> None:
        self.cpu: int | None = None
        self._mailbox: SimpleQueue[Job | None] = SimpleQueue()
        self.send = self._mailbox.put
        self.thread = threading.Thread(target=_serve, args=(self,), name="znn-dask-worker", daemon=True)
        try:
            self.thread.start()
        except BaseException:
            self.send(None)  # it may have started
            raise

    def receive(self) -> "Job | None":
        """Sleep until there is work; None means to end."""
        return self._mailbox.get()


def _serve(seat: Seat) -> None:
    while True:
        job = seat.receive()
        if job is None:
            return
        job(seat)
        # A finished run's values must not live on in a sleeping thread.
        job = None


class Crew:
    """The idle seats; `_idle` and `closed` belong to the holder of `_lock`.

    Parameters
    ----------
    pinned : bool
        Whether threads that work together keep to a CPU each, see `pinning`.
    """

    def __init__(self, pinned: bool = False) -> None:
        self.pinned = pinned
        self._lock = threading.Lock()
        self._idle: list[Seat] = []
        self.closed = False
        _crews.add(self)
        # A collected crew must not wait for threads: the collector may run anywhere.
        weakref.finalize(self, dismiss, self._idle).atexit = False

    def take(self, n_seats: int, seats: list[Seat]) -> None:
        """Lend seats, new ones where too few are idle.

        Parameters
        ----------
        n_seats : int
        seats : empty list
            Where they are put, one by one; if this is interrupted they are there.

        Raises
        ------
        RuntimeError
            If the crew is closed.
        """
        with self._lock:
            if self.closed:
                raise RuntimeError("this Scheduler is closed; make a new one")
            move(self._idle, seats, min(len(self._idle), n_seats))
        try:
            seats.extend(starmap(Seat, repeat((), n_seats - len(seats))))
        except BaseException:
            self.give_back(seats)
            raise

    def give_back(self, seats: list[Seat]) -> None:
        """Take all seats of a list back; those beyond what a crew keeps are dismissed."""
        with self._lock:
            n_kept = 0 if self.closed else max(0, MAX_IDLE - len(self._idle))
            move(seats, self._idle, min(len(seats), n_kept))
        dismiss(seats)

    def close(self) -> None:
        """End the idle threads and lend no more; threads that are lent end when they come back."""
        with self._lock:
            self.closed = True
        self.dismiss_idle()

    def dismiss_idle(self) -> None:
        """End the idle threads and wait for them; new ones are made when they are needed."""
        with self._lock:
            seats = self._idle[:]
            dismiss(self._idle)
        for seat in seats:
            if seat.thread is not threading.current_thread():
                seat.thread.join()

    def forget_threads(self) -> None:
        """After a fork the child has none of the threads, and perhaps a lock that nobody will release."""
        self._lock = threading.Lock()
        self._idle.clear()


def move(seats: list[Seat], to: list[Seat], n_seats: int) -> None:
    """Move the last seats of a list to another."""
    any(map(to.append, islice(iter(seats.pop, None), n_seats)))


_send_of = attrgetter("send")


def send_all(seats: list[Seat], job: "Job | None", n_seats: int) -> None:
    """Take the last seats off a list and send each a job."""
    any(map(call, map(_send_of, islice(iter(seats.pop, None), n_seats)), repeat(job)))


def dismiss(seats: list[Seat]) -> None:
    """End the threads of all seats of a list."""
    send_all(seats, None, len(seats))


_crews: "weakref.WeakSet[Crew]" = weakref.WeakSet()


def _after_fork() -> None:
    for crew in list(_crews):
        crew.forget_threads()


@atexit.register
def _at_exit() -> None:
    for crew in list(_crews):
        crew.dismiss_idle()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
