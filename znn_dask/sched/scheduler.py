"""`get` and `Scheduler`: any Dask graph on threads that pull their own work.

Usable as a Dask scheduler (``dask.config.set(scheduler=get)``) and on its own. Promises: the results do not
depend on the number of workers or the policy; exceptions, Ctrl-C and context variables behave as in a plain
call; threads are reused between calls.
"""

from collections.abc import Hashable, Mapping
from types import TracebackType
from typing import Any

import dask
from dask.callbacks import Callback

from znn_dask.cpus import available_cpus
from znn_dask.errors import ParameterError
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.crew import Crew
from znn_dask.sched.evaluate import evaluate
from znn_dask.sched.graph import read
from znn_dask.sched.observe import evaluate_observed
from znn_dask.sched.policies import Policy, Priority, policy_named
from znn_dask.sched.program import Program

_shared = Crew()
"""The threads of `get`, of all callers together."""

FRAMES = r"znn_dask[\\/]sched[\\/]"
"""The files whose frames say nothing of what went wrong in a task, as a regular expression."""


def hide_frames() -> None:
    """Let ``compute`` and ``persist`` leave our frames out of tracebacks, as they do those of Dask's schedulers.

    Goes by Dask's setting ``admin.traceback.shorten``; where that is empty, whole tracebacks are wanted.
    """
    hidden = dask.config.get("admin.traceback.shorten", None)
    if hidden and FRAMES not in hidden:
        dask.config.set({"admin.traceback.shorten": [*hidden, FRAMES]})


hide_frames()


def get(dsk: Any, keys: Any, num_workers: int | None = None, policy: str = "locality", **kwargs: Any) -> Any:
    """Compute keys of a Dask graph on threads.

    Parameters
    ----------
    dsk : graph
        A dictionary, a HighLevelGraph, an expression: any form that Dask makes.
    keys : key or nested lists of keys
        What to compute.
    num_workers : int, optional
        Threads; None takes ``pool`` (its size only), else Dask's settings ``pool`` or ``num_workers``, else all
        CPUs that this process may use.
    policy : str
        Which ready task a worker takes first: "locality", "locality-depth", "critical-path", "fifo", "lifo",
        "steal" or "dask" (see `policies`). Results do not depend on it.
    **kwargs
        Of those that Dask passes: ``cache`` (a mapping that gives what the graph lacks and holds values while
        they are needed, the results also afterwards; None takes Dask's setting), ``callbacks``,
        ``rerun_exceptions_locally`` and ``pool``; others are ignored.

    Returns
    -------
    The value of the key, or a tuple for each list.

    Raises
    ------
    KeyError
        If a requested key is not in the graph.
    ParameterError
        If the graph has a circle or lacks a dependency, or for an unknown policy or an invalid number of
        workers.
    """
    n_workers = resolve_workers(num_workers, kwargs.get("pool"))
    return _compute(_shared, dsk, keys, n_workers, policy_named(policy), kwargs)


class Scheduler:
    """Worker threads that stay, for graphs that are computed again and again.

    Parameters
    ----------
    num_workers : int, optional
        Threads of each run; None as in `get`.
    policy : str
        Which ready task a worker takes first, as in `get`.
    pinned : bool
        Whether workers keep to a CPU each where there are as many as this process may use (Linux only). Not for tasks
        that start threads or processes: these would be bound with them.

    Raises
    ------
    ParameterError
        For an unknown policy or an invalid number of workers.
    """

    def __init__(self, num_workers: int | None = None, policy: str = "locality", pinned: bool = False) -> None:
        self.num_workers = resolve_workers(num_workers)
        self.policy = policy
        self._policy = policy_named(policy)
        self._crew = Crew(pinned)

    def get(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        """Compute keys of a Dask graph; as the function `get`, on this scheduler's threads."""
        return _compute(self._crew, dsk, keys, self.num_workers, self._policy, kwargs)

    def compile(
        self, dsk: Any, keys: Any, priority: Priority = None, seconds: Mapping[Hashable, float] | None = None
    ) -> Program:
        """Compile a graph for many runs.

        Parameters
        ----------
        dsk : graph
            As in `get`. Keys that it refers to without giving them become the inputs of `Program.run`.
        keys : key or nested lists of keys
            What each run returns.
        priority : mapping {key: int} or callable(key), optional
            Larger runs first, ties newest first, whatever the policy; None leaves it to the policy.
        seconds : mapping {key: float}, optional
            What tasks take, which the policy "critical-path" then goes by; those not in it take nothing.
        """
        return Program(read(dsk), keys, self._policy, priority, self._crew, self.num_workers, seconds)

    def close(self) -> None:
        """End the threads. Runs of other threads that are under way finish; new ones are refused."""
        self._crew.close()

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _compute(crew: Crew, dsk: Any, keys: Any, n_workers: int, policy: Policy, kwargs: Mapping[str, Any]) -> Any:
    nodes = read(dsk)
    callbacks = kwargs.get("callbacks")
    cache = _given(kwargs, "cache")
    rerun = _given(kwargs, "rerun_exceptions_locally")
    # Running a task a second time needs inputs that nobody wrote into, which observed runs keep.
    if callbacks or rerun or cache is not None or Callback.active:
        return evaluate_observed(nodes, keys, policy, None, crew, n_workers, callbacks, bool(rerun), cache=cache)
    return evaluate(compile_tables(nodes, keys, policy), keys, {}, crew, n_workers)


def _given(kwargs: Mapping[str, Any], name: str) -> Any:
    """Return what a call or else Dask's settings say, None if neither does."""
    value = kwargs.get(name)
    return dask.config.get(name, None) if value is None else value


def resolve_workers(num_workers: int | None, pool: Any = None) -> int:
    """Return how many threads None or a number stands for, see `get`."""
    if num_workers is None:
        pool = pool or dask.config.get("pool", None)
        num_workers = getattr(pool, "_max_workers", None) or getattr(pool, "_processes", None)
    if num_workers is None:
        num_workers = dask.config.get("num_workers", None)
    if num_workers is None:
        return available_cpus()
    if isinstance(num_workers, bool) or not hasattr(num_workers, "__index__") or num_workers < 1:
        raise ParameterError(f"num_workers must be an int of at least 1, or None, got {num_workers!r}")
    return int(num_workers)
