"""A whole volume, patch by patch.

The networks are dense and valid, so every voxel is computed from its whole field of view wherever the patches lie:
tiled equals whole, to float32 rounding.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dask.array
import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.geometry import ONE, Triple, add, cover, subtract
from znn_dask.net import MaxPool, Network

Array = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
BORDERS = ("mirror", "constant", None)
MEMORY = 1 << 30  # bytes that one patch may take, parameters included
SMALLEST = 8  # voxels; patches are not halved below


class Scene(NamedTuple):
    """The volumes to predict, how large the result is, and where it lies in them.

    Attributes
    ----------
    volumes : dict of input to array-like of shape (channel, z, y, x)
    size : (z, y, x)
        Of the result.
    origins : dict of input to (z, y, x)
        Where the result begins in each volume, less the field of view before it; negative with a border.
    views : dict of input to (z, y, x)
        The part of the field of view that each input needs.
    """

    volumes: dict[str, Any]
    size: Triple
    origins: dict[str, Triple]
    views: dict[str, Triple]
    border: str | None


def see(net: Network, volumes: Mapping[str, Any], border: str | None) -> Scene:
    """Check volumes against a network, and say what is to be predicted.

    Raises
    ------
    ShapeError
        If a volume is too small or volumes differ.
    ParameterError
        If the border is unknown, or the network pools.
    """
    if border not in BORDERS:
        raise ParameterError(f"border must be 'mirror', 'constant' or None, got {border!r}")
    if any(isinstance(edge.op, MaxPool) for edge in net.edges.values()):
        raise ParameterError(
            "predict needs a network that is dense in its output, and this one has max-pooling: use max-filters "
            "(letter M), which compute the same for every voxel"
        )
    four = {name: _four_axes(v, net.inputs[name], name) for name, v in volumes.items()}
    sizes = {tuple(int(n) for n in v.shape[1:]) for v in four.values()}
    if len(sizes) > 1:
        raise ShapeError(f"volumes must have one size, got {sorted(sizes)} (z, y, x)")
    z, y, x = sizes.pop()
    whole, view = (z, y, x), net.field_of_view
    before = half_of(view)
    sizes_of = net.node_sizes(ONE)
    views = {name: sizes_of[name] for name in net.inputs}
    if border is None:
        _check_size(whole, view, "its field of view")
        # An input with a smaller field of view is read around the same voxel.
        origins = {name: subtract(before, half_of(own)) for name, own in views.items()}
        return Scene(four, subtract(add(whole, ONE), view), origins, views, border)
    if border == "mirror":
        _check_size(whole, subtract(view, before), "more than half its field of view, to be mirrored,")
    return Scene(four, whole, {name: subtract((0, 0, 0), half_of(own)) for name, own in views.items()}, views, border)


def half_of(view: Triple) -> Triple:
    """Return how many voxels of a field of view come before its centre (z, y, x)."""
    return (view[0] - 1) // 2, (view[1] - 1) // 2, (view[2] - 1) // 2


def _check_size(size: Triple, least: Triple, what: str) -> None:
    if any(n < m for n, m in zip(size, least, strict=True)):
        raise ShapeError(
            f"the volume has {size} voxels (z, y, x); the network needs at least {least}, {what}. "
            f"Give a larger volume, or a network with a smaller field of view"
        )


def _four_axes(given: Any, channels: int, name: str) -> Any:
    array = given if hasattr(given, "shape") else np.asarray(given)
    kind = np.dtype(getattr(array, "dtype", np.float32)).kind
    if kind not in "biuf":
        raise ParameterError(f"volume for input {name!r} must hold numbers, got dtype {array.dtype}")
    if len(array.shape) == 3:
        array = _WithChannel(array)
    if len(array.shape) != 4 or array.shape[0] != channels:
        raise ShapeError(
            f"volume for input {name!r} must have shape ({channels}, z, y, x)"
            f"{' or (z, y, x)' if channels == 1 else ''}, got {tuple(given.shape)}"
        )
    return array


class _WithChannel:
    """A (z, y, x) array read as if it were (1, z, y, x)."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = (1, *array.shape)

    def __getitem__(self, where: tuple[slice, ...]) -> Any:
        return np.asarray(self._array[where[1:]])[np.newaxis]


