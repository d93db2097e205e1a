"""Direct convolution: forward, input gradient and kernel gradient.

Images are float32 of shape ``(batch, z, y, x, channel)``, kernels ``(kz, ky, kx, in, out)``, sizes in voxels.
Convolution is valid cross-correlation: ``output[v, o] = sum_d,i image[v + d, i] * kernel[d, i, o]``.
Values of a node may come as several blocks of channels, which are summed over in registers.

Every pass takes a ``padding``: voxels (z, y, x) of zeros before the image and after it, fewer than the kernel has taps.
The result is that of a padded image, of which no copy is made: taps that fall on zeros are left out. (The kernel
gradient makes the copy.)
"""

from collections.abc import Callable, Sequence

import numpy as np

from znn_dask import _kernels
from znn_dask.geometry import Triple, add, subtract
from znn_dask.ops import border, reference, reference_sampling
from znn_dask.ops.memory import Array, empty, zeros
from znn_dask.ops.reference_layout import size_of
from znn_dask.ops.transfer import Activation
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

Padding = tuple[Triple, Triple]
NO_PADDING: Padding = ((0, 0, 0), (0, 0, 0))


def reference_forward(images: Sequence[Array], kernels: Sequence[Array], padding: Padding = NO_PADDING) -> Array:
    padded = [reference_sampling.pad(image, *padding, "zero") for image in images]
    total: Array = np.sum([reference.conv_forward(i, k) for i, k in zip(padded, kernels, strict=True)], axis=0)
    return total


def reference_forward_transfer(
    images: Sequence[Array],
    kernels: Sequence[Array],
    bias: Array | None = None,
    activation: Activation | None = None,
    padding: Padding = NO_PADDING,
) -> Array:
    image = reference_forward(images, kernels, padding)
    if activation is None:
        return image
    return reference.transfer_forward(image, bias, activation.function, activation.args)


def reference_backward(d_outputs: Sequence[Array], kernels: Sequence[Array], padding: Padding = NO_PADDING) -> Array:
    total: Array = np.sum(
        [reference.conv_input_gradient(d, k) for d, k in zip(d_outputs, kernels, strict=True)], axis=0
    )
    return reference_sampling.crop(total, *padding)


