"""Products and kernel gradients in the frequency domain against their twins, on spectra of odd shapes.

The instruction set is chosen once per process, so this file is also a program that checks some shapes and prints
what it ran on.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SETS, run_with_instruction_set

from znn_dask import _kernels
from znn_dask.ops import reference_spectral, spectral
from znn_dask.ops.spectral import Tiling
from znn_dask.ops.twiddles import twiddles

WIDTHS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 40)


@st.composite
def axes(draw, largest=9):
    """A size of the transform and a number of taps, often as many."""
    size = draw(st.integers(1, largest))
    return size, draw(st.sampled_from([size, *range(1, size + 1)]))


@st.composite
def problems(draw):
    """Transform, kernel, blocks of input channels, output channels, batch and a seed."""
    (nz, kz), (ny, ky), (nx, kx) = draw(axes(6)), draw(axes(6)), draw(axes())
    blocks = draw(st.lists(st.sampled_from(WIDTHS[:9]), min_size=1, max_size=3))
    n_out, batch = draw(st.sampled_from(WIDTHS)), draw(st.sampled_from([*range(1, 8), 13, 27]))
    return (nz, ny, nx), (kz, ky, kx), blocks, n_out, batch, draw(st.integers(0, 2**32 - 1))


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def spectra_and_kernels(transform, kernel, blocks, n_out, batch, seed):
    rng = np.random.default_rng(seed)
    tiling = Tiling(transform, kernel, transform, "scipy")
    spectra = [normal(rng, *tiling.spectrum_shape(batch, channels)) for channels in blocks]
    kernels = [normal(rng, *kernel, channels, n_out) for channels in blocks]
    return tiling, spectra, kernels, normal(rng, *tiling.spectrum_shape(batch, n_out))


def assert_close(found, expected):
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    error, norm = np.linalg.norm(found - expected.astype(np.float64)), np.linalg.norm(expected)
    assert error <= 1e-6 * norm, f"relative error {error / norm:.3g}"


def check(*problem):
    """Compare all functions with their twins."""
    tiling, spectra, kernels, d_spectrum = spectra_and_kernels(*problem)
    twin = reference_spectral
    stored = [twin.kernel_spectrum(kernel, tiling) for kernel in kernels]
    assert_close(spectral.product(spectra, kernels, tiling), twin.product(spectra, kernels, tiling))
    assert_close(spectral.stored_product(spectra, stored, tiling), twin.stored_product(spectra, stored, tiling))
    # Backward the blocks are of the output; any two kernels with as many inputs will do.
    back = ([d_spectrum, d_spectrum], [kernels[0], kernels[0][::-1]])
    assert_close(spectral.product(*back, tiling, True), twin.product(*back, tiling, True))
    back = ([d_spectrum], stored[:1])
    assert_close(spectral.stored_product(*back, tiling, True), twin.stored_product(*back, tiling, True))
    expected = twin.kernel_gradient(spectra[0], d_spectrum, tiling)
    assert_close(spectral.kernel_gradient(spectra[0], d_spectrum, tiling), expected)
    product = np.empty((*tiling.half, 2, spectra[0].shape[5], d_spectrum.shape[5]), np.float32)
    _kernels.stored_gradient(spectra[0], d_spectrum, tiling.tile, product)
    x, d = (array[..., 0, :] + 1j * array[..., 1, :] for array in (spectra[0].astype(float), d_spectrum))
    expected = np.einsum("zybxi,zybxo->zyxio", x, np.conj(d))
    assert_close(product, np.stack([expected.real, expected.imag], axis=3))


@given(problems())
def test_every_shape_equals_its_twin(problem):
    check(*problem)


WIDE = [
    ((8, 8, 8), (5, 5, 5), [16, 16, 8], 40, 16, 0),
    ((1, 12, 34), (1, 5, 20), [40], 40, 25, 1),
    ((12, 6, 7), (3, 6, 7), [40], 1, 5, 2),
    ((4, 5, 10), (4, 2, 4), [1], 40, 11, 3),
    ((5, 1, 9), (5, 1, 9), [33], 17, 7, 4),
    ((4, 9, 27), (3, 5, 5), [24, 16], 40, 4, 5),  # few entries, lines in unequal pieces
    ((1, 9, 40), (1, 7, 11), [3], 16, 13, 6),  # an odd number of vectors along y, entries in two parts
]


@pytest.mark.parametrize("problem", WIDE)
def test_the_widths_of_networks_equal_their_twin(problem):
    check(*problem)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("wish", SETS)
def test_every_instruction_set_equals_the_twin(wish):
    run_with_instruction_set(__file__, wish)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("n_out", [8, 16, 17])
def test_what_is_not_finite_stays_with_its_entry_and_channel(value, n_out):
    tiling, (x,), (kernel,), d = spectra_and_kernels((4, 4, 4), (3, 2, 3), [6], n_out, 5, 0)
    x[1, 2, 3, 1, 0, 2] = value
    product = spectral.product([x], [kernel], tiling)
    finite = np.ones(product.shape, bool)
    finite[1, 2, 3, 1] = False
    np.testing.assert_array_equal(np.isfinite(product), finite)
    gradient = spectral.kernel_gradient(x, d, tiling)
    np.testing.assert_array_equal(np.isfinite(gradient).all(axis=(0, 1, 2, 4)), np.arange(6) != 2)
    x[...] = 1
    kernel[0, 1, 0, 4, n_out - 1] = value
    product = spectral.product([x], [kernel], tiling)
    np.testing.assert_array_equal(np.isfinite(product).all(axis=(0, 1, 2, 3, 4)), np.arange(n_out) != n_out - 1)


@pytest.mark.parametrize(("tile", "kernel"), [((7, 6, 5), (3, 2, 4)), ((1, 9, 8), (1, 4, 3)), ((6, 4, 4), (1, 3, 3))])
@pytest.mark.parametrize("n_shares", [2, 3, 8])
def test_shares_of_a_kernel_gradient_add_up(tile, kernel, n_shares):
    tiling, (x,), _, d = spectra_and_kernels(tile, kernel, [5], 20, 3, 1)
    whole = spectral.kernel_gradient(x, d, tiling)
    shares = [spectral.kernel_gradient(x, d, tiling, (i, n_shares)) for i in range(n_shares)]
    np.testing.assert_allclose(sum(shares), whole, rtol=0, atol=2e-6 * np.abs(whole).max())
    for i, share in enumerate(shares):
        expected = reference_spectral.kernel_gradient(x.astype(np.float64), d, tiling, (i, n_shares))
        np.testing.assert_allclose(share, expected, rtol=0, atol=2e-6 * np.abs(whole).max())
    with pytest.raises(ValueError, match="share"):
        spectral.kernel_gradient(x, d, tiling, (n_shares, n_shares))


@pytest.mark.parametrize(("n_in", "batch"), [(3, 0), (0, 3)])
def test_an_empty_batch_is_refused(n_in, batch):
    tiling, spectra, kernels, d_spectrum = spectra_and_kernels((4, 4, 4), (2, 2, 2), [n_in], 5, batch, 0)
    stored = [np.zeros((*tiling.half, 2, n_in, 5), np.float32)]
    words = "at least one entry and one channel"
    for call in (
        lambda: _kernels.spectral_product(
            spectra, kernels, tiling.tile, list(twiddles(tiling.tile, tiling.kernel)), False, d_spectrum
        ),
        lambda: _kernels.stored_product(spectra, stored, tiling.tile, False, d_spectrum),
        lambda: _kernels.spectral_gradient(
            spectra[0], d_spectrum, tiling.tile, list(twiddles(tiling.tile, tiling.kernel)), 0, 1, kernels[0]
        ),
        lambda: _kernels.stored_gradient(spectra[0], d_spectrum, tiling.tile, stored[0]),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_tables_of_another_size_are_refused():
    tiling, (x,), (kernel,), out = spectra_and_kernels((4, 4, 4), (2, 2, 2), [3], 5, 2, 0)
    for tile, taps, words in (((5, 6, 4), (2, 2, 2), "fit the transform"), ((4, 4, 4), (2, 3, 2), "fit the kernel")):
        with pytest.raises(ValueError, match=f"twiddles do not {words}"):
            _kernels.spectral_product([x], [kernel], tiling.tile, list(twiddles(tile, taps)), False, out)


@given(axes(largest=40))
def test_tables_make_the_transform_of_each_tap(axis):
    n, k = axis
    table = twiddles((1, 1, n), (1, 1, k))[2].astype(np.float64)
    n_even = k - k // 2
    for tap in range(k):
        # A single tap: its opposite is 0, so both parities hold it, of which the difference has a sign.
        pair, sign = (k - 1 - tap, 1) if tap >= n_even else (tap, -1)
        sine = 0.0 if 2 * tap == k - 1 else table[:, k - 1 - pair]
        spectrum = (table[:, pair] + 1j * sign * sine) * (table[:, k] + 1j * table[:, k + 1])
        np.testing.assert_allclose(spectrum, np.exp(2j * np.pi * np.arange(n // 2 + 1) * tap / n), atol=3e-7)


def main() -> None:
    for problem in WIDE:
        check(*problem)
    rng = np.random.default_rng(0)
    for n_out in WIDTHS:
        transform = tuple(int(n) for n in rng.integers(1, 8, 3))
        kernel = tuple(int(rng.integers(1, n + 1)) for n in transform)
        blocks = [int(n) for n in rng.integers(1, 12, 2)]
        check(transform, kernel, blocks, n_out, int(rng.integers(1, 15)), n_out)
    print(_kernels.isa())


if __name__ == "__main__":
    main()
