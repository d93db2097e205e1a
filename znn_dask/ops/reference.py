"""The obvious numpy twin of every operation: what it means, before anyone makes it fast.

Each fast operation of this package is tested for equality with its twin here, and ``ZNN_DASK_VALIDATE=1``
runs the twin beside it. So everything is written to be read: one loop over the kernel or window, no blocking.

Promises: arithmetic in float64 whatever comes in; the result has the dtype of the first argument, so that
float64 input gives a float64 reference; inputs are never written to. Images are in the internal layout
``(batch, z, y, x, channel)``, sizes in voxels (z, y, x). Convolution is cross-correlation and valid.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from znn_dask.errors import ParameterError, ShapeError, nearest
from znn_dask.geometry import Triple
from znn_dask.ops.reference_layout import (
    Array,
    check_multiple,
    kernel_to_internal,
    kernel_to_public,
    lattice,
    merge_fragments,
    offsets,
    size_of,
    split_fragments,
    taps_of,
    to_internal,
    to_public,
    valid_size,
    window_at,
)
from znn_dask.ops.reference_loss import LOSSES, logistic, softmax, square
from znn_dask.ops.reference_update import sgd

__all__ = [
    "LOSSES",
    "TRANSFERS",
    "conv_forward",
    "conv_input_gradient",
    "conv_kernel_gradient",
    "dropout",
    "kernel_to_internal",
    "kernel_to_public",
    "logistic",
    "max_filter",
    "max_filter_backward",
    "max_pool",
    "max_pool_backward",
    "merge_fragments",
    "sgd",
    "softmax",
    "split_fragments",
    "square",
    "to_internal",
    "to_public",
    "transfer_backward",
    "transfer_forward",
]


# --- convolution --------------------------------------------------------------------------------------------


def conv_forward(image: Array, kernel: Array) -> Array:
    """Correlate, valid, and sum over the input channels.

    Parameters
    ----------
    image : array of shape (batch, z, y, x, in)
    kernel : array of shape (kz, ky, kx, in, out)

    Returns
    -------
    array of shape (batch, z - kz + 1, y - ky + 1, x - kx + 1, out)
    """
    size = valid_size(size_of(image), taps_of(kernel))
    output = np.zeros((len(image), *size, kernel.shape[4]))
    for tap in offsets(taps_of(kernel)):
        output += window_at(image, tap, size).astype(np.float64) @ kernel[tap].astype(np.float64)
    return output.astype(image.dtype)


def conv_input_gradient(d_output: Array, kernel: Array) -> Array:
    """Return the gradient at the input of `conv_forward`: its adjoint in the image.

    Parameters
    ----------
    d_output : array of shape (batch, z', y', x', out)
    kernel : array of shape (kz, ky, kx, in, out)

    Returns
    -------
    array of shape (batch, z' + kz - 1, y' + ky - 1, x' + kx - 1, in)
    """
    size = size_of(d_output)
    full = tuple(n + k - 1 for n, k in zip(size, taps_of(kernel), strict=True))
    d_image = np.zeros((len(d_output), *full, kernel.shape[3]))
    for tap in offsets(taps_of(kernel)):
        window_at(d_image, tap, size)[...] += d_output.astype(np.float64) @ kernel[tap].astype(np.float64).T
    return d_image.astype(d_output.dtype)


def conv_kernel_gradient(image: Array, d_output: Array, kernel_size: Triple | None = None) -> Array:
    """Return the gradient at the kernel of `conv_forward`: its adjoint in the kernel.

    Parameters
    ----------
    image : array of shape (batch, z, y, x, in)
    d_output : array of shape (batch, z', y', x', out)
    kernel_size : (kz, ky, kx), optional
        Only checked: it is ``n - n' + 1`` on every axis.

    Returns
    -------
    array of shape (kz, ky, kx, in, out)
    """
    size = size_of(d_output)
    found = valid_size(size_of(image), size)
    if kernel_size is not None and tuple(kernel_size) != found:
        raise ShapeError(f"the kernel size is {found} (z, y, x) by the image and its gradient, not {kernel_size}")
    d_kernel = np.zeros((*found, image.shape[4], d_output.shape[4]))
    flat = d_output.astype(np.float64).reshape(-1, d_output.shape[4])
    for tap in offsets(found):
        d_kernel[tap] = window_at(image, tap, size).astype(np.float64).reshape(-1, image.shape[4]).T @ flat
    return d_kernel.astype(image.dtype)


# --- transfer: bias, then a function ------------------------------------------------------------------------


def _tanh_slope(y: Array, a: float, b: float) -> Array:
    return b * (a - y * y / a)


# name -> (arguments by default, f(x, *args), f'(y = f(x), *args))
TRANSFERS: dict[str, tuple[tuple[float, ...], Callable[..., Array], Callable[..., Array]]] = {
    "linear": ((1.0, 0.0), lambda x, a, b: a * x + b, lambda y, a, b: np.full_like(y, a)),
    "relu": ((), lambda x: np.maximum(x, 0.0), lambda y: (y > 0).astype(y.dtype)),
    "tanh": ((1.0, 1.0), lambda x, a, b: a * np.tanh(b * x), _tanh_slope),
    "logistic": ((), lambda x: _logistic(x), lambda y: y * (1 - y)),
    "softsign": ((), lambda x: _softsign(np.clip(x, -1e300, 1e300)), lambda y: (1 - np.abs(y)) ** 2),
    "elu": (
        (1.0,),
        lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0))),
        lambda y, alpha: np.where(y > 0, 1.0, y + alpha),
    ),
    "leaky_relu": (
        (0.01,),
        lambda x, slope: np.where(x > 0, x, slope * x),
        lambda y, slope: np.where(y > 0, 1.0, slope),
    ),
    # The published ZNN's: its gradient passes unchanged, as if the loss had been taken on logits.
    "forward_logistic": ((), lambda x: _logistic(x), lambda y: np.ones_like(y)),
    "softplus": ((), lambda x: np.logaddexp(0.0, x), lambda y: -np.expm1(-y)),
}


def transfer_forward(image: Array, bias: Array | None, function: str, args: Sequence[float] = ()) -> Array:
    """Add the bias of each channel, then apply the function.

    Parameters
    ----------
    image : array of shape (batch, z, y, x, channel)
    bias : array of shape (channel,) or None
    function : str
        A name in `TRANSFERS`.
    args : sequence of float
        Its arguments; empty for those by default.
    """
    arguments, forward, _ = _transfer(function, args)
    x = image.astype(np.float64)
    if bias is not None:
        x = x + bias.astype(np.float64)
    return forward(x, *arguments).astype(image.dtype)


def transfer_backward(d_output: Array, output: Array, function: str, args: Sequence[float] = ()) -> tuple[Array, Array]:
    """Return the gradients at the image and at the bias, with f' taken from the output alone.

    Parameters
    ----------
    d_output, output : arrays of shape (batch, z, y, x, channel)
    function, args
        As in `transfer_forward`.

    Returns
    -------
    d_image : array of shape (batch, z, y, x, channel)
    d_bias : array of shape (channel,)
    """
    arguments, _, slope = _transfer(function, args)
    d_image = d_output.astype(np.float64) * slope(output.astype(np.float64), *arguments)
    return d_image.astype(d_output.dtype), d_image.sum(axis=(0, 1, 2, 3)).astype(d_output.dtype)


def _transfer(
    function: str, args: Sequence[float]
) -> tuple[Sequence[float], Callable[..., Array], Callable[..., Array]]:
    if function not in TRANSFERS:
        hint = nearest(function, list(TRANSFERS))
        raise ParameterError(f"unknown transfer {function!r}; valid: {', '.join(TRANSFERS)}.{hint}")
    defaults, forward, slope = TRANSFERS[function]
    if args and len(args) != len(defaults):
        raise ParameterError(f"transfer {function!r} takes {len(defaults)} arguments, got {tuple(args)}")
    return args or defaults, forward, slope


def _softsign(x: Array) -> Array:
    return x / (1.0 + np.abs(x))


def _logistic(x: Array) -> Array:
    # exp of a negative number only, so that nothing overflows.
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


# --- max-filter and max-pool --------------------------------------------------------------------------------


def max_filter(image: Array, window: Triple, stride: Triple) -> tuple[Array, Array]:
    """Return the maximum of every window position, and where it was, as fragments.

    Parameters
    ----------
    image : array of shape (batch, z, y, x, channel)
    window, stride : (z, y, x)
        The stride is the factor on the sparsity of later layers; the filter itself is dense.

    Returns
    -------
    output : array of shape (batch * P, m/s, channel)
        m = n - window + 1 per axis; fragments as in `split_fragments`.
    argmax : int32 array of the same shape
        Flat index ``(dz * wy + dy) * wx + dx`` in the window; ties go to the earlier voxel.

    Raises
    ------
    ShapeError
        If m is no multiple of the stride.
    """
    size = valid_size(size_of(image), window)
    output, argmax = _first_maximum(window_at(image, offset, size) for offset in offsets(window))
    return split_fragments(output, [stride]), split_fragments(argmax, [stride])


def max_filter_backward(d_output: Array, argmax: Array, window: Triple, stride: Triple, input_size: Triple) -> Array:
    """Return the gradient at the input of `max_filter`: each value added where its maximum was.

    Parameters
    ----------
    d_output, argmax : arrays of shape (batch * P, m/s, channel)
    input_size : (z, y, x)
        Of the filtered image.

    Returns
    -------
    array of shape (batch, z, y, x, channel)
    """
    d_dense = merge_fragments(d_output, [stride]).astype(np.float64)
    where = merge_fragments(argmax, [stride])
    size = valid_size(input_size, window)
    if size != size_of(d_dense):
        raise ShapeError(f"an input of {input_size} (z, y, x) gives {size}, the gradient has {size_of(d_dense)}")
    d_image = np.zeros((len(d_dense), *input_size, d_dense.shape[4]))
    for index, offset in enumerate(offsets(window)):
        window_at(d_image, offset, size)[...] += np.where(where == index, d_dense, 0.0)
    return d_image.astype(d_output.dtype)


def max_pool(image: Array, window: Triple) -> tuple[Array, Array]:
    """Return the maximum of every block of the image, and where it was.

    Parameters
    ----------
    image : array of shape (batch, z, y, x, channel)
    window : (z, y, x)

    Returns
    -------
    output : array of shape (batch, z/wz, y/wy, x/wx, channel)
    argmax : int32 array of the same shape
        As in `max_filter`.

    Raises
    ------
    ShapeError
        If a size is no multiple of the window.
    """
    check_multiple(size_of(image), window, "image", "window")
    return _first_maximum(image[lattice(offset, window)] for offset in offsets(window))


def max_pool_backward(d_output: Array, argmax: Array, window: Triple) -> Array:
    """Return the gradient at the input of `max_pool`: each value put where its maximum was.

    Parameters
    ----------
    d_output, argmax : arrays of shape (batch, z, y, x, channel)
    window : (z, y, x)

    Returns
    -------
    array of shape (batch, z * wz, y * wy, x * wx, channel)
    """
    size = tuple(n * w for n, w in zip(size_of(d_output), window, strict=True))
    d_image = np.zeros((len(d_output), *size, d_output.shape[4]), d_output.dtype)
    for index, offset in enumerate(offsets(window)):
        d_image[lattice(offset, window)] = np.where(argmax == index, d_output, 0)
    return d_image


def _first_maximum(candidates: Iterator[Array]) -> tuple[Array, Array]:
    values = np.stack(list(candidates))
    return values.max(axis=0), values.argmax(axis=0).astype(np.int32)


# --- dropout and update -------------------------------------------------------------------------------------


def dropout(image: Array, mask: Array, rate: float) -> Array:
    """Keep what the mask keeps, divided by the probability of keeping; its own adjoint.

    Parameters
    ----------
    image : array of shape (batch, z, y, x, channel)
    mask : bool array of the same shape
        True where a value is kept.
    rate : float
        Probability of dropping, in [0, 1).
    """
    return np.where(mask, image.astype(np.float64) / (1.0 - rate), 0.0).astype(image.dtype)
