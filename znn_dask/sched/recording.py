"""Stamps of a run, taken on its workers.

While a trace is open, every run gets tables whose calls stamp themselves. Nothing else differs: the order, the
arrays given away and the ends of life are those of the run that would have happened. Each thread appends to a
list of its own, so stamps need no lock. A run that nobody traces pays one look at an empty tuple.
"""

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from threading import get_ident
from time import perf_counter_ns, thread_time_ns
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from znn_dask.sched.force import ClaimedError
from znn_dask.sched.tables import Tables

Sizes: TypeAlias = int | tuple[int, ...]
"""Bytes of a result, or of each part of a tuple."""

Rows: TypeAlias = dict[int, list[Any]]


class Stamp(NamedTuple):
    """One execution of a task.

    Attributes
    ----------
    task : int
        Its number in the tables.
    start, end : int
        `time.perf_counter_ns` before and after the call, nanoseconds.
    sizes : int or tuple of int
        Bytes of the arrays it returned; None if it raised.
    cpu_ns : int
        CPU time of the thread, nanoseconds; -1 if it was not measured.
    """

    task: int
    start: int
    end: int
    sizes: Sizes | None = 0
    cpu_ns: int = -1


@dataclass(frozen=True, slots=True)
class Recording:
    """What is kept of one run.

    Attributes
    ----------
    tables : Tables
        As they were run, without callables and constants, so that no value lives longer for being traced.
    n_workers : int
        Threads the run could use.
    rows : dict of thread id to list
        The fields of a `Stamp` for each task in the order of execution, one after the other; sizes are None where
        it raised. Each list belongs to its thread until the run ends.
    given : dict of slot to bytes
        Of the arrays that the run did not make: inputs, also those that the run before hands on, and constants.
    """

    tables: Tables
    n_workers: int
    rows: Rows = field(default_factory=dict)
    given: dict[int, int] = field(default_factory=dict)

    def stamps(self) -> dict[int, list[Stamp]]:
        """Return what each thread has run so far, in its order."""
        found = {}
        for thread, rows in list(self.rows.items()):
            fields = iter(rows[:])
            found[thread] = [Stamp(*row) for row in zip(fields, fields, fields, fields, fields, strict=True)]
        return found


class Recorder:
    """Receives the recordings of the runs that start while it is listed in `_active`.

    Attributes
    ----------
    cpu : whether to measure the threads' CPU time as well
    runs : in the order in which they started
    """

    def __init__(self, cpu: bool) -> None:
        self.cpu = cpu
        self.runs: list[Recording] = []


_lock = threading.Lock()
# Replaced as a whole by the holder of the lock, so whoever starts a run reads it without.
_active: tuple[Recorder, ...] = ()


def _after_fork() -> None:
    """A child has a lock that perhaps nobody will release, and nobody who would read what it records."""
    global _lock, _active
    _lock, _active = threading.Lock(), ()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def listen(recorder: Recorder) -> None:
    """Let a recorder have every run that starts from now on, in any thread."""
    global _active
    with _lock:
        _active = (*_active, recorder)


def leave(recorder: Recorder) -> None:
    """Let a recorder have no further run; those under way go on being stamped."""
    global _active
    with _lock:
        _active = tuple(each for each in _active if each is not recorder)


def recorded(
    tables: Tables, n_workers: int, inputs: Mapping[Hashable, Any] | None = None, given: dict[int, int] | None = None
) -> Tables:
    """Return tables that stamp what they run, or the tables themselves if nobody listens.

    Parameters
    ----------
    tables, n_workers : of the run
    inputs : by key, what the run starts with; only the bytes are kept
    given : empty dictionary for the bytes of each slot, see `Recording`, to which others may be added
    """
    recorders = _active
    if not recorders or not tables.n_tasks:
        return tables
    bare = replace(tables, calls=[_forgotten] * len(tables.calls), initial=[None] * len(tables.initial))
    given = {} if given is None else given
    before = [*enumerate(tables.initial), *((tables.inputs[key], value) for key, value in (inputs or {}).items())]
    given.update((slot, value.nbytes) for slot, value in before if isinstance(value, np.ndarray))
    recording = Recording(bare, min(n_workers, tables.n_tasks), given=given)
    for recorder in recorders:
        recorder.runs.append(recording)
    stamped = _stamped_cpu if any(recorder.cpu for recorder in recorders) else _stamped
    calls: list[Callable[..., Any]] = [
        partial(stamped, recording.rows, task, call) for task, call in enumerate(tables.calls)
    ]
    return replace(tables, calls=calls)


def _forgotten(*_: Any) -> None:
    raise RuntimeError("the tables of a trace hold no callables; run the program that was traced")


_Array = np.ndarray
_NO_ARRAYS = frozenset({int, float, bool, str, type(None)})


def _stamped(rows_of: Rows, task: int, call: Callable[..., Any], *values: Any) -> Any:
    """Call with stamps around it. What is kept are integers in one list: objects per stamp would keep the collector
    busier than all the rest."""
    start = perf_counter_ns()
    try:
        result = call(*values)
    except ClaimedError:  # it was no task
        raise
    except BaseException:
        rows_of.setdefault(get_ident(), []).extend((task, start, perf_counter_ns(), None, -1))
        raise
    end = perf_counter_ns()
    kind = type(result)
    sizes = result.nbytes if kind is _Array else 0 if kind in _NO_ARRAYS else sizes_of(result)
    try:
        rows_of[get_ident()].extend((task, start, end, sizes, -1))
    except KeyError:
        rows_of[get_ident()] = [task, start, end, sizes, -1]
    return result


def _stamped_cpu(rows_of: Rows, task: int, call: Callable[..., Any], *values: Any) -> Any:
    """As `_stamped`, with the thread's CPU time, which costs a call of the operating system before and after."""
    cpu = thread_time_ns()
    start = perf_counter_ns()
    sizes = None
    try:
        result = call(*values)
        sizes = sizes_of(result)
    except ClaimedError:
        raise
    except BaseException:
        end = perf_counter_ns()
        rows_of.setdefault(get_ident(), []).extend((task, start, end, sizes, thread_time_ns() - cpu))
        raise
    end = perf_counter_ns()
    rows_of.setdefault(get_ident(), []).extend((task, start, end, sizes, thread_time_ns() - cpu))
    return result


def sizes_of(result: Any) -> Sizes:
    """Return the bytes of an array, or of each part of a tuple; 0 for anything else."""
    if isinstance(result, (np.ndarray, np.generic)):
        return result.nbytes
    if isinstance(result, tuple):
        return tuple([part.nbytes if isinstance(part, (np.ndarray, np.generic)) else 0 for part in result])
    return 0
