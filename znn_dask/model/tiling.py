"""How a volume is cut into tiles, and how tiles of padded networks are blended.

A tile is what is computed at once; a block is what is kept of it. Blocks are disjoint, cover the volume and begin at
multiples of one size, so that chunks of a file belong to one block each. In a valid network every voxel is computed
from its whole field of view wherever the tiles lie, so block and tile belong together one to one. A padded network
sees zeros beyond a tile: there tiles overlap, and a voxel is the weighted mean of all tiles that hold it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError, ShapeError
from znn_dask.geometry import ONE, Triple, add, ceil_div, multiply, subtract, volume
from znn_dask.net import Network, shapes

Array = npt.NDArray[np.float32]
Estimate = Callable[[Triple], int]
BLENDS = ("gaussian", "bump")
MOST_ESTIMATES = 6  # each makes a plan and compiles its graph
LEAST_WEIGHT = 1e-3  # of the middle of a tile, so that no voxel is divided by nothing


class Tile(NamedTuple):
    """A tile and its block, in voxels of the result; each (z, y, x).

    Attributes
    ----------
    start : first voxel that is computed; as many as the patch follow, some perhaps beyond the result
    low, high : the block
    """

    number: int
    start: Triple
    low: Triple
    high: Triple

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The block as slices."""
        z, y, x = (slice(a, b) for a, b in zip(self.low, self.high, strict=True))
        return z, y, x


@dataclass(frozen=True)
class Tiling:
    """Tiles of one size over a result.

    Attributes
    ----------
    size : (z, y, x)
        Of the result.
    patch : (z, y, x)
        Of a tile.
    step : (z, y, x)
        From one block to the next; the patch unless tiles overlap.
    blend : "gaussian", "bump" or None
        The weights of tiles that overlap; None for valid networks.
    """

    size: Triple
    patch: Triple
    step: Triple
    blend: str | None = None

    @property
    def counts(self) -> Triple:
        """Tiles along every axis."""
        z, y, x = (
            1 if p >= n else ceil_div(n - (p if self.blend else 0), s) + (1 if self.blend else 0)
            for n, p, s in zip(self.size, self.patch, self.step, strict=True)
        )
        return z, y, x

    def __len__(self) -> int:
        return volume(self.counts)

    def __iter__(self) -> Iterator[Tile]:
        return map(self.tile, range(len(self)))

    def tile(self, index: int) -> Tile:
        """Return a tile by its number, in C order."""
        counts = self.counts
        rest, x = divmod(index, counts[2])
        z, y = divmod(rest, counts[1])
        low = multiply((z, y, x), self.step)
        ends = [p == c - 1 for p, c in zip((z, y, x), counts, strict=True)]
        a, b, c = (n if end else first + s for end, n, first, s in zip(ends, self.size, low, self.step, strict=True))
        start = low if self.blend else _moved_back(low, self.size, self.patch)
        return Tile(index, start, low, (a, b, c))

    def overlapping(self, index: int) -> list[int]:
        """Return the tiles that hold voxels of a block, in their order."""
        if not self.blend:
            return [index]
        block = self.tile(index)
        sides = [
            [k for k in range(count) if k * s < high and k * s + p > low]
            for count, s, p, low, high in zip(self.counts, self.step, self.patch, block.low, block.high, strict=True)
        ]
        return self._numbers(sides)

    def readers(self, index: int) -> list[int]:
        """Return the blocks that lie under a tile, in their order."""
        if not self.blend:
            return [index]
        tile = self.tile(index)
        sides = [
            [k for k in range(count) if k * s < first + p and (k == count - 1 or (k + 1) * s > first)]
            for count, s, p, first in zip(self.counts, self.step, self.patch, tile.start, strict=True)
        ]
        return self._numbers(sides)

    def _numbers(self, sides: list[list[int]]) -> list[int]:
        counts = self.counts
        return [(z * counts[1] + y) * counts[2] + x for z, y, x in product(*sides)]


def _moved_back(low: Triple, size: Triple, patch: Triple) -> Triple:
    """Return where the tile of a block begins: the last along an axis ends with the result."""
    z, y, x = (max(0, min(first, n - p)) for first, n, p in zip(low, size, patch, strict=True))
    return z, y, x


# ---- weights


