"""Max-filter and max-pool against their references, forward and backward, in groups, with ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, grow, normal, on_threads, times, triples

from znn_dask.geometry import volume
from znn_dask.ops import filter as filters
from znn_dask.ops import reference

CHANNELS = st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 33])


def draw_image(rng, *shape):
    """Few distinct values, so that ties are common, some of them negative."""
    return rng.integers(-3, 2, shape).astype(np.float32)


@given(triples(1, 3), triples(1, 4), triples(1, 3), st.integers(1, 3), CHANNELS, SEEDS, st.data())
def test_max_filter_equals_reference_in_any_number_of_groups(small, window, stride, batch, channels, seed, data):
    rng = np.random.default_rng(seed)
    size = grow(times(small, stride), window)
    image = draw_image(rng, batch, *size, channels)
    n_parities = volume(stride)
    n_groups = data.draw(st.sampled_from([n for n in range(1, n_parities + 1) if n_parities % n == 0]), "n_groups")
    expected, where = reference.max_filter(image, window, stride)
    parts = filters.max_filter(image, window, stride, n_groups)
    outputs, indices = parts[:n_groups], parts[n_groups:]
    np.testing.assert_array_equal(np.concatenate(outputs, axis=0), expected)
    np.testing.assert_array_equal(np.concatenate(indices, axis=0), where)

    d_outputs = [normal(rng, *output.shape, dtype=np.float32) for output in outputs]
    d_image = filters.max_filter_backward(d_outputs, indices, window, stride, size)
    d_expected = reference.max_filter_backward(np.concatenate(d_outputs, axis=0), where, window, stride, size)
    np.testing.assert_allclose(d_image, d_expected, rtol=1e-6, atol=1e-5)


@given(triples(1, 3), triples(1, 4), st.integers(1, 3), CHANNELS, SEEDS)
def test_max_pool_equals_reference(small, window, batch, channels, seed):
    rng = np.random.default_rng(seed)
    image = draw_image(rng, batch, *times(small, window), channels)
    output, index = filters.max_pool(image, window)
    expected, where = reference.max_pool(image, window)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(index, where)
    d_output = normal(rng, *output.shape, dtype=np.float32)
    d_image = filters.max_pool_backward(d_output, index, window, image.shape[1:4])
    np.testing.assert_array_equal(d_image, reference.max_pool_backward(d_output, where, window))


@given(
    triples(1, 2),
    st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 12)),
    st.sampled_from([(1, 1, 1), (1, 2, 3), (2, 1, 2)]),
    st.integers(1, 2),
    st.sampled_from([1, 3, 7, 15, 17, 40]),
    st.booleans(),
    SEEDS,
)
def test_large_windows_equal_reference(small, window, stride, batch, channels, in_two, seed):
    """Large windows are compared axis by axis; ties, which are common here, must not show it."""
    rng = np.random.default_rng(seed)
    size = grow(times(small, stride), window)
    image = draw_image(rng, batch, *size, channels)
    n_groups = 2 if in_two and volume(stride) % 2 == 0 else 1
    expected, where = reference.max_filter(image, window, stride)
    parts = filters.max_filter(image, window, stride, n_groups)
    outputs, indices = parts[:n_groups], parts[n_groups:]
    np.testing.assert_array_equal(np.concatenate(outputs, axis=0), expected)
    np.testing.assert_array_equal(np.concatenate(indices, axis=0), where)
    d_outputs = [normal(rng, *output.shape, dtype=np.float32) for output in outputs]
    d_image = filters.max_filter_backward(d_outputs, indices, window, stride, size)
    d_expected = reference.max_filter_backward(np.concatenate(d_outputs, axis=0), where, window, stride, size)
    np.testing.assert_allclose(d_image, d_expected, rtol=1e-6, atol=1e-5)


@given(triples(1, 40), st.sampled_from([1, 3, 17]), SEEDS)
def test_a_window_as_large_as_the_image_equals_reference(size, channels, seed):
    rng = np.random.default_rng(seed)
    size = (size[0] % 5 + 1, size[1] % 9 + 1, size[2])
    image = draw_image(rng, 1, *size, channels)
    expected, where = reference.max_filter(image, size, (1, 1, 1))
    for output, index in (filters.max_filter(image, size, (1, 1, 1)), filters.max_pool(image, size)):
        np.testing.assert_array_equal(output, expected)
        np.testing.assert_array_equal(index, where)


def test_many_strips_of_a_large_image_equal_reference():
    """Large planes are cut into strips along y: this one into at least two, whatever the lanes."""
    rng = np.random.default_rng(3)
    image = draw_image(rng, 1, 4, 90, 130, 17)
    expected, where = reference.max_filter(image, (3, 4, 5), (2, 1, 3))
    output, index = filters.max_filter(image, (3, 4, 5), (2, 1, 3))
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(index, where)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 20)),
    st.sampled_from([1, 2]),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
    st.integers(1, 2),
    st.integers(1, 70),
    SEEDS,
)
def test_windows_of_two_equal_reference_for_any_rest_of_rows_and_lanes(small, z, stride, batch, channels, seed):
    """Gradients are whole numbers, whose sums are exact: none may be left out or added twice."""
    rng = np.random.default_rng(seed)
    window = (z, 2, 2)
    image = draw_image(rng, batch, *grow(times(small, stride), window), channels)
    output, argmax = filters.max_filter(image, window, stride)
    expected, where = reference.max_filter(image, window, stride)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(argmax, where)
    d_output = rng.integers(-8, 9, output.shape).astype(np.float32)
    d_image = filters.max_filter_backward([d_output], [argmax], window, stride, image.shape[1:4])
    np.testing.assert_array_equal(
        d_image, reference.max_filter_backward(d_output, where, window, stride, image.shape[1:4])
    )


@given(triples(1, 6), triples(1, 6), st.sampled_from([1, 3, 16, 17]), SEEDS)
def test_not_a_number_wins_in_windows_of_any_size(small, window, channels, seed):
    rng = np.random.default_rng(seed)
    size = grow(small, window)
    image = draw_image(rng, 1, *size, channels)
    image[rng.random(image.shape) < 0.1] = np.nan
    expected, _ = reference.max_filter(image, window, (1, 1, 1))
    output, index = filters.max_filter(image, window, (1, 1, 1))
    np.testing.assert_array_equal(output, expected)
    # Where it was: some voxel with that value.
    _, z, y, x, channel = np.indices(index.shape)
    dz, dy, dx = np.unravel_index(index, window)
    np.testing.assert_array_equal(image[0, z + dz, y + dy, x + dx, channel], output)


@given(triples(1, 3), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.sampled_from([1, 8, 16, 40]), SEEDS)
def test_infinities_and_not_a_number_in_windows_of_two(small, z, stride, channels, seed):
    """Rows are first compared as if no value were NaN, and again where one may be: infinities go that way too."""
    rng = np.random.default_rng(seed)
    window, strides = (z, 2, 2), (min(z, stride), stride, stride)
    size = grow(times(small, strides), window)
    image = draw_image(rng, 1, *size, channels)
    image[rng.random(image.shape) < 0.2] = np.inf
    image[rng.random(image.shape) < 0.2] = -np.inf
    expected, where = reference.max_filter(image, window, strides)
    output, index = filters.max_filter(image, window, strides)
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(index, where)
    image[rng.random(image.shape) < 0.05] = np.nan
    expected, _ = reference.max_filter(image, window, strides)
    np.testing.assert_array_equal(filters.max_filter(image, window, strides)[0], expected)


@pytest.mark.parametrize(("window", "dtype"), [((1, 16, 16), np.uint8), ((1, 16, 17), np.uint16)])
def test_index_is_as_small_as_the_window_allows(window, dtype):
    rng = np.random.default_rng(0)
    image = normal(rng, 1, 1, 17, 18, 3, dtype=np.float32)
    output, index = filters.max_filter(image, window, (1, 1, 1))
    assert index.dtype == dtype
    expected, where = reference.max_filter(image, window, (1, 1, 1))
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(index, where)
    d_image = filters.max_filter_backward([output], [index], window, (1, 1, 1), image.shape[1:4])
    d_expected = reference.max_filter_backward(output, where, window, (1, 1, 1), image.shape[1:4])
    np.testing.assert_allclose(d_image, d_expected, rtol=1e-6)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
def test_backward_adds_in_one_order(num_workers):
    rng = np.random.default_rng(1)
    image = draw_image(rng, 2, 10, 10, 10, 5)
    output, index = filters.max_filter(image, (3, 3, 3), (2, 2, 2))
    d_output = normal(rng, *output.shape, dtype=np.float32)

    def run():
        d_image = filters.max_filter_backward([d_output], [index], (3, 3, 3), (2, 2, 2), (10, 10, 10))
        return d_image.tobytes()

    assert len(set(on_threads(run, num_workers, repetitions=3))) == 1


def test_a_filter_does_not_hide_what_is_not_a_number():
    image = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3, 1)
    image[0, 1, 1, 1] = np.nan
    for output, _ in (filters.max_filter(image, (2, 2, 2), (1, 1, 1)), filters.max_pool(image, (3, 3, 3))):
        assert np.isnan(output).all(), "every window holds the middle"


def test_sizes_that_do_not_fit_are_refused():
    image = np.zeros((1, 4, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"window of \(2, 2, 2\) with stride \(2, 2, 2\) does not fit"):
        filters.max_filter(image, (2, 2, 2), (2, 2, 2))
    with pytest.raises(ValueError, match="at most 65536"):
        filters.max_filter(np.zeros((1, 41, 41, 41, 1), np.float32), (41, 41, 41), (1, 1, 1))


@pytest.mark.parametrize("shape", [(0, 4, 4, 4, 3), (1, 4, 4, 4, 0)])
def test_empty_images_are_refused(shape):
    image = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match="at least one voxel, batch entry and channel"):
        filters.max_filter(image, (2, 2, 2), (1, 1, 1))
    with pytest.raises(ValueError, match="at least one voxel, batch entry and channel"):
        filters.max_pool(image, (2, 2, 2))