@fresh
@twin(reference_forward)
def forward(images: Sequence[Array], kernels: Sequence[Array], padding: Padding = NO_PADDING) -> Array:
    """Convolve.

    Parameters
    ----------
    images : blocks of float32 of shape (batch, z, y, x, in)
        The channel blocks of the source.
    kernels : blocks of float32 of shape (kz, ky, kx, in, out)
        One per image block.
    padding : pair of (z, y, x)
        Zeros before and after the image; they count to its size below.

    Returns
    -------
    float32 array of shape (batch, z - kz + 1, y - ky + 1, x - kx + 1, out)

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    return convolve(_kernels.direct_forward, images, kernels, padding=padding)


@fresh
@twin(reference_forward_transfer)
def forward_transfer(
    images: Sequence[Array],
    kernels: Sequence[Array],
    bias: Array | None = None,
    activation: Activation | None = None,
    padding: Padding = NO_PADDING,
) -> Array:
    """Convolve, then add the bias and apply the transfer function if one is given, as the sums leave the registers.

    The values are those of `forward` and `transfer.forward`, bit for bit.
    """
    return convolve(_kernels.direct_forward, images, kernels, bias, activation, padding)


@fresh
@twin(reference_backward)
def backward(d_outputs: Sequence[Array], kernels: Sequence[Array], padding: Padding = NO_PADDING) -> Array:
    """Return the gradient of the image: a full convolution with the turned kernel.

    Parameters
    ----------
    d_outputs : blocks of float32 of shape (batch, z, y, x, out)
        The channel blocks of the target's gradient.
    kernels : blocks of float32 of shape (kz, ky, kx, in, out)
        One per gradient block.
    padding : pair of (z, y, x)
        What the image was padded with; its gradient is left out.

    Returns
    -------
    float32 array of shape (batch, z + kz - 1, y + ky - 1, x + kx - 1, in), less the padding
    """
    return convolve_back(_kernels.direct_backward, d_outputs, kernels, padding)


def _shared(image: Array, d_output: Array, share: tuple[int, int]) -> tuple[Array, Array]:
    """Return what a share of the kernel gradient is made of: part of the first axis that has more than one position."""
    axis = next((axis for axis in range(3) if d_output.shape[axis] > 1), 2)
    n, reach = d_output.shape[axis], image.shape[axis] - d_output.shape[axis]
    first, stop = n * share[0] // share[1], n * (share[0] + 1) // share[1]
    before = (slice(None),) * axis
    parts = image[(*before, slice(first, stop + reach))], d_output[(*before, slice(first, stop))]
    return np.ascontiguousarray(parts[0]), np.ascontiguousarray(parts[1])


def reference_kernel_gradient(
    image: Array, d_output: Array, share: tuple[int, int] = (0, 1), padding: Padding = NO_PADDING
) -> Array:
    image = reference_sampling.pad(image, *padding, "zero")
    return reference.conv_kernel_gradient(*_shared(image, d_output, share))


@fresh
@twin(reference_kernel_gradient)
def kernel_gradient(
    image: Array, d_output: Array, share: tuple[int, int] = (0, 1), padding: Padding = NO_PADDING
) -> Array:
    """Return the gradient of the kernel, of shape (kz, ky, kx, in, out).

    A ``share`` (i, n) is the i-th of n parts that add up to it: what some of the entries or positions give.

    Parameters
    ----------
    image : float32 of shape (batch, z, y, x, in)
    d_output : float32 of shape (batch, z - kz + 1, y - ky + 1, x - kx + 1, out)
    share : (int, int)
    padding : pair of (z, y, x)
        Zeros before and after the image; they count to its size above.
    """
    return correlate(_kernels.direct_gradient, image, d_output, share, padding)


# ---- what other algorithms that read images as they are (`winograd`) share: the kernel that does it is an argument


def convolve(
    kernel: Callable[..., None],
    images: Sequence[Array],
    kernels: Sequence[Array],
    bias: Array | None = None,
    activation: Activation | None = None,
    padding: Padding = NO_PADDING,
) -> Array:
    """Return what a kernel of the forward pass computes; see `forward_transfer`."""
    (batch, *_, _), taps = images[0].shape, kernels[0].shape
    size = add(size_of(images[0]), add(*padding))
    valid = tuple(n - k + 1 for n, k in zip(size, taps[:3], strict=True))
    if min(valid) < 1:
        raise ValueError(f"a kernel of {taps[:3]} does not fit an image of {size} (z, y, x)")
    out = empty((batch, *valid, taps[4]))
    code, a, b = (-1, 0.0, 0.0) if activation is None else (activation.code, activation.a, activation.b)
    kernel(list(images), list(kernels), out, bias, code, a, b, *padding)
    return out


def convolve_back(
    kernel: Callable[..., None], d_outputs: Sequence[Array], kernels: Sequence[Array], padding: Padding = NO_PADDING
) -> Array:
    """Return what a kernel of the input gradient computes; see `backward`."""
    kz, ky, kx, n_in, _ = kernels[0].shape
    batch, z, y, x, _ = d_outputs[0].shape
    size = subtract((z + kz - 1, y + ky - 1, x + kx - 1), add(*padding))
    if min(size) < 1:
        raise ValueError(f"a padding of {padding} leaves nothing of an image (z, y, x)")
    d_image = empty((batch, *size, n_in))
    kernel(list(d_outputs), list(kernels), d_image, *padding)
    return d_image


def correlate(
    kernel: Callable[..., None], image: Array, d_output: Array, share: tuple[int, int], padding: Padding
) -> Array:
    """Return what a kernel of the kernel gradient computes; see `kernel_gradient`."""
    if padding != NO_PADDING:
        image = border.pad(image, *padding, "zero")
    size = tuple(n - m + 1 for n, m in zip(image.shape[1:4], d_output.shape[1:4], strict=True))
    d_kernel = empty((*size, image.shape[4], d_output.shape[4]))
    if share != (0, 1):
        image, d_output = _shared(image, d_output, share)
        if not d_output.size:
            return zeros(d_kernel.shape)
    kernel(image, d_output, d_kernel)
    return d_kernel
