"""Transfer, dropout and update against their references: values, derivatives, work in place, randomness."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, normal, philox, triples

from znn_dask.ops import dropout, reference, transfer, update
from znn_dask.ops.layout import Arrangement, Entry
from znn_dask.ops.transfer import Activation
from znn_dask.randomness import key64

ACTIVATIONS = st.sampled_from(
    [
        Activation("linear", (1.5, -0.5)),
        Activation("linear"),
        Activation("relu"),
        Activation("tanh", (1.7159, 0.6666)),
        Activation("tanh"),
        Activation("logistic"),
        Activation("softsign"),
        Activation("elu", (0.7,)),
        Activation("elu"),
        Activation("leaky_relu", (0.1,)),
        Activation("leaky_relu"),
        Activation("forward_logistic"),
        Activation("softplus"),
    ]
)
# From 257 on, odd numbers take another way through the kernels.
CHANNELS = st.sampled_from([1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 40, 63, 64, 65, 130, 257])


# --- transfer ---


@given(
    triples(1, 5),
    st.integers(1, 9),
    CHANNELS,
    ACTIVATIONS,
    st.booleans(),
    st.sampled_from([0.1, 1, 30]),
    SEEDS,
)
def test_transfer_equals_reference(size, batch, channels, activation, has_bias, scale, seed):
    rng = np.random.default_rng(seed)
    image = normal(rng, batch, *size, channels, dtype=np.float32) * np.float32(scale)
    bias = normal(rng, channels, dtype=np.float32) if has_bias else None
    d_output = normal(rng, *image.shape, dtype=np.float32)
    # The reference sees the sum as float32 adds it, so that steep functions compare the function only.
    summed = image if bias is None else image + bias
    expected = reference.transfer_forward(summed.astype(float), None, *activation)
    kept = image.copy()
    output = transfer.forward(image, bias, activation)
    np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(image, kept)

    d_image, d_bias = transfer.backward(d_output, output, activation)
    d_expected, d_bias_expected = reference.transfer_backward(d_output.astype(float), output, *activation)
    np.testing.assert_allclose(d_image, d_expected, rtol=1e-5, atol=1e-6)
    scale_of_sum = np.abs(d_expected).sum(axis=(0, 1, 2, 3))
    assert (np.abs(d_bias - d_bias_expected) <= 1e-6 * scale_of_sum + 1e-6).all()

    np.testing.assert_array_equal(transfer.forward(kept, bias, activation, out=kept), output)
    in_place, d_bias_again = transfer.backward(d_output, output, activation, out=d_output)
    assert in_place is d_output
    np.testing.assert_array_equal(d_output, d_image)
    np.testing.assert_array_equal(d_bias_again, d_bias)


@pytest.mark.parametrize("function", ["logistic", "forward_logistic", "tanh", "elu", "softsign", "softplus"])
def test_transfer_does_not_overflow(function):
    image = np.array([-1e4, -100, 100, 1e4], np.float32).reshape(1, 1, 1, 1, 4)
    output = transfer.forward(image, None, Activation(function))
    np.testing.assert_allclose(output, reference.transfer_forward(image, None, function), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("function", transfer.FUNCTIONS)
def test_transfer_does_not_hide_what_is_not_a_number(function):
    """A run that diverges must show in its loss, even behind a rectifier."""
    image = np.array([1, np.nan, 2, np.nan, 3], np.float32).reshape(1, 1, 1, 1, 5)
    output = transfer.forward(image, None, Activation(function))
    np.testing.assert_array_equal(np.isnan(output), np.isnan(image))


@pytest.mark.parametrize("function", ["tanh", "logistic", "elu", "softsign", "softplus"])
def test_functions_are_accurate_over_the_whole_range(function):
    """Relative to the true value, from the smallest denormal to the largest number, of both signs."""
    positive = np.geomspace(1e-45, 3e38, 200_000).astype(np.float32)
    image = np.concatenate(
        [positive, -positive, np.linspace(-20, 20, 200_000, dtype=np.float32), [0.0, np.inf, -np.inf]]
    )
    image = np.resize(image.astype(np.float32), (len(image) + 16) // 17 * 17)
    found = transfer.forward(image.reshape(1, 1, 1, -1, 17), None, Activation(function)).reshape(-1)
    with np.errstate(under="ignore"):
        true = reference.transfer_forward(image.astype(float), None, function)
    smallest = np.finfo(np.float32).smallest_subnormal
    np.testing.assert_allclose(found, true, rtol=3.2e-7, atol=smallest)
    # Wherever a value stands, and whatever stands beside it.
    one_by_one = transfer.forward(image.reshape(1, 1, 1, -1, 1), None, Activation(function)).reshape(-1)
    np.testing.assert_array_equal(found, one_by_one)


@pytest.mark.parametrize("shape", [(0, 2, 2, 2, 3), (1, 2, 2, 2, 0), (1, 0, 2, 2, 3)])
def test_empty_images_are_refused(shape):
    image = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match="at least one voxel, batch entry and channel"):
        transfer.forward(image, None, Activation("relu"))
    with pytest.raises(ValueError, match="at least one voxel, batch entry and channel"):
        transfer.backward(image, image, Activation("relu"))


def test_a_long_bias_gradient_keeps_its_precision():
    rng = np.random.default_rng(0)
    d_output = rng.random((2, 10, 100, 100, 3), np.float32)
    _, d_bias = transfer.backward(d_output, d_output, Activation("linear"))
    np.testing.assert_allclose(d_bias, d_output.sum(axis=(0, 1, 2, 3), dtype=float), rtol=2e-7)


def test_numbers_of_functions_cover_the_reference():
    assert set(transfer.FUNCTIONS) == set(reference.TRANSFERS)


# --- dropout ---


def arranged(groups, blocks, size=(3, 4, 5), sparsity=(1, 2, 2)):
    return Arrangement(size, sparsity, groups, blocks)


ENTRIES = tuple(Entry(example, 0, y, x) for y in (0, 1) for x in (0, 1) for example in (0, 1))
WHOLE = arranged((ENTRIES,), ((0, 7),))


def drop(image, arrangement, group=0, block=0, rate=0.3, seed=1, step=2, edge="dropout1", **options):
    return dropout.apply(image, arrangement, group, block, rate, seed, step, edge, **options)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.9])
def test_dropout_equals_reference_under_its_own_mask(rate):
    rng = np.random.default_rng(1)
    image = normal(rng, 8, 3, 4, 5, 7, dtype=np.float32)
    mask = drop(np.ones_like(image), WHOLE, rate=rate) != 0
    np.testing.assert_allclose(drop(image, WHOLE, rate=rate), reference.dropout(image, mask, rate), rtol=1e-6)
    # Six standard deviations of the number that is dropped.
    assert abs(np.mean(~mask) - rate) <= 6 * np.sqrt(rate * (1 - rate) / mask.size)
    kept = image.copy()
    assert drop(kept, WHOLE, rate=rate, out=kept) is kept
    np.testing.assert_array_equal(kept, drop(image, WHOLE, rate=rate))


def test_dropout_does_not_depend_on_groups_and_blocks():
    rng = np.random.default_rng(2)
    image = normal(rng, 8, 3, 4, 5, 7, dtype=np.float32)
    whole = drop(image, WHOLE)
    cut = arranged((ENTRIES[:6], ENTRIES[6:]), ((0, 2), (2, 7)))
    for group, entries in enumerate([slice(0, 6), slice(6, 8)]):
        for block, channels in enumerate([slice(0, 2), slice(2, 7)]):
            part = np.ascontiguousarray(image[entries, ..., channels])
            np.testing.assert_array_equal(drop(part, cut, group, block), whole[entries, ..., channels])


@pytest.mark.parametrize(("entries", "blocks"), [(ENTRIES, ((0, 7),)), (ENTRIES[::-1], ((0, 2), (2, 41), (41, 350)))])
def test_dropout_draws_the_word_of_each_place(entries, blocks):
    arrangement = arranged((entries,), blocks, size=(1, 2, 2))
    key, n_channels = key64(1, 2, "dropout/dropout1"), blocks[-1][1]
    for block, (first, stop) in enumerate(blocks):
        found = drop(np.ones((8, 1, 2, 2, stop - first), np.float32), arrangement, block=block, rate=0.5)
        for place in np.ndindex(8, 1, 2, 2):
            e, _, y, x = place
            entry = entries[e].example * 4 + entries[e].y * 2 + entries[e].x
            row = ((y * 2 + x) * 8 + entry) * n_channels
            words = [philox(j // 4, key)[j % 4] for j in range(row + first, row + stop)]
            np.testing.assert_array_equal(found[place] != 0, np.array(words) >= 1 << 31)


@pytest.mark.parametrize("other", [{"seed": 5}, {"step": 5}, {"edge": "dropout2"}])
def test_dropout_differs_between_streams_and_repeats_within(other):
    ones = np.ones((8, 3, 4, 5, 7), np.float32)
    np.testing.assert_array_equal(drop(ones, WHOLE), drop(ones, WHOLE))
    one, two = drop(ones, WHOLE, rate=0.5) != 0, drop(ones, WHOLE, rate=0.5, **other) != 0
    # Independent masks agree on half of the values, within six standard deviations.
    assert abs(np.mean(one == two) - 0.5) <= 3 / np.sqrt(one.size)


def test_dropout_decides_for_every_value_by_itself():
    """Neighbours along every axis are as good as independent."""
    mask = drop(np.ones((8, 3, 4, 5, 7), np.float32), WHOLE, rate=0.5) != 0
    for axis in range(mask.ndim):
        n = mask.shape[axis]
        agree = mask.take(range(1, n), axis) == mask.take(range(n - 1), axis)
        assert abs(agree.mean() - 0.5) <= 3 / np.sqrt(agree.size)


# --- update ---


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.floats(0, 1),
    st.floats(0, 0.99),
    st.floats(0, 0.1),
    SEEDS,
)
def test_update_equals_reference_and_leaves_its_inputs_alone(shape, rate, momentum, decay, seed):
    rng = np.random.default_rng(seed)
    arrays = [normal(rng, *shape, dtype=np.float32) for _ in range(3)]
    for array in arrays:
        array.flags.writeable = False
    parameter, velocity = update.sgd(*arrays, rate, momentum, decay)
    expected = reference.sgd(*(array.astype(float) for array in arrays), rate, momentum, decay)
    np.testing.assert_allclose(parameter, expected[0], rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(velocity, expected[1], rtol=1e-6, atol=2e-6)
    assert not any(np.shares_memory(new, old) for new in (parameter, velocity) for old in arrays)
