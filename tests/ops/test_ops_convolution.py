"""Both convolutions, direct and spectral, against their reference: equality, adjoints, repetition, errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, assert_adjoint, grow, normal, on_threads, triples

from znn_dask.ops import direct, fft, reference, spectral
from znn_dask.ops.spectral import Tiling

# Around the widths of vectors (4, 8, 16 lanes) and what is done in registers at once (2 or 3 vectors).
WIDTHS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 48, 49, 64, 65])
BLOCKS = st.lists(st.sampled_from([1, 2, 3, 5, 8, 16, 17]), min_size=1, max_size=3)
BACKENDS = ["pyfftw", "scipy"]


@st.composite
def problems(draw, largest=4):
    """An image in channel blocks, kernels for them, and a gradient of the output."""
    kernel, size = draw(triples(1, largest)), draw(triples(1, largest + 1))
    batch, n_out, blocks = draw(st.integers(1, 9)), draw(WIDTHS), draw(BLOCKS)
    rng = np.random.default_rng(draw(SEEDS))
    images = [normal(rng, batch, *grow(size, kernel), n, dtype=np.float32) for n in blocks]
    kernels = [normal(rng, *kernel, n, n_out, dtype=np.float32) for n in blocks]
    d_output = normal(rng, batch, *size, n_out, dtype=np.float32)
    for array in (*images, *kernels, d_output):
        array.flags.writeable = False
    return images, kernels, d_output


def spectral_passes(images, kernels, d_output, tiling, stored=False):
    """Output, gradients of all image blocks, and gradients of all kernel blocks."""
    spectra = [spectral.image_spectrum(image, tiling) for image in images]
    d_spectrum = spectral.gradient_spectrum(d_output, tiling)
    if stored:
        weights = [spectral.kernel_spectrum(kernel, tiling) for kernel in kernels]
        product, gradient = spectral.stored_product, spectral.stored_kernel_gradient
    else:
        weights, product, gradient = kernels, spectral.product, spectral.kernel_gradient
    return (
        spectral.output_image(product(spectra, weights, tiling), tiling),
        [spectral.gradient_image(product([d_spectrum], [w], tiling, True), tiling) for w in weights],
        [gradient(spectrum, d_spectrum, tiling) for spectrum in spectra],
    )


def direct_passes(images, kernels, d_output):
    return (
        direct.forward(images, kernels),
        [direct.backward([d_output], [kernel]) for kernel in kernels],
        [direct.kernel_gradient(image, d_output) for image in images],
    )


def assert_passes(passes, images, kernels, d_output, rounding):
    """Compare with the reference; errors are relative to the sum of absolute values, as rounding is."""
    output, d_images, d_kernels = passes
    pairs = zip(images, kernels, strict=True)
    terms = [(reference.conv_forward, image, kernel) for image, kernel in pairs]
    compare(
        output,
        sum(f(i.astype(float), k) for f, i, k in terms),
        sum(f(abs(i), abs(k)) for f, i, k in terms),
        rounding,
    )
    for image, kernel, d_image, d_kernel in zip(images, kernels, d_images, d_kernels, strict=True):
        for found, function, a, b in [
            (d_image, reference.conv_input_gradient, d_output, kernel),
            (d_kernel, reference.conv_kernel_gradient, image, d_output),
        ]:
            compare(found, function(a.astype(float), b), function(abs(a), abs(b)), rounding)


def compare(found, expected, scale, rounding):
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    assert np.abs(found - expected).max() <= rounding * scale.max()


@given(problems())
def test_direct_equals_reference(problem):
    assert_passes(direct_passes(*problem), *problem, rounding=3e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stored", [False, True])
@given(problem=problems(), data=st.data())
def test_spectral_equals_reference_for_any_tile(stored, backend, problem, data):
    size, kernel = problem[0][0].shape[1:4], problem[1][0].shape[:3]
    tile = tuple(data.draw(st.integers(k, n + 2), label="tile") for n, k in zip(size, kernel, strict=True))
    tiling = Tiling(size, kernel, tile, backend)
    assert_passes(spectral_passes(*problem, tiling, stored), *problem, rounding=1e-6)


@given(problems(largest=3), st.booleans())
def test_kernel_as_large_as_the_image_gives_one_voxel(problem, is_spectral):
    images, _, _ = problem
    size = images[0].shape[1:4]
    rng = np.random.default_rng(0)
    kernels = [normal(rng, *size, image.shape[4], 5, dtype=np.float32) for image in images]
    d_output = normal(rng, len(images[0]), 1, 1, 1, 5, dtype=np.float32)
    given_ = images, kernels, d_output
    passes = spectral_passes(*given_, Tiling(size, size, size)) if is_spectral else direct_passes(*given_)
    assert_passes(passes, *given_, rounding=1e-6)


@given(problems(), st.booleans())
def test_backward_passes_are_adjoint_to_forward(problem, is_spectral):
    images, kernels, d_output = problem
    tiling = Tiling(images[0].shape[1:4], kernels[0].shape[:3], images[0].shape[1:4])
    run = (lambda *p: spectral_passes(*p, tiling)) if is_spectral else direct_passes
    for image, kernel in zip(images, kernels, strict=True):
        output, (d_image,), (d_kernel,) = run([image], [kernel], d_output)
        assert_adjoint(output, d_output, image, d_image, rtol=1e-5)
        assert_adjoint(output, d_output, kernel, d_kernel, rtol=1e-5)


def test_input_gradient_sums_over_blocks_of_the_target():
    rng = np.random.default_rng(1)
    d_outputs = [normal(rng, 2, 4, 5, 3, n, dtype=np.float32) for n in (3, 17)]
    kernels = [normal(rng, 2, 3, 1, 6, n, dtype=np.float32) for n in (3, 17)]
    tiling = Tiling((5, 7, 3), (2, 3, 1), (4, 4, 3))
    spectra = [spectral.gradient_spectrum(d, tiling) for d in d_outputs]
    stored = [spectral.kernel_spectrum(kernel, tiling) for kernel in kernels]
    expected = sum(reference.conv_input_gradient(d.astype(float), k) for d, k in zip(d_outputs, kernels, strict=True))
    for found in (
        direct.backward(d_outputs, kernels),
        spectral.gradient_image(spectral.product(spectra, kernels, tiling, backward=True), tiling),
        spectral.gradient_image(spectral.stored_product(spectra, stored, tiling, backward=True), tiling),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_bias_and_transfer_are_applied_with_the_inverse_transform():
    rng = np.random.default_rng(2)
    image, kernel = normal(rng, 2, 5, 6, 7, 3, dtype=np.float32), normal(rng, 2, 2, 3, 3, 5, dtype=np.float32)
    bias = normal(rng, 5, dtype=np.float32)
    tiling = Tiling((5, 6, 7), (2, 2, 3), (4, 6, 4))
    spectrum = spectral.product([spectral.image_spectrum(image, tiling)], [kernel], tiling)
    found = spectral.output_image(spectrum, tiling, bias, spectral.Activation("tanh", (1.7, 0.6)))
    expected = reference.transfer_forward(reference.conv_forward(image, kernel), bias, "tanh", (1.7, 0.6))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_long_sum_keeps_its_precision():
    """A kernel gradient sums over every voxel: 12,800 of them here, none of which cancel."""
    rng = np.random.default_rng(3)
    image, d_output = (rng.random((8, n, 40, 40, 3), np.float32) for n in (2, 1))
    expected = reference.conv_kernel_gradient(image.astype(float), d_output)
    tiling = Tiling((2, 40, 40), (2, 1, 1), (2, 16, 16))
    spectra = spectral.image_spectrum(image, tiling), spectral.gradient_spectrum(d_output, tiling)
    for found in (direct.kernel_gradient(image, d_output), spectral.kernel_gradient(*spectra, tiling)):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
def test_every_repetition_in_every_thread_is_bitwise_the_same(num_workers):
    rng = np.random.default_rng(4)
    images = [normal(rng, 3, 9, 8, 10, n, dtype=np.float32) for n in (5, 16)]
    kernels = [normal(rng, 3, 2, 4, n, 19, dtype=np.float32) for n in (5, 16)]
    d_output = normal(rng, 3, 7, 7, 7, 19, dtype=np.float32)

    def everything():
        tiling = Tiling((9, 8, 10), (3, 2, 4), (6, 6, 10))
        runs = [direct_passes(images, kernels, d_output)]
        runs += [spectral_passes(images, kernels, d_output, tiling, stored) for stored in (False, True)]
        return [a.tobytes() for output, d_images, d_kernels in runs for a in (output, *d_images, *d_kernels)]

    first, *others = on_threads(everything, num_workers, repetitions=3)
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, w: direct.forward([x[:, :1]], [w]), "does not fit an image"),
        (lambda x, w: direct.forward([x], [w[..., :2, :]]), "a kernel does not fit its image"),
        (lambda x, w: direct.forward([x, x[:1]], [w, w]), "images differ in size or batch"),
        (lambda x, w: direct.forward([x, x], [w]), "one kernel per image"),
        (
            lambda x, w: direct.kernel_gradient(x, np.zeros((1, 3, 3, 3, 4), np.float32)),
            "output gradient's size",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    x, w = np.zeros((2, 4, 4, 4, 3), np.float32), np.zeros((2, 2, 2, 3, 4), np.float32)
    with pytest.raises(ValueError, match=words):
        call(np.ascontiguousarray(x), np.ascontiguousarray(w))


# --- transforms ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 6), (4, 3, 7), (8, 8, 8)])
def test_plans_transform_there_and_back(backend, size):
    rng = np.random.default_rng(5)
    plan = fft.plan(backend, size, 4)
    image = normal(rng, *size, 4, dtype=np.float32)
    plan.real[...] = image
    plan.forward()
    pairs = plan.spectrum.reshape(*size[:2], size[2] // 2 + 1, 4, 2)
    np.testing.assert_allclose(pairs[..., 0] + 1j * pairs[..., 1], np.fft.rfftn(image, axes=(0, 1, 2)), atol=2e-5)
    plan.inverse()
    np.testing.assert_allclose(plan.real / np.prod(size), image, atol=1e-5)


@given(triples(1, 40), st.integers(1, 10_000))
def test_lanes_are_a_power_of_two_and_none_is_wasted(size, n_lanes):
    lanes = fft.lanes_for(size, n_lanes)
    assert lanes in (1, 2, 4, 8, 16, 32, 64)
    assert lanes < 2 * n_lanes


@given(triples(1, 12), st.data())
def test_tiles_cover_every_output_once(tile, data):
    kernel = tuple(data.draw(st.integers(1, t)) for t in tile)
    size = tuple(data.draw(st.integers(k, 30)) for k in kernel)
    tiling = Tiling(size, kernel, tile)
    seen = np.zeros(tiling.output_size, int)
    for z, y, x in tiling.origins:
        bz, by, bx = tiling.block
        assert z < seen.shape[0]
        assert y < seen.shape[1]
        assert x < seen.shape[2]
        seen[z : z + bz, y : y + by, x : x + bx] += 1
    assert (seen == 1).all()
    assert tiling.n_tiles == len(tiling.origins)


def test_backends_are_resolved_and_unknown_ones_refused():
    assert fft.resolve_backend("auto") == "native"
    assert fft.resolve_backend("scipy") == "scipy"
    with pytest.raises(ValueError, match="fft_backend must be one of auto, native, pyfftw, scipy, got 'mkl'"):
        fft.resolve_backend("mkl")
