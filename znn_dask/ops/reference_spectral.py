"""The obvious numpy twins of the steps of a spectral convolution, with the same arguments as those in `spectral`.

A correlation is a product with the conjugate of the kernel's transform; its input gradient a product with the
transform itself; its kernel gradient the product of the image with the conjugate of the output gradient. Tiles
are further batch entries (overlap-save forward, overlap-add backward). Promises: arithmetic in float64; results
have the dtype of the first argument.

Images ``(batch, z, y, x, channel)``; spectra ``(fz, fy, tile * batch, fx, 2, channel)``, the axis of two being
real and imaginary part, fx halved; kernels ``(kz, ky, kx, in, out)``. Sizes in voxels (z, y, x).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from znn_dask.geometry import Triple
from znn_dask.ops.reference import transfer_forward
from znn_dask.ops.reference_layout import Array, size_of, window_at

IMAGE_AXES = (1, 2, 3)  # that are transformed
KERNEL_AXES = (0, 1, 2)
IMAGE_PARTS = 4  # axis of real and imaginary part
KERNEL_PARTS = 3


class Tiles(Protocol):
    """How an image is cut for a kernel: see `spectral.Tiling`."""

    @property
    def kernel(self) -> Triple:
        """Taps of the kernel."""

    @property
    def tile(self) -> Triple:
        """Size of the transform."""

    @property
    def size(self) -> Triple:
        """Size of the image."""

    @property
    def output_size(self) -> Triple:
        """Size of the convolved image."""

    @property
    def block(self) -> Triple:
        """Outputs of one tile."""

    @property
    def origins(self) -> Sequence[Triple]:
        """First voxel of each tile, in image and output alike."""


class Function(Protocol):
    """A transfer function: see `transfer.Activation`."""

    @property
    def function(self) -> str:
        """Its name."""

    @property
    def args(self) -> Sequence[float]:
        """Its arguments."""


def image_spectrum(image: Array, tiling: Tiles, wisdom: object = None) -> Array:
    """Transform the overlapping tiles of an image; voxels beyond its end count as zero."""
    return _transform(image, tiling.origins, tiling.tile, tiling.tile)


def gradient_spectrum(d_output: Array, tiling: Tiles, wisdom: object = None) -> Array:
    """Transform the blocks of an output gradient, padded with zeros to tiles."""
    return _transform(d_output, tiling.origins, tiling.block, tiling.tile)


def output_image(
    spectrum: Array,
    tiling: Tiles,
    bias: Array | None = None,
    activation: Function | None = None,
    wisdom: object = None,
) -> Array:
    """Put the valid outputs of every tile side by side; apply bias and transfer function if given."""
    image = _put_together(spectrum, tiling, tiling.block, tiling.output_size)
    if activation is not None:
        image = transfer_forward(image, bias, activation.function, activation.args)
    return image.astype(spectrum.dtype)


def gradient_image(spectrum: Array, tiling: Tiles, wisdom: object = None) -> Array:
    """Add up the overlapping tiles of an image's gradient."""
    return _put_together(spectrum, tiling, tiling.tile, tiling.size).astype(spectrum.dtype)


def kernel_spectrum(kernel: Array, tiling: Tiles, wisdom: object = None) -> Array:
    """Transform a kernel, padded with zeros to a tile: shape (fz, fy, fx, 2, in, out)."""
    return _split(_kernel_transform(kernel, tiling), KERNEL_PARTS).astype(kernel.dtype)


def product(spectra: Sequence[Array], kernels: Sequence[Array], tiling: Tiles, backward: bool = False) -> Array:
    """Multiply spectra with the transforms of kernels, and sum over channels and blocks."""
    return _product(spectra, [_kernel_transform(kernel, tiling) for kernel in kernels], backward)


def stored_product(spectra: Sequence[Array], kernels: Sequence[Array], tiling: Tiles, backward: bool = False) -> Array:
    """As `product`, with the spectra of the kernels."""
    return _product(spectra, [_join(kernel, KERNEL_PARTS) for kernel in kernels], backward)