def read(scene: Scene, name: str, origin: Triple, size: Triple) -> Array:
    """Return the box of ``size`` at ``origin`` (of the result) of a volume, with what lies outside filled in."""
    array = scene.volumes[name]
    places = [
        _indices(first + start, count, n, scene.border)
        for first, start, count, n in zip(scene.origins[name], origin, size, array.shape[1:], strict=True)
    ]
    box = tuple(_span(place) for place in places)
    values = np.asarray(array[(slice(None), *box)], dtype=np.float32)
    for axis, (place, part) in enumerate(zip(places, box, strict=True), 1):
        values = np.take(values, np.maximum(place - part.start, 0), axis=axis)
        outside = np.flatnonzero(place < 0)
        if outside.size:
            values[(slice(None),) * axis + (outside,)] = 0.0
    return values


def _span(places: npt.NDArray[np.int64]) -> slice:
    """Return the part of an axis that is read at all."""
    inside = places[places >= 0]
    return slice(int(inside.min()), int(inside.max()) + 1) if inside.size else slice(0, 1)


def _indices(first: int, count: int, n: int, border: str | None) -> npt.NDArray[np.int64]:
    """Return where voxels first .. first + count of an axis are read; -1 stands for zeros."""
    places = np.arange(first, first + count)
    if border == "mirror":
        return mirrored(places, 0, n)
    # A last patch that was moved back never reaches outside; without a border all is inside.
    return np.where((places >= 0) & (places < n), places, -1)


def mirrored(places: npt.NDArray[np.int64], low: int, high: int) -> npt.NDArray[np.int64]:
    """Return places on an axis reflected into [low, high), as often as needed.

    The outermost voxel is not repeated, as in numpy.pad's "reflect".
    """
    if high - low == 1:
        return np.full_like(places, low)
    period = 2 * (high - low - 1)
    folded = np.mod(places - low, period)
    reflected: npt.NDArray[np.int64] = np.minimum(folded, period - folded) + low
    return reflected


def choose_patch(size: Triple, estimate: Callable[[Triple], int], limit: int | None = None) -> Triple:
    """Return the largest patch, found by halving the longest side, that stays within the memory.

    Large patches pay: neighbouring patches share the border of their fields of view (ZNNi, arXiv 1606.05688).
    """
    patch, memory = size, min(MEMORY, limit or MEMORY)
    while estimate(patch) > memory and max(patch) > SMALLEST:
        axis = patch.index(max(patch))
        halved = list(patch)
        halved[axis] = -(-patch[axis] // 2)
        patch = (halved[0], halved[1], halved[2])
    return patch


def predict_scene(
    scene: Scene,
    outputs: Mapping[str, int],
    patch: Triple,
    forward: Callable[[dict[str, Array]], Mapping[str, Array]],
    out: dict[str, Any] | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Compute every patch with ``forward`` and return the outputs by name, (channel, z, y, x)."""
    results = out or {name: np.empty((n, *scene.size), np.float32) for name, n in outputs.items()}
    sizes = {name: add(patch, subtract(view, ONE)) for name, view in scene.views.items()}
    starts = cover(scene.size, patch)
    for count, start in enumerate(starts):
        if progress is not None:
            progress(count, len(starts))
        values = forward({name: read(scene, name, start, sizes[name])[np.newaxis] for name in scene.volumes})
        where = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        for name, y in values.items():
            results[name][(slice(None), *where)] = y[0]
    if progress is not None:
        progress(len(starts), len(starts))
    return results


def check_out(out: Mapping[str, Any], outputs: Mapping[str, int], size: Triple) -> None:
    """Raise a ShapeError unless every array to write into has the result's shape."""
    for name, channels in outputs.items():
        if tuple(out[name].shape) != (channels, *size):
            raise ShapeError(f"out for {name!r} must have shape {(channels, *size)}, got {tuple(out[name].shape)}")


def as_given(given: Any, result: Array) -> Any:
    """Return a dask array if a dask array was given."""
    return dask.array.from_array(result) if isinstance(given, dask.array.Array) else result
