"""The held-out error over whole regions, by voxels and as segments, and what would be reached without a network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from znn_dask.infer.metrics import (
    CUTS,
    Baseline,
    Method,
    PixelScores,
    Scene,
    SegmentationScores,
    compare_segments,
    components,
    holds_ids,
    make_segments,
    number_on,
    pixel_scores,
    smoothed_threshold,
    true_cells,
)
from znn_dask.model import Model
from znn_dask.model.losses import Losses
from znn_dask.ops.losses import parse_loss
from znn_dask.train.losses import loss_of_output, probabilities, wanted
from znn_dask.train.mirror import view_of
from znn_dask.train.samples import Volume, cut_region
from znn_dask.train.targets import Labels, TargetSpec
from znn_dask.train.volumes import Box

_PIECE = 2**18  # voxels of a volume that was learnt from, on which the threshold of segments is chosen
_MARGIN = 16  # voxels around a region that the widest smoothing of the baseline may see


@dataclass(frozen=True)
class Segments:
    """Which voxels of a target of 0 and 1 form segments, and how those of a prediction are made.

    Attributes
    ----------
    of : "background", "foreground" or "none"
        Connected voxels of 0, as between boundaries, of 1, or nothing.
    in_plane : bool
        Whether sections are taken one by one, for a network that sees one section at a time.
    ids : bool
        Whether the true segments are the ids that the target was made from, where these are more than two.
    method : "watershed" or "components"
    """

    of: str = "none"
    in_plane: bool = False
    ids: bool = False
    method: Method = "watershed"


NO_SEGMENTS = Segments()


@dataclass(frozen=True)
class Validation:
    """What was measured over whole regions.

    Attributes
    ----------
    scores : PixelScores
        Over all regions together.
    segments : SegmentationScores or None
        Of the segments that the prediction has at 0.5 against those of the labels.
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
    chosen : SegmentationScores or None
        Of the segments at the threshold that was best where was learnt from; None if there was nothing to choose on.
    """

    baseline: Baseline
    chosen: SegmentationScores | None

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
        if self.chosen is not None:
            best = self.chosen
            figures |= {"chosen_threshold": best.threshold, "chosen_rand_error": best.rand_error}
            figures |= {"chosen_voi_split": best.voi_split, "chosen_voi_merge": best.voi_merge}
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
        output = _predicted(model, item)
        probability, truth = _compared(item, output, model)
        compared.append((probability, truth))
        predictions.append(_seen(output, model))
    scores = pixel_scores(np.concatenate([p for p, _ in compared]), np.concatenate([t for _, t in compared]))
    compared_segments = _segments(predictions, volumes, segments, model.loss)
    return Validation(scores, next(iter(compared_segments), None), predictions)


def evaluate_regions(
    model: Model,
    volumes: Sequence[Volume],
    segments: Segments = NO_SEGMENTS,
    found: Validation | None = None,
    learnt: Sequence[Volume] = (),
) -> HeldOut:
    """Predict the regions of volumes and measure, and find out what a threshold on the image reaches.

    Parameters
    ----------
    model, volumes, segments
        As for `validate`.
    found : Validation, optional
        What `validate` found for this very model, to be used again.
    learnt : sequence of Volume
        Those that were learnt from; in the middle of the first of them the threshold of segments is chosen.
    """
    found = found or validate(model, volumes, segments)
    baseline = smoothed_threshold([_scene(item, model.loss) for item in volumes])
    chosen = None
    if found.segments is not None and learnt:
        piece = replace(learnt[0], region=_middle(learnt[0].region))
        predictions = [_seen(_predicted(model, piece), model)]
        tried = _segments(predictions, [piece], segments, model.loss, CUTS)
        if tried:
            best = min(tried, key=lambda scores: scores.rand_error).threshold
            (chosen,) = _segments(found.predictions, volumes, segments, model.loss, (best,))
    return HeldOut(found.scores, found.segments, found.predictions, baseline, chosen)


def _predicted(model: Model, item: Volume) -> np.ndarray:
    """Return the output over a region."""
    return np.asarray(model.predict(cut_region(item, view_of(model.net)), border=None))


def _middle(region: Box) -> Box:
    """Return the middle of a box, so much of it as a piece may have."""
    sides = [high - low for low, high in region]
    while (total := math.prod(sides)) > _PIECE:
        longest = max(range(3), key=sides.__getitem__)
        sides[longest] = max(sides[longest] // 2, _PIECE * sides[longest] // total)
    z, y, x = ((low + (high - low - n) // 2, n) for (low, high), n in zip(region, sides, strict=True))
    return (z[0], sum(z)), (y[0], sum(y)), (x[0], sum(x))


def _segments(
    predictions: Sequence[np.ndarray],
    volumes: Sequence[Volume],
    how: Segments,
    loss: Losses,
    thresholds: Sequence[float] = (0.5,),
) -> list[SegmentationScores]:
    """Compare segments over all that counts in all regions, at thresholds of the predictions.

    Nothing if that is not wanted or there is no cell.
    """
    if how.of == "none":
        return []
    # The foreground is what lies where a "boundary" is improbable.
    boundaries = [1 - p if how.of == "foreground" else p for p in predictions]
    cells = number_on([part.ravel() for part in _cells(volumes, how, loss)])
    if not cells.any():
        return []
    found = []
    for threshold in thresholds:
        cut = 1 - threshold if how.of == "foreground" else threshold
        made = [make_segments(boundary, cut, how.method, how.in_plane).ravel() for boundary in boundaries]
        found.append(compare_segments(number_on(made), cells, threshold))
    return found


def _cells(volumes: Sequence[Volume], how: Segments, loss: Losses) -> list[np.ndarray]:
    """Return the true segments of regions, 0 where there is none or nothing counts."""
    if how.ids and all(isinstance(item.target, Labels) for item in volumes):
        labels = [np.asarray(item.target.ids[_slices(item)]) for item in volumes]
        several = holds_ids(labels)
        found = [true_cells(ids, how.in_plane, several) for ids in labels]
        return [np.where(_counts(item, np.any), ids, 0) for ids, item in zip(found, volumes, strict=True)]
    insides = [(plain_target(item, loss) != 0) == (how.of == "foreground") for item in volumes]
    return [components(here & _counts(item, np.all), how.in_plane) for here, item in zip(insides, volumes, strict=True)]


def _counts(item: Volume, of_affinities: Callable[..., Any]) -> np.ndarray:
    """Return where the target of a region counts; of affinities, where any of them or all do."""
    counts = item.counts()
    if counts is None:
        return np.ones((1, 1, 1), bool)
    return np.asarray(counts if counts.ndim == 3 else of_affinities(counts, axis=0))


def plain_target(item: Volume, loss: Losses, box: tuple[slice, ...] | None = None) -> np.ndarray:
    """Return the target of a region as it is drawn, (z, y, x): of affinities the least, so 0 at any boundary.

    Of ids these are the affinities that MALIS compares.
    """
    target, kind = item.target, parse_loss(loss_of_output(loss))
    if kind.target == "segments":
        ids, spec = (target.ids, target.spec) if isinstance(target, Labels) else (target, TargetSpec())
        steps = kind.offsets(len(kind.numbers) // 3 or 3)
        target = Labels(ids, TargetSpec("affinity", offsets=tuple(steps), ignore=spec.ignore))
    values = np.asarray(target[_slices(item) if box is None else box])
    return values if values.ndim == 3 else values.min(axis=0)


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


def _scene(item: Volume, loss: Losses) -> Scene:
    """Return the surroundings of a region, cut so that smoothing does not cover the whole volume."""
    outer, inner = [], []
    for (low, high), length in zip(item.region, item.shape, strict=True):
        start = max(0, low - _MARGIN)
        outer.append(slice(start, min(length, high + _MARGIN)))
        inner.append(slice(low - start, high - start))
    return Scene(item.image[(0, *outer)], plain_target(item, loss, tuple(outer)), tuple(inner))


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("inf")
