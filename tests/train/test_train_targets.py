"""Targets and preprocessing, against the definition written as a loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from znn_dask.train.losses import foreground, measured, probabilities
from znn_dask.train.preprocess import preprocess
from znn_dask.train.targets import boundary_map, target_map

IDS = arrays.arrays(np.int32, st.tuples(*[st.integers(1, 4)] * 3), elements=st.integers(0, 3))


def slow_boundary(ids: np.ndarray, in_plane: bool) -> np.ndarray:
    steps = [(0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)] + ([] if in_plane else [(1, 0, 0), (-1, 0, 0)])
    result = np.zeros(ids.shape, bool)
    for place in np.ndindex(ids.shape):
        around = [tuple(np.add(place, step)) for step in steps]
        inside = [p for p in around if all(0 <= i < n for i, n in zip(p, ids.shape, strict=True))]
        result[place] = ids[place] == 0 or any(ids[p] != ids[place] for p in inside)
    return result


@given(IDS, st.booleans())
def test_boundaries_are_as_defined(ids: np.ndarray, in_plane: bool) -> None:
    np.testing.assert_array_equal(boundary_map(ids, in_plane), slow_boundary(ids, in_plane))


def test_binary_targets() -> None:
    label = np.array([[[0, 127, 128, 255]]], np.uint8)
    assert target_map(label, "binary", 128).tolist() == [[[0, 0, 1, 1]]]
    assert target_map(label, "binary", 128, invert=True).tolist() == [[[1, 1, 0, 0]]]
    assert target_map(label > 128, "binary").tolist() == [[[0, 0, 0, 1]]]
    assert target_map(label, "boundary").dtype == np.uint8


def test_standardised_sections_and_volumes() -> None:
    image = np.random.default_rng(0).uniform(10, 200, (2, 3, 8, 9)).astype(np.float32)
    image[:, 1] = 7
    by_section, whole = preprocess(image, "section"), preprocess(image, "volume")
    np.testing.assert_allclose(by_section[:, ::2].mean(axis=(2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(by_section[:, ::2].std(axis=(2, 3)), 1, rtol=1e-5)
    assert not by_section[:, 1].any()
    np.testing.assert_allclose(whole.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(whole.std(axis=(1, 2, 3)), 1, rtol=1e-5)
    assert preprocess(image, "none") is image
    assert by_section.dtype == whole.dtype == np.float32


def test_large_offsets_lose_no_precision() -> None:
    image = (60000 + np.arange(1000).reshape(1, 10, 10, 10) % 7).astype(np.float32)
    np.testing.assert_allclose(preprocess(image, "volume").std(), 1, rtol=1e-5)


def test_probabilities() -> None:
    output = np.array([-1000, -1, 0, 2, 1000], np.float32).reshape(1, 5, 1, 1)
    logistic = probabilities(output, "logistic").ravel()
    np.testing.assert_allclose(logistic, [0, 1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-2)), 1], rtol=1e-5)
    two = np.stack([np.zeros(5, np.float32), output.ravel()]).reshape(2, 1, 1, 5)
    np.testing.assert_allclose(foreground(two, "softmax").ravel(), logistic, rtol=1e-5, atol=1e-7)
    assert probabilities(output, "square") is output


@pytest.mark.parametrize("loss", ["logistic", "square", "square_square(0.5)", "dice(0)"])
def test_losses_of_known_values(loss: str) -> None:
    p, t = np.array([0.25, 0.75]), np.array([0.0, 0.0])
    expected = {
        "logistic": -(np.log(0.75) + np.log(0.25)) / 2,
        "square": (0.0625 + 0.5625) / 2,
        "square_square(0.5)": 0.5625 / 2,
        "dice(0)": 1.0,
    }
    output = np.log(p / (1 - p)) if loss in ("logistic", "dice(0)") else p
    shaped = output.reshape(1, 1, 1, 1, 2), t.reshape(1, 1, 1, 1, 2)
    assert measured(*shaped, None, loss) == pytest.approx((expected[loss], 0.5))
    assert measured(*shaped, np.array([1.0, 0.0]).reshape(1, 1, 1, 1, 2), loss)[1] == 0


def test_classes_and_segments_are_measured_by_what_they_say() -> None:
    output = np.array([[2.0, 0, 0], [0, 3, 1], [0, 0, 2]]).reshape(1, 3, 1, 1, 3)
    classes = np.array([0, 1, 1]).reshape(1, 1, 1, 1, 3)
    loss, error = measured(output, classes, None, "softmax")
    assert error == pytest.approx(1 / 3)
    assert loss > 0
    # One row of voxels: affinities along x and y, of which only two along x lie inside.
    output = np.array([[9.0, 5, 5], [9, 9, 9]], np.float32).reshape(1, 2, 1, 1, 3)
    ids = np.array([1, 1, 2]).reshape(1, 1, 1, 1, 3)
    loss, error = measured(output, ids, None, "malis")
    assert error == 0.5
    assert loss == pytest.approx(2 / 3, abs=0.02)