def blended(tiling: Tiling, index: int, values: Callable[[int], Array]) -> Array:
    """Return a block: the weighted mean of the tiles over it, added up in their order.

    Parameters
    ----------
    values : callable(tile) -> float32 array of shape (channel, z, y, x)
        Of the whole tile.
    """
    block = tiling.tile(index)
    total: Array | None = None
    weights = np.zeros(subtract(block.high, block.low), np.float32)
    sides = [profile(n, tiling.blend or "gaussian") for n in tiling.patch]
    over = tiling.overlapping(index)
    for other in over:
        tile = tiling.tile(other)
        low = [max(a, b) for a, b in zip(block.low, tile.start, strict=True)]
        high = [min(a, b + p) for a, b, p in zip(block.high, tile.start, tiling.patch, strict=True)]
        there = tuple(slice(a - b, c - b) for a, b, c in zip(low, tile.start, high, strict=True))
        here = tuple(slice(a - b, c - b) for a, b, c in zip(low, block.low, high, strict=True))
        part = values(other)[(slice(None), *there)]
        if len(over) == 1:
            return part
        z, y, x = (side[where] for side, where in zip(sides, there, strict=True))
        weight = z[:, None, None] * y[:, None] * x
        if total is None:
            total = np.zeros((part.shape[0], *weights.shape), np.float32)
        total[(slice(None), *here)] += weight * part
        weights[here] += weight
    assert total is not None
    total /= weights
    return total


def profile(length: int, blend: str) -> Array:
    """Return the weights along one axis of a tile, 1 in the middle and small at its ends.

    ``"gaussian"`` has a deviation of an eighth of the tile, as is usual; ``"bump"`` is smooth and falls to nothing.
    """
    place = (np.arange(length) + 0.5) / length * 2 - 1
    values = np.exp(-0.5 * (4 * place) ** 2) if blend == "gaussian" else np.exp(1 - 1 / (1 - place**2))
    return np.maximum(values, LEAST_WEIGHT).astype(np.float32)


# ---- sizes


