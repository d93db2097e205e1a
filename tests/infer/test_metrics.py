"""Scores against counting by hand, and against what they must be in plain cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from znn_dask.errors import DataError, ShapeError
from znn_dask.infer.metrics import (
    Scene,
    best_cut,
    best_segmentation,
    compare_segments,
    components,
    number_on,
    pixel_scores,
    segment,
    segmentation_scores,
    smoothed_threshold,
    true_cells,
    watershed_segments,
)

SHAPE = (2, 3, 4)
PREDICTIONS = arrays.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
TARGETS = arrays.arrays(bool, SHAPE)


@given(PREDICTIONS, TARGETS, st.floats(0, 1))
def test_counts(prediction: np.ndarray, target: np.ndarray, threshold: float) -> None:
    scores = pixel_scores(prediction, target, threshold)
    pairs = [(p > threshold, bool(t)) for p, t in zip(prediction.ravel(), target.ravel(), strict=True)]
    tp, fp, fn = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
    assert scores.error == pytest.approx((fp + fn) / 24)
    assert scores.precision == pytest.approx(tp / (tp + fp) if tp + fp else 0)
    assert scores.recall == pytest.approx(tp / (tp + fn) if tp + fn else 0)
    assert scores.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0)
    assert scores.majority_error == pytest.approx(min(target.mean(), 1 - target.mean()))


@given(arrays.arrays(np.float64, SHAPE, elements=st.integers(0, 5).map(float)), TARGETS)
def test_no_threshold_is_better_than_the_best(values: np.ndarray, target: np.ndarray) -> None:
    cut, error = best_cut(values, target)
    errors = [np.mean((values > c) != target) for c in np.arange(-0.5, 6)]
    assert error == pytest.approx(min(errors))
    assert np.mean((values >= cut) != target) == pytest.approx(error)


def test_scores_over_one_value() -> None:
    target = np.array([[[True, False, False, False]]])
    assert best_cut(np.zeros((1, 1, 4)), target)[1] == 0.25


def cells_and_boundary() -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros((3, 9, 20), np.int32)
    ids[:, :, :9], ids[:, :, 11:] = 1, 2
    return ids, (ids == 0).astype(np.float32)


def test_a_perfect_boundary_gives_perfect_segments() -> None:
    ids, boundary = cells_and_boundary()
    scores = segmentation_scores(boundary, ids)
    assert (scores.rand_error, scores.voi_split, scores.voi_merge) == pytest.approx((0, 0, 0))
    assert (scores.segments, scores.cells) == (2, 2)


def test_split_and_merge_are_told_apart() -> None:
    ids, boundary = cells_and_boundary()
    merged = segmentation_scores(np.zeros_like(boundary), ids)
    assert merged.voi_merge == pytest.approx(1.0)
    assert merged.voi_split == pytest.approx(0.0)
    assert merged.rand_error == pytest.approx(1 / 3, rel=0.01)
    boundary[:, 4, :9] = 1
    split = segmentation_scores(boundary, ids)
    assert split.voi_merge == pytest.approx(0.0)
    assert split.voi_split > 0.4
    assert split.segments == 3


def test_a_hole_merges_until_the_threshold_is_lowered() -> None:
    ids, boundary = cells_and_boundary()
    boundary[1, 4, 9:11] = 0.3
    assert segmentation_scores(boundary, ids).segments == 2, "a watershed does not leak"
    assert segmentation_scores(boundary, ids, method="components").segments == 1
    best = best_segmentation(boundary, ids, "components")
    assert (best.segments, best.rand_error) == (2, pytest.approx(0))
    assert best.threshold <= 0.3


def test_every_voxel_joins_the_nearest_segment() -> None:
    boundary = np.ones((1, 1, 10), np.float32)
    boundary[..., 1], boundary[..., 8] = 0, 0
    assert segment(boundary).ravel().tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert segment(np.ones((1, 2, 2))).tolist() == [[[1, 1], [1, 1]]]


def test_unlabelled_voxels_do_not_count() -> None:
    ids, boundary = cells_and_boundary()
    ids[:, :3] = 0
    boundary[:, 0, 9:11] = 0.0
    assert segmentation_scores(boundary, ids).cells == 2
    with pytest.raises(DataError, match="no cell"):
        segmentation_scores(boundary, np.zeros_like(ids))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_baseline_finds_sign_and_smoothing(sign: int) -> None:
    random = np.random.default_rng(0)
    target = np.zeros((8, 24, 24), np.uint8)
    target[:, 8:16] = 1
    image = sign * (target + 0.8 * random.standard_normal(target.shape))
    raw = best_cut(sign * image, target)[1]
    found = smoothed_threshold([Scene(image, target)])
    assert found.dark == (sign < 0)
    assert found.sigma > 0
    assert found.error < raw / 2


def test_the_baseline_counts_the_box_only() -> None:
    target = np.zeros((4, 6, 6), np.uint8)
    target[:2, :, 3:] = 1
    image = target.astype(np.float32)
    image[2:, :, :3] = 1
    box = (slice(0, 2), slice(None), slice(None))
    assert smoothed_threshold([Scene(image, target, box), Scene(image, target, box)]).error == 0
    assert smoothed_threshold([Scene(image, target)]).error > 0


def test_bad_predictions_are_named() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\).*\(2, 3, 5\)"):
        pixel_scores(np.zeros((2, 3, 4)), np.zeros((2, 3, 5)))
    with pytest.raises(DataError, match="not finite"):
        pixel_scores(np.full(SHAPE, np.nan), np.zeros(SHAPE))


def test_a_hole_in_a_boundary_merges_components_but_not_basins() -> None:
    ids = np.zeros((12, 12, 26), np.int32)
    ids[:, :, :12], ids[:, :, 14:] = 1, 2
    boundary = (ids == 0).astype(np.float32)
    boundary[5, 5, 12:14] = 0.4
    merged = compare_segments(segment(boundary), ids)
    kept = compare_segments(watershed_segments(boundary), ids)
    assert (merged.segments, kept.segments) == (1, 2)
    assert merged.voi_merge > 0.9
    assert (kept.rand_error, kept.voi_split, kept.voi_merge) == pytest.approx((0, 0, 0))
    assert watershed_segments(boundary, 0.3).max() == 2
    assert watershed_segments(boundary, 0.3).min() == 1, "every voxel has an id"


def test_sections_are_segmented_one_by_one_where_that_is_asked() -> None:
    boundary = np.zeros((3, 10, 20), np.float32)
    boundary[:, :, 9:11] = 1
    boundary[1] = 0
    found = watershed_segments(boundary, in_plane=True)
    assert [sorted(set(section.ravel().tolist())) for section in found] == [[1, 2], [3], [4, 5]]
    assert components(boundary == 0, in_plane=True).max() == 5
    assert components(boundary == 0).max() == 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_a_boundary_or_without_an_inside_there_is_one_basin(value: float) -> None:
    assert (watershed_segments(np.full((4, 5, 6), value, np.float32)) == 1).all()


def test_cells_are_ids_or_in_sections_their_connected_parts_or_what_two_values_mark() -> None:
    ids = np.zeros((2, 1, 7), np.uint64)
    ids[:, 0, [0, 1, 6]], ids[:, 0, 3:5] = 2**63, 7
    assert true_cells(ids)[:, 0].tolist() == [[2, 2, 0, 1, 1, 0, 2]] * 2
    assert true_cells(ids, in_plane=True)[:, 0].tolist() == [[1, 1, 0, 2, 2, 0, 3], [4, 4, 0, 5, 5, 0, 6]]
    assert true_cells(ids > 0)[:, 0].tolist() == [[1, 1, 0, 2, 2, 0, 3]] * 2
    assert true_cells(np.array([[[3, 3, 4]]])).tolist() == [[[1, 1, 1]]], "one cell marked by two values"
    assert true_cells(np.array([[[3, 3, 4]]]), several=True).tolist() == [[[1, 1, 2]]]


def test_ids_of_parts_are_numbered_on_and_0_stays() -> None:
    parts = [np.array([0, 2, 1]), np.array([0, 0]), np.array([1, 0, 3])]
    assert number_on(parts).tolist() == [0, 2, 1, 0, 0, 3, 0, 5]


def test_single_voxels_make_no_pairs() -> None:
    """Without pairs that belong together none is wrong; where only the truth has some, all are."""
    one_each = np.arange(1, 5).reshape(1, 2, 2)
    assert compare_segments(one_each, one_each).rand_error == 0
    assert compare_segments(one_each, np.ones((1, 2, 2), int)).rand_error == 1
    assert compare_segments(np.ones((1, 2, 2), int), one_each).rand_error == 1
