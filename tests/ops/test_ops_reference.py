"""The reference operations against definitions, central differences, adjoint identities and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, assert_adjoint, assert_gradient, grow, normal, times, triples
from scipy.signal import correlate

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.ops import reference

TRANSFER_ARGS = {
    "linear": (1.5, -0.5),
    "relu": (),
    "tanh": (1.7159, 0.6666),
    "logistic": (),
    "softsign": (),
    "elu": (0.7,),
    "leaky_relu": (0.1,),
    "softplus": (),
}


# --- layout and fragments ---


def test_layouts_are_inverse_and_named_axes_move():
    batch = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    image = reference.to_internal(batch)
    assert image.shape == (2, 4, 5, 6, 3)
    assert image[1, 1, 2, 3, 2] == batch[1, 2, 1, 2, 3]
    np.testing.assert_array_equal(reference.to_public(image), batch)
    kernel = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    inside = reference.kernel_to_internal(kernel)
    assert inside.shape == (4, 5, 6, 3, 2)
    assert inside[1, 2, 3, 2, 1] == kernel[1, 2, 1, 2, 3]
    np.testing.assert_array_equal(reference.kernel_to_public(inside), kernel)


@given(triples(1, 3), triples(1, 3), triples(1, 2), st.integers(1, 2))
def test_fragments_follow_the_formula_and_merge_back(small, first, second, n_batch):
    size = times(times(small, first), second)
    image = np.arange(np.prod(size) * n_batch, dtype=np.float32).reshape(n_batch, *size, 1)
    split = reference.split_fragments(image, [first])
    sz, sy, sx = first
    for z, y, x, b in itertools.product(*map(range, size), range(n_batch)):
        p = ((z % sz) * sy + y % sy) * sx + x % sx
        assert split[p * n_batch + b, z // sz, y // sy, x // sx, 0] == image[b, z, y, x, 0]
    twice = reference.split_fragments(image, [first, second])
    np.testing.assert_array_equal(twice, reference.split_fragments(split, [second]))
    np.testing.assert_array_equal(reference.merge_fragments(twice, [first, second]), image)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ShapeError, match=r"\(3, 4, 4\) \(z, y, x\) is no multiple of the stride \(2, 2, 2\)"):
        reference.split_fragments(np.zeros((1, 3, 4, 4, 1)), [(2, 2, 2)])
    with pytest.raises(ShapeError, match="no multiple of the 8 fragments"):
        reference.merge_fragments(np.zeros((6, 3, 4, 4, 1)), [(2, 2, 2)])
    with pytest.raises(ShapeError, match="no multiple of the window"):
        reference.max_pool(np.zeros((1, 4, 4, 5, 1)), (2, 2, 2))
    with pytest.raises(ShapeError, match="does not fit"):
        reference.conv_forward(np.zeros((1, 4, 4, 2, 1)), np.zeros((3, 3, 3, 1, 1)))


# --- convolution ---

COUNTS = st.integers(1, 3)
CONV = {"size": triples(1, 4), "kernel": triples(1, 4), "b": st.integers(1, 2), "i": COUNTS, "o": COUNTS}


@given(**CONV, seed=SEEDS)
def test_convolution_is_valid_correlation_summed_over_inputs(size, kernel, b, i, o, seed):
    rng = np.random.default_rng(seed)
    x, w = normal(rng, b, *grow(size, kernel), i), normal(rng, *kernel, i, o)
    y = reference.conv_forward(x, w)
    assert y.shape == (b, *size, o)
    for n, m in itertools.product(range(b), range(o)):
        maps = [correlate(x[n, ..., c], w[..., c, m], "valid", method="direct") for c in range(i)]
        np.testing.assert_allclose(y[n, ..., m], sum(maps), rtol=1e-12, atol=1e-12)


@given(**CONV, seed=SEEDS)
def test_convolution_gradients_are_adjoints(size, kernel, b, i, o, seed):
    rng = np.random.default_rng(seed)
    x, w, d = normal(rng, b, *grow(size, kernel), i), normal(rng, *kernel, i, o), normal(rng, b, *size, o)
    y = reference.conv_forward(x, w)
    assert_adjoint(y, d, x, reference.conv_input_gradient(d, w))
    assert_adjoint(y, d, w, reference.conv_kernel_gradient(x, d, kernel))


def test_convolution_gradients_by_differences():
    rng = np.random.default_rng(0)
    x, w, d = normal(rng, 2, 4, 5, 6, 3), normal(rng, 2, 3, 1, 3, 2), normal(rng, 2, 3, 3, 6, 2)
    loss = lambda x, w: np.vdot(reference.conv_forward(x, w), d)  # noqa: E731
    assert_gradient(lambda v: loss(v, w), x, reference.conv_input_gradient(d, w), rng)
    assert_gradient(lambda v: loss(x, v), w, reference.conv_kernel_gradient(x, d), rng)


def test_kernel_gradient_checks_the_kernel_size():
    with pytest.raises(ShapeError, match=r"is \(2, 2, 2\) .* not \(3, 3, 3\)"):
        reference.conv_kernel_gradient(np.zeros((1, 4, 4, 4, 1)), np.zeros((1, 3, 3, 3, 1)), (3, 3, 3))


# --- transfer ---


@pytest.mark.parametrize("function", TRANSFER_ARGS)
def test_transfer_derivative_from_the_output(function):
    rng = np.random.default_rng(1)
    args = TRANSFER_ARGS[function]
    x, bias, d = normal(rng, 2, 3, 4, 5, 3), normal(rng, 3), normal(rng, 2, 3, 4, 5, 3)
    # Differences across the kink of a rectifier mean nothing.
    x[np.abs(x + bias) < 1e-3] += 0.01
    loss = lambda x, bias: np.vdot(reference.transfer_forward(x, bias, function, args), d)  # noqa: E731
    y = reference.transfer_forward(x, bias, function, args)
    d_x, d_bias = reference.transfer_backward(d, y, function, args)
    assert_gradient(lambda v: loss(v, bias), x, d_x, rng)
    assert_gradient(lambda v: loss(x, v), bias, d_bias, rng, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "args", "x", "y"),
    [
        ("linear", (2.0, 1.0), [-1.0, 0.0, 3.0], [-1.0, 1.0, 7.0]),
        ("relu", (), [-1.0, 0.0, 3.0], [0.0, 0.0, 3.0]),
        ("tanh", (2.0, 0.5), [-2.0, 0.0, 2.0], [-2 * np.tanh(1), 0.0, 2 * np.tanh(1)]),
        ("logistic", (), [-1000.0, 0.0, 1000.0], [0.0, 0.5, 1.0]),
        ("forward_logistic", (), [-1000.0, 0.0, 1000.0], [0.0, 0.5, 1.0]),
        ("softsign", (), [-1.0, 0.0, 3.0], [-0.5, 0.0, 0.75]),
        ("elu", (2.0,), [-1.0, 0.0, 800.0], [2 / np.e - 2, 0.0, 800.0]),
        ("leaky_relu", (0.5,), [-1.0, 0.0, 3.0], [-0.5, 0.0, 3.0]),
        ("softplus", (), [-800.0, 0.0, 800.0], [0.0, np.log(2), 800.0]),
    ],
)
def test_transfer_values_by_hand(function, args, x, y):
    image = np.array(x).reshape(1, 1, 1, 3, 1)
    result = reference.transfer_forward(image - 0.25, np.array([0.25]), function, args)
    np.testing.assert_allclose(result.ravel(), y, rtol=1e-15, atol=1e-15)
    np.testing.assert_array_equal(reference.transfer_forward(image, None, function, args), result)


def test_forward_logistic_passes_its_gradient_unchanged():
    d = np.arange(6.0).reshape(1, 1, 3, 1, 2)
    d_image, d_bias = reference.transfer_backward(d, np.full_like(d, 0.9), "forward_logistic")
    np.testing.assert_array_equal(d_image, d)
    np.testing.assert_array_equal(d_bias, [6.0, 9.0])


def test_transfer_errors_name_the_choices():
    image = np.zeros((1, 1, 1, 1, 1))
    with pytest.raises(ParameterError, match=r"unknown transfer 'rely'.*softsign.*Did you mean 'relu'\?"):
        reference.transfer_forward(image, None, "rely")
    with pytest.raises(ParameterError, match=r"'tanh' takes 2 arguments, got \(1.0,\)"):
        reference.transfer_forward(image, None, "tanh", (1.0,))


# --- max-filter and max-pool ---


@given(triples(1, 3), triples(1, 3), triples(1, 3), st.integers(1, 2), st.integers(1, 3), SEEDS)
def test_max_filter_by_its_definition(small, window, stride, b, c, seed):
    rng = np.random.default_rng(seed)
    dense = times(small, stride)
    # Few distinct values, so that ties are common.
    x = rng.integers(0, 4, (b, *grow(dense, window), c)).astype(np.float64)
    y, argmax = (reference.merge_fragments(part, [stride]) for part in reference.max_filter(x, window, stride))
    for z, y_, x_ in itertools.product(*map(range, dense)):
        inside = x[:, z : z + window[0], y_ : y_ + window[1], x_ : x_ + window[2]].reshape(b, -1, c)
        np.testing.assert_array_equal(y[:, z, y_, x_], inside.max(axis=1))
        np.testing.assert_array_equal(argmax[:, z, y_, x_], inside.argmax(axis=1))


@given(triples(1, 3), triples(1, 3), triples(1, 3), st.integers(1, 2), st.integers(1, 3), SEEDS)
def test_max_filter_backward_is_the_adjoint_of_the_selection(small, window, stride, b, c, seed):
    rng = np.random.default_rng(seed)
    size = grow(times(small, stride), window)
    x = normal(rng, b, *size, c)
    y, argmax = reference.max_filter(x, window, stride)
    d = normal(rng, *y.shape)
    d_x = reference.max_filter_backward(d, argmax, window, stride, size)
    # The filter is linear near x, so the selection applied to x itself is y.
    assert_adjoint(y, d, x, d_x)
    assert d_x.sum() == pytest.approx(d.sum(), abs=1e-9)


@given(triples(1, 3), triples(1, 3), st.integers(1, 2), st.integers(1, 3), SEEDS)
def test_max_pool_is_a_max_filter_taken_at_every_window(small, window, b, c, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (b, *times(small, window), c)).astype(np.float64)
    y, argmax = reference.max_pool(x, window)
    everywhere, where = reference.max_filter(x, window, (1, 1, 1))
    lattice = (slice(None), *(slice(None, None, w) for w in window))
    np.testing.assert_array_equal(y, everywhere[lattice])
    np.testing.assert_array_equal(argmax, where[lattice])
    d = normal(rng, *y.shape)
    d_everywhere = np.zeros_like(everywhere)
    d_everywhere[lattice] = d
    expected = reference.max_filter_backward(d_everywhere, where, window, (1, 1, 1), x.shape[1:4])
    np.testing.assert_array_equal(reference.max_pool_backward(d, argmax, window), expected)


def test_max_filter_backward_checks_the_sizes():
    d = np.zeros((1, 2, 2, 2, 1))
    with pytest.raises(ShapeError, match=r"gives \(3, 3, 3\), the gradient has \(2, 2, 2\)"):
        reference.max_filter_backward(d, d.astype(int), (2, 2, 2), (1, 1, 1), (4, 4, 4))


# --- losses ---


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weighted", [None, "full", "one channel"])
@pytest.mark.parametrize("loss", ["square", "logistic"])
def test_loss_gradient(loss, weighted, channels):
    rng = np.random.default_rng(2)
    p, t = normal(rng, 2, 2, 3, 4, channels), rng.random((2, 2, 3, 4, channels))
    w = {None: None, "full": rng.random(p.shape), "one channel": rng.random((*p.shape[:4], 1))}[weighted]
    value, d_p = reference.LOSSES[loss](p, t, w)
    assert_gradient(lambda v: reference.LOSSES[loss](v, t, w)[0], p, d_p, rng)
    if weighted == "one channel":
        assert value == reference.LOSSES[loss](p, t, np.broadcast_to(w, p.shape))[0]


@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_gradient(weighted):
    rng = np.random.default_rng(3)
    p, t = normal(rng, 2, 2, 3, 4, 5), rng.integers(0, 5, (2, 2, 3, 4))
    w = rng.random(t.shape) if weighted else None
    value, d_p = reference.softmax(p, t, w)
    assert_gradient(lambda v: reference.softmax(v, t, w)[0], p, d_p, rng)
    np.testing.assert_allclose(d_p.sum(axis=-1), 0, atol=1e-15)
    if weighted:
        assert value == reference.softmax(p, t, w[..., np.newaxis])[0]


def test_losses_by_hand_and_at_extremes():
    p = np.array([1000.0, -1000.0]).reshape(1, 1, 1, 2, 1)
    assert reference.square(p, np.zeros_like(p))[0] == 1e6
    loss, d_p = reference.logistic(p, np.array([1.0, 1.0]).reshape(p.shape))
    assert loss == 500
    np.testing.assert_array_equal(d_p.ravel(), [0, -0.5])
    two = np.concatenate([p, np.zeros_like(p)], axis=-1)
    loss, d_p = reference.softmax(two, np.array([0, 0]).reshape(1, 1, 1, 2))
    assert loss == 500
    np.testing.assert_array_equal(d_p.ravel(), [0, 0, -0.5, 0.5])
    doubled = reference.square(p, np.zeros_like(p), np.full_like(p, 2.0))
    assert doubled[0] == 2e6, "the mean is not divided by the weights"


# --- dropout, update, types ---


def test_dropout_scales_what_it_keeps():
    image = np.arange(1.0, 5.0).reshape(1, 1, 4, 1, 1)
    mask = np.array([True, False, True, False]).reshape(image.shape)
    np.testing.assert_array_equal(reference.dropout(image, mask, 0.75).ravel(), [4, 0, 12, 0])


def test_update_by_hand():
    w, v = reference.sgd(np.array([2.0]), np.array([3.0]), np.array([5.0]), 0.1, 0.5, 0.25)
    np.testing.assert_allclose(v, [0.5 * 3 + 5 + 0.25 * 2])
    np.testing.assert_allclose(w, [2 - 0.1 * 7])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_have_the_type_of_the_input_and_inputs_are_left_alone(dtype):
    rng = np.random.default_rng(4)
    x, w, d = (normal(rng, *s, dtype=dtype) for s in [(2, 4, 4, 4, 3), (2, 2, 2, 3, 2), (2, 3, 3, 3, 2)])
    bias = np.ones(3, dtype)
    for array in (x, w, d, bias):
        array.flags.writeable = False
    filtered, argmax = reference.max_filter(x, (2, 2, 2), (3, 1, 1))
    pooled, pool_argmax = reference.max_pool(x, (2, 2, 1))
    results = [
        *(
            reference.conv_forward(x, w),
            reference.conv_input_gradient(d, w),
            reference.conv_kernel_gradient(x, d),
        ),
        *(reference.transfer_forward(x, bias, "elu"), *reference.transfer_backward(x, x, "tanh")),
        *(filtered, reference.max_filter_backward(filtered, argmax, (2, 2, 2), (3, 1, 1), (4, 4, 4))),
        *(pooled, reference.max_pool_backward(pooled, pool_argmax, (2, 2, 1))),
        *(reference.dropout(x, x > 0, 0.5), *reference.sgd(x, x, x, 0.1, 0.9, 0.1)),
        *(loss(x, (x > 0).astype(dtype), None)[1] for loss in (reference.square, reference.logistic)),
        reference.softmax(x, np.zeros((2, 4, 4, 4), int))[1],
    ]
    assert {result.dtype for result in results} == {np.dtype(dtype)}