def kernel_gradient(spectrum: Array, d_spectrum: Array, tiling: Tiles, share: tuple[int, int] = (0, 1)) -> Array:
    """Return the gradient of the kernel from the spectra of image and output gradient, summed over the batch."""
    x, d = _matrices(spectrum), _matrices(d_spectrum)
    products = np.swapaxes(x, 3, 4) @ np.conj(d)
    axis = 0 if tiling.tile[0] > 1 else 1
    for f in range(tiling.tile[axis]):
        # A frequency and its negative belong to the same share.
        n_half, folded = tiling.tile[axis] // 2 + 1, min(f, tiling.tile[axis] - f)
        if not n_half * share[0] // share[1] <= folded < n_half * (share[0] + 1) // share[1]:
            products[(slice(None),) * axis + (f,)] = 0
    taps = np.fft.irfftn(products, s=tiling.tile, axes=KERNEL_AXES)
    return taps[tuple(map(slice, tiling.kernel))].astype(spectrum.dtype)


def stored_kernel_gradient(spectrum: Array, d_spectrum: Array, tiling: Tiles, wisdom: object = None) -> Array:
    """Return the same."""
    return kernel_gradient(spectrum, d_spectrum, tiling)


def _transform(image: Array, origins: Sequence[Triple], filled: Triple, tile: Triple) -> Array:
    parts = []
    for origin in origins:
        part = window_at(image, origin, filled)
        parts.append(np.fft.rfftn(part.astype(np.float64), s=tile, axes=IMAGE_AXES))
    return _spectrum(np.concatenate(parts)).astype(image.dtype)


def _kernel_transform(kernel: Array, tiling: Tiles) -> Array:
    return np.fft.rfftn(kernel.astype(np.float64), s=tiling.tile, axes=KERNEL_AXES)


def _put_together(spectrum: Array, tiling: Tiles, count: Triple, size: Triple) -> Array:
    tiles = np.fft.irfftn(_complex(spectrum), s=tiling.tile, axes=IMAGE_AXES)
    n_batch = len(tiles) // len(tiling.origins)
    image = np.zeros((n_batch, *size, tiles.shape[4]))
    for index, origin in enumerate(tiling.origins):
        place = window_at(image, origin, count)
        part = tiles[index * n_batch : (index + 1) * n_batch]
        place += window_at(part, (0, 0, 0), size_of(place))
    return image


def _product(spectra: Sequence[Array], kernels: Sequence[Array], backward: bool) -> Array:
    weights = [np.swapaxes(kernel, 3, 4) if backward else np.conj(kernel) for kernel in kernels]
    terms = [_matrices(spectrum) @ weight for spectrum, weight in zip(spectra, weights, strict=True)]
    total = np.moveaxis(sum(terms[1:], start=terms[0]), 3, 0)
    return np.ascontiguousarray(_spectrum(total), spectra[0].dtype)


def _matrices(spectrum: Array) -> Array:
    """Return the complex matrix (entry, channel) of every frequency."""
    return np.moveaxis(_complex(spectrum), 0, 3)


def _spectrum(values: Array) -> Array:
    """Return complex values (entry, fz, fy, fx, channel) as a spectrum."""
    return np.moveaxis(_split(values, IMAGE_PARTS), 0, 2)


def _complex(spectrum: Array) -> Array:
    """Return a spectrum as complex values (entry, fz, fy, fx, channel)."""
    return _join(np.moveaxis(spectrum, 2, 0), IMAGE_PARTS)


def _split(spectrum: Array, axis: int) -> Array:
    return np.stack([spectrum.real, spectrum.imag], axis=axis)


def _join(spectrum: Array, axis: int) -> Array:
    parts = np.moveaxis(spectrum.astype(np.float64), axis, 0)
    joined: Array = parts[0] + 1j * parts[1]
    return joined
