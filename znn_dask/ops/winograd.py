"""Winograd convolution: the passes of `direct` with a half to a sixth of the multiplications.

Along y and x, tiles of 4 to 8 values meet the taps by one product for each value (Toom and Cook; S. Winograd,
"Arithmetic Complexity of Computations", 1980; for networks Lavin and Gray, arXiv 1509.09308). Taps along z are summed
as they are. It is for kernels with as many taps along y as along x, 2 to 5. Rounding errors are a few times those of
`direct`, 1e-6 of the 2-norm.

Shapes, paddings and shares are those of `direct`.
"""

from collections.abc import Sequence

from znn_dask import _kernels
from znn_dask.geometry import Triple
from znn_dask.ops import direct
from znn_dask.ops.direct import NO_PADDING, Padding
from znn_dask.ops.memory import Array
from znn_dask.ops.transfer import Activation
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

FEWEST_TAPS, MOST_TAPS = 2, 5


def fits(kernel: Triple) -> bool:
    """Return whether there are tiles for a kernel of (z, y, x) taps."""
    return kernel[1] == kernel[2] and FEWEST_TAPS <= kernel[1] <= MOST_TAPS


def points(y: int, x: int, k: int) -> int:
    """Return the products for y by x outputs of k by k taps, by the tiles that the kernels take."""
    return int(_kernels.winograd_products(y, x, k))


@fresh
@twin(direct.reference_forward)
def forward(images: Sequence[Array], kernels: Sequence[Array], padding: Padding = NO_PADDING) -> Array:
    """Convolve; see `direct.forward`."""
    return direct.convolve(_kernels.winograd_forward, images, kernels, padding=padding)


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
    return direct.convolve(_kernels.winograd_forward, images, kernels, bias, activation, padding)


@fresh
@twin(direct.reference_backward)
def backward(d_outputs: Sequence[Array], kernels: Sequence[Array], padding: Padding = NO_PADDING) -> Array:
    """Return the gradient of the image; see `direct.backward`."""
    return direct.convolve_back(_kernels.winograd_backward, d_outputs, kernels, padding)


@fresh
@twin(direct.reference_kernel_gradient)
def kernel_gradient(
    image: Array, d_output: Array, share: tuple[int, int] = (0, 1), padding: Padding = NO_PADDING
) -> Array:
    """Return the gradient of the kernel; see `direct.kernel_gradient`."""
    return direct.correlate(_kernels.winograd_gradient, image, d_output, share, padding)
