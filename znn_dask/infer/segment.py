"""Objects out of a prediction, block by block, with ids that are consistent across blocks.

Connected components are those of the whole volume, whatever the blocks: every block is labelled alone, ids that touch
across a face are united, and all are numbered anew. A watershed floods from such components as seeds; blocks see some
voxels around them, and agree wherever the flood is decided within that distance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from skimage.segmentation import watershed

from znn_dask.errors import DataError, ParameterError
from znn_dask.geometry import Triple, volume
from znn_dask.infer.sink import Sink
from znn_dask.model.tiling import Tile, Tiling

Values = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]
Read = Callable[[tuple[slice, ...]], Values]
Progress = Callable[[int, int], None]
BLOCK: Triple = (64, 256, 256)
METHODS = ("components", "watershed")


@dataclass(frozen=True)
class Cutting:
    """How objects are found in a map of boundaries, (z, y, x).

    Attributes
    ----------
    threshold : float
        Voxels below it are inside; of a watershed, they are seeds.
    method : "components" or "watershed"
        Whether what is connected through faces is an object, or is flooded from it.
    limit : float or None
        A watershed floods voxels below it, and all if it is None.
    halo : int
        Voxels that a block of the watershed sees around it.
    min_size : int
        Components of fewer voxels are dropped.
    """

    threshold: float = 0.5
    method: str = "components"
    limit: float | None = None
    halo: int = 16
    min_size: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ParameterError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.halo < 0 or self.min_size < 1:
            raise ParameterError(f"halo must be at least 0 and min_size at least 1, got {self.halo}, {self.min_size}")


def blocks_of(size: Triple, block: Triple | None = None) -> Tiling:
    """Return the blocks of a volume."""
    z, y, x = (min(n, b) for n, b in zip(size, block or BLOCK, strict=True))
    return Tiling(size, (z, y, x), (z, y, x))


def segment_blocks(
    read: Read, blocks: Tiling, seeds: Sink, result: Sink, cutting: Cutting, progress: Progress | None = None
) -> int:
    """Write the ids of objects, 1 and up and 0 elsewhere, and return how many there are.

    Parameters
    ----------
    read : callable(box) -> array of shape (z, y, x)
        The map of boundaries: low inside objects.
    blocks : Tiling
    seeds, result : Sink
        Created; for components they are one. The seeds are what a watershed floods from.
    progress : callable(done, total), optional
    """
    passes = 3 if cutting.method == "watershed" else 2
    told = _Told(progress, passes * len(blocks))
    counts, pairs, sizes = _label_all(read, blocks, seeds, cutting, told)
    table, n_objects = _numbered(counts, pairs, sizes, cutting.min_size)
    starts = np.concatenate([[0], np.cumsum(counts)])
    for tile in blocks:
        local = seeds.read(tile.box).astype(np.int64)
        seeds.write(tile.box, table[np.where(local > 0, local + starts[tile.number], 0)][np.newaxis])
        told.one()
    if cutting.method == "watershed":
        for tile in blocks:
            result.write(tile.box, _flooded(read, seeds, blocks.size, tile, cutting)[np.newaxis])
            told.one()
    return n_objects


class _Told:
    """Counts blocks and tells."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def one(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _label_all(
    read: Read, blocks: Tiling, seeds: Sink, cutting: Cutting, told: _Told
) -> tuple[list[int], list[Ids], list[Ids]]:
    """Label every block by itself; return its numbers of components, pairs that touch across faces, and sizes."""
    counts: list[int] = []
    pairs: list[Ids] = []
    sizes: list[Ids] = []
    first = 0
    starts: dict[int, int] = {}
    for tile in blocks:
        inside = read(tile.box) < cutting.threshold
        labels, count = ndimage.label(inside)
        if count > np.iinfo(seeds.dtype).max:
            raise DataError(f"a block has {count} components, more than {seeds.dtype} can number; use fewer")
        sizes.append(np.bincount(labels.ravel(), minlength=count + 1)[1:])
        seeds.write(tile.box, labels[np.newaxis])
        starts[tile.number] = first
        for axis, other in _neighbours(blocks, tile.number):
            low = tile.low[axis]
            plane = list(tile.box)
            plane[axis] = slice(low - 1, low)
            before = seeds.read((plane[0], plane[1], plane[2])).astype(np.int64)
            here = np.take(labels, [0], axis=axis).astype(np.int64)
            both = (before > 0) & (here > 0)
            touching = np.stack([before[both] + starts[other], here[both] + first], axis=1)
            pairs.append(np.unique(touching, axis=0))
        counts.append(count)
        first += count
        told.one()
    return counts, pairs, sizes


def _neighbours(blocks: Tiling, number: int) -> list[tuple[int, int]]:
    """Return (axis, number) of the blocks before one."""
    _, ny, nx = blocks.counts
    strides = (ny * nx, nx, 1)
    low = blocks.tile(number).low
    return [(axis, number - strides[axis]) for axis in range(3) if low[axis] > 0]


def _numbered(counts: list[int], pairs: list[Ids], sizes: list[Ids], min_size: int) -> tuple[Ids, int]:
    """Return the final id of every id of a block, numbered in the order in which they are met, and their number."""
    n = sum(counts)
    joined = np.concatenate([np.empty((0, 2), np.int64), *pairs])
    graph = sparse.coo_matrix((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), (n + 1, n + 1))
    _, groups = sparse.csgraph.connected_components(graph, directed=False)
    total = np.bincount(groups, weights=np.concatenate([[0], *sizes]))
    kept = total[groups] >= min_size
    kept[0] = False
    table = np.zeros(n + 1, np.int64)
    _, first, inverse = np.unique(groups[kept], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    table[kept] = rank[inverse]
    return table, len(first)


def _flooded(read: Read, seeds: Sink, size: Triple, tile: Tile, cutting: Cutting) -> Values:
    """Return the block of a watershed that sees some voxels around it."""
    low = tuple(max(0, a - cutting.halo) for a in tile.low)
    high = tuple(min(n, b + cutting.halo) for n, b in zip(size, tile.high, strict=True))
    z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
    values = np.asarray(read((z, y, x)), np.float32)
    mask = None if cutting.limit is None else values < cutting.limit
    flooded: Values = watershed(values, seeds.read((z, y, x)).astype(np.int64), mask=mask)
    inner = tuple(slice(a - b, c - b) for a, b, c in zip(tile.low, low, tile.high, strict=True))
    return flooded[inner]


def id_type(size: Triple) -> str:
    """Return the type that numbers the objects of any volume of a size."""
    # No more than every second voxel can be an object of its own.
    return "uint32" if volume(size) // 2 < np.iinfo(np.uint32).max else "uint64"
