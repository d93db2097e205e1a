"""Winograd convolution: the passes of `direct` with a half to a sixth of the multiplications.

Along y and x, tiles of 4 or 6 values meet the taps by one product for each value (Toom and Cook; S. Winograd,
"Arithmetic Complexity of Computations", 1980; for networks Lavin and Gray, arXiv 1509.09308). Taps along z are summed
as they are. It is for kernels with as many taps along y as along x, 2 to 5. Rounding errors are a few times those of
`direct`, 1e-6 of the 2-norm.

Shapes, paddings and shares are those of `direct`.
"""

from collections.abc import Sequence

from znn_dask import _kernels
from znn_dask.geometry import Triple, ceil_div
from znn_dask.ops import direct
from znn_dask.ops.direct import NO_PADDING, Padding
from znn_dask.ops.memory import Array, zeros
from znn_dask.ops.transfer import Activation
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

FEWEST_TAPS, MOST_TAPS = 2, 5
TILES = (4, 6)  # values along an axis


def fits(kernel: Triple) -> bool:
    """Return whether there are tiles for a kernel of (z, y, x) taps."""
    return kernel[1] == kernel[2] and FEWEST_TAPS <= kernel[1] <= MOST_TAPS


def points_along(n: int, k: int) -> int:
    """Return the products along an axis for n outputs of k taps: those of the tile size that has fewest."""
    return min(ceil_div(n, tile + 1 - k) * tile for tile in TILES if tile + 1 - k > 1)


@fresh
@twin(direct.reference_forward)
def forward(images: Sequence[Array], kernels: Sequence[Array], padding: Padding = NO_PADDING) -> Array:
    """Convolve; see `direct.forward`."""
    out = direct.empty_output(images, kernels, padding)
    _kernels.winograd_forward(list(images), list(kernels), out, before=padding[0], after=padding[1])
    return out


@fresh
@twin(direct.reference_forward_transfer)
def forward_transfer(
    images: Sequence[Array],
    kernels: Sequence[Array],
    bias: Array | None = None,
    activation: Activation | None = None,
    padding: Padding = NO_PADDING,
) -> Array:
    """Convolve, add the bias and apply the transfer function; see `direct.forward_transfer`."""
    out = direct.empty_output(images, kernels, padding)
    code, a, b = (-1, 0.0, 0.0) if activation is None else (activation.code, activation.a, activation.b)
    _kernels.winograd_forward(list(images), list(kernels), out, bias, code, a, b, *padding)
    return out


@fresh
@twin(direct.reference_backward)
def backward(d_outputs: Sequence[Array], kernels: Sequence[Array], padding: Padding = NO_PADDING) -> Array:
    """Return the gradient of the image; see `direct.backward`."""
    d_image = direct.empty_image(d_outputs, kernels, padding)
    _kernels.winograd_backward(list(d_outputs), list(kernels), d_image, *padding)
    return d_image


@fresh
@twin(direct.reference_kernel_gradient)
def kernel_gradient(
    image: Array, d_output: Array, share: tuple[int, int] = (0, 1), padding: Padding = NO_PADDING
) -> Array:
    """Return the gradient of the kernel; see `direct.kernel_gradient`."""
    image, d_output, d_kernel = direct.prepare_gradient(image, d_output, share, padding)
    if share != (0, 1) and not d_output.size:
        return zeros(d_kernel.shape)
    _kernels.winograd_gradient(image, d_output, d_kernel)
    return d_kernel
