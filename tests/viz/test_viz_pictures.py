"""Pictures show what they are given."""

import io

import numpy as np
from skimage.io import imread

from znn_dask.viz.pictures import curve_picture, prediction_picture, samples_picture


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


def test_more_curves_get_axes_of_their_own_where_there_is_something_to_draw() -> None:
    points = [(1, 0.7), (2, 0.5)]
    plain = pixels(curve_picture({"training": points}, {}))
    none = pixels(curve_picture({"training": points}, {}, scores={"Rand": {"error": [(1, None)]}}))
    three = pixels(curve_picture({"training": points}, {}, scores={"Rand": {"error": points}}))
    assert np.array_equal(plain, none)
    assert three.shape[0] == 2 * plain.shape[0]


def test_the_target_of_a_sample_is_framed_in_its_image() -> None:
    image, target = np.zeros((3, 20, 20)), np.zeros((1, 10, 10))
    image[1] = 1
    image[1, 0, 0] = 0
    picture = pixels(samples_picture([(image, target), (image, target)]))
    red, blue = picture[..., 0], picture[..., 2]
    orange = (red > 200) & (blue < 100)
    rows, columns = np.nonzero(orange)
    upper, left = picture.shape[0] / 2, picture.shape[1] / 2
    assert rows.max() < upper
    assert ((columns < left).any(), (columns > left).any()) == (True, True)
    first = columns[columns < left]
    height = rows.max() - rows.min()
    assert abs((first.max() - first.min()) - height) < 6, "a square"


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
