"""The steps of a spectral convolution, one by one: twin against definition, and operation against twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, grow, normal, triples

from znn_dask.ops import reference, reference_spectral, spectral
from znn_dask.ops.spectral import Tiling
from znn_dask.ops.transfer import Activation


@st.composite
def problems(draw):
    """A tiling with arrays that suit it: image, kernel, gradient of the output; all float64."""
    kernel, size = draw(triples(1, 3)), draw(triples(1, 5))
    full = grow(size, kernel)
    tile = tuple(draw(st.integers(k, n + 2)) for n, k in zip(full, kernel, strict=True))
    n_in, n_out, batch = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(SEEDS))
    arrays = normal(rng, batch, *full, n_in), normal(rng, *kernel, n_in, n_out), normal(rng, batch, *size, n_out)
    return Tiling(full, kernel, tile), *arrays


@given(problems())
def test_the_twins_together_are_a_convolution(problem):
    tiling, image, kernel, d_output = problem
    x, d = reference_spectral.image_spectrum(image, tiling), reference_spectral.gradient_spectrum(d_output, tiling)
    stored = reference_spectral.kernel_spectrum(kernel, tiling)
    close = {"rtol": 1e-10, "atol": 1e-10}
    expected = reference.conv_forward(image, kernel)
    d_expected = reference.conv_input_gradient(d_output, kernel)
    for multiply, weight in ((reference_spectral.product, kernel), (reference_spectral.stored_product, stored)):
        output = reference_spectral.output_image(multiply([x], [weight], tiling), tiling)
        d_image = reference_spectral.gradient_image(multiply([d], [weight], tiling, True), tiling)
        np.testing.assert_allclose(output, expected, **close)
        np.testing.assert_allclose(d_image, d_expected, **close)
    d_kernel = reference_spectral.kernel_gradient(x, d, tiling)
    np.testing.assert_allclose(d_kernel, reference.conv_kernel_gradient(image, d_output), **close)


@given(problems(), st.sampled_from(["pyfftw", "scipy"]))
def test_every_step_equals_its_twin(problem, backend):
    tiling, *arrays = problem
    tiling = Tiling(tiling.size, tiling.kernel, tiling.tile, backend)
    image, kernel, d_output = (array.astype(np.float32) for array in arrays)
    x, d = spectral.image_spectrum(image, tiling), spectral.gradient_spectrum(d_output, tiling)
    k = spectral.kernel_spectrum(kernel, tiling)
    bias = np.linspace(-1, 1, kernel.shape[4], dtype=np.float32)
    forward, backward = spectral.product([x], [kernel], tiling), spectral.product([d], [kernel], tiling, True)
    assert_twins(
        [
            ("image_spectrum", image, tiling),
            ("gradient_spectrum", d_output, tiling),
            ("kernel_spectrum", kernel, tiling),
            ("product", [x], [kernel], tiling),
            ("product", [d], [kernel], tiling, True),
            ("product", [x, x], [kernel, -2 * kernel], tiling),
            ("stored_product", [x], [k], tiling),
            ("stored_product", [d], [k], tiling, True),
            ("output_image", forward, tiling),
            ("output_image", forward, tiling, bias, Activation("tanh", (1.7, 0.6))),
            ("output_image", forward, tiling, None, Activation("relu")),
            ("gradient_image", backward, tiling),
            ("kernel_gradient", x, d, tiling),
        ]
    )
    expected = reference_spectral.kernel_gradient(x, d, tiling)
    np.testing.assert_allclose(
        spectral.stored_kernel_gradient(x, d, tiling), expected, atol=1e-5 * max(1, np.abs(expected).max())
    )


def assert_twins(calls):
    for name, *arguments in calls:
        found = getattr(spectral, name)(*arguments)
        expected = getattr(reference_spectral, name)(*arguments)
        assert found.dtype == expected.dtype == np.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twins_keep_the_type(dtype):
    tiling = Tiling((4, 4, 4), (2, 2, 2), (3, 3, 3))
    x = reference_spectral.image_spectrum(np.ones((1, 4, 4, 4, 1), dtype), tiling)
    d = reference_spectral.gradient_spectrum(np.ones((1, 3, 3, 3, 1), dtype), tiling)
    kernel = np.ones((2, 2, 2, 1, 1), dtype)
    results = [
        *(x, d, reference_spectral.product([x], [kernel], tiling)),
        *(reference_spectral.kernel_spectrum(kernel, tiling), reference_spectral.kernel_gradient(x, d, tiling)),
        reference_spectral.output_image(x, tiling, kernel[0, 0, 0, 0], Activation("relu")),
        reference_spectral.gradient_image(d, tiling),
    ]
    assert {result.dtype for result in results} == {np.dtype(dtype)}
