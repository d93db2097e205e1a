"""Who did what when: bars in rows."""

import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Of "tab20", the strong ones first, without the greys, which are left to the rest.
_COLOURS = (*range(0, 14, 2), 16, 18, *range(1, 14, 2))
_MOST_COLOURS = len(_COLOURS)
_REST = "0.75"


class Picture(Figure):
    """A figure that notebooks show, without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def picture_axes(width: float, height: float) -> Axes:
    """Return the axes of a new picture of so many inches."""
    figure = Picture(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def finished(axes: Axes, path: str | os.PathLike[str] | None) -> Figure:
    """Return the figure of some axes, saved if there is a path."""
    figure = axes.figure.canvas.figure
    if path is not None:
        figure.savefig(path)
    return figure


def timeline(
    bars: Mapping[str, Sequence[tuple[int, float, float]]],
    title: str,
    path: str | os.PathLike[str] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Draw bars in rows, coloured by their label.

    Parameters
    ----------
    bars : mapping of label to sequence of (row, start, length)
        The label that matters most first; rows count from 0, start and length are milliseconds. The labels
        beyond the first sixteen share a grey.
    title : str
    path : path, optional
        Where to save the figure.
    axes : matplotlib axes, optional
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib figure
    """
    n_rows = 1 + max((row for spans in bars.values() for row, _, _ in spans), default=0)
    if axes is None:
        n_lines = min(len(bars), _MOST_COLOURS + 1)
        height = max(1.3 + 0.55 * min(n_rows, 20), 0.8 + 0.19 * n_lines)
        axes = picture_axes(12, height)
    outlined = max((start + length for spans in bars.values() for _, start, length in spans), default=0) / 250
    colours = [matplotlib.colormaps["tab20"](index) for index in _COLOURS]
    for number, (label, spans) in enumerate(bars.items()):
        rest = len(bars) - _MOST_COLOURS
        if number == _MOST_COLOURS:
            label = f"{rest} other {'kind' if rest == 1 else 'kinds'}"
        elif number > _MOST_COLOURS:
            label = "_"  # not in the legend
        _draw(axes, spans, colours[number] if number < _MOST_COLOURS else _REST, label, outlined)
    axes.set_ylim(n_rows - 0.4, -0.6)
    axes.set_yticks(range(n_rows), [f"worker {row}" for row in range(n_rows)])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("ms")
    axes.set_title(title, fontsize=10, loc="left")
    axes.margins(x=0.005)
    if bars:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False, fontsize=7.5, labelspacing=0.25)
    return finished(axes, path)


def _draw(axes: Axes, spans: Sequence[tuple[int, float, float]], colour: object, label: str, outlined: float) -> None:
    """Draw the bars of one label, one collection for each row; those of some length have an outline."""
    of_row: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row, start, length in spans:
        of_row[row].append((start, length))
    for row, ranges in of_row.items():
        widths = [0.35 if length > outlined else 0.0 for _, length in ranges]
        place = (row - 0.42, 0.84)
        axes.broken_barh(ranges, place, facecolors=colour, edgecolors="white", linewidths=widths, label=label)
        label = "_"
