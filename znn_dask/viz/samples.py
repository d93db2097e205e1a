"""A picture of what a network learns from: augmented patches with their targets, and what of them counts."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DOTS_PER_INCH = 100
MOST_CHANNELS = 4  # maps of a target that are drawn


def samples_picture(patches: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]], classes: int = 2) -> bytes:
    """Draw the middle section of patches: the image with a frame around what the output covers, target, weight.

    Parameters
    ----------
    patches : sequence of (image, target, weight)
        Of shape (channel, z, y, x); the image may be larger, around the target. A weight of None counts everywhere.
    classes : int
        Numbers of classes that a target may hold.

    Returns
    -------
    bytes
        A PNG file.
    """
    channels = min(MOST_CHANNELS, patches[0][1].shape[0])
    columns = 2 + channels
    figure = Figure(figsize=(2.2 * columns, 2.2 * len(patches) + 0.4), layout="constrained")
    grid = figure.subplots(len(patches), columns, squeeze=False)
    for row, (image, target, weight) in zip(grid, patches, strict=True):
        middle, inside = image.shape[1] // 2, target.shape[1] // 2
        row[0].imshow(image[0, middle], cmap="gray", interpolation="nearest")
        _frame(row[0], image.shape, target.shape)
        for number in range(channels):
            row[1 + number].imshow(
                target[number, inside], cmap="viridis", interpolation="nearest", vmin=0, vmax=max(1, classes - 1)
            )
        counts = np.ones(target.shape[1:]) if weight is None else weight.mean(axis=0)
        row[-1].imshow(counts[inside], cmap="gray", interpolation="nearest", vmin=0, vmax=1)
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
    names = ["target"] if channels == 1 else [f"target {number}" for number in range(channels)]
    for axes, name in zip(grid[0], ["image", *names, "counts"], strict=True):
        axes.set_title(name, fontsize=10)
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH)
    return stream.getvalue()


def _frame(axes: object, outer: tuple[int, ...], inner: tuple[int, ...]) -> None:
    """Draw where the output lies in the input; the smaller half of the margin comes before."""
    (low_y, low_x), (size_y, size_x) = ((o - i) // 2 for o, i in zip(outer[2:], inner[2:], strict=True)), inner[2:]
    x = [low_x - 0.5, low_x + size_x - 0.5]
    y = [low_y - 0.5, low_y + size_y - 0.5]
    axes.plot([x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], color="tab:orange", linewidth=1)  # type: ignore[attr-defined]
