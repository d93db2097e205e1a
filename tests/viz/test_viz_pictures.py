"""Pictures show what they are given."""

import io

import numpy as np
from skimage.io import imread

from znn_dask.viz.pictures import curve_picture, prediction_picture


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    return np.asarray(imread(io.BytesIO(png)), dtype=float)[..., :3]


def test_a_curve_changes_with_its_points_and_levels() -> None:
    points = [(1, 0.7), (2, 0.5), (3, None), (4, 0.1)]
    plain = pixels(curve_picture({"training": points}, {"held out": points}))
    same = pixels(curve_picture({"training": points}, {"held out": points}))
    other = pixels(curve_picture({"training": points[:2]}, {"held out": points}))
    level = pixels(curve_picture({"training": points}, {"held out": points}, {"majority": 0.3}))
    assert np.array_equal(plain, same)
    assert not np.array_equal(plain, other)
    assert not np.array_equal(plain, level)


def test_curves_without_values_are_drawn_empty() -> None:
    assert pixels(curve_picture({"training": [(1, None)]}, {})).shape[2] == 3


def test_the_middle_section_is_shown_side_by_side() -> None:
    image = np.zeros((3, 40, 40), np.float32)
    image[1, :, 20:] = 1
    truth, prediction = np.zeros((3, 40, 40)), np.ones((3, 40, 40))
    picture = pixels(prediction_picture(image, truth, prediction, 0.25)).mean(axis=2)
    height, width = picture.shape
    left, middle, right = (picture[height // 2, int(width * part)] for part in (1 / 12, 1 / 2, 11 / 12))
    assert (left, middle, right) == (0, 0, 255)
    assert picture[height // 2, int(width * 0.28)] == 255, "the right half of the image"
