"""A whole volume, tile by tile: what is read for a tile, and what becomes of it.

Valid networks are dense, so every voxel is computed from its whole field of view wherever the tiles lie: tiled equals
whole, to float32 rounding. Tiles of padded networks overlap and are blended, see `tiling`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.geometry import ONE, Triple, add, subtract
from znn_dask.model.outputs import Finish
from znn_dask.model.tiling import Fit, Tile, Tiling, blended, fit_of, halved_patch, search_patch, tiling_of
from znn_dask.net import MaxPool, Network

Array = npt.NDArray[np.float32]
Values = npt.NDArray[Any]
Progress = Callable[[int, int], None]
Box = tuple[slice, slice, slice]
BORDERS = ("mirror", "constant", None)
MEMORY = 1 << 30  # bytes that one patch may take, parameters included
SMALLEST = 8  # voxels; patches are not halved below


@dataclass(frozen=True)
class Request:
    """What is asked of a prediction.

    Attributes
    ----------
    border : "mirror", "constant" or None
    region : box of the result, or None for all of it
    mask : array-like of shape (z, y, x) of the volume, or None
        Where it is 0 nothing is predicted.
    blend : "gaussian" or "bump"
        Weights of the tiles of a padded network.
    finish : Finish
    """

    border: str | None = "mirror"
    region: Box | None = None
    mask: Any = None
    blend: str = "gaussian"
    finish: Finish = field(default_factory=Finish)


@dataclass(frozen=True)
class Scene:
    """The volumes to predict, how large the result is, and where it lies in them.

    Attributes
    ----------
    volumes : dict of input to array-like of shape (channel, z, y, x)
    size : (z, y, x)
        Of the result.
    origins : dict of input to (z, y, x)
        Where what the network reads for the result begins in each volume; negative with a border.
    extra : dict of input to (z, y, x)
        Voxels that each input has more than the output.
    border : "mirror", "constant" or None
    fit : Fit
        The sizes of tiles that are possible.
    first : (z, y, x)
        The voxel of the volume that the result begins with.
    mask : array-like of shape (z, y, x) or None
    blend : "gaussian", "bump" or None
        None where tiles need none.
    """

    volumes: dict[str, Any]
    size: Triple
    origins: dict[str, Triple]
    extra: dict[str, Triple]
    border: str | None
    fit: Fit
    first: Triple
    mask: Any = None
    blend: str | None = None

    @property
    def most(self) -> Triple:
        """Voxels that the largest input has more than the output."""
        z, y, x = (max(0, *axis) for axis in zip(*self.extra.values(), strict=True))
        return z, y, x


def see(net: Network, volumes: Mapping[str, Any], request: Request) -> Scene:
    """Check volumes against a network, and say what is to be predicted.

    Raises
    ------
    ShapeError
        If a volume is too small or volumes differ.
    ParameterError
        If the border is unknown, or the network pools.
    """
    border = request.border
    if border not in BORDERS:
        raise ParameterError(f"border must be 'mirror', 'constant' or None, got {border!r}")
    four = {name: _four_axes(v, net.inputs[name], name) for name, v in volumes.items()}
    sizes = {tuple(int(n) for n in v.shape[1:]) for v in four.values()}
    if len(sizes) > 1:
        raise ShapeError(f"volumes must have one size, got {sorted(sizes)} (z, y, x)")
    z, y, x = sizes.pop()
    whole = (z, y, x)
    _check_size(whole, ONE, "one voxel,")
    fit, extra = _dense_fit(net)
    scene = Scene(four, whole, {}, extra, border, fit, (0, 0, 0), request.mask, None if net.is_valid else request.blend)
    view = add(scene.most, ONE)
    before = half_of(view)
    first = before if border is None else (0, 0, 0)
    if border is None:
        _check_size(whole, view, "its field of view")
        whole = subtract(add(whole, ONE), view)
    elif border == "mirror":
        _check_size(whole, subtract(view, before), "more than half its field of view, to be mirrored,")
    size, start = whole, (0, 0, 0)
    if request.region is not None:
        start, size = _in_region(request.region, whole)
    first = add(first, start)
    # An input with a smaller field of view is read around the same voxel.
    origins = {name: subtract(first, half_of(add(own, ONE))) for name, own in extra.items()}
    _check_mask(request.mask, (z, y, x))
    return Scene(four, size, origins, extra, border, fit, first, request.mask, scene.blend)


def _dense_fit(net: Network) -> tuple[Fit, dict[str, Triple]]:
    if not net.is_valid and any(isinstance(edge.op, MaxPool) for edge in net.edges.values()):
        try:
            return fit_of(net)
        except ParameterError as error:
            raise ParameterError(
                "predict needs a network that is dense in its output, and this one has max-pooling: use max-filters "
                f"(letter M), which compute the same for every voxel. {error}"
            ) from error
    return fit_of(net)


def _in_region(region: Box, whole: Triple) -> tuple[Triple, Triple]:
    """Return where a region of the result begins, and its size."""
    places = [side.indices(n) for side, n in zip(region, whole, strict=True)]
    if any(step != 1 or stop <= start for start, stop, step in places):
        raise ShapeError(f"region {region} holds no voxel of a result of {whole} (z, y, x), or has a step")
    (a, b, _), (c, d, _), (e, f, _) = places
    return (a, c, e), (b - a, d - c, f - e)


def _check_mask(mask: Any, size: Triple) -> None:
    if mask is not None and tuple(mask.shape) != size:
        raise ShapeError(f"the mask has shape {tuple(mask.shape)}, but the volume {size} (z, y, x); they must be equal")


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
        array = WithChannel(array)
    if len(array.shape) != 4 or array.shape[0] != channels:
        raise ShapeError(
            f"volume for input {name!r} must have shape ({channels}, z, y, x)"
            f"{' or (z, y, x)' if channels == 1 else ''}, got {tuple(given.shape)}"
        )
    return array


class WithChannel:
    """A (z, y, x) array read as if it were (1, z, y, x)."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = (1, *array.shape)

    def __getitem__(self, where: tuple[slice, ...]) -> Any:
        return np.asarray(self.array[where[1:]])[np.newaxis]


