"""The held-out error over whole regions, by voxels and as segments, and what would be reached without a network."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from znn_dask.infer.metrics import (
    Baseline,
    PixelScores,
    Scene,
    SegmentationScores,
    compare_segments,
    components,
    number_on,
    pixel_scores,
    smoothed_threshold,
    watershed_segments,
)
from znn_dask.model import Model
from znn_dask.train.losses import loss_of_output, probabilities, wanted
from znn_dask.train.mirror import view_of
from znn_dask.train.samples import Volume, cut_region

_MARGIN = 16  # voxels around a region that the widest smoothing of the baseline may see


@dataclass(frozen=True)
class Segments:
    """Which voxels of a target of 0 and 1 form segments.

    Attributes
    ----------
    of : "background", "foreground" or "none"
        Connected voxels of 0, as between boundaries, of 1, or nothing.
    in_plane : bool
        Whether sections are taken one by one, for a network that sees one section at a time.
    """

    of: str = "none"
    in_plane: bool = False


NO_SEGMENTS = Segments()


@dataclass(frozen=True)
class Validation:
    """What was measured over whole regions.

    Attributes
    ----------
    scores : PixelScores
        Over all regions together.
    segments : SegmentationScores or None
        Of the watershed of the prediction at 0.5 against the connected components of the target.
    predictions : list of float32 arrays of shape (z, y, x)
        One for each region.
    """

    scores: PixelScores
    segments: SegmentationScores | None
    predictions: list[np.ndarray] = field(repr=False)

    def row(self) -> dict[str, float]:
        """Return the columns of the learning curve."""
        values = {"region_error": self.scores.error, "region_f1": self.scores.f1}
        if self.segments is not None:
            found = self.segments
            values |= {"rand_error": found.rand_error, "voi_split": found.voi_split, "voi_merge": found.voi_merge}
        return values


@dataclass(frozen=True)
class HeldOut(Validation):
    """What was measured, beside what a threshold reaches.

    Attributes
    ----------
    baseline : Baseline
        The best threshold on the smoothed image, over the same voxels.
    """

    baseline: Baseline

    def figures(self) -> dict[str, float]:
        """Return the errors and their ratios, as they go into ``metrics.json``."""
        scores, baseline = self.scores, self.baseline
        figures = {
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
        if self.segments is not None:
            found = self.segments
            figures |= {"rand_error": found.rand_error, "voi_split": found.voi_split, "voi_merge": found.voi_merge}
        return figures


def validate(model: Model, volumes: Sequence[Volume], segments: Segments = NO_SEGMENTS) -> Validation:
    """Predict the regions of volumes completely and measure the error.

    Parameters
    ----------
    model : Model
    volumes : sequence of Volume
        Inputs see what each volume's `reach` allows, mirrored at its border.
    segments : Segments
        What to compare as segments.
    """
    predictions, compared = [], []
    for item in volumes:
        output = np.asarray(model.predict(cut_region(item, view_of(model.net)), border=None))
        probability, truth = _compared(item, output, model)
        compared.append((probability, truth))
        predictions.append(_seen(output, model))
    scores = pixel_scores(np.concatenate([p for p, _ in compared]), np.concatenate([t for _, t in compared]))
    return Validation(scores, _segments(predictions, volumes, segments), predictions)


def evaluate_regions(
    model: Model, volumes: Sequence[Volume], segments: Segments = NO_SEGMENTS, found: Validation | None = None
) -> HeldOut:
    """Predict the regions of volumes and measure, and find out what a threshold on the image reaches.

    Parameters
    ----------
    model, volumes, segments
        As for `validate`.
    found : Validation, optional
        What `validate` found for this very model, to be used again.
    """
    found = found or validate(model, volumes, segments)
    baseline = smoothed_threshold([_scene(item) for item in volumes])
    return HeldOut(found.scores, found.segments, found.predictions, baseline)


def _segments(predictions: Sequence[np.ndarray], volumes: Sequence[Volume], how: Segments) -> SegmentationScores | None:
    """Compare segments over all that counts in all regions; None if that is not wanted or there is no cell."""
    if how.of == "none":
        return None
    # The foreground is what lies where a "boundary" is improbable.
    boundaries = [1 - p if how.of == "foreground" else p for p in predictions]
    insides = [_counted((plain_target(item) != 0) == (how.of == "foreground"), item) for item in volumes]
    cells = number_on([components(inside, how.in_plane).ravel() for inside in insides])
    if not cells.any():
        return None
    made = [watershed_segments(boundary, in_plane=how.in_plane).ravel() for boundary in boundaries]
    return compare_segments(number_on(made), cells)


def _counted(inside: np.ndarray, item: Volume) -> np.ndarray:
    """Return where a region is inside a cell and its target counts."""
    counts = item.counts()
    return inside if counts is None else inside & (counts if counts.ndim == 3 else counts.all(axis=0))


def plain_target(item: Volume) -> np.ndarray:
    """Return the target of a region as it is drawn, (z, y, x): of affinities the least, so 0 at any boundary."""
    target = np.asarray(item.target[_slices(item)])
    return target if target.ndim == 3 else target.min(axis=0)


def _seen(output: np.ndarray, model: Model) -> np.ndarray:
    """Return what is drawn of an output, (z, y, x): the probability of 1, of affinities the least."""
    p = probabilities(output, model.loss)
    if loss_of_output(model.loss) == "softmax":
        return np.asarray(p[1] if len(p) == 2 else 1 - p[0])
    return np.asarray(p.min(axis=0))


def _compared(item: Volume, output: np.ndarray, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and targets of 0 and 1 over all that counts in a region.

    Several classes are told from the first one, and ids compared as affinities.
    """
    target, counts = np.asarray(item.target[_slices(item)]), item.counts()
    if loss_of_output(model.loss) == "softmax":
        probability, truth = _seen(output, model)[None], (target > 0)[None]
    else:
        probability = probabilities(output, model.loss)
        given = target[None] if target.ndim == 4 else target[None, None]
        made, valid = wanted(given, len(probability), model.loss)
        truth = made[0]
        if valid is not None:
            counts = valid[0] if counts is None else valid[0] & counts
    if counts is None:
        return probability.ravel(), truth.ravel()
    where = np.broadcast_to(counts, probability.shape)
    return probability[where], truth[where]


def _slices(item: Volume) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in item.region)


def _scene(item: Volume) -> Scene:
    """Return the surroundings of a region, cut so that smoothing does not cover the whole volume."""
    outer, inner = [], []
    for (low, high), length in zip(item.region, item.shape, strict=True):
        start = max(0, low - _MARGIN)
        outer.append(slice(start, min(length, high + _MARGIN)))
        inner.append(slice(low - start, high - start))
    target = np.asarray(item.target[tuple(outer)])
    return Scene(item.image[(0, *outer)], target if target.ndim == 3 else target.min(axis=0), tuple(inner))


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("inf")
