"""What makes samples equals its reference, on every instruction set; see `test_ops_instruction_sets`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SETS, philox, run_with_instruction_set

from znn_dask import _kernels
from znn_dask.ops import greys, reference_warp, warp


@pytest.mark.timeout(120)
@pytest.mark.parametrize("wish", SETS)
def test_every_operation_equals_its_reference(wish):
    run_with_instruction_set(__file__, wish)


def sizes(random, least, most, n=3):
    return tuple(int(v) for v in random.integers(least, most, n))


def check_places(seed, maps, n_splines):
    random = np.random.default_rng(seed)
    size = sizes(random, 1, 20)
    splines = []
    for _ in range(n_splines):
        count = sizes(random, 1, 8)
        coefficients = random.standard_normal((maps, *count)).astype(np.float32)
        z, y, x = (random.random((n, k)).astype(np.float32) for n, k in zip(size, count, strict=True))
        # Rows of weights that begin or end with zeros, or have nothing else, as those of splines do.
        for weights in (z, y, x):
            weights[np.abs(np.subtract.outer(np.arange(len(weights)), np.arange(weights.shape[1]))) > 2] = 0
        splines.append(warp.Spline(coefficients, z, y, np.ascontiguousarray(x.T)))
    affine = random.standard_normal((maps, 4)).astype(np.float32)
    found = warp.places(affine, splines, size)
    np.testing.assert_allclose(found, reference_warp.places(affine, splines, size), atol=2e-5)


def check_values(seed, maps):
    random = np.random.default_rng(seed)
    shape, size = sizes(random, 1, 7), sizes(random, 1, 20)
    kind = (np.uint8, np.uint16, np.float32)[random.integers(3)]
    image = random.integers(0, 256, (2, *shape)).astype(kind)
    levels = random.standard_normal((2, 2, shape[0])).astype(np.float32)
    if random.random() < 0.5:
        levels[:] = levels[..., :1]
    course = some_course(random, maps, size)
    low, high = ([int(v) for v in pair] for pair in zip(*(some_range(random, n) for n in shape), strict=True))
    window = warp.Window(sizes(random, -2, 6), tuple(low), tuple(high))
    found = warp.interpolate(image, levels, course, window)
    np.testing.assert_allclose(found, reference_warp.interpolate(image, levels, course, window), atol=5e-3)
    region = tuple(zip(*(some_range(random, n) for n in shape), strict=True))
    for one, other in zip(
        warp.nearest(shape, course, window, region),
        reference_warp.nearest(shape, course, window, region),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def some_range(random, n):
    low = int(random.integers(n))
    return low, int(random.integers(low, n)) + 1


def some_course(random, maps, size):
    """Places in quarters, which float32 holds exactly: also in the middle of two voxels, and far outside."""
    affine = (random.integers(-6, 7, (maps, 4)) / np.float32(4)).astype(np.float32)
    moved = random.integers(-3, 4, (size[0], 3)).astype(np.int32)
    return warp.Course(affine, [], moved, size)


def check_smooth(seed):
    random = np.random.default_rng(seed)
    values = random.standard_normal(sizes(random, 1, 20, 4)).astype(np.float32)
    sigmas = random.uniform(0, 6, values.shape[1]) * (random.random(values.shape[1]) < 0.7)
    sigma_z = random.choice([0.0, 0.05, 0.4, 1.5])
    expected = reference_warp.smooth(values, sigma_z, sigmas)
    found = greys.smooth(values.copy(), sigma_z, sigmas)
    np.testing.assert_allclose(found, expected, atol=3e-6)


def check_standardise(seed):
    random = np.random.default_rng(seed)
    kind = random.choice([np.uint8, np.uint16, np.int32, np.float32, np.float64])
    values = random.integers(0, 256, sizes(random, 1, 9, 4)).astype(kind).swapaxes(*random.integers(0, 4, 2))
    shift, scale = random.standard_normal((2, *values.shape[:2]))
    found = greys.standardise(values, shift, scale)
    np.testing.assert_allclose(found, reference_warp.standardise(values, shift, scale), rtol=2e-7)


@given(st.integers(0, 2**32), st.sampled_from([2, 3]), st.integers(0, 2))
def test_places_are_the_reference(seed, maps, n_splines):
    check_places(seed, maps, n_splines)


@given(st.integers(0, 2**32), st.sampled_from([2, 3]))
def test_values_at_places_are_the_reference(seed, maps):
    check_values(seed, maps)


@given(st.integers(0, 2**32))
def test_smoothing_is_the_reference(seed):
    check_smooth(seed)


@given(st.integers(0, 2**32))
def test_standardised_sections_are_the_reference(seed):
    check_standardise(seed)


def check_grade(seed):
    random = np.random.default_rng(seed)
    values = random.standard_normal(sizes(random, 1, 20, 4)).astype(np.float32)
    levels = random.uniform(0.3, 3, (3, values.shape[1])).astype(np.float32)
    levels[0, random.random(values.shape[1]) < 0.3] = 1
    expected = reference_warp.grade(values, levels)
    np.testing.assert_allclose(greys.grade(values.copy(), levels), expected, atol=1e-5)


@given(st.integers(0, 2**32))
def test_another_look_is_the_reference(seed):
    check_grade(seed)


def test_values_that_are_all_the_same_stay_so():
    levels = np.array([[2.0], [3.0], [1.0]], np.float32)
    np.testing.assert_array_equal(greys.grade(np.full((1, 1, 2, 3), 5, np.float32), levels), np.full((1, 1, 2, 3), 16))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_place_far_outside_or_nowhere_takes_a_voxel_of_the_image(kind):
    image = np.arange(8).astype(kind).reshape(1, 2, 2, 2)
    levels = np.stack([np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)])
    window = warp.Window((0, 0, 0), (0, 0, 0), (2, 2, 2))
    for far in (np.nan, -np.inf, np.inf, 1e30, -1e30):
        affine = np.zeros((3, 4), np.float32)
        affine[:, 3] = far
        course = warp.Course(affine, [], np.zeros((1, 3), np.int32), (1, 1, 3))
        found = warp.interpolate(image, levels, course, window)
        assert np.isin(found, image.astype(np.float32)).all()
        voxels, _ = warp.nearest((2, 2, 2), course, window, ((0, 0, 0), (2, 2, 2)))
        assert voxels.min() >= 0
        assert voxels.max() < 8


def test_an_image_of_a_part_gives_what_the_whole_does():
    """What may be seen, and mirrored at, may lie beyond what was read."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (1, 20, 30, 40)).astype(np.uint8)
    levels = random.standard_normal((2, 1, 20)).astype(np.float32)
    affine = np.array([[0.9, 0.1, 0, 0.3], [0, 0.8, 0.2, -3.2], [0.1, 0, 0.9, 0.4]], np.float32)
    course = warp.Course(affine, [], np.zeros((4, 3), np.int32), (4, 5, 6))
    whole = warp.interpolate(image, levels, course, warp.Window((8, 2, 9), (0, 0, 0), (20, 30, 40)))
    part = np.ascontiguousarray(image[:, 6:15, :9, 8:22])
    window = warp.Window((2, 2, 1), (-6, 0, -8), (14, 30, 32))
    found = warp.interpolate(part, np.ascontiguousarray(levels[:, :, 6:15]), course, window)
    np.testing.assert_array_equal(found, whole)


