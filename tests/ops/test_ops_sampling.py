"""Borders, phases, pooling, upsampling, softmax and maxout: equal to their references, adjoint, and what is refused."""

import numpy as np
import pytest
import sampling_cases
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, assert_adjoint, grow, normal, times, triples

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.ops import (
    border,
    maxout,
    phases,
    pool,
    reference,
    reference_channels,
    softmax,
    upsample,
)
from znn_dask.ops import reference_sampling as sampling


@given(st.sampled_from(sampling_cases.CHANNELS), SEEDS)
def test_every_operation_equals_its_reference(channels, seed):
    sampling_cases.check_all(np.random.default_rng(seed), channels)


# --- the references by their definitions ---


def test_borders_by_hand():
    line = np.array([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3, 1)
    found = [sampling.pad(line, (0, 0, 2), (0, 0, 1), mode).ravel().tolist() for mode in sampling.MODES]
    assert found == [[0, 0, 1, 2, 3, 0], [3, 2, 1, 2, 3, 2], [1, 1, 1, 2, 3, 3]]
    d = np.arange(1.0, 7.0).reshape(1, 1, 1, 6, 1)
    found = [sampling.pad_backward(d, (0, 0, 2), (0, 0, 1), mode).ravel().tolist() for mode in sampling.MODES]
    assert found == [[3, 4, 5], [3, 4 + 2 + 6, 5 + 1], [1 + 2 + 3, 4, 5 + 6]]


@given(triples(1, 5), triples(0, 3), triples(0, 3), st.sampled_from(list(sampling.MODES)), SEEDS)
def test_borders_and_their_gradients_are_adjoint(size, before, after, mode, seed):
    rng = np.random.default_rng(seed)
    if mode == "mirror":
        before, after = (tuple(min(b, n - 1) for b, n in zip(edge, size, strict=True)) for edge in (before, after))
    x = normal(rng, 2, *size, 3)
    y = sampling.pad(x, before, after, mode)
    d = normal(rng, *y.shape)
    assert_adjoint(y, d, x, sampling.pad_backward(d, before, after, mode))
    np.testing.assert_array_equal(sampling.crop(y, before, after), x)
    assert_adjoint(x, x, y, sampling.crop_backward(x, before, after))


@given(triples(1, 3), triples(1, 5), triples(1, 3), SEEDS)
def test_phases_make_a_strided_convolution(small, kernel, stride, seed):
    rng = np.random.default_rng(seed)
    x, w = normal(rng, 2, *grow(times(small, stride), kernel), 2), normal(rng, *kernel, 2, 3)
    expected = reference.conv_forward(x, w)[:, :: stride[0], :: stride[1], :: stride[2]]
    size = tuple(-(-k // s) for k, s in zip(kernel, stride, strict=True))
    rounded = times(grow(small, size), stride)
    room = tuple(max(0, n - m) for n, m in zip(rounded, x.shape[1:4], strict=True))
    parts = sampling.split(
        sampling.pad(x, (0, 0, 0), room, "zero")[:, : rounded[0], : rounded[1], : rounded[2]], stride
    )
    kernels = [sampling.kernel_phase(w, stride, p, size, "down") for p in range(len(parts))]
    found = sum(reference.conv_forward(x, k) for x, k in zip(parts, kernels, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@given(triples(1, 4), triples(1, 5), triples(1, 3), SEEDS)
def test_phases_make_a_transposed_convolution(size, kernel, stride, seed):
    rng = np.random.default_rng(seed)
    x, w = normal(rng, 2, *size, 2), normal(rng, *kernel, 2, 3)
    full = tuple(s * (n - 1) + k for n, k, s in zip(size, kernel, stride, strict=True))
    expected = np.zeros((2, *full, 3))
    for z, y, v in np.ndindex(*size):  # y[s * i + d] += x[i] K[d]
        part = expected[:, z * stride[0] :, y * stride[1] :, v * stride[2] :]
        part[:, : kernel[0], : kernel[1], : kernel[2]] += np.einsum("bi,zyxio->bzyxo", x[:, z, y, v], w)
    taps = tuple(-(-k // s) for k, s in zip(kernel, stride, strict=True))
    border_size = tuple(t - 1 for t in taps)
    padded = sampling.pad(x, border_size, border_size, "zero")
    n = int(np.prod(stride))
    kernels = [sampling.kernel_phase(w, stride, p, taps, "up") for p in range(n)]
    found = sampling.merge([reference.conv_forward(padded, k) for k in kernels], stride)
    found, rest = found[:, : full[0], : full[1], : full[2]], found.copy()
    np.testing.assert_allclose(found, expected[:, : found.shape[1], : found.shape[2], : found.shape[3]], atol=1e-10)
    assert np.abs(rest).sum() == pytest.approx(np.abs(expected).sum())


@given(triples(1, 5), triples(1, 3), st.integers(0, 1), st.sampled_from(sampling.DIRECTIONS), SEEDS)
def test_kernel_phases_and_their_gradients_are_adjoint(learned, stride, extra, direction, seed):
    rng = np.random.default_rng(seed)
    w, n = normal(rng, *learned, 2, 3), int(np.prod(stride))
    size = tuple(-(-k // s) + extra for k, s in zip(learned, stride, strict=True))
    pieces = [sampling.kernel_phase(w, stride, p, size, direction) for p in range(n)]
    d = [normal(rng, *size, 2, 3) for _ in pieces]
    d_w = sampling.kernel_phase_gradient(d, stride, learned, direction)
    assert_adjoint(np.stack(pieces), np.stack(d), w, d_w)


@given(triples(1, 4), triples(1, 4), st.sampled_from(sampling.UPSAMPLINGS), SEEDS)
def test_resampling_and_its_gradients_are_adjoint(size, factor, mode, seed):
    rng = np.random.default_rng(seed)
    x, larger = normal(rng, 2, *size, 3), normal(rng, 2, *times(size, factor), 3)
    assert_adjoint(sampling.upsample(x, factor, mode), larger, x, sampling.upsample_backward(larger, factor, mode))
    assert_adjoint(sampling.average_pool(larger, factor), x, larger, sampling.average_pool_backward(x, factor))
    np.testing.assert_allclose(sampling.average_pool(sampling.upsample(x, factor, "nearest"), factor), x, rtol=1e-12)


# --- softmax and maxout ---


def test_softmax_does_not_overflow_and_does_not_depend_on_blocks():
    rng = np.random.default_rng(0)
    x = normal(rng, 3, 4, 5, 6, 7, dtype=np.float32) * 1000
    (whole,) = softmax.softmax([x])
    parts = softmax.softmax([np.ascontiguousarray(part) for part in np.split(x, [1, 5], axis=4)])
    np.testing.assert_array_equal(np.concatenate(parts, axis=4), whole)
    np.testing.assert_allclose(whole.sum(axis=4), 1, rtol=1e-6)
    np.testing.assert_allclose(whole, reference_channels.softmax([x])[0], rtol=1e-4, atol=1e-6)
    assert np.isnan(softmax.softmax([np.array([np.nan, 0, 0], np.float32).reshape(1, 1, 1, 1, 3)])[0]).all()


def test_softmax_gradient_is_that_of_its_derivative():
    rng = np.random.default_rng(1)
    x, d = (normal(rng, 1, 2, 2, 2, 5) for _ in range(2))
    (y,) = reference_channels.softmax([x])
    (d_x,) = reference_channels.softmax_backward([d], [y])
    h = 1e-6 * normal(rng, *x.shape)
    slope = np.vdot(reference_channels.softmax([x + h])[0] - reference_channels.softmax([x - h])[0], d) / 2
    assert slope == pytest.approx(np.vdot(d_x, h), rel=1e-6)


def test_the_largest_takes_the_first_of_equals_and_shows_what_is_not_a_number():
    images = [
        np.array(v, np.float32).reshape(1, 1, 1, 1, 4) for v in ([1, 5, 2, np.nan], [1, 7, 2, 3], [0, 7, np.nan, 9])
    ]
    image, argmax = maxout.largest(images)
    np.testing.assert_array_equal(argmax.ravel(), [0, 1, 2, 0])
    np.testing.assert_array_equal(image.ravel(), [1, 7, np.nan, np.nan])
    parts = maxout.largest_backward(np.full_like(image, 3), argmax, 3)
    np.testing.assert_array_equal(np.stack(parts).reshape(3, 4), [[3, 0, 0, 3], [0, 3, 0, 0], [0, 0, 3, 0]])


# --- what is refused ---


def test_what_cannot_be_is_refused():
    image = np.zeros((1, 4, 4, 4, 2), np.float32)
    with pytest.raises(ParameterError, match="padding must be one of zero, mirror, replicate, got 'wrap'"):
        border.pad(image, (1, 1, 1), (1, 1, 1), "wrap")
    with pytest.raises(ShapeError, match=r"\(4, 4, 4\) .* mirrored border must be smaller"):
        border.pad(image, (0, 0, 4), (0, 0, 0), "mirror")
    with pytest.raises(ShapeError, match=r"leave nothing of an image of \(4, 4, 4\)"):
        border.crop(image, (2, 2, 2), (2, 2, 2))
    with pytest.raises(ShapeError, match="no multiple of the stride"):
        phases.split(image, (1, 3, 1))
    with pytest.raises(ShapeError, match=r"stride \(1, 2, 1\) \(z, y, x\) has 2 phases, got 1"):
        phases.merge([image], (1, 2, 1))
    with pytest.raises(ShapeError, match=r"\(4, 4, 2\) taps .* do not fit a kernel of \(4, 4, 1\)"):
        phases.kernel_phase(image[0][..., np.newaxis], (1, 1, 2), 0, (4, 4, 1), "down")
    with pytest.raises(ParameterError, match="direction must be one of down, up"):
        phases.kernel_phase(image[0][..., np.newaxis], (1, 1, 2), 0, (4, 4, 2), "left")
    with pytest.raises(ShapeError, match="no multiple of the window"):
        pool.average_pool(image, (1, 1, 3))
    with pytest.raises(ParameterError, match="one of nearest, trilinear, got 'cubic'"):
        upsample.upsample(image, (1, 1, 2), "cubic")
    with pytest.raises(ShapeError, match="no multiple of the factor"):
        upsample.upsample_backward(image, (1, 1, 3), "nearest")
    with pytest.raises(ValueError, match="images differ in size"):
        maxout.largest([image, image[:, :2]])
    with pytest.raises(ValueError, match="blocks differ in size"):
        softmax.softmax([image, image[:, :2]])


@pytest.mark.parametrize("shape", [(0, 4, 4, 4, 2), (1, 4, 4, 4, 0)])
def test_empty_images_are_refused(shape):
    image = np.zeros(shape, np.float32)
    for call in (
        lambda: border.pad(image, (1, 1, 1), (1, 1, 1), "zero"),
        lambda: phases.split(image, (2, 2, 2)),
        lambda: pool.average_pool(image, (2, 2, 2)),
        lambda: upsample.upsample(image, (2, 2, 2), "trilinear"),
        lambda: softmax.softmax([image]),
    ):
        with pytest.raises(ValueError, match="at least one voxel, batch entry and channel"):
            call()
