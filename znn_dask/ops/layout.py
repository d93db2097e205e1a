"""Between public arrays and the blocks and groups a node is kept in.

Public: float32 ``(batch, channel, z, y, x)`` on the dense lattice. Inside: one array ``(entry, z, y, x, channel)``
per batch group and channel block, an *entry* being one example's fragment: the voxels of one sub-lattice.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from znn_dask.geometry import Triple
from znn_dask.ops.memory import Array, empty, zeros
from znn_dask.tasks import fresh


class Entry(NamedTuple):
    """One fragment: which example, and the first voxel (z, y, x) of its sub-lattice."""

    example: int
    z: int
    y: int
    x: int


class Arrangement(NamedTuple):
    """How a node is kept.

    Attributes
    ----------
    size : (z, y, x)
        Of one fragment.
    sparsity : (z, y, x)
        Distance between neighbouring voxels of a fragment on the dense lattice.
    groups : tuple of tuple of Entry
        The fragments of each batch group.
    blocks : tuple of (first, stop)
        The channels of each block.
    """

    size: Triple
    sparsity: Triple
    groups: tuple[tuple[Entry, ...], ...]
    blocks: tuple[tuple[int, int], ...]

    @property
    def n_channels(self) -> int:
        """Channels of all blocks."""
        return self.blocks[-1][1]

    @property
    def n_examples(self) -> int:
        """Examples in the batch."""
        return 1 + max(entry.example for group in self.groups for entry in group)

    @property
    def dense_size(self) -> Triple:
        """Size on the dense lattice (z, y, x)."""
        last = (max(axis) for axis in zip(*(entry[1:] for group in self.groups for entry in group), strict=True))
        z, y, x = (first + (n - 1) * s + 1 for first, n, s in zip(last, self.size, self.sparsity, strict=True))
        return z, y, x


@fresh
def from_public(batch: Array, entries: Sequence[Entry], channels: tuple[int, int], size: Triple) -> Array:
    """Return one block of a node of sparsity 1 from the public array; voxels beyond its end become zero."""
    first, stop = channels
    least = (min(axis) for axis in zip(*(entry[1:] for entry in entries), strict=True))
    whole = all(n + at <= m for n, at, m in zip(size, least, batch.shape[2:], strict=True))
    block = (empty if whole else zeros)((len(entries), *size, stop - first))
    for index, entry in enumerate(entries):
        sides = (slice(at, at + n) for at, n in zip(entry[1:], size, strict=True))
        where: Any = (entry.example, slice(first, stop), *sides)
        part = batch[where]
        z, y, x = part.shape[1:]
        block[index, :z, :y, :x] = np.moveaxis(part, 0, -1)
    return block


@fresh
def to_public(blocks: Sequence[Array], arrangement: Arrangement, size: Triple) -> Array:
    """Return the public array of ``size`` (z, y, x), cropped, from all blocks (group by group)."""
    dense = empty((arrangement.n_examples, arrangement.n_channels, *arrangement.dense_size))
    _visit(blocks, arrangement, dense, write=True)
    if arrangement.dense_size == size:
        return dense
    cropped = empty((*dense.shape[:2], *size))
    cropped[...] = dense[:, :, : size[0], : size[1], : size[2]]
    return cropped


def split(batch: Array, arrangement: Arrangement) -> tuple[Array, ...]:
    """Return all blocks (group by group) from the public array; voxels beyond its end become zero."""
    dense = batch
    if batch.shape[2:] != arrangement.dense_size:
        dense = zeros((*batch.shape[:2], *arrangement.dense_size))
        z, y, x = batch.shape[2:]
        dense[:, :, :z, :y, :x] = batch
    blocks = tuple(
        empty((len(group), *arrangement.size, stop - first))
        for group in arrangement.groups
        for first, stop in arrangement.blocks
    )
    _visit(blocks, arrangement, dense, write=False)
    return blocks


def _visit(blocks: Sequence[Array], arrangement: Arrangement, dense: Array, write: bool) -> None:
    each = iter(blocks)
    for group in arrangement.groups:
        for first, stop in arrangement.blocks:
            block = next(each)
            for inside, entry in zip(block, group, strict=True):
                steps = zip(entry[1:], arrangement.size, arrangement.sparsity, strict=True)
                sides = (slice(at, at + n * step, step) for at, n, step in steps)
                where: Any = (entry.example, slice(first, stop), *sides)
                lattice = dense[where]
                if write:
                    lattice[...] = np.moveaxis(inside, -1, 0)
                else:
                    inside[...] = np.moveaxis(lattice, 0, -1)


def kernel_to_internal(kernel: Array) -> Array:
    """Return (out, in, z, y, x) as a new contiguous array (z, y, x, in, out)."""
    return np.array(kernel.transpose(2, 3, 4, 1, 0), order="C")


def kernel_to_public(kernel: Array) -> Array:
    """Return (z, y, x, in, out) as a new contiguous array (out, in, z, y, x)."""
    return np.array(kernel.transpose(4, 3, 0, 1, 2), order="C")
