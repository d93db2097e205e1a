"""The demo's tissue: the same for a seed, and not solved by a threshold."""

import hashlib

import numpy as np
import pytest

from znn_dask.infer.metrics import Scene, smoothed_threshold
from znn_dask.train.phantom import make_phantom

SIZE = (24, 48, 48)


def test_a_phantom_is_a_function_of_its_arguments() -> None:
    one, same, other, third = (make_phantom(SIZE, *a) for a in ((0, 0), (0, 0), (0, 1), (1, 0)))
    for a, b in zip(one, same, strict=True):
        assert hashlib.sha256(a.tobytes()).digest() == hashlib.sha256(b.tobytes()).digest()
    assert not np.array_equal(one.boundary, other.boundary)
    assert not np.array_equal(one.boundary, third.boundary)


@pytest.mark.parametrize("seed", [0, 1])
def test_truth_and_image_belong_together(seed: int) -> None:
    image, boundary, ids = make_phantom(SIZE, seed)
    assert image.shape == boundary.shape == ids.shape == SIZE
    assert image.dtype == np.float32
    assert np.array_equal(ids == 0, boundary == 1)
    assert image[boundary == 1].mean() < image[boundary == 0].mean(), "membranes are dark"
    assert 0.1 < boundary.mean() < 0.4
    assert len(np.unique(ids)) > 5


def test_a_threshold_does_not_solve_it() -> None:
    image, boundary, _ = make_phantom((32, 96, 96), 0, 1)
    share = float(boundary.mean())
    assert smoothed_threshold([Scene(image, boundary)]).error > 0.4 * min(share, 1 - share)
