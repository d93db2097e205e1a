"""The held-out error over whole regions, and what would be reached without a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from znn_dask.infer.metrics import Baseline, PixelScores, Scene, pixel_scores, smoothed_threshold
from znn_dask.model import Model
from znn_dask.train.losses import foreground
from znn_dask.train.samples import Volume, cut_region

_MARGIN = 16  # voxels around a region that the widest smoothing of the baseline may see


@dataclass(frozen=True)
class HeldOut:
    """What was measured.

    Attributes
    ----------
    scores : PixelScores
        Over all regions together.
    baseline : Baseline
        The best threshold on the smoothed image, over the same voxels.
    predictions : list of float32 arrays of shape (z, y, x)
        One for each region.
    """

    scores: PixelScores
    baseline: Baseline
    predictions: list[np.ndarray]

    def figures(self) -> dict[str, float]:
        """Return the errors and their ratios, as they go into ``metrics.json``."""
        scores, baseline = self.scores, self.baseline
        return {
            "error": scores.error,
            "majority_error": scores.majority_error,
            "error_over_majority": _ratio(scores.error, scores.majority_error),
            "smoothed_threshold_error": baseline.error,
            "error_over_smoothed_threshold": _ratio(scores.error, baseline.error),
            "smoothed_threshold_sigma": baseline.sigma,
            "precision": scores.precision,
            "recall": scores.recall,
            "f1": scores.f1,
        }


def evaluate_regions(model: Model, volumes: Sequence[Volume]) -> HeldOut:
    """Predict the regions of volumes completely and measure the error.

    Parameters
    ----------
    model : Model
    volumes : sequence of Volume
        Inputs see what each volume's `reach` allows, mirrored at its border.
    """
    predictions = []
    for item in volumes:
        output = np.asarray(model.predict(cut_region(item, model.net.field_of_view), border=None))
        predictions.append(foreground(output, model.loss))
    targets = [item.target[_slices(item)] for item in volumes]
    scores = pixel_scores(
        np.concatenate([p.ravel() for p in predictions]), np.concatenate([t.ravel() for t in targets])
    )
    return HeldOut(scores, smoothed_threshold([_scene(item) for item in volumes]), predictions)


def _slices(item: Volume) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in item.region)


def _scene(item: Volume) -> Scene:
    """Return the surroundings of a region, cut so that smoothing does not cover the whole volume."""
    outer, inner = [], []
    for (low, high), length in zip(item.region, item.target.shape, strict=True):
        start = max(0, low - _MARGIN)
        outer.append(slice(start, min(length, high + _MARGIN)))
        inner.append(slice(low - start, high - start))
    return Scene(item.image[(0, *outer)], item.target[tuple(outer)], tuple(inner))


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("inf")
