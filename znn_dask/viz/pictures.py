"""The pictures a run leaves behind: its learning curve, its samples, and a prediction beside image and truth.

Drawn without pyplot, which keeps global state and looks for a screen.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_DOTS_PER_INCH = 120


Points = Sequence[tuple[int, float | None]]


def curve_picture(
    losses: Mapping[str, Points],
    errors: Mapping[str, Points],
    levels: Mapping[str, float] | None = None,
    scores: Mapping[str, Mapping[str, Points]] | None = None,
) -> bytes:
    """Draw loss, error and, where there are any, other scores over updates.

    Parameters
    ----------
    losses, errors : mapping of name to points (update, value)
        Values of None are left out.
    levels : mapping of name to float, optional
        Errors to compare with, such as the majority's, drawn as level lines.
    scores : mapping of label to such mappings, optional
        More axes with the curves in each; those are left out for which no value is known.

    Returns
    -------
    bytes
        A PNG file.
    """
    panels = [("loss", losses), ("fraction of wrong voxels", errors)]
    panels += [(name, curves) for name, curves in (scores or {}).items() if _any_value(curves)]
    n_rows = -(-len(panels) // 2)
    figure = Figure(figsize=(9, 3.6 * n_rows), layout="constrained")
    all_axes = figure.subplots(n_rows, 2).ravel()
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    all_axes = all_axes[: len(panels)]
    for axes, (_, curves) in zip(all_axes, panels, strict=True):
        for name, points in curves.items():
            _line(axes, points, name)
    for number, (name, value) in enumerate((levels or {}).items()):
        all_axes[1].axhline(value, color="0.4", linestyle=("--", ":", "-.")[number % 3], label=name)
    for axes, (name, _) in zip(all_axes, panels, strict=True):
        axes.set_xlabel("updates")
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    return _png(figure)


def prediction_picture(
    image: np.ndarray, target: np.ndarray, prediction: np.ndarray, error: float | None = None
) -> bytes:
    """Draw the middle section of image, truth and prediction side by side.

    Parameters
    ----------
    image, target, prediction : arrays of shape (z, y, x)
        The prediction between 0 and 1.
    error : float, optional
        Fraction of wrong voxels, for the title.

    Returns
    -------
    bytes
        A PNG file.
    """
    middle = image.shape[0] // 2
    figure = Figure(figsize=(10.5, 3.8 * max(0.5, min(2.0, image.shape[1] / image.shape[2]))), layout="constrained")
    wrong = "" if error is None else f", {100 * error:.1f} % wrong"
    panels: tuple[tuple[np.ndarray, str, dict[str, float]], ...] = (
        (image, "image", {}),
        (target, "truth", {"vmin": 0, "vmax": 1}),
        (prediction, f"prediction{wrong}", {"vmin": 0, "vmax": 1}),
    )
    for axes, (volume, title, limits) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(volume[middle], cmap="gray", interpolation="nearest", **limits)
        axes.set_title(title)
        axes.set_axis_off()
    return _png(figure)


def samples_picture(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Draw the middle sections of training patches, each above its target, whose place in it is framed.

    Parameters
    ----------
    samples : sequence of (image, target)
        Arrays of shape (z, y, x); the target lies in the middle of the image.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=(1.9 * len(samples), 3.9), layout="constrained")
    columns = figure.subplots(2, len(samples), squeeze=False).T
    for (above, below), (image, target) in zip(columns, samples, strict=True):
        above.imshow(image[image.shape[0] // 2], cmap="gray", interpolation="nearest")
        height, width = target.shape[1:]
        corner = ((image.shape[2] - width) / 2 - 0.5, (image.shape[1] - height) / 2 - 0.5)
        above.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="tab:orange", linewidth=1.2))
        below.imshow(target[target.shape[0] // 2], cmap="gray", interpolation="nearest", vmin=0, vmax=1)
        for axes in (above, below):
            axes.set_xticks([])
            axes.set_yticks([])
    columns[0][0].set_ylabel("image")
    columns[0][1].set_ylabel("target")
    return _png(figure)


def _any_value(curves: Mapping[str, Points]) -> bool:
    return any(value is not None for points in curves.values() for _, value in points)


def _line(axes: Axes, points: Points, label: str) -> None:
    known = [(step, value) for step, value in points if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), label=label, marker="o" if len(known) < 40 else "", markersize=3)


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH)
    return stream.getvalue()
