"""Workers that keep to a CPU each.

A system may let threads that wake together run on one CPU while another has nothing to do, until it looks again some
milliseconds later; a short step is over by then. As many workers as CPUs therefore get one each. Threads and processes
that a task starts would be bound with it, so this is for tasks that start none.
"""

import os
from collections.abc import Sequence

from znn_dask.sched.crew import Seat


def pin(seats: Sequence[Seat]) -> None:
    """Bind every seat's thread to a CPU of its own, if there are as many as the caller may use; else to none.

    Who has one already keeps it. Where the system does not allow it, nothing is bound.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = os.sched_getaffinity(0)
    if len(allowed) != len(seats):
        for seat in seats:
            if seat.cpu is not None and _bind(seat, allowed):
                seat.cpu = None
        return
    free = set(allowed)
    homeless = []
    for seat in seats:
        if seat.cpu in free:
            free.remove(seat.cpu)
        else:
            homeless.append(seat)
    for seat, cpu in zip(homeless, sorted(free), strict=True):
        if _bind(seat, {cpu}):
            seat.cpu = cpu


def _bind(seat: Seat, cpus: set[int]) -> bool:
    assert seat.thread.native_id  # 0 would be the caller
    try:
        os.sched_setaffinity(seat.thread.native_id, cpus)
    except OSError:  # not permitted, or the thread is ending
        return False
    return True