# ---- reading


def read(scene: Scene, name: str, origin: Triple, size: Triple) -> Array:
    """Return the box of ``size`` at ``origin`` (of the result) of a volume, with what lies outside filled in."""
    places = places_of(scene, name, origin, size)
    box = tuple(_span(place) for place in places)
    values = np.asarray(scene.volumes[name][(slice(None), *box)], dtype=np.float32)
    return filled(values, places, box)


def places_of(scene: Scene, name: str, origin: Triple, size: Triple) -> list[npt.NDArray[np.int64]]:
    """Return where every axis of a box is read; -1 stands for zeros."""
    return [
        _indices(first + start, count, n, scene.border)
        for first, start, count, n in zip(scene.origins[name], origin, size, scene.volumes[name].shape[1:], strict=True)
    ]


def filled(values: Array, places: list[npt.NDArray[np.int64]], box: tuple[slice, ...]) -> Array:
    """Return a box from the part of it that was read."""
    for axis, (place, part) in enumerate(zip(places, box, strict=True), 1):
        wanted = np.maximum(place - part.start, 0)
        if not np.array_equal(wanted, np.arange(values.shape[axis])):
            values = np.take(values, wanted, axis=axis)
        outside = np.flatnonzero(place < 0)
        if outside.size:
            values = values if values.flags.writeable else values.copy()
            values[(slice(None),) * axis + (outside,)] = 0.0
    return values


def span_of(places: list[npt.NDArray[np.int64]]) -> tuple[slice, ...]:
    """Return the box that is read at all."""
    return tuple(_span(place) for place in places)


