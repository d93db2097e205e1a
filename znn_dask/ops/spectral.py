"""Spectral convolution by tiles: transforms of images, products with kernels, inverse transforms.

An image larger than the tile is cut into tiles that are further batch entries (Zlateski et al. 2018 for tiles of
FFTs on CPUs). Forward is overlap-save, the input gradient overlap-add; both share the spectra that the kernel
gradient needs: of the overlapping image tiles and of the zero-padded blocks of the output gradient.

Images: float32 ``(batch, z, y, x, channel)``. Spectra: float32 ``(fz, fy, tile * batch, fx, 2, channel)``, the axis
of two being real and imaginary part, fx halved. Kernels: ``(kz, ky, kx, in, out)``. Sizes in voxels (z, y, x).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.geometry import Triple, ceil_div, volume
from znn_dask.ops import fft, reference_spectral
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.transfer import Activation
from znn_dask.ops.transfer import forward as transfer_forward
from znn_dask.ops.twiddles import twiddles
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

ORIGIN = (0, 0, 0)


@dataclass(frozen=True)
class Tiling:
    """How an image is cut for a kernel.

    Parameters
    ----------
    size : (z, y, x)
        Of the image.
    kernel : (z, y, x)
        Taps of the kernel.
    tile : (z, y, x)
        Of the transform; at least the kernel. A tile as large as the image is the whole-image algorithm.
    backend : str
        Of the transforms, see `fft`.
    """

    size: Triple
    kernel: Triple
    tile: Triple
    backend: str = "pyfftw"

    @cached_property
    def output_size(self) -> Triple:
        """Size of the convolved image."""
        z, y, x = (n - k + 1 for n, k in zip(self.size, self.kernel, strict=True))
        return z, y, x

    @cached_property
    def block(self) -> Triple:
        """Outputs of one tile."""
        z, y, x = (t - k + 1 for t, k in zip(self.tile, self.kernel, strict=True))
        return z, y, x

    @cached_property
    def n_tiles(self) -> int:
        """Number of tiles of one image."""
        return volume(self._counts)

    @cached_property
    def half(self) -> Triple:
        """Size of a tile's spectrum."""
        return self.tile[0], self.tile[1], self.tile[2] // 2 + 1

    def spectrum_shape(self, batch: int, channels: int) -> tuple[int, ...]:
        """Return the shape of the spectra of all tiles of a batch of images: entries of a line lie together."""
        z, y, x = self.half
        return z, y, self.n_tiles * batch, x, 2, channels

    @cached_property
    def origins(self) -> tuple[Triple, ...]:
        """First voxel of each tile, in the image and in the output alike."""
        nz, ny, nx = self._counts
        bz, by, bx = self.block
        return tuple((z * bz, y * by, x * bx) for z in range(nz) for y in range(ny) for x in range(nx))

    @cached_property
    def origin_table(self) -> npt.NDArray[np.int32]:
        """The origins as an array (tile, 3)."""
        return np.array(self.origins, np.int32)

    @cached_property
    def _counts(self) -> Triple:
        z, y, x = (ceil_div(n, b) for n, b in zip(self.output_size, self.block, strict=True))
        return z, y, x


def _transform(image: Array, tiling: Tiling, filled: Triple, wisdom: fft.Wisdom) -> Array:
    """Return the spectra of all tiles, of which only ``filled`` voxels are taken from the image."""
    batch, channels = image.shape[0], image.shape[4]
    spectrum = empty(tiling.spectrum_shape(batch, channels))
    if tiling.backend == "native":
        _kernels.tile_forward(image, fft.native_axes(tiling.tile), filled, tiling.origin_table, spectrum)
        return spectrum
    lanes = fft.lanes_for(tiling.tile, channels)
    plan = fft.plan(tiling.backend, tiling.tile, lanes, wisdom)
    of_entry = empty((*tiling.half, 2, channels))
    for tile, origin in enumerate(tiling.origins):
        for entry in range(batch):
            for first in range(0, channels, lanes):
                count = min(lanes, channels - first)
                _kernels.gather_tile(image[entry], origin, filled, first, count, plan.real)
                plan.forward()
                _kernels.split_complex(plan.spectrum, first, count, of_entry)
            spectrum[:, :, tile * batch + entry] = of_entry
    return spectrum


