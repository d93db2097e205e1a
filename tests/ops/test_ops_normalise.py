"""Normalisation as a whole: accuracy of the variance, blocks and groups, running averages, derivatives."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, assert_gradient, triples

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.ops import normalise

OVERS = [("batch", 1), ("instance", 1), ("group", 1), ("group", 2), ("group", 3), ("group", 6)]


def blocks_of(image, entries, cuts):
    """The image in batch groups, then in blocks of channels."""
    parts = np.split(np.arange(len(image)), entries)
    edges = [0, *cuts, image.shape[4]]
    return [
        [(p, (a, b), np.ascontiguousarray(image[p][..., a:b])) for a, b in itertools.pairwise(edges)] for p in parts
    ]


def n_voxels_of(image, examples):
    return int(np.prod(image.shape[1:4])) * examples.count(0)


def normalised(image, examples, over, groups, scale, shift, entries=(), cuts=(), epsilon=1e-3):
    """All passes forward, over groups and blocks; returns the output and the statistics."""
    n_examples, parts = max(examples) + 1, blocks_of(image, entries, cuts)
    of = [[normalise.moments(x, [examples[e] for e in p], n_examples) for p, _, x in group] for group in parts]
    statistics = normalise.statistics(of, n_voxels_of(image, examples), over, groups, epsilon)
    out = np.empty_like(image)
    for p, (a, b), x in itertools.chain(*parts):
        out[p, ..., a:b] = normalise.apply(
            x, statistics, [examples[e] for e in p], (a, b), scale[a:b].copy(), shift[a:b].copy()
        )
    return out, statistics


def gradients(d, image, examples, over, groups, scale, statistics, entries=(), cuts=()):
    """All passes backward; returns the gradients of image, scale and shift."""
    n_examples, parts, d_parts = max(examples) + 1, blocks_of(image, entries, cuts), blocks_of(d, entries, cuts)
    of = [
        [
            normalise.gradient_moments(g, x, statistics, [examples[e] for e in p], block, n_examples)
            for (p, block, x), (_, _, g) in zip(group, d_group, strict=True)
        ]
        for group, d_group in zip(parts, d_parts, strict=True)
    ]
    scales = [scale[a:b] for _, (a, b), _ in parts[0]]
    coefficients = normalise.coefficients(of, scales, n_voxels_of(image, examples), over, groups)
    d_image = np.empty_like(image)
    for (p, (a, b), x), (_, _, g) in zip(itertools.chain(*parts), itertools.chain(*d_parts), strict=True):
        d_image[p, ..., a:b] = normalise.backward(
            g, x, statistics, coefficients, [examples[e] for e in p], (a, b), scale[a:b].copy()
        )
    of_blocks = [normalise.parameter_gradients(block) for block in zip(*of, strict=True)]
    return d_image, *(np.concatenate(values) for values in zip(*of_blocks, strict=True))


def formula(x, examples, over, groups, scale, shift, epsilon=1e-3):
    """The definition, in float64: what is normalised together, cut out by hand."""
    y = np.empty_like(x)
    sets = (
        [range(len(x))] if over == "batch" else [[e for e, i in enumerate(examples) if i == k] for k in set(examples)]
    )
    width = x.shape[4] // groups if over == "group" else 1
    for entries, first in itertools.product(sets, range(0, x.shape[4], width)):
        inside = np.ix_(entries, *map(range, x.shape[1:4]), range(first, first + width))
        y[inside] = (x[inside] - x[inside].mean()) / np.sqrt(x[inside].var() + epsilon)
    return y * scale + shift


@pytest.mark.parametrize(("over", "groups"), OVERS)
def test_forward_and_gradients_by_differences(over, groups):
    rng = np.random.default_rng(groups)
    x, d = rng.standard_normal((2, 4, 2, 3, 4, 6)).astype(np.float32)
    scale, shift = rng.standard_normal((2, 6)).astype(np.float32)
    examples = (0, 1, 1, 0)
    y, statistics = normalised(x, examples, over, groups, scale, shift)
    np.testing.assert_allclose(y, formula(x.astype(float), examples, over, groups, scale, shift), atol=2e-6)
    found = gradients(d, x, examples, over, groups, scale, statistics)
    variables = [v.astype(float) for v in (x, scale, shift)]
    for index, gradient in enumerate(found):

        def loss(value, index=index):
            x, *rest = (value if i == index else v for i, v in enumerate(variables))
            return np.vdot(formula(x, examples, over, groups, *rest), d)

        assert_gradient(loss, variables[index], gradient.astype(float), rng, rtol=2e-6)


@given(st.sampled_from(OVERS), triples(1, 4), SEEDS)
def test_groups_and_blocks_change_nothing_but_the_order_of_sums(over_groups, size, seed):
    rng = np.random.default_rng(seed)
    x, d = rng.standard_normal((2, 6, *size, 18)).astype(np.float32)
    scale, shift = rng.standard_normal((2, 18)).astype(np.float32)
    examples = (0, 0, 1, 2, 1, 2)
    whole, statistics = normalised(x, examples, *over_groups, scale, shift)
    cut, again = normalised(x, examples, *over_groups, scale, shift, entries=(1, 4), cuts=(1, 17))
    np.testing.assert_allclose(again, statistics, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-4)
    expected = gradients(d, x, examples, *over_groups, scale, statistics)
    found = gradients(d, x, examples, *over_groups, scale, statistics, entries=(1, 4), cuts=(1, 17))
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("channels", [1, 3, 16, 17, 40, 65])
@pytest.mark.parametrize("first", ["as the rest", "an outlier"])
def test_the_variance_of_a_mean_of_a_hundred_deviations_is_right(channels, first):
    rng = np.random.default_rng(0)
    image = (100 + rng.standard_normal((2, 19, 20, 21, channels))).astype(np.float32)
    if first == "an outlier":
        image[:, 0, 0, 0] = 0
    mean, square = np.moveaxis(normalise.moments(image, (0, 1), 2), 1, 0) / (19 * 20 * 21)
    expected = image.astype(np.longdouble).var(axis=(1, 2, 3))
    np.testing.assert_allclose(square - mean * mean, expected.astype(float), rtol=1e-9)
    moments = [[normalise.moments(image, (0, 1), 2)]]
    statistics = normalise.statistics(moments, 19 * 20 * 21, "instance", 1, 1e-30)
    np.testing.assert_allclose(statistics[:, 1] ** -2.0, expected.astype(float), rtol=1e-6)


def test_running_averages_are_those_of_the_batch():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 2, 3, 4, 5)).astype(np.float32) + 7
    moments = [[normalise.moments(x[:1], (0,), 3)], [normalise.moments(x[1:], (1, 2), 3)]]
    mean, variance = normalise.batch_averages(moments, x[..., 0].size)
    assert mean.dtype == variance.dtype == np.float32
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2, 3), dtype=float), rtol=1e-6)
    np.testing.assert_allclose(variance, x.astype(float).var(axis=(0, 1, 2, 3), ddof=1), rtol=1e-6)
    np.testing.assert_allclose(normalise.average(np.ones_like(mean), mean, 0.25), 0.75 + 0.25 * mean, rtol=1e-6)
    fixed = normalise.fixed_statistics(mean, variance, 3, 0.5)
    assert fixed.shape == (3, 2, 5)
    y = normalise.apply(x, fixed, (0, 1, 2), (0, 5), None, None)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 0.5), rtol=1e-5, atol=1e-6)


def test_one_value_per_map_has_no_variance():
    x = np.full((1, 1, 1, 1, 3), 5, np.float32)
    moments = [[normalise.moments(x, (0,), 1)]]
    statistics = normalise.statistics(moments, 1, "instance", 1, 1e-5)
    np.testing.assert_array_equal(normalise.apply(x, statistics, (0,), (0, 3), None, None), 0)
    mean, variance = normalise.batch_averages(moments, 1)
    np.testing.assert_array_equal(mean, 5)
    np.testing.assert_array_equal(variance, 0)


def test_results_can_be_written_into_the_first_argument():
    rng = np.random.default_rng(2)
    x, d = rng.standard_normal((2, 2, 3, 5, 7, 9)).astype(np.float32)
    statistics, coefficients = rng.standard_normal((2, 2, 2, 9)).astype(np.float32)
    expected = normalise.apply(x, statistics, (0, 1), (0, 9), None, None)
    d_expected = normalise.backward(d, x, statistics, coefficients, (0, 1), (0, 9), None)
    assert normalise.backward(d, x, statistics, coefficients, (0, 1), (0, 9), None, out=d) is d
    np.testing.assert_array_equal(d, d_expected)
    assert normalise.apply(x, statistics, (0, 1), (0, 9), None, None, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_what_cannot_be_is_refused():
    x, statistics = np.zeros((2, 1, 1, 1, 4), np.float32), np.zeros((2, 2, 4), np.float32)
    moments = [[np.zeros((2, 2, 4))]]
    with pytest.raises(ParameterError, match="over one of batch, instance, group, got 'layer'"):
        normalise.statistics(moments, 1, "layer", 1, 1e-5)
    with pytest.raises(ShapeError, match="4 maps cannot be normalised in 3 groups"):
        normalise.statistics(moments, 1, "group", 3, 1e-5)
    with pytest.raises(ShapeError, match=r"channels \(0, 3\) cannot have 4"):
        normalise.apply(x, statistics, (0, 1), (0, 3), None, None)
    with pytest.raises(ValueError, match="an example is needed for every entry"):
        normalise.moments(x, (0,), 2)
    with pytest.raises(ValueError, match="an entry belongs to no example"):
        normalise.moments(x, (0, 2), 2)
    with pytest.raises(ValueError, match="hold the channels of the block"):
        normalise.apply(x, statistics, (0, 1), (1, 5), None, None)
    with pytest.raises(ValueError, match="one value per channel"):
        normalise.apply(x, statistics, (0, 1), (0, 4), np.zeros(3, np.float32), None)