class Fit(NamedTuple):
    """The sizes that a tile can have along the axes: ``least``, ``least + step`` and so on."""

    least: Triple
    step: Triple

    def up(self, size: Triple) -> Triple:
        """Return the smallest possible size not below another."""
        z, y, x = (
            least + ceil_div(max(0, n - least), s) * s for n, least, s in zip(size, self.least, self.step, strict=True)
        )
        return z, y, x

    def down(self, size: Triple) -> Triple:
        """Return the largest possible size not above another, or the least there is."""
        z, y, x = (least + max(0, n - least) // s * s for n, least, s in zip(size, self.least, self.step, strict=True))
        return z, y, x


def fit_of(net: Network) -> tuple[Fit, dict[str, Triple]]:
    """Return the sizes possible for outputs, and how many voxels more every input has.

    Raises
    ------
    ParameterError
        If the network does not give one voxel for each of its input.
    """
    if net.is_valid:
        sizes = net.node_sizes(ONE)
        return Fit(ONE, ONE), {name: subtract(sizes[name], ONE) for name in net.inputs}
    table = shapes.lines(net.graph, shapes.sparsities(net.graph))
    for name in net.inputs:
        for output, line in table[name].items():
            if any(s != 1 for s in line.scale):
                scale = " x ".join(str(s) for s in line.scale)
                raise ParameterError(
                    f"predict needs one output voxel for each input voxel; output {output!r} has one for {scale} of "
                    f"input {name!r} (z, y, x). Use max-filters in place of pools and strides, or upsample again"
                )
    some = [line for by_output in table.values() for line in by_output.values()]
    steps = [math.lcm(*(line.scale[axis].denominator for line in some)) for axis in range(3)]
    least = shapes.smallest_output(table)
    try:
        sizes = net.node_sizes(dict.fromkeys(net.outputs, least))
    except ShapeError as error:
        raise ParameterError(f"predict needs outputs of one size: {error}") from error
    return Fit(least, (steps[0], steps[1], steps[2])), {name: subtract(sizes[name], least) for name in net.inputs}


def tiling_of(size: Triple, patch: Triple, fit: Fit, blend: str | None, align: Triple = ONE) -> Tiling:
    """Return the tiling of a result with a patch, or with one a little smaller where that aligns blocks.

    Parameters
    ----------
    align : (z, y, x)
        What blocks should be multiples of, where there are several.
    """
    if blend is not None and blend not in BLENDS:
        raise ParameterError(f"blend must be one of {', '.join(BLENDS)}, got {blend!r}")
    if blend is None:
        z, y, x = (p if p >= n or p < a else p // a * a for n, p, a in zip(size, patch, align, strict=True))
        return Tiling(size, (z, y, x), (z, y, x))
    # Half a tile from one to the next, in whole periods of the network: its pools then see the same lattice.
    z, y, x = (max(s, p // 2 // s * s) for p, s in zip(patch, fit.step, strict=True))
    return Tiling(size, patch, (z, y, x), blend)


def search_patch(
    size: Triple, fit: Fit, extra: Triple, estimate: Estimate, memory: int, smallest: int, least_tiles: int = 1
) -> Triple | None:
    """Return the patch with the least work of those found that keep to the memory; None if none was.

    Large patches pay: neighbouring patches share the border of their fields of view (ZNNi, arXiv 1606.05688). Work is
    counted in input voxels. Memory grows nearly with them, so few estimates find the place.

    Parameters
    ----------
    extra : (z, y, x)
        Voxels that the input has more than the output.
    estimate : callable(patch) -> bytes
    smallest : int
        Voxels along an axis below which it is not divided.
    least_tiles : int
        That there should be, if there can.
    """
    ranked = _by_work(size, fit, extra, smallest)
    ranked = [patch for patch in ranked if _count(size, patch) >= least_tiles] or ranked
    best: Triple | None = None
    tried: dict[Triple, float] = {}
    rate = 0.0
    guess = min(ranked, key=lambda p: abs(volume(add(p, extra)) - 64**3))
    for _ in range(MOST_ESTIMATES):
        used = estimate(guess)
        tried[guess] = used
        if used <= memory and (best is None or ranked.index(guess) < ranked.index(best)):
            best = guess
        rate = used / volume(add(guess, extra))
        within = (
            p for p in ranked if rate * volume(add(p, extra)) <= 0.97 * memory and not _hopeless(p, tried, memory)
        )
        found = next(within, None)
        if found is None or found in tried:
            break
        guess = found
    return best


def _count(size: Triple, patch: Triple) -> int:
    return math.prod(ceil_div(n, p) for n, p in zip(size, patch, strict=True))


def _hopeless(patch: Triple, tried: dict[Triple, float], memory: int) -> bool:
    """Return whether a patch holds one that is known to be too large."""
    return any(
        used > memory and all(a >= b for a, b in zip(patch, other, strict=True)) for other, used in tried.items()
    )


def _by_work(size: Triple, fit: Fit, extra: Triple, smallest: int) -> list[Triple]:
    """Return the patches that divide a result evenly, the least work first."""
    sides = []
    for axis in range(3):
        found: dict[int, int] = {}
        parts = 1
        while True:
            want = [1, 1, 1]
            want[axis] = ceil_div(size[axis], parts)
            side = fit.up((want[0], want[1], want[2]))[axis]
            found.setdefault(side, parts)
            if side <= max(fit.least[axis], smallest) or len(found) > 40:
                break
            parts = max(parts + 1, ceil_div(size[axis], max(1, side - fit.step[axis])))
        sides.append(found)

    def work(patch: Triple) -> tuple[int, int]:
        n = math.prod(found[side] * (side + more) for found, side, more in zip(sides, patch, extra, strict=True))
        return n, -volume(patch)

    patches: list[Triple] = [(z, y, x) for z in sides[0] for y in sides[1] for x in sides[2]]
    return sorted(patches, key=work)


def halved_patch(size: Triple, fit: Fit, estimate: Estimate, memory: int, smallest: int) -> Triple:
    """Return the largest patch, found by halving the longest side, that keeps to the memory; or the smallest."""
    patch = fit.up(size)
    while estimate(patch) > memory:
        sides = [(n, axis) for axis, n in enumerate(patch) if n > max(smallest, fit.least[axis])]
        if not sides:
            break
        n, axis = max(sides, key=lambda side: (side[0], -side[1]))
        want = list(patch)
        want[axis] = ceil_div(n, 2)
        smaller = fit.up((want[0], want[1], want[2]))
        if smaller == patch:
            break
        patch = smaller
    return patch