def _inverse(
    spectrum: Array,
    tiling: Tiling,
    count: Triple,
    image: Array,
    wisdom: fft.Wisdom,
    bias: Array | None = None,
    activation: Activation | None = None,
) -> Array:
    """Put the first ``count`` voxels of every tile at its origin in the image, adding where tiles overlap."""
    batch, channels = image.shape[0], image.shape[4]
    overlap = tuple(n - b for n, b in zip(count, tiling.block, strict=True)) if tiling.n_tiles > 1 else ORIGIN
    scale = 1.0 / volume(tiling.tile)
    if tiling.backend == "native":
        function = activation or Activation("linear")
        _kernels.tile_inverse(
            spectrum,
            fft.native_axes(tiling.tile),
            count,
            overlap,
            tiling.origin_table,
            scale,
            bias,
            function.code,
            function.a,
            function.b,
            image,
        )
        return image
    lanes = fft.lanes_for(tiling.tile, channels)
    plan = fft.plan(tiling.backend, tiling.tile, lanes, wisdom)
    of_entry = empty((*tiling.half, 2, channels))
    add = any(overlap)
    if add:
        image.fill(0.0)
    for tile, origin in enumerate(tiling.origins):
        for entry in range(batch):
            of_entry[...] = spectrum[:, :, tile * batch + entry]
            for first in range(0, channels, lanes):
                n = min(lanes, channels - first)
                _kernels.join_complex(of_entry, first, n, plan.spectrum)
                plan.inverse()
                _kernels.scatter_tile(plan.real, ORIGIN, count, scale, add, origin, first, n, image[entry])
    return image if activation is None else transfer_forward(image, bias, activation, out=image)


@fresh
@twin(reference_spectral.image_spectrum)
def image_spectrum(image: Array, tiling: Tiling, wisdom: fft.Wisdom = fft.ESTIMATE) -> Array:
    """Transform the overlapping tiles of an image."""
    return _transform(image, tiling, tiling.tile, wisdom)


@fresh
@twin(reference_spectral.gradient_spectrum)
def gradient_spectrum(d_output: Array, tiling: Tiling, wisdom: fft.Wisdom = fft.ESTIMATE) -> Array:
    """Transform the blocks of an output gradient, padded with zeros to tiles."""
    return _transform(d_output, tiling, tiling.block, wisdom)


@fresh
@twin(reference_spectral.output_image)
def output_image(
    spectrum: Array,
    tiling: Tiling,
    bias: Array | None = None,
    activation: Activation | None = None,
    wisdom: fft.Wisdom = fft.ESTIMATE,
) -> Array:
    """Transform a product back to the output image, with bias and transfer function applied if given."""
    batch = spectrum.shape[2] // tiling.n_tiles
    image = empty((batch, *tiling.output_size, spectrum.shape[5]))
    return _inverse(spectrum, tiling, tiling.block, image, wisdom, bias, activation)


@fresh
@twin(reference_spectral.gradient_image)
def gradient_image(spectrum: Array, tiling: Tiling, wisdom: fft.Wisdom = fft.ESTIMATE) -> Array:
    """Transform a product back to the gradient of the image; tiles overlap and are added."""
    batch = spectrum.shape[2] // tiling.n_tiles
    return _inverse(spectrum, tiling, tiling.tile, empty((batch, *tiling.size, spectrum.shape[5])), wisdom)


