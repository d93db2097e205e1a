"""Direct convolution: forward, input gradient and kernel gradient.

Images are float32 of shape ``(batch, z, y, x, channel)``, kernels ``(kz, ky, kx, in, out)``, sizes in voxels.
Convolution is valid cross-correlation: ``output[v, o] = sum_d,i image[v + d, i] * kernel[d, i, o]``.
Values of a node may come as several blocks of channels, which are summed over in registers.
"""

from collections.abc import Sequence

import numpy as np

from znn_dask import _kernels
from znn_dask.ops import reference
from znn_dask.ops.memory import Array, empty, zeros
from znn_dask.ops.transfer import Activation
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


def _reference_forward(images: Sequence[Array], kernels: Sequence[Array]) -> Array:
    total: Array = np.sum([reference.conv_forward(i, k) for i, k in zip(images, kernels, strict=True)], axis=0)
    return total


def _reference_forward_transfer(
    images: Sequence[Array],
    kernels: Sequence[Array],
    bias: Array | None = None,
    activation: Activation | None = None,
) -> Array:
    image = _reference_forward(images, kernels)
    if activation is None:
        return image
    return reference.transfer_forward(image, bias, activation.function, activation.args)


def _reference_backward(d_outputs: Sequence[Array], kernels: Sequence[Array]) -> Array:
    total: Array = np.sum(
        [reference.conv_input_gradient(d, k) for d, k in zip(d_outputs, kernels, strict=True)], axis=0
    )
    return total


def _empty_output(images: Sequence[Array], kernels: Sequence[Array]) -> Array:
    (batch, *size, _), kernel = images[0].shape, kernels[0].shape
    valid = tuple(n - k + 1 for n, k in zip(size, kernel[:3], strict=True))
    if min(valid) < 1:
        raise ValueError(f"a kernel of {kernel[:3]} does not fit an image of {tuple(size)} (z, y, x)")
    return empty((batch, *valid, kernel[4]))


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
    out = _empty_output(images, kernels)
    _kernels.direct_forward(list(images), list(kernels), out)
    return out


@fresh
@twin(_reference_forward_transfer)
def forward_transfer(
    images: Sequence[Array],
    kernels: Sequence[Array],
    bias: Array | None = None,
    activation: Activation | None = None,
) -> Array:
    """Convolve, then add the bias and apply the transfer function if one is given, as the sums leave the registers.

    The values are those of `forward` and `transfer.forward`, bit for bit.
    """
    out = _empty_output(images, kernels)
    function = () if activation is None else (bias, activation.code, activation.a, activation.b)
    _kernels.direct_forward(list(images), list(kernels), out, *function)
    return out


@fresh
@twin(_reference_backward)
def backward(d_outputs: Sequence[Array], kernels: Sequence[Array]) -> Array:
    """Return the gradient of the image: a full convolution with the turned kernel.

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
    d_image = empty((batch, z + kz - 1, y + ky - 1, x + kx - 1, n_in))
    _kernels.direct_backward(list(d_outputs), list(kernels), d_image)
    return d_image


def _shared(image: Array, d_output: Array, share: tuple[int, int]) -> tuple[Array, Array]:
    """Return what a share of the kernel gradient is made of: part of the first axis that has more than one position."""
    axis = next((axis for axis in range(3) if d_output.shape[axis] > 1), 2)
    n, reach = d_output.shape[axis], image.shape[axis] - d_output.shape[axis]
    first, stop = n * share[0] // share[1], n * (share[0] + 1) // share[1]
    before = (slice(None),) * axis
    parts = image[(*before, slice(first, stop + reach))], d_output[(*before, slice(first, stop))]
    return np.ascontiguousarray(parts[0]), np.ascontiguousarray(parts[1])


def _reference_kernel_gradient(image: Array, d_output: Array, share: tuple[int, int] = (0, 1)) -> Array:
    return reference.conv_kernel_gradient(*_shared(image, d_output, share))


@fresh
@twin(_reference_kernel_gradient)
def kernel_gradient(image: Array, d_output: Array, share: tuple[int, int] = (0, 1)) -> Array:
    """Return the gradient of the kernel, of shape (kz, ky, kx, in, out).

    A ``share`` (i, n) is the i-th of n parts that add up to it: what some of the entries or positions give.

    Parameters
    ----------
    image : float32 of shape (batch, z, y, x, in)
    d_output : float32 of shape (batch, z - kz + 1, y - ky + 1, x - kx + 1, out)
    share : (int, int)
    """
    size = tuple(n - m + 1 for n, m in zip(image.shape[1:4], d_output.shape[1:4], strict=True))
    d_kernel = empty((*size, image.shape[4], d_output.shape[4]))
    if share != (0, 1):
        image, d_output = _shared(image, d_output, share)
        if not d_output.size:
            return zeros(d_kernel.shape)
    _kernels.direct_gradient(image, d_output, d_kernel)
    return d_kernel