def test_noise_is_the_sum_of_the_bytes_of_each_word():
    key, count = 0x0123456789ABCDEF, 300
    values = np.ones(count, np.float32)
    greys.add_noise(values, key, 2.0)
    words = np.array([philox(k // 4, key)[k % 4] for k in range(count)], np.uint32)
    sums = words.view(np.uint8).reshape(count, 4).sum(axis=1) - 510.0
    np.testing.assert_allclose(values, 1 + 2 * sums / np.sqrt((256**2 - 1) / 3), atol=1e-6)


RIGHT = {
    "image": np.zeros((1, 2, 4, 4), np.float32),
    "levels": np.zeros((2, 1, 2), np.float32),
    "course": warp.Course(np.zeros((3, 4), np.float32), [], np.zeros((2, 3), np.int32), (2, 4, 4)),
    "window": warp.Window((0, 0, 0), (0, 0, 0), (2, 4, 4)),
}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"course": RIGHT["course"]._replace(moved=np.zeros((3, 3), np.int32))}, "every section"),
        ({"course": RIGHT["course"]._replace(affine=np.zeros((1, 4), np.float32))}, "along y and x"),
        ({"course": RIGHT["course"]._replace(size=(2, 0, 4))}, "needs voxels"),
        ({"image": np.zeros((1, 0, 4, 4), np.float32)}, "there must be voxels"),
        ({"levels": np.zeros((2, 1, 3), np.float32)}, "for every section"),
        ({"window": warp.Window((0, 0, 0), (2, 0, 0), (4, 4, 4))}, "must hold some"),
    ],
)
def test_what_does_not_fit_is_refused(change, rule):
    warp.interpolate(**RIGHT)
    with pytest.raises(ValueError, match=rule):
        warp.interpolate(**(RIGHT | change))


def test_weights_that_do_not_fit_are_refused():
    one = np.ones((2, 1), np.float32)
    spline = warp.Spline(np.ones((2, 1, 1, 1), np.float32), one, one, one)
    with pytest.raises(ValueError, match="weights of a spline"):
        warp.places(np.ones((2, 4), np.float32), [spline], (2, 2, 2))


if __name__ == "__main__":
    for number in range(40):
        check_places(number, 2 + number % 2, number % 3)
        check_values(number, 2 + number % 2)
        check_smooth(number)
        check_grade(number)
        check_standardise(number)
    print(_kernels.isa())
