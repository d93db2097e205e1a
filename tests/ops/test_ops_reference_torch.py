"""The reference operations against PyTorch in float64; skipped where PyTorch is not installed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, grow, normal, times, triples

from znn_dask.ops import reference

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
functional = torch.nn.functional

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def leaf(array: np.ndarray):
    """A float64 tensor in torch's layout whose gradient is wanted."""
    return torch.tensor(reference.to_public(array), requires_grad=True)


def back(tensor) -> np.ndarray:
    return reference.to_internal(tensor.detach().numpy())


@given(
    small=triples(1, 2),
    kernel=triples(1, 3),
    stride=triples(1, 2),
    b=st.integers(1, 2),
    c=st.integers(1, 3),
    seed=SEEDS,
)
def test_convolution_of_fragments_is_a_dilated_convolution(small, kernel, stride, b, c, seed):
    rng = np.random.default_rng(seed)
    size = times(grow(small, kernel), stride)
    x, w = normal(rng, b, *size, c), normal(rng, *kernel, c, 2)
    image = leaf(x)
    weight = torch.tensor(reference.kernel_to_public(w), requires_grad=True)
    y = functional.conv3d(image, weight, dilation=stride)
    d = normal(rng, b, *times(small, stride), 2)
    y.backward(torch.tensor(reference.to_public(d)))
    fragments, d_fragments = reference.split_fragments(x, [stride]), reference.split_fragments(d, [stride])
    forward = reference.merge_fragments(reference.conv_forward(fragments, w), [stride])
    backward = reference.merge_fragments(reference.conv_input_gradient(d_fragments, w), [stride])
    d_kernel = reference.kernel_to_public(reference.conv_kernel_gradient(fragments, d_fragments))
    np.testing.assert_allclose(forward, back(y), **CLOSE)
    np.testing.assert_allclose(backward, back(image.grad), **CLOSE)
    np.testing.assert_allclose(d_kernel, weight.grad.numpy(), **CLOSE)


@given(triples(1, 3), triples(1, 3), triples(1, 2), st.integers(1, 2), st.integers(1, 3), SEEDS)
def test_max_filter_and_pool(small, window, stride, b, c, seed):
    rng = np.random.default_rng(seed)
    dense = times(small, stride)
    x = normal(rng, b, *grow(dense, window), c)
    image, d = leaf(x), normal(rng, b, *dense, c)
    y = functional.max_pool3d(image, window, stride=1)
    y.backward(torch.tensor(reference.to_public(d)))
    found, argmax = reference.max_filter(x, window, stride)
    d_found = reference.split_fragments(d, [stride])
    d_x = reference.max_filter_backward(d_found, argmax, window, stride, x.shape[1:4])
    np.testing.assert_array_equal(reference.merge_fragments(found, [stride]), back(y))
    np.testing.assert_allclose(d_x, back(image.grad), **CLOSE)

    x = normal(rng, b, *times(small, window), c)
    image = leaf(x)
    y = functional.max_pool3d(image, window)
    found, argmax = reference.max_pool(x, window)
    y.backward(torch.tensor(reference.to_public(found)))
    np.testing.assert_array_equal(found, back(y))
    np.testing.assert_array_equal(reference.max_pool_backward(found, argmax, window), back(image.grad))


TRANSFERS = {
    "linear": ((1.5, -0.5), lambda x: 1.5 * x - 0.5),
    "relu": ((), functional.relu),
    "tanh": ((1.7, 0.6), lambda x: 1.7 * torch.tanh(0.6 * x)),
    "logistic": ((), torch.sigmoid),
    "softsign": ((), functional.softsign),
    "elu": ((0.7,), lambda x: functional.elu(x, 0.7)),
    "leaky_relu": ((0.1,), lambda x: functional.leaky_relu(x, 0.1)),
    "softplus": ((), lambda x: torch.logaddexp(x, torch.zeros_like(x))),
}


@pytest.mark.parametrize("function", TRANSFERS)
def test_transfer(function):
    rng = np.random.default_rng(5)
    args, torch_function = TRANSFERS[function]
    x, b, d = normal(rng, 2, 2, 3, 4, 3), normal(rng, 3), normal(rng, 2, 2, 3, 4, 3)
    x[0, 0, 0, 0] = -b  # exactly at the kink
    image, bias = leaf(x), torch.tensor(b, requires_grad=True)
    y = torch_function(image + bias[:, None, None, None])
    y.backward(torch.tensor(reference.to_public(d)))
    found = reference.transfer_forward(x, b, function, args)
    d_x, d_b = reference.transfer_backward(d, found, function, args)
    np.testing.assert_allclose(found, back(y), **CLOSE)
    np.testing.assert_allclose(d_x, back(image.grad), **CLOSE)
    np.testing.assert_allclose(d_b, bias.grad.numpy(), **CLOSE)


LOSSES = {
    "square": lambda p, t: functional.mse_loss(p, t, reduction="none"),
    "logistic": lambda p, t: functional.binary_cross_entropy_with_logits(p, t, reduction="none"),
}
PLAIN = {
    "square": functional.mse_loss,
    "logistic": functional.binary_cross_entropy_with_logits,
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_square_and_logistic_loss(loss, weighted):
    rng = np.random.default_rng(6)
    p, t, w = normal(rng, 2, 2, 3, 4, 3), rng.random((2, 2, 3, 4, 3)), rng.random((2, 2, 3, 4, 1))
    prediction, target = leaf(p), torch.tensor(reference.to_public(t))
    weight = torch.tensor(reference.to_public(w))
    expected = (weight * LOSSES[loss](prediction, target)).mean() if weighted else PLAIN[loss](prediction, target)
    expected.backward()
    value, d_p = reference.LOSSES[loss](p, t, w if weighted else None)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(d_p, back(prediction.grad), **CLOSE)


@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_loss(weighted):
    rng = np.random.default_rng(7)
    p, t, w = normal(rng, 2, 2, 3, 4, 3), rng.integers(0, 3, (2, 2, 3, 4)), rng.random((2, 2, 3, 4))
    prediction, target = leaf(p), torch.tensor(t)
    if weighted:
        per_voxel = functional.cross_entropy(prediction, target, reduction="none")
        expected = (torch.tensor(w) * per_voxel).mean()
    else:
        expected = functional.cross_entropy(prediction, target)
    expected.backward()
    value, d_p = reference.softmax(p, t, w if weighted else None)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(d_p, back(prediction.grad), **CLOSE)


def test_update_is_that_of_torch_also_while_the_rate_changes():
    rng = np.random.default_rng(8)
    w = normal(rng, 7)
    velocity, parameter = np.zeros(7), torch.tensor(w, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.0, momentum=0.9, weight_decay=0.1)
    for rate in (0.1, 0.05, 0.2):
        gradient = normal(rng, 7)
        parameter.grad = torch.tensor(gradient)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        w, velocity = reference.sgd(w, velocity, gradient, rate, 0.9, 0.1)
        np.testing.assert_allclose(w, parameter.detach().numpy(), **CLOSE)
