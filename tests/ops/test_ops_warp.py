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
    shape, size = sizes(random, 1, 7), sizes(random, 1, 9)
    image = random.standard_normal((2, *shape)).astype(np.float32)
    turned = np.flip(image, axis=random.permutation(4)[: random.integers(4)])
    image = turned.swapaxes(*random.integers(1, 4, 2)) if random.random() < 0.5 else turned
    shape = image.shape[1:]
    # Halves, too, which lie in the middle of two voxels.
    field = (random.integers(-60, 180, (maps, *size)) / np.float32(20)).astype(np.float32)
    moved = random.integers(-3, 4, (size[0], 2)).astype(np.int32)
    low = sizes(random, -2, 3)
    found = warp.interpolate(image, field, moved, low)
    np.testing.assert_allclose(found, reference_warp.interpolate(image, field, moved, low), atol=1e-5)
    voxels = warp.nearest(shape, field, moved, low)
    np.testing.assert_array_equal(voxels, reference_warp.nearest(shape, field, moved, low))


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


def test_a_place_outside_or_nowhere_takes_a_voxel_of_the_image():
    image = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    field = np.array([np.nan, -np.inf, np.inf, 1e30], np.float32)
    field = np.stack([field] * 3).reshape(3, 1, 1, 4)
    moved = np.zeros((1, 2), np.int32)
    np.testing.assert_array_equal(warp.interpolate(image, field, moved, (0, 0, 0)).ravel(), [0, 0, 7, 7])
    np.testing.assert_array_equal(warp.nearest((2, 2, 2), field, moved, (0, 0, 0)).ravel(), [0, 0, 7, 7])


def test_noise_is_the_sum_of_the_bytes_of_each_word():
    key, count = 0x0123456789ABCDEF, 300
    values = np.ones(count, np.float32)
    greys.add_noise(values, key, 2.0)
    words = np.array([philox(k // 4, key)[k % 4] for k in range(count)], np.uint32)
    sums = words.view(np.uint8).reshape(count, 4).sum(axis=1) - 510.0
    np.testing.assert_allclose(values, 1 + 2 * sums / np.sqrt((256**2 - 1) / 3), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"moved": np.zeros((3, 2), np.int32)}, "every section"),
        ({"field": np.zeros((1, 2, 4, 4), np.float32)}, "along y and x"),
        ({"image": np.zeros((1, 0, 4, 4), np.float32)}, "there must be voxels"),
    ],
)
def test_what_does_not_fit_is_refused(change, rule):
    right = {
        "image": np.zeros((1, 2, 4, 4), np.float32),
        "field": np.zeros((3, 2, 4, 4), np.float32),
        "moved": np.zeros((2, 2), np.int32),
    }
    warp.interpolate(**right, low=(0, 0, 0))
    with pytest.raises(ValueError, match=rule):
        warp.interpolate(**(right | change), low=(0, 0, 0))


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
        check_standardise(number)
    print(_kernels.isa())
