"""The operations of U-Nets against PyTorch, forward and backward; skipped where PyTorch is not installed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, normal, times, triples
from test_ops_normalise import gradients, normalised

from znn_dask.ops import border, maxout, pool, reference, softmax, upsample

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
functional = torch.nn.functional

CHANNELS = st.sampled_from([1, 3, 16, 17])
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def compare(image, d, forward, backward, torch_function, **close):
    """Compare an operation of one image, and its gradient, with torch's in float64."""
    x = torch.tensor(reference.to_public(image)).double().requires_grad_()
    y = torch_function(x)
    if d is None:
        d = normal(np.random.default_rng(0), *reference.to_internal(y.detach().numpy()).shape, dtype=np.float32)
    y.backward(torch.tensor(reference.to_public(d)).double())
    np.testing.assert_allclose(forward(image), reference.to_internal(y.detach().numpy()), **(CLOSE | close))
    np.testing.assert_allclose(backward(d), reference.to_internal(x.grad.numpy()), **(CLOSE | close))


@given(triples(2, 5), triples(0, 3), triples(0, 3), CHANNELS, st.sampled_from(["zero", "mirror", "replicate"]), SEEDS)
def test_borders(size, before, after, channels, mode, seed):
    rng = np.random.default_rng(seed)
    if mode == "mirror":
        before, after = (tuple(min(b, n - 1) for b, n in zip(edge, size, strict=True)) for edge in (before, after))
    image = normal(rng, 2, *size, channels, dtype=np.float32)
    widths = [v for b, a in zip(before[::-1], after[::-1], strict=True) for v in (b, a)]
    name = {"zero": "constant", "mirror": "reflect", "replicate": "replicate"}[mode]
    compare(
        image,
        None,
        lambda x: border.pad(x, before, after, mode),
        lambda d: border.pad_backward(d, before, after, mode),
        lambda x: functional.pad(x, widths, name),
    )


@given(triples(1, 5), triples(1, 4), CHANNELS, st.sampled_from(["nearest", "trilinear"]), SEEDS)
def test_upsampling(size, factor, channels, mode, seed):
    image = normal(np.random.default_rng(seed), 2, *size, channels, dtype=np.float32)
    align = {"align_corners": False} if mode == "trilinear" else {}
    compare(
        image,
        None,
        lambda x: upsample.upsample(x, factor, mode),
        lambda d: upsample.upsample_backward(d, factor, mode),
        lambda x: functional.interpolate(x, size=times(size, factor), mode=mode, **align),
    )


@given(triples(1, 4), triples(1, 4), CHANNELS, SEEDS)
def test_average_pooling(size, window, channels, seed):
    image = normal(np.random.default_rng(seed), 2, *times(size, window), channels, dtype=np.float32)
    compare(
        image,
        None,
        lambda x: pool.average_pool(x, window),
        lambda d: pool.average_pool_backward(d, window),
        lambda x: functional.avg_pool3d(x, window),
    )


@given(triples(1, 5), st.sampled_from([2, 3, 16, 17, 40]), SEEDS)
def test_softmax(size, channels, seed):
    image = 3 * normal(np.random.default_rng(seed), 2, *size, channels, dtype=np.float32)
    compare(
        image,
        None,
        lambda x: softmax.softmax([x])[0],
        lambda d: softmax.softmax_backward([d], softmax.softmax([image]))[0],
        lambda x: torch.softmax(x, 1),
    )


def test_the_largest_of_several():
    rng = np.random.default_rng(0)
    images = [normal(rng, 2, 3, 4, 5, 3, dtype=np.float32) for _ in range(4)]
    leaves = [torch.tensor(image, requires_grad=True) for image in images]
    expected = torch.stack(leaves).max(dim=0).values
    d = normal(rng, *images[0].shape, dtype=np.float32)
    expected.backward(torch.tensor(d))
    found, argmax = maxout.largest(images)
    np.testing.assert_array_equal(found, expected.detach().numpy())
    for part, leaf in zip(maxout.largest_backward(d, argmax, 4), leaves, strict=True):
        np.testing.assert_array_equal(part, leaf.grad.numpy())


MODULES = {
    ("batch", 1): lambda n: torch.nn.BatchNorm3d(n, eps=1e-3),
    ("instance", 1): lambda n: torch.nn.InstanceNorm3d(n, eps=1e-3, affine=True),
    ("group", 2): lambda n: torch.nn.GroupNorm(2, n, eps=1e-3),
    ("group", 1): lambda n: torch.nn.GroupNorm(1, n, eps=1e-3),
}


@pytest.mark.parametrize("channels", [4, 16, 18, 40])
@pytest.mark.parametrize(("over", "groups"), MODULES)
def test_normalisation(over, groups, channels):
    rng = np.random.default_rng(channels)
    image, d = (normal(rng, 2, 5, 6, 7, channels, dtype=np.float32) for _ in range(2))
    scale, shift = (normal(rng, channels, dtype=np.float32) for _ in range(2))
    module = MODULES[over, groups](channels).double()
    module.weight.data, module.bias.data = torch.tensor(scale).double(), torch.tensor(shift).double()
    x = torch.tensor(reference.to_public(image)).double().requires_grad_()
    y = module(x)
    y.backward(torch.tensor(reference.to_public(d)).double())
    cuts = {"entries": (1,), "cuts": (channels // 2,)}
    found, statistics = normalised(image, (0, 1), over, groups, scale, shift, **cuts)
    np.testing.assert_allclose(found, reference.to_internal(y.detach().numpy()), **CLOSE)
    d_image, d_scale, d_shift = gradients(d, image, (0, 1), over, groups, scale, statistics, **cuts)
    np.testing.assert_allclose(d_image, reference.to_internal(x.grad.numpy()), **CLOSE)
    np.testing.assert_allclose(d_scale, module.weight.grad.numpy(), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(d_shift, module.bias.grad.numpy(), rtol=1e-5, atol=1e-4)
