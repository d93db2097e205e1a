"""Phases of a lattice: what strided and transposed convolutions are computed on.

Phase p of a lattice with a stride is the voxels ``v * stride + p``. A strided convolution is a sum of dense ones
from the phases of its source, a transposed one is a dense one to every phase of its target; each with every
stride-th tap of the kernel. Phases are numbered in C order of (pz, py, px). Images are float32 of shape
``(entry, z, y, x, channel)``, kernels ``(kz, ky, kx, in, out)``.
"""

from collections.abc import Sequence

from znn_dask.geometry import Triple
from znn_dask.ops import reference_sampling as reference
from znn_dask.ops.memory import Array
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh


@fresh
@twin(reference.split)
def split(image: Array, stride: Triple) -> tuple[Array, ...]:
    """Return every phase of an image, whose size must be a multiple of the stride."""
    return reference.split(image, stride)


@fresh
@twin(reference.merge)
def merge(images: Sequence[Array], stride: Triple) -> Array:
    """Return the image of which these are all phases. `split` and `merge` are each other's backward."""
    return reference.merge(images, stride)


@fresh
@twin(reference.kernel_phase)
def kernel_phase(kernel: Array, phases: Triple, phase: int, size: Triple, direction: str) -> Array:
    """Return the taps of a kernel that belong to one phase, as a kernel of ``size``.

    Parameters
    ----------
    kernel : float32 of shape (kz, ky, kx, in, out)
    phases : (z, y, x)
        The stride of the lattice.
    phase : int
        Its number.
    size : (z, y, x)
        At least ceil(kernel / phases); zeros come at the end.
    direction : "down" | "up"
        Of a strided convolution; or of a transposed one, turned around, so that a valid convolution over an image
        with ``size - 1`` zeros around it gives the phase.
    """
    return reference.kernel_phase(kernel, phases, phase, size, direction)


@fresh
@twin(reference.kernel_phase_gradient)
def kernel_phase_gradient(pieces: Sequence[Array], phases: Triple, learned: Triple, direction: str) -> Array:
    """Return the gradient of the whole kernel of size ``learned`` from those of its phases, all of them in order."""
    return reference.kernel_phase_gradient(pieces, phases, learned, direction)
