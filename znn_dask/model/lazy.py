"""Dask arrays of predictions: nothing is computed before it is asked for, and anywhere will do.

A task per tile reads what the tile sees from the given array, so that only the chunks under it are needed. The result
has the chunks of what was given, where it is of the same size.
"""

from collections.abc import Mapping
from typing import Any

import dask.array
import numpy as np
import numpy.typing as npt
from dask import delayed

from znn_dask.geometry import Triple, add
from znn_dask.model.outputs import Finish
from znn_dask.model.predict import Scene, WithChannel, cut, filled, finished, places_of, span_of, wanted
from znn_dask.model.predictor import Predictor
from znn_dask.model.tiling import Tiling, blended

Array = npt.NDArray[np.float32]


def lazy_result(scene: Scene, tiling: Tiling, predictor: Predictor, finish: Finish) -> dict[str, Any]:
    """Return a dask array (channel, z, y, x) for every output."""
    compute = delayed(compute_tile, pure=True)
    sent = delayed(predictor, pure=True, name=f"predictor-{predictor.token}", traverse=False)
    tiles: dict[int, Any] = {}
    for tile in tiling:
        inside = wanted(scene, tile)
        if inside is not None and not inside.any():
            continue
        for i in tiling.overlapping(tile.number):
            if i not in tiles:
                parts = {name: _part(scene, name, tiling.patch, tiling.tile(i).start) for name in scene.volumes}
                tiles[i] = compute(sent, {n: p[0] for n, p in parts.items()}, {n: p[1:] for n, p in parts.items()})
    results = {}
    for name, channels in predictor.net.outputs.items():
        blocks = [_block(scene, tiling, tiles, index, name, channels, finish) for index in range(len(tiling))]
        nz, ny, nx = tiling.counts
        nested = [[blocks[(z * ny + y) * nx : (z * ny + y + 1) * nx] for y in range(ny)] for z in range(nz)]
        results[name] = _as_given(scene, dask.array.block(nested))
    return results


def _part(scene: Scene, name: str, patch: Triple, start: Triple) -> tuple[Any, Any, Any]:
    """Return the lazy part of a volume that a tile reads, and how it is filled in."""
    places = places_of(scene, name, start, add(patch, scene.extra[name]))
    box = span_of(places)
    volume = scene.volumes[name]
    part = volume.array[box][np.newaxis] if isinstance(volume, WithChannel) else volume[(slice(None), *box)]
    return (part.rechunk(-1) if isinstance(part, dask.array.Array) else np.asarray(part)), places, box


def compute_tile(predictor: Predictor, parts: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Array]:
    """Return the outputs of a tile from the parts of volumes that it reads."""
    images = {name: filled(np.asarray(part, np.float32), *how[name]) for name, part in parts.items()}
    return predictor(images)


def finish_block(
    tiling: Tiling, index: int, values: Mapping[int, Mapping[str, Array]], name: str, inside: Any, finish: Finish
) -> Any:
    """Return a block from the tiles over it."""
    tile = tiling.tile(index)
    block = blended(tiling, index, lambda i: values[i][name]) if tiling.blend else cut(tile, values[index][name])
    return finished(block, inside, finish)


def _block(
    scene: Scene, tiling: Tiling, tiles: Mapping[int, Any], index: int, name: str, channels: int, finish: Finish
) -> Any:
    tile = tiling.tile(index)
    shape = (finish.count(channels), *(b - a for a, b in zip(tile.low, tile.high, strict=True)))
    inside = wanted(scene, tile)
    if inside is not None and not inside.any():
        return dask.array.zeros(shape, chunks=shape, dtype=finish.dtype)
    values = {i: tiles[i] for i in tiling.overlapping(index)}
    block = delayed(finish_block, pure=True)(tiling, index, values, name, inside, finish)
    return dask.array.from_delayed(block, shape, dtype=np.dtype(finish.dtype))


def _as_given(scene: Scene, result: Any) -> Any:
    """Return a result in the chunks of the first volume, where sizes are equal."""
    volume = next(iter(scene.volumes.values()))
    given = volume.array if isinstance(volume, WithChannel) else volume
    if isinstance(given, dask.array.Array) and given.shape[-3:] == result.shape[-3:]:
        return result.rechunk((result.chunks[0], *given.chunks[-3:]))
    return result
