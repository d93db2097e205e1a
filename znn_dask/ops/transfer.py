"""Bias and transfer function: forward and backward.

Images are float32 of shape ``(batch, z, y, x, channel)``. The derivative is computed from the output's value, so the
value before the function is never kept.
"""

from typing import NamedTuple

import numpy as np

from znn_dask import _kernels
from znn_dask.ops import reference
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh, overwrites

# The order of `enum Function` in kernels/table.hpp.
FUNCTIONS = ("linear", "relu", "tanh", "logistic", "softsign", "elu", "leaky_relu", "forward_logistic", "softplus")


class Activation(NamedTuple):
    """A transfer function by name, with its arguments (see `reference.TRANSFERS` for what they mean)."""

    function: str
    args: tuple[float, ...] = ()

    @property
    def code(self) -> int:
        """Its number in the kernels."""
        return FUNCTIONS.index(self.function)

    @property
    def a(self) -> float:
        """First argument."""
        return self._argument(0)

    @property
    def b(self) -> float:
        """Second argument."""
        return self._argument(1)

    def _argument(self, position: int) -> float:
        args = self.args or reference.TRANSFERS[self.function][0]
        return args[position] if position < len(args) else 0.0


def _reference_forward(image: Array, bias: Array | None, activation: Activation) -> Array:
    return reference.transfer_forward(image, bias, activation.function, activation.args)


def _reference_backward(d_output: Array, output: Array, activation: Activation) -> tuple[Array, Array]:
    return reference.transfer_backward(d_output, output, activation.function, activation.args)


@fresh
@overwrites(0)
@twin(_reference_forward)
def forward(image: Array, bias: Array | None, activation: Activation, out: Array | None = None) -> Array:
    """Return ``f(image + bias)``.

    Parameters
    ----------
    image : float32 of shape (batch, z, y, x, channel)
    bias : float32 of shape (channel,), optional
    activation : Activation
    out : float32 of the image's shape, optional
        Where to write; may be the image.
    """
    result = empty(image.shape) if out is None else out
    if bias is None:
        bias = np.zeros(image.shape[-1], np.float32)
    _kernels.transfer_forward(image, bias, activation.code, activation.a, activation.b, result)
    return result


@fresh
@overwrites(0)
@twin(_reference_backward)
def backward(d_output: Array, output: Array, activation: Activation, out: Array | None = None) -> tuple[Array, Array]:
    """Return the gradients of the image and of the bias.

    Parameters
    ----------
    d_output, output : float32 of shape (batch, z, y, x, channel)
        The gradient of the output, and the output itself.
    activation : Activation
    out : float32 of the image's shape, optional
        Where to write the image's gradient; may be ``d_output``.

    Returns
    -------
    d_image : float32 of shape (batch, z, y, x, channel)
    d_bias : float32 of shape (channel,)
    """
    d_image = empty(output.shape) if out is None else out
    d_bias = np.empty(output.shape[-1], np.float64)
    _kernels.transfer_backward(d_output, output, activation.code, activation.a, activation.b, d_image, d_bias)
    return d_image, d_bias.astype(np.float32)
