"""Where patches may lie: drawn evenly over all places of all volumes, without those where nothing counts.

A mask is read once, and remembered as the blocks that hold anything. A place is drawn among all until its patch holds a
voxel that counts, which makes every such place equally likely, in whatever volume it lies, without a list of them.
"""

from collections.abc import Sequence

import numpy as np

from znn_dask.errors import DataError, ShapeError
from znn_dask.geometry import Triple, volume
from znn_dask.train.mirror import Margins
from znn_dask.train.volumes import Box, Volume

BLOCK: Triple = (4, 16, 16)
_AT_ONCE = 4096  # places that are tried together
_ROUNDS = 100_000


class Places:
    """The lowest corners of targets in volumes, for one order of the axes.

    Parameters
    ----------
    volumes : sequence of Volume
    output_size : (z, y, x)
        Along the axes of the patch.
    margins : Margins
        The widest of all inputs.
    order : three ints
        The axis of the volume behind each axis of the patch.
    mirror : bool
        Whether inputs may reach over what they may see.
    flip : str
        Axes along which patches may be flipped.

    Raises
    ------
    ShapeError
        If no patch fits into a volume.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        output_size: Triple,
        margins: Margins,
        order: tuple[int, int, int],
        mirror: bool,
        flip: str,
        blocks: Sequence["Blocks | None"],
    ) -> None:
        self._volumes, self._blocks = volumes, blocks
        size = [output_size[axis] for axis in order]  # exchanging y and x is its own inverse
        self._size: Triple = size[0], size[1], size[2]
        self._first: list[Triple] = []
        self._count: list[Triple] = []
        for item in volumes:
            first, count = [], []
            for own, axis in enumerate(order):
                low, high = item.region[own]
                if not mirror:
                    before, after = margins.before[axis], margins.after[axis]
                    if "zyx"[axis] in flip:  # flips exchange the margins, so a place must suit both
                        before = after = max(before, after)
                    low = max(low, item.reach[own][0] + before)
                    high = min(high, item.reach[own][1] - after)
                first.append(low)
                count.append(high - low - output_size[axis] + 1)
            if min(count) < 1:
                raise ShapeError(
                    f"no output patch of {self._size} (z, y, x) fits into region {_text(item.region)} of "
                    f"{item.name}. "
                    "Use a smaller training.output_size or a larger region"
                )
            self._first.append((first[0], first[1], first[2]))
            self._count.append((count[0], count[1], count[2]))
        self._ends = np.cumsum([volume(count) for count in self._count])

    def draw(self, random: np.random.Generator) -> tuple[int, Triple]:
        """Draw the number of a volume and the lowest corner of a target in it."""
        total = int(self._ends[-1])
        number, start = self._at(np.array([int(random.integers(total))]))
        if self._holds(number, start)[0]:
            return int(number[0]), _triple(start[0])
        for _ in range(_ROUNDS):
            number, start = self._at(random.integers(total, size=_AT_ONCE))
            for place in np.flatnonzero(self._may_hold(number, start)):
                if self._holds(number[place : place + 1], start[place : place + 1])[0]:
                    return int(number[place]), _triple(start[place])
        raise DataError("the masks leave hardly any voxel to learn from; use larger regions or other masks")

    def _at(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the volumes and corners (n, 3) of places by number."""
        numbers = np.searchsorted(self._ends, draws, side="right")
        counts, firsts = np.array(self._count)[numbers], np.array(self._first)[numbers]
        rest = draws - np.concatenate([[0], self._ends])[numbers]
        start = np.empty((len(draws), 3), np.int64)
        for axis in (2, 1, 0):
            rest, start[:, axis] = np.divmod(rest, counts[:, axis])
        return numbers, start + firsts

    def _may_hold(self, numbers: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return for which places a block that the patch touches holds anything."""
        found = np.ones(len(numbers), bool)
        for number, blocks in enumerate(self._blocks):
            here = numbers == number
            if blocks is not None and here.any():
                found[here] = blocks.any(starts[here], starts[here] + np.array(self._size))
        return found

    def _holds(self, numbers: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return for which places the patch holds a voxel that counts."""
        found = np.ones(len(numbers), bool)
        for n, (number, start) in enumerate(zip(numbers, starts, strict=True)):
            mask = self._volumes[number].mask
            if mask is not None:
                box = tuple(slice(int(a), int(a) + s) for a, s in zip(start, self._size, strict=True))
                found[n] = bool(np.any(mask[box]))
        return found


class Blocks:
    """Which blocks of a mask hold a voxel that counts, inside a region; sums over boxes of blocks cost eight look-ups.

    Raises
    ------
    DataError
        If the mask leaves nothing of the region.
    """

    def __init__(self, item: Volume) -> None:
        assert item.mask is not None
        low = [low // b for (low, _), b in zip(item.region, BLOCK, strict=True)]
        high = [-(-high // b) for (_, high), b in zip(item.region, BLOCK, strict=True)]
        shape = [h - a for a, h in zip(low, high, strict=True)]
        held = np.zeros(shape, bool)
        for layer in range(shape[0]):
            first = (low[0] + layer) * BLOCK[0]
            box = [slice(max(a, b), c) for a, b, c in zip((first, 0, 0), *zip(*item.region, strict=True), strict=True)]
            box[0] = slice(box[0].start, min(first + BLOCK[0], item.region[0][1]))
            rows = np.asarray(item.mask[tuple(box)]).any(axis=0)
            for axis in (0, 1):
                starts = np.arange(low[axis + 1], high[axis + 1]) * BLOCK[axis + 1] - item.region[axis + 1][0]
                rows = np.logical_or.reduceat(rows, np.maximum(starts, 0), axis=axis)
            held[layer] = rows
        if not held.any():
            raise DataError(f"the mask of {item.name} leaves no voxel of its region; use another mask or region")
        self._low = np.array(low)
        self._sums = np.zeros([n + 1 for n in shape], np.int64)
        self._sums[1:, 1:, 1:] = held.cumsum(0).cumsum(1).cumsum(2)

    def any(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return for boxes, given by their corners (n, 3) in voxels, whether a block that they touch holds anything."""
        blocks = np.array(BLOCK)
        most = np.array(self._sums.shape) - 1
        first = np.clip(low // blocks - self._low, 0, most)
        last = np.clip(-(-high // blocks) - self._low, 0, most)
        total = np.zeros(len(low), np.int64)
        for corner in np.ndindex(2, 2, 2):
            place = np.where(np.array(corner, bool), last, first)
            total += (-1) ** (3 - sum(corner)) * self._sums[place[:, 0], place[:, 1], place[:, 2]]
        return total > 0


def _triple(start: np.ndarray) -> Triple:
    return int(start[0]), int(start[1]), int(start[2])


def _text(region: Box) -> str:
    return ", ".join(f"{axis} {low}:{high}" for axis, (low, high) in zip("zyx", region, strict=True))