@fresh
@twin(reference_spectral.product)
def product(spectra: Sequence[Array], kernels: Sequence[Array], tiling: Tiling, backward: bool = False) -> Array:
    """Multiply spectra with kernels, which are transformed on the fly, and sum over all channel blocks.

    Parameters
    ----------
    spectra : blocks of float32 of shape (fz, fy, batch, fx, 2, channel)
        Of the image, or backward of the output gradient.
    kernels : blocks of float32 of shape (kz, ky, kx, in, out)
        One per spectrum; backward their ``out`` is summed over.
    tiling : Tiling
        Of the spectra.
    backward : bool
        Convolve instead of correlating: the input gradient.

    Returns
    -------
    float32 array of shape (fz, fy, batch, fx, 2, out), backward (..., in)
    """
    channels = kernels[0].shape[3 if backward else 4]
    out = empty((*spectra[0].shape[:5], channels))
    tables = list(twiddles(tiling.tile, tiling.kernel))
    _kernels.spectral_product(list(spectra), list(kernels), tiling.tile, tables, backward, out)
    return out


@fresh
@twin(reference_spectral.kernel_gradient)
def kernel_gradient(spectrum: Array, d_spectrum: Array, tiling: Tiling, share: tuple[int, int] = (0, 1)) -> Array:
    """Return the gradient of the kernel, (kz, ky, kx, in, out), from the spectra of image and output gradient.

    A ``share`` (i, n) is the i-th of n parts that add up to it: some of the frequencies along z, along y in 2D.
    """
    d_kernel = empty((*tiling.kernel, spectrum.shape[5], d_spectrum.shape[5]))
    tables = list(twiddles(tiling.tile, tiling.kernel))
    _kernels.spectral_gradient(spectrum, d_spectrum, tiling.tile, tables, *share, d_kernel)
    return d_kernel


# ---- ZNN as published: kernel spectra are tasks of their own and are kept


def _kernel_tiling(tiling: Tiling) -> Tiling:
    # One tile of the transform's size that holds the kernel at its first corner.
    return Tiling(tiling.kernel, tiling.kernel, tiling.tile, tiling.backend)


@fresh
@twin(reference_spectral.kernel_spectrum)
def kernel_spectrum(kernel: Array, tiling: Tiling, wisdom: fft.Wisdom = fft.ESTIMATE) -> Array:
    """Transform a kernel (kz, ky, kx, in, out) to the tile's size: float32 (fz, fy, fx, 2, in, out)."""
    *taps, n_in, n_out = kernel.shape
    spectrum = _transform(kernel.reshape(1, *taps, n_in * n_out), _kernel_tiling(tiling), tiling.kernel, wisdom)
    return spectrum.reshape(*tiling.half, 2, n_in, n_out)


@fresh
@twin(reference_spectral.stored_product)
def stored_product(spectra: Sequence[Array], kernels: Sequence[Array], tiling: Tiling, backward: bool = False) -> Array:
    """As `product`, with the stored spectra of the kernels, (fz, fy, fx, 2, in, out)."""
    out = empty((*spectra[0].shape[:5], kernels[0].shape[4 if backward else 5]))
    _kernels.stored_product(list(spectra), list(kernels), tiling.tile, backward, out)
    return out


@fresh
@twin(reference_spectral.stored_kernel_gradient)
def stored_kernel_gradient(
    spectrum: Array, d_spectrum: Array, tiling: Tiling, wisdom: fft.Wisdom = fft.ESTIMATE
) -> Array:
    """As `kernel_gradient`, by a whole inverse transform of the kernel gradient's spectrum."""
    n_in, n_out = spectrum.shape[5], d_spectrum.shape[5]
    product_spectrum = empty((*tiling.half, 2, n_in, n_out))
    _kernels.stored_gradient(spectrum, d_spectrum, tiling.tile, product_spectrum)
    d_kernel = empty((1, *tiling.kernel, n_in * n_out))
    flat = product_spectrum.reshape(_kernel_tiling(tiling).spectrum_shape(1, n_in * n_out))
    _inverse(flat, _kernel_tiling(tiling), tiling.kernel, d_kernel, wisdom)
    return d_kernel.reshape(*tiling.kernel, n_in, n_out)
