"""Transforms of tiles, by our own kernels and by the libraries, against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_cases import SEEDS, normal, on_threads, triples

from znn_dask.ops import fft, reference, spectral
from znn_dask.ops.spectral import Tiling
from znn_dask.ops.transfer import FUNCTIONS, Activation

BACKENDS = ("native", "pyfftw", "scipy")
# Lines of one part and of several, with every straight-line transform among them.
LENGTHS = [
    *range(1, 17),
    18,
    20,
    22,
    24,
    25,
    26,
    28,
    30,
    32,
    35,
    36,
    40,
    45,
    48,
    56,
    60,
    64,
    72,
    81,
    96,
    121,
    128,
    169,
    240,
    256,
]


def spectra(image, tiling, filled):
    """Every tile's transform in float64, as the kernels lay it out."""
    parts = []
    for origin in tiling.origins:
        box = tuple(slice(o, o + n) for o, n in zip(origin, filled, strict=True))
        f = np.fft.rfftn(image[:, *box].astype(np.float64), s=tiling.tile, axes=(1, 2, 3))
        parts.append(np.stack([f.real, f.imag], axis=4))
    return np.moveaxis(np.concatenate(parts), 0, 2)


def images(spectrum, tiling, count, size):
    """Every tile put back and added up, in float64."""
    s = np.moveaxis(spectrum.astype(np.float64), 2, 0)
    tiles = np.fft.irfftn(s[..., 0, :] + 1j * s[..., 1, :], s=tiling.tile, axes=(1, 2, 3))
    batch = len(tiles) // tiling.n_tiles
    image = np.zeros((batch, *size, spectrum.shape[5]))
    for index, origin in enumerate(tiling.origins):
        box = tuple(slice(o, o + n) for o, n in zip(origin, count, strict=True))
        place = image[:, *box]
        place += tiles[index * batch : (index + 1) * batch, : place.shape[1], : place.shape[2], : place.shape[3]]
    return image


def assert_near(found, expected):
    """Relative error in the 2-norm; float32 transforms stay well below 1e-6."""
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


@given(triples(1, 20), triples(0, 15), st.integers(1, 3), st.integers(1, 37), SEEDS, st.data())
@settings(deadline=None, max_examples=60)
def test_tiles_of_any_shape_go_there_and_back(tile, more, batch, channels, seed, data):
    kernel = tuple(data.draw(st.integers(1, t)) for t in tile)
    size = tuple(k + m for k, m in zip(kernel, more, strict=True))
    tiling = Tiling(size, kernel, tile, data.draw(st.sampled_from(BACKENDS)))
    if fft.library(tiling.backend, tile) != tiling.backend:
        return
    rng = np.random.default_rng(seed)
    image = normal(rng, batch, *size, channels, dtype=np.float32)
    d_output = normal(rng, batch, *tiling.output_size, channels, dtype=np.float32)
    x, d = spectral.image_spectrum(image, tiling), spectral.gradient_spectrum(d_output, tiling)
    assert_near(x, spectra(image, tiling, tile))
    assert_near(d, spectra(d_output, tiling, tiling.block))
    assert_near(spectral.output_image(x, tiling), images(x, tiling, tiling.block, tiling.output_size))
    assert_near(spectral.gradient_image(d, tiling), images(d, tiling, tile, size))


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("batch", [1, 3, 19])
def test_tiles_of_few_channels_share_vectors(channels, batch):
    """More tiles than fit one vector, the last vector not full, tiles that reach beyond the image."""
    tiling = Tiling((9, 11, 8), (3, 2, 1), (5, 6, 3), "native")
    rng = np.random.default_rng(channels)
    image = normal(rng, batch, *tiling.size, channels, dtype=np.float32)
    d_output = normal(rng, batch, *tiling.output_size, channels, dtype=np.float32)
    x, d = spectral.image_spectrum(image, tiling), spectral.gradient_spectrum(d_output, tiling)
    assert_near(x, spectra(image, tiling, tiling.tile))
    assert_near(d, spectra(d_output, tiling, tiling.block))
    assert_near(spectral.output_image(x, tiling), images(x, tiling, tiling.block, tiling.output_size))
    assert_near(spectral.gradient_image(d, tiling), images(d, tiling, tiling.tile, tiling.size))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_length_on_every_axis(n, axis):
    size = tuple(n if d == axis else 2 for d in range(3))
    tiling = Tiling(size, (1, 1, 1), size, "native")
    assert fft.native(size)
    image = normal(np.random.default_rng(n), 1, *size, 16, dtype=np.float32)
    x = spectral.image_spectrum(image, tiling)
    assert_near(x, spectra(image, tiling, size))
    assert_near(spectral.output_image(x, tiling), image.astype(np.float64))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("channels", [3, 16, 21])
def test_bias_and_function_are_applied_on_the_way_back(function, channels):
    rng = np.random.default_rng(3)
    tiling = Tiling((7, 8, 9), (2, 3, 2), (4, 6, 5), "native")
    spectrum = spectral.image_spectrum(normal(rng, 2, 7, 8, 9, channels, dtype=np.float32), tiling)
    bias = normal(rng, channels, dtype=np.float32)
    plain = images(spectrum, tiling, tiling.block, tiling.output_size)
    found = spectral.output_image(spectrum, tiling, bias, Activation(function))
    assert_near(found, reference.transfer_forward(plain, bias, function))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_get_the_same_numbers(backend, num_workers):
    tiling = Tiling((9, 9, 9), (3, 3, 3), (5, 5, 5), backend)
    image = normal(np.random.default_rng(0), 2, 9, 9, 9, 16, dtype=np.float32)
    expected = spectral.image_spectrum(image, tiling)
    for found in on_threads(lambda: spectral.image_spectrum(image, tiling), num_workers, repetitions=3):
        np.testing.assert_array_equal(found, expected)


def test_sizes_that_our_kernels_leave_to_a_library():
    assert fft.native((1, 256, 169))
    assert not fft.native((17, 4, 4))
    assert not fft.native((4, 4, 257))
    assert fft.library("native", (17, 4, 4)) == "pyfftw"
    assert fft.library("scipy", (17, 4, 4)) == "scipy"
    assert fft.backends_for((8, 8, 8)) == ("native", "pyfftw")
    assert fft.backends_for((8, 34, 8)) == ("pyfftw",)


@pytest.mark.parametrize("shape", [(0, 4, 4, 4, 3), (2, 4, 4, 4, 0)])
def test_empty_batches_and_channels_are_refused(shape):
    with pytest.raises(ValueError, match="the image not empty"):
        spectral.image_spectrum(np.zeros(shape, np.float32), Tiling((4, 4, 4), (1, 1, 1), (4, 4, 4), "native"))
