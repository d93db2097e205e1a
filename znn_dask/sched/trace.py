"""`Trace`: a block whose runs are watched, and what can be seen of them afterwards."""

import os
from base64 import b64encode
from collections import defaultdict
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, Any

from znn_dask.errors import ParameterError
from znn_dask.sched.chrome import write_events
from znn_dask.sched.recording import Recorder, Recording, leave, listen
from znn_dask.sched.summary import Summary, summarize
from znn_dask.sched.traced import TracedTask, read_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Trace:
    """Records what every worker does while a block runs.

    Every run of the process that starts inside the block is recorded, whichever thread starts it and whichever of our
    schedulers it is on: `get`, `Scheduler.get`, `Program.run`, steps of a model, and graphs that tasks compute. A run
    is the one that would have happened without a trace; recording costs about 2 microseconds a task. Blocks may
    be nested or overlap; each records all runs that start in it. A block may be entered again, and adds to what it has.

    Parameters
    ----------
    cpu : bool
        Whether to measure the CPU time of each task too, for about 1 microsecond a task. Tasks with much
        less CPU time than time were waiting: for Python's global lock, for memory pages, for a CPU.

    Examples
    --------
    >>> with znn.Trace() as trace:
    ...     model.step(image, target)
    >>> print(trace.summary())
    >>> trace.to_chrome("trace.json")
    >>> trace.plot("trace.png")
    """

    def __init__(self, cpu: bool = False) -> None:
        if not isinstance(cpu, bool):
            raise ParameterError(f"Trace: cpu says whether CPU time is measured and must be True or False, got {cpu!r}")
        self._recorder = Recorder(cpu)

    def __enter__(self) -> "Trace":
        listen(self._recorder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave(self._recorder)

    @property
    def runs(self) -> tuple[Recording, ...]:
        """What was recorded, one entry per run; it may be read while runs are under way."""
        return tuple(self._recorder.runs)

    @property
    def tasks(self) -> list[TracedTask]:
        """All tasks that have ended, by their start."""
        return read_tasks(self.runs)

    def summary(self) -> Summary:
        """Return kinds of tasks, idle shares, the longest path, locality and peak bytes; prints as a table."""
        return summarize(self.runs)

    def to_chrome(self, path: str | os.PathLike[str]) -> None:
        """Write a file for Perfetto (https://ui.perfetto.dev) or chrome://tracing; one that exists is replaced."""
        write_events(self.tasks, path)

    def plot(self, path: str | os.PathLike[str] | None = None, ax: "Axes | None" = None) -> "Figure":
        """Draw a timeline: a row per worker, a bar per task, coloured by kind; x in milliseconds.

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
        # The one import that looks up: matplotlib would cost every program half a second at its start.
        from znn_dask.viz.timeline import timeline

        summary, tasks = self.summary(), self.tasks
        first = tasks[0].start_ns if tasks else 0
        bars: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
        for task in tasks:
            bars[task.kind].append((task.worker, (task.start_ns - first) / 1e6, task.seconds * 1e3))
        labelled: dict[str, Any] = {f"{each.name}  {each.share:.1%}": bars[each.name] for each in summary.kinds}
        title = f"{summary.n_tasks:,} tasks, {summary.span_s * 1e3:,.1f} ms, {summary.idle_share:.1%} idle"
        return timeline(labelled, title, path, ax)

    def __repr__(self) -> str:
        n_tasks = sum(len(stamps) for run in self.runs for stamps in run.stamps().values())
        return f"<Trace: {n_tasks} tasks of {len(self.runs)} runs>"

    def _repr_html_(self) -> str:
        if not self.tasks:
            return self.summary()._repr_html_()
        stream = BytesIO()
        self.plot().savefig(stream, format="png")
        picture = b64encode(stream.getvalue()).decode()
        return f'{self.summary()._repr_html_()}<img alt="timeline" src="data:image/png;base64,{picture}">'
