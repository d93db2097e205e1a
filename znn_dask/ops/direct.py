"""Direct convolution: forward, input gradient and kernel gradient.

Images are float32 of shape ``(batch, z, y, x, channel)``, kernels ``(kz, ky, kx, in, out)``, sizes in voxels.
Convolution is valid cross-correlation: ``output[v, o] = sum_d,i image[v + d, i] * kernel[d, i, o]``.
Values of a node may come as several blocks of channels, which are summed over in registers.
"""

from collections.abc import Sequence

import numpy as np

from znn_dask import _kernels
from znn_dask.ops import reference, transfer
from znn_dask.ops.memory import Array, empty, zeros
from znn_dask.ops.transfer import Activation
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


def _reference_forward(images: Sequence[Array], kernels: Sequence[Array]) -> Array:
    total: Array = np.sum([reference.conv_forward(i, k) for i, k in zip(images, kernels, strict=True)], axis=0)
    return total


def _reference_backward(d_outputs: Sequence[Array], kernels: Sequence[Array]) -> Array:
    total: Array = np.sum(
        [reference.conv_input_gradient(d, k) for d, k in zip(d_outputs, kernels, strict=True)], axis=0
    )
    return total


@fresh
@twin(_reference_forward)
def forward(images: Sequence[Array], kernels: Sequence[Array]) -> Array:
    """Convolve.

    Parameters
    ----------
    images : blocks of float32 of shape (batch, z, y, x, in)
        The channel blocks of the source.
    kernels : blocks of float32 of shape (kz, ky, kx, in, out)
        One per image block.

    Returns
    -------
    float32 array of shape (batch, z - kz + 1, y - ky + 1, x - kx + 1, out)

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    (batch, *size, _), kernel = images[0].shape, kernels[0].shape
    valid = tuple(n - k + 1 for n, k in zip(size, kernel[:3], strict=True))
    if min(valid) < 1:
        raise ValueError(f"a kernel of {kernel[:3]} does not fit an image of {tuple(size)} (z, y, x)")
    out = empty((batch, *valid, kernel[4]))
    _kernels.direct_forward(list(images), list(kernels), out)
    return out


@fresh
def forward_transfer(
    images: Sequence[Array],
    kernels: Sequence[Array],
    bias: Array | None = None,
    activation: Activation | None = None,
) -> Array:
    """Convolve, then add the bias and apply the transfer function if one is given."""
    image = forward(images, kernels)
    return image if activation is None else transfer.forward(image, bias, activation, out=image)


@fresh
@twin(_reference_backward)
def backward(d_outputs: Sequence[Array], kernels: Sequence[Array]) -> Array:
    """Return the gradient of the image: a full convolution, as a valid one of the padded gradient.

    Parameters
    ----------
    d_outputs : blocks of float32 of shape (batch, z, y, x, out)
        The channel blocks of the target's gradient.
    kernels : blocks of float32 of shape (kz, ky, kx, in, out)
        One per gradient block.

    Returns
    -------
    float32 array of shape (batch, z + kz - 1, y + ky - 1, x + kx - 1, in)
    """
    kz, ky, kx, n_in, _ = kernels[0].shape
    batch, z, y, x, _ = d_outputs[0].shape
    turned = [np.ascontiguousarray(kernel[::-1, ::-1, ::-1].swapaxes(3, 4)) for kernel in kernels]
    out = empty((batch, z + kz - 1, y + ky - 1, x + kx - 1, n_in))
    # Only x is padded in memory: along z and y the kernel skips the taps that fall on zeros.
    _kernels.direct_forward([_pad_x(d, kx - 1) for d in d_outputs], turned, out, kz - 1, ky - 1)
    return out


@fresh
@twin(reference.conv_kernel_gradient)
def kernel_gradient(image: Array, d_output: Array) -> Array:
    """Return the gradient of the kernel, of shape (kz, ky, kx, in, out).

    Parameters
    ----------
    image : float32 of shape (batch, z, y, x, in)
    d_output : float32 of shape (batch, z - kz + 1, y - ky + 1, x - kx + 1, out)
    """
    size = tuple(n - m + 1 for n, m in zip(image.shape[1:4], d_output.shape[1:4], strict=True))
    d_kernel = empty((*size, image.shape[4], d_output.shape[4]))
    _kernels.direct_gradient(image, d_output, d_kernel)
    return d_kernel


def _pad_x(image: Array, pad: int) -> Array:
    if pad == 0:
        return image
    batch, z, y, x, channels = image.shape
    padded = zeros((batch, z, y, x + 2 * pad, channels))
    padded[:, :, :, pad : pad + x] = image
    return padded
