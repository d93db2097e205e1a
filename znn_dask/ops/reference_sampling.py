"""The obvious numpy twins of operations that choose, move or interpolate voxels map by map.

Borders, phases of a lattice, average pooling, upsampling. As in `reference`: arithmetic in float64, the result has
the dtype of the first argument, inputs are never written to. Images are ``(entry, z, y, x, channel)``. All of these
are linear, and each ``*_backward`` is the adjoint.
"""

from collections.abc import Sequence

import numpy as np

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.geometry import Triple, multiply, volume
from znn_dask.ops.reference_layout import Array, check_multiple, lattice, offsets, size_of, taps_of, window_at

# Of a border: ours -> numpy's.
MODES = {"zero": "constant", "mirror": "reflect", "replicate": "edge"}
UPSAMPLINGS = ("nearest", "trilinear")
DIRECTIONS = ("down", "up")


# --- borders ------------------------------------------------------------------------------------------------


def pad(image: Array, before: Triple, after: Triple, mode: str) -> Array:
    """Add voxels at the ends of every axis.

    Parameters
    ----------
    image : array of shape (entry, z, y, x, channel)
    before, after : (z, y, x)
    mode : "zero" | "mirror" | "replicate"
        Zeros; reflected without the outermost voxel; the outermost voxel again.
    """
    check_border(size_of(image), before, after, mode)
    return np.pad(image, [(0, 0), *zip(before, after, strict=True), (0, 0)], MODES[mode])  # type: ignore[call-overload, no-any-return]


def pad_backward(d_output: Array, before: Triple, after: Triple, mode: str) -> Array:
    """Return the gradient at the input of `pad`: those of the border are added to the voxels it was made of."""
    size = cropped_size(size_of(d_output), before, after)
    check_border(size, before, after, mode)
    d_image = d_output.astype(np.float64)
    for axis, n in enumerate(size):
        source = np.arange(n)
        where = np.pad(source, (before[axis], after[axis]), MODES[mode])  # type: ignore[call-overload]
        if mode == "zero":
            where[: before[axis]] = where[before[axis] + n :] = -1
        # Entry (v, w): whether voxel w of the padded axis is made of voxel v.
        made_of = (source[:, np.newaxis] == where).astype(np.float64)
        d_image = np.moveaxis(np.tensordot(made_of, d_image, (1, axis + 1)), 0, axis + 1)
    return np.ascontiguousarray(d_image.astype(d_output.dtype))


def crop(image: Array, before: Triple, after: Triple) -> Array:
    """Leave voxels out at the ends of every axis."""
    return window_at(image, before, cropped_size(size_of(image), before, after)).copy()


def crop_backward(d_output: Array, before: Triple, after: Triple) -> Array:
    """Return the gradient at the input of `crop`: zeros around."""
    return pad(d_output, before, after, "zero")


def check_border(size: Triple, before: Triple, after: Triple, mode: str) -> None:
    """Raise unless an image of this size can have such a border."""
    if mode not in MODES:
        raise ParameterError(f"padding must be one of {', '.join(MODES)}, got {mode!r}")
    if min(*before, *after) < 0:
        raise ParameterError(f"padding must be at least 0 along every axis, got {before} and {after} (z, y, x)")
    if mode == "mirror" and any(max(b, a) >= n for b, a, n in zip(before, after, size, strict=True)):
        raise ShapeError(
            f"an image of {size} (z, y, x) cannot be mirrored by {before} before and {after} after it: "
            f"a mirrored border must be smaller than the image"
        )


def cropped_size(size: Triple, before: Triple, after: Triple) -> Triple:
    """Return the size without such a border, or raise `ShapeError` where nothing is left."""
    z, y, x = (n - b - a for n, b, a in zip(size, before, after, strict=True))
    if min(z, y, x) < 1 or min(*before, *after) < 0:
        raise ShapeError(f"{before} before and {after} after leave nothing of an image of {size} (z, y, x)")
    return z, y, x


# --- phases of a lattice ------------------------------------------------------------------------------------


def split(image: Array, stride: Triple) -> tuple[Array, ...]:
    """Return the phases of a lattice, C order of (pz, py, px): phase p at v is the image at ``v * stride + p``."""
    check_multiple(size_of(image), stride, "image", "stride")
    return tuple(image[lattice(p, stride)].copy() for p in offsets(stride))


def merge(images: Sequence[Array], stride: Triple) -> Array:
    """Undo `split`; each is the other's backward."""
    if len(images) != volume(stride):
        raise ShapeError(f"a lattice of stride {stride} (z, y, x) has {volume(stride)} phases, got {len(images)}")
    entries, *_, channels = images[0].shape
    whole = np.empty((entries, *multiply(size_of(images[0]), stride), channels), images[0].dtype)
    for p, image in zip(offsets(stride), images, strict=True):
        whole[lattice(p, stride)] = image
    return whole


