"""Speedup over workers: a line per way to run, beside what Brent's theorem says."""

import os
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from znn_dask.viz.timeline import finished, picture_axes


def speedup_picture(
    lines: Mapping[str, Sequence[tuple[int, float]]],
    bounds: Mapping[str, Sequence[tuple[int, float, float]]],
    title: str,
    path: str | os.PathLike[str] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Draw speedups over counts of workers.

    Parameters
    ----------
    lines : mapping of label to sequence of (workers, speedup)
    bounds : mapping of label to sequence of (workers, least, most)
        What is guaranteed and what is possible, shaded in the colour of the line.
    title : str
    path : path, optional
        Where to save the figure.
    axes : matplotlib axes, optional
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib figure
    """
    if axes is None:
        axes = picture_axes(7, 5)
    most = max((n for points in lines.values() for n, _ in points), default=1)
    axes.plot([0, most], [0, most], color="0.7", linewidth=0.8, linestyle="--", label="as many as workers")
    colours = matplotlib.colormaps["tab10"]
    for number, (label, points) in enumerate(lines.items()):
        colour = colours(number % 10)
        bound = bounds.get(label, ())
        counts = [n for n, _, _ in bound]
        between = [least for _, least, _ in bound], [highest for _, _, highest in bound]
        axes.fill_between(counts, *between, color=colour, alpha=0.08, linewidth=0)
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3.5, label=label)
    axes.set_xlim(0, most * 1.02)
    axes.set_ylim(0, most * 1.02)
    axes.set_xlabel("workers")
    axes.set_ylabel("speedup")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8.5, title="shaded: Brent's bounds", title_fontsize=8)
    return finished(axes, path)
