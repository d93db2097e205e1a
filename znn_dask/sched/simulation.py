"""What a simulation says, as figures, as a table and as a picture."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from znn_dask.sched.dispatch import Dispatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Row:
    """One count of workers.

    Attributes
    ----------
    n_workers : int
    makespan_s : float
        From the start to the end of the last task, seconds.
    work_s : float
        Of all tasks with their dispatch, seconds: the makespan of one worker.
    idle, waiting, stalled, shared : float
        Shares of all workers' time: without a task; in the line for the dispatch lock; waiting for memory that others
        used; in what tasks take longer because there are several workers. With the efficiency they make 1.
    binds : str
        Without whose limit the run would be shortest: the "workers" (if there were four times the most asked for), the
        "dependencies" (if nobody had to wait for another's result), the "dispatch lock" (if all could hold it) or the
        "memory" (if it gave what all want). From an efficiency of 0.9 on it is the workers.
    """

    n_workers: int
    makespan_s: float
    work_s: float
    idle: float
    waiting: float
    stalled: float
    shared: float
    binds: str

    @property
    def speedup(self) -> float:
        """How many times faster than one worker with the same dispatch."""
        return self.work_s / self.makespan_s if self.makespan_s else 1.0

    @property
    def efficiency(self) -> float:
        """Speedup per worker."""
        return self.speedup / self.n_workers


@dataclass(frozen=True)
class Curve:
    """All counts of workers under one dispatch.

    Attributes
    ----------
    dispatch : Dispatch
    work_s, path_s : float
        Of all tasks together, and along the longest path, dispatch included: seconds. T_1 and T_inf.
    rows : tuple of Row
    """

    dispatch: Dispatch
    work_s: float
    path_s: float
    rows: tuple[Row, ...]

    @property
    def parallelism(self) -> float:
        """S_inf = T_1 / T_inf: no number of workers is faster."""
        return self.work_s / self.path_s if self.path_s else 1.0

    def guaranteed(self, n_workers: int) -> float:
        """Return the speedup that Brent's theorem promises where nobody waits for a lock or for memory.

        S_P >= S_inf / (1 + (S_inf - 1) / P), for any order in which no worker sleeps while a task is ready.
        """
        return self.parallelism / (1 + (self.parallelism - 1) / n_workers)

    def at_most(self, n_workers: int) -> float:
        """Return the speedup that no order exceeds, the least of P and S_inf."""
        return min(float(n_workers), self.parallelism)


@dataclass(frozen=True)
class Simulation:
    """How fast a graph would run; prints as a table.

    Attributes
    ----------
    n_tasks : int
    seconds, n_bytes : float
        Of all tasks as they were measured, without dispatch; and what they read and write together.
    bandwidth, core_bandwidth : float or None
        As they were given.
    curves : tuple of Curve
        One per dispatch, in the order in which they were asked for.
    """

    n_tasks: int
    seconds: float
    n_bytes: float
    bandwidth: float | None
    core_bandwidth: float | None
    curves: tuple[Curve, ...]

    def curve(self, dispatch: str) -> Curve:
        """Return what was found under a dispatch, by its name; raises KeyError if it was not asked for."""
        return {curve.dispatch.name: curve for curve in self.curves}[dispatch]

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def plot(self, path: "str | os.PathLike[str] | None" = None, ax: "Axes | None" = None) -> "Figure":
        """Draw speedup over workers, a line per dispatch beside Brent's bounds.

        Parameters
        ----------
        path : path, optional
            Where to save it, in the format that the ending says.
        ax : matplotlib axes, optional
            Where to draw; None makes a figure.

        Returns
        -------
        matplotlib figure
            Notebooks show it.
        """
        # As for a trace, the one import that looks up: matplotlib would cost every program half a second at its start.
        from znn_dask.viz.speedup import speedup_picture

        lines, bounds = {}, {}
        for curve in self.curves:
            counts = [row.n_workers for row in curve.rows]
            lines[curve.dispatch.name] = [(row.n_workers, row.speedup) for row in curve.rows]
            bounds[curve.dispatch.name] = [(n, curve.guaranteed(n), curve.at_most(n)) for n in counts]
        return speedup_picture(lines, bounds, self._title(), path, ax)

    def _title(self) -> str:
        shared = "" if self.bandwidth is None else f", memory of {self.bandwidth / 1e9:g} GB/s"
        return f"{self.n_tasks:,} tasks, {self.seconds * 1e3:,.1f} ms of one worker{shared}"


def _lines(simulation: Simulation) -> Iterator[str]:
    bandwidth, alone = simulation.bandwidth, simulation.core_bandwidth
    yield (
        f"{simulation.n_tasks:,} tasks: {_ms(simulation.seconds)} ms on one worker, "
        f"{simulation.n_bytes / 1e9:.3g} GB read and written"
    )
    if bandwidth is not None:
        core = "" if alone is None else f", {alone / 1e9:g} GB/s to one core"
        yield f"memory gives {bandwidth / 1e9:g} GB/s to all workers together{core}"
    for curve in simulation.curves:
        yield ""
        yield f"{curve.dispatch}; longest path {_ms(curve.path_s)} ms, S_inf {curve.parallelism:.1f}"
        yield "workers  makespan ms  speedup  efficiency  guaranteed  at most   idle  lock  memory  shared  binds"
        for row in curve.rows:
            n = row.n_workers
            yield (
                f"{n:>7} {_ms(row.makespan_s):>12} {row.speedup:8.2f} {row.efficiency:11.0%} "
                f"{curve.guaranteed(n):11.2f} {curve.at_most(n):8.1f} {row.idle:6.1%} {row.waiting:5.1%} "
                f"{row.stalled:7.1%} {row.shared:7.1%}  {row.binds}"
            )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.3f}" if seconds < 0.01 else f"{seconds * 1e3:,.1f}"
