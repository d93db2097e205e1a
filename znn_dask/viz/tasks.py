"""A picture of a graph of tasks: what can run at the same time stands in one column."""

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

from dask.task_spec import GraphNode, Task
from dask.utils import key_split

from znn_dask.viz.timeline import picture_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PHASES = {"forward": "tab:blue", "loss": "black", "backward": "tab:orange", "gradient and update": "tab:green"}
"""The parts of a step and their colours."""


def phase_of(kind: str) -> str:
    """Return which part of a step a kind of task belongs to; see `PHASES`."""
    if kind.startswith("loss"):
        return "loss"
    if kind.startswith(("update", "conv-gradient", "kernel-gradient", "bias", "parameter")):
        return "gradient and update"
    return "backward" if "backward" in kind or kind.endswith("-gradient") else "forward"


def draw_tasks(
    dsk: Mapping[Hashable, GraphNode],
    ax: "Axes | None" = None,
    title: str = "",
    values: Callable[[Hashable], float] | None = None,
) -> "Axes":
    """Draw a graph from left to right: a task stands to the right of everything that it reads.

    Gradients of parameters and updates stand below the rest, since nothing else of the step waits for them.

    Parameters
    ----------
    dsk : mapping of key to node
        A Dask graph in the form of `dask.task_spec`, as ``model.graph().dask``; data in it is not drawn.
    ax : matplotlib axes, optional
        Where to draw; None makes a figure, which notebooks show where ``.figure`` of what is returned ends a cell.
    title : str
    values : callable(key), optional
        A number for each task, shown as its colour; None colours by the part of the step.

    Returns
    -------
    matplotlib axes
    """
    tasks = {key: node for key, node in dsk.items() if isinstance(node, Task)}
    reads = {key: [other for other in node.dependencies if other in tasks] for key, node in tasks.items()}
    place = _places(reads)
    if ax is None:
        ax = picture_axes(9, 5)
    for key, others in reads.items():
        for other in others:
            ax.plot(*zip(place[other], place[key], strict=True), color="0.8", linewidth=0.7, zorder=1)
    if values is not None and tasks:
        x, y = zip(*[place[key] for key in tasks], strict=True)
        drawn = ax.scatter(x, y, s=36, c=[values(key) for key in tasks], zorder=2)
        ax.figure.colorbar(drawn, ax=ax, shrink=0.6)
    elif tasks:
        for name, colour in PHASES.items():
            points = [place[key] for key in tasks if phase_of(key_split(key)) == name]
            if points:
                x, y = zip(*points, strict=True)
                ax.scatter(x, y, s=36, color=colour, label=name, zorder=2)
        ax.legend(loc="upper center", ncols=4, frameon=False, bbox_to_anchor=(0.5, 0.0))
    ax.set_title(title or f"{len(tasks):,} tasks")
    ax.set_axis_off()
    return ax


def _places(reads: Mapping[Hashable, list[Any]]) -> dict[Hashable, tuple[float, float]]:
    """Return a place (column, row) for every task."""
    columns: dict[int, list[Hashable]] = {}
    for key, column in _depths(reads).items():
        columns.setdefault(column, []).append(key)
    lowest = max((len(keys) for keys in columns.values()), default=0) / 2
    place = {}
    for column, keys in columns.items():
        below = [key for key in keys if phase_of(key_split(key)) == "gradient and update"]
        others = [key for key in keys if key not in set(below)]
        for row, key in enumerate(others):
            place[key] = (float(column), (len(others) - 1) / 2 - row)
        for row, key in enumerate(below):
            place[key] = (float(column), -lowest - 1 - row)
    return place


def _depths(reads: Mapping[Hashable, list[Any]]) -> dict[Hashable, int]:
    """Return the length of the longest chain of tasks that must run before each."""
    waits = {key: len(others) for key, others in reads.items()}
    readers: dict[Hashable, list[Hashable]] = {}
    for key, others in reads.items():
        for other in others:
            readers.setdefault(other, []).append(key)
    depth = dict.fromkeys((key for key, n in waits.items() if not n), 0)
    order = list(depth)
    for key in order:
        for reader in readers.get(key, ()):
            depth[reader] = max(depth.get(reader, 0), depth[key] + 1)
            waits[reader] -= 1
            if not waits[reader]:
                order.append(reader)
    return depth