def kernel_phase(kernel: Array, phases: Triple, phase: int, size: Triple, direction: str) -> Array:
    """Return the taps of a kernel that connect one phase, as a kernel of ``size``.

    Parameters
    ----------
    kernel : array of shape (kz, ky, kx, in, out)
    phases : (z, y, x)
        Of the lattice.
    phase : int
        Its number.
    size : (z, y, x)
        At least ceil(kernel / phases); zeros come at the end.
    direction : "down" | "up"
        Of a strided convolution; or of a transposed one, turned, so that a valid correlation over an image with
        ``size - 1`` zeros around it gives the phase.
    """
    taken = kernel[lattice(list(offsets(phases))[phase], phases)[1:]]
    check_phase(taps_of(taken), size, direction)
    padded = np.zeros((*size, *kernel.shape[3:]), kernel.dtype)
    padded[tuple(slice(0, n) for n in taken.shape[:3])] = taken
    return padded if direction == "down" else padded[::-1, ::-1, ::-1].copy()


def kernel_phase_gradient(pieces: Sequence[Array], phases: Triple, learned: Triple, direction: str) -> Array:
    """Return the gradient of the whole kernel of size ``learned`` from those of `kernel_phase`, one per phase."""
    if len(pieces) != volume(phases):
        raise ShapeError(f"a lattice of {phases} (z, y, x) has {volume(phases)} phases, got {len(pieces)}")
    d_kernel = np.zeros((*learned, *pieces[0].shape[3:]), pieces[0].dtype)
    for p, piece in zip(offsets(phases), pieces, strict=True):
        part = d_kernel[lattice(p, phases)[1:]]
        check_phase(taps_of(part), taps_of(piece), direction)
        turned = piece if direction == "down" else piece[::-1, ::-1, ::-1]
        part[...] = turned[tuple(slice(0, n) for n in part.shape[:3])]
    return d_kernel


def check_phase(taps: Triple, size: Triple, direction: str) -> None:
    """Raise unless the taps of a phase fit a kernel of this size, and there is such a direction."""
    if direction not in DIRECTIONS:
        raise ParameterError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if any(t > n for t, n in zip(taps, size, strict=True)):
        raise ShapeError(f"{taps} taps (z, y, x) of a phase do not fit a kernel of {size}")


# --- average pooling and upsampling -------------------------------------------------------------------------


def average_pool(image: Array, window: Triple) -> Array:
    """Return the mean of every window of windows side by side; sizes must be multiples of the window's."""
    check_multiple(size_of(image), window, "image", "window")
    total = sum(image[lattice(offset, window)].astype(np.float64) for offset in offsets(window))
    return np.asarray(total / volume(window)).astype(image.dtype)


def average_pool_backward(d_output: Array, window: Triple) -> Array:
    """Return the gradient at the input of `average_pool`: equal parts to every voxel of the window."""
    part = (d_output.astype(np.float64) / volume(window)).astype(d_output.dtype)
    return upsample(part, window, "nearest")


def upsample(image: Array, factor: Triple, mode: str) -> Array:
    """Make an image larger by whole factors.

    Parameters
    ----------
    image : array of shape (entry, z, y, x, channel)
    factor : (z, y, x)
    mode : "nearest" | "trilinear"
        Every voxel repeated; or interpolated between voxel centres, as torch's ``align_corners=False``.
    """
    result = image.astype(np.float64)
    for axis, (n, f) in enumerate(zip(size_of(image), factor, strict=True)):
        weights = interpolation(n, f, mode)
        result = np.moveaxis(np.tensordot(weights, result, (1, axis + 1)), 0, axis + 1)
    return np.ascontiguousarray(result.astype(image.dtype))


def upsample_backward(d_output: Array, factor: Triple, mode: str) -> Array:
    """Return the gradient at the input of `upsample`."""
    check_multiple(size_of(d_output), factor, "gradient", "factor")
    d_image = d_output.astype(np.float64)
    for axis, (n, f) in enumerate(zip(size_of(d_output), factor, strict=True)):
        weights = interpolation(n // f, f, mode)
        d_image = np.moveaxis(np.tensordot(weights.T, d_image, (1, axis + 1)), 0, axis + 1)
    return np.ascontiguousarray(d_image.astype(d_output.dtype))


def check_mode(mode: str) -> None:
    """Raise unless there is such a mode of upsampling."""
    if mode not in UPSAMPLINGS:
        raise ParameterError(f"mode of an upsampling must be one of {', '.join(UPSAMPLINGS)}, got {mode!r}")


def interpolation(n: int, factor: int, mode: str) -> Array:
    """Return how much of each of n voxels every voxel of the upsampled axis takes, of shape (factor * n, n)."""
    check_mode(mode)
    voxel = np.arange(n * factor)
    weights = np.zeros((n * factor, n))
    if mode == "nearest":
        weights[voxel, voxel // factor] = 1.0
        return weights
    place = np.clip((voxel + 0.5) / factor - 0.5, 0.0, n - 1)
    low = np.minimum(place.astype(int), max(n - 2, 0))
    np.add.at(weights, (voxel, low), 1.0 - (place - low))
    np.add.at(weights, (voxel, np.minimum(low + 1, n - 1)), place - low)
    return weights
