"""Phases of a lattice: what strided and transposed convolutions are computed on.

Phase p of a lattice with a stride is the voxels ``v * stride + p``. A strided convolution is a sum of dense ones
from the phases of its source, a transposed one is a dense one to every phase of its target; each with every
stride-th tap of the kernel. Phases are numbered in C order of (pz, py, px). Images are float32 of shape
``(entry, z, y, x, channel)``, kernels ``(kz, ky, kx, in, out)``.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask import _kernels
from znn_dask.errors import ShapeError
from znn_dask.geometry import Triple, multiply, volume
from znn_dask.ops import reference_sampling as reference
from znn_dask.ops.memory import Array, empty
from znn_dask.ops.reference_layout import check_multiple, size_of, taps_of
from znn_dask.ops.validation import twin
from znn_dask.tasks import fresh

Numbers = npt.NDArray[Any]
Tables = tuple[list[Numbers], list[Numbers]]


@fresh
@twin(reference.split)
def split(image: Array, stride: Triple) -> tuple[Array, ...]:
    """Return every phase of an image, whose size must be a multiple of the stride."""
    check_multiple(size_of(image), stride, "image", "stride")
    entries, z, y, x, channels = image.shape
    size = z // stride[0], y // stride[1], x // stride[2]
    phases = tuple(empty((entries, *size, channels)) for _ in range(volume(stride)))
    _kernels.put(image, *_lattice(size_of(image), stride, (0, 0, 0)), list(phases))
    return phases


@fresh
@twin(reference.merge)
def merge(images: Sequence[Array], stride: Triple) -> Array:
    """Return the image of which these are all phases. `split` and `merge` are each other's backward."""
    _check_phases(images, stride)
    entries, *_, channels = images[0].shape
    size = multiply(size_of(images[0]), stride)
    whole = empty((entries, *size, channels))
    _kernels.take(list(images), *_lattice(size, stride, (0, 0, 0)), whole)
    return whole


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
    z, rest = divmod(phase, phases[1] * phases[2])
    first = z, *divmod(rest, phases[2])
    n_taps = taps_of(kernel)
    taken = [-(-(n - f) // p) for n, f, p in zip(n_taps, first, phases, strict=True)]
    reference.check_phase((taken[0], taken[1], taken[2]), size, direction)
    places = [_taps(n, f, p, m, direction) for n, f, p, m in zip(n_taps, first, phases, size, strict=True)]
    out = empty((*size, *kernel.shape[3:]))
    _kernels.take([_as_image(kernel)], [np.zeros_like(p) for p in places], places, _as_image(out))
    return out


@fresh
@twin(reference.kernel_phase_gradient)
def kernel_phase_gradient(pieces: Sequence[Array], phases: Triple, learned: Triple, direction: str) -> Array:
    """Return the gradient of the whole kernel of size ``learned`` from those of its phases, all of them in order."""
    _check_phases(pieces, phases)
    size = taps_of(pieces[0])
    z, y, x = (-(-n // p) for n, p in zip(learned, phases, strict=True))
    reference.check_phase((z, y, x), size, direction)
    d_kernel = empty((*learned, *pieces[0].shape[3:]))
    tables = _lattice(learned, phases, (0, 0, 0) if direction == "down" else size)
    _kernels.take([_as_image(piece) for piece in pieces], *tables, _as_image(d_kernel))
    return d_kernel


def _check_phases(images: Sequence[Array], stride: Triple) -> None:
    if len(images) != volume(stride):
        raise ShapeError(f"a lattice of stride {stride} (z, y, x) has {volume(stride)} phases, got {len(images)}")


def _as_image(kernel: Array) -> Array:
    """Return a kernel as an image of one entry, with a channel for every pair of maps."""
    z, y, x, n_in, n_out = kernel.shape
    return np.ascontiguousarray(kernel).reshape(1, z, y, x, n_in * n_out)


def _lattice(size: Triple, stride: Triple, turned: Triple) -> Tables:
    """Return, along every axis of a whole of this size, the part of the number of its phase and the place in it.

    In phases that are turned around, of the size ``turned`` unless that is 0, places are counted from the end.
    """
    steps = stride[1] * stride[2], stride[2], 1
    axes = [_axis(n, s, step, t) for n, s, step, t in zip(size, stride, steps, turned, strict=True)]
    return [part for part, _ in axes], [place for _, place in axes]


@lru_cache(maxsize=4096)
def _axis(n: int, stride: int, step: int, turned: int) -> tuple[Numbers, Numbers]:
    voxels = np.arange(n, dtype=np.int32)
    places = voxels // stride
    return voxels % stride * step, turned - 1 - places if turned else places


@lru_cache(maxsize=4096)
def _taps(n: int, first: int, step: int, size: int, direction: str) -> Numbers:
    """Return which of n taps those of a phase are, as many as ``size``; -1 for none."""
    taps = np.full(size, -1, np.int32)
    taken = np.arange(first, n, step)
    taps[: len(taken)] = taken
    return taps if direction == "down" else taps[::-1].copy()