def _span(places: npt.NDArray[np.int64]) -> slice:
    """Return the part of an axis that is read at all."""
    inside = places[places >= 0]
    return slice(int(inside.min()), int(inside.max()) + 1) if inside.size else slice(0, 1)


def _indices(first: int, count: int, n: int, border: str | None) -> npt.NDArray[np.int64]:
    """Return where voxels first .. first + count of an axis are read; -1 stands for zeros."""
    places = np.arange(first, first + count)
    if border == "mirror":
        return mirrored(places, 0, n)
    # Without a border all is inside, but for tiles of a padded network that are larger than what is left.
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


def read_tile(scene: Scene, patch: Triple, tile: Tile) -> dict[str, Array]:
    """Return what the network reads for a tile, (channel, z, y, x) by input."""
    return {name: read(scene, name, tile.start, add(patch, scene.extra[name])) for name in scene.volumes}


def wanted(scene: Scene, tile: Tile) -> Values | None:
    """Return the part of the mask that lies over a block, as booleans; None without a mask."""
    if scene.mask is None:
        return None
    z, y, x = (slice(a + f, b + f) for a, b, f in zip(tile.low, tile.high, scene.first, strict=True))
    inside: Values = np.asarray(scene.mask[z, y, x]) != 0
    return inside


# ---- computing


def choose_tiling(
    scene: Scene, estimate: Callable[[Triple], int], memory: int, align: Triple = ONE, least_tiles: int = 1
) -> Tiling:
    """Return the tiling with the largest tiles that were found to stay within the memory."""
    size, fit = scene.size, scene.fit
    patch = search_patch(size, fit, scene.most, estimate, memory, SMALLEST, least_tiles)
    patch = patch or halved_patch(size, fit, estimate, memory, SMALLEST)
    return tiling_of(size, patch, fit, scene.blend, align)


def cut(tile: Tile, values: Array) -> Array:
    """Return the block of a tile's values."""
    part = tuple(slice(a - s, b - s) for a, b, s in zip(tile.low, tile.high, tile.start, strict=True))
    return values[(slice(None), *part)]


def finished(values: Array, inside: Values | None, finish: Finish) -> Values:
    """Return a block as it is to be kept."""
    result = finish(values)
    if inside is not None:
        result = np.where(inside, result, result.dtype.type(0))
    return result


def predict_scene(
    scene: Scene,
    tiling: Tiling,
    forward: Callable[[dict[str, Array]], Mapping[str, Array]],
    results: dict[str, Any],
    finish: Finish,
    progress: Progress | None,
) -> None:
    """Compute every tile with ``forward`` and write its block into arrays (channel, z, y, x) by output.

    Tiles that are blended are kept until the last block that they reach is written.
    """
    kept: dict[int, Mapping[str, Array]] = {}
    for tile in tiling:
        if progress is not None:
            progress(tile.number, len(tiling))
        inside = wanted(scene, tile)
        if inside is not None and not inside.any():
            for array in results.values():
                array[(slice(None), *tile.box)] = 0
            continue
        over = tiling.overlapping(tile.number)
        for other in over:
            if other not in kept:
                kept[other] = forward(read_tile(scene, tiling.patch, tiling.tile(other)))
        for name, array in results.items():
            if tiling.blend:
                block = blended(tiling, tile.number, lambda i, name=name: kept[i][name])  # type: ignore[misc]
            else:
                block = cut(tile, kept[tile.number][name])
            array[(slice(None), *tile.box)] = finished(block, inside, finish)
        for other in over:
            if tiling.readers(other)[-1] <= tile.number:
                kept.pop(other, None)
    if progress is not None:
        progress(len(tiling), len(tiling))


def check_out(out: Mapping[str, Any], outputs: Mapping[str, int], size: Triple) -> None:
    """Raise a ShapeError unless every array to write into has the result's shape."""
    for name, channels in outputs.items():
        if tuple(out[name].shape) != (channels, *size):
            raise ShapeError(f"out for {name!r} must have shape {(channels, *size)}, got {tuple(out[name].shape)}")
