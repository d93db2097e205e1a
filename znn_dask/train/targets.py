"""What a network is to say for every voxel, made from labels.

*binary*: 1 where the label reaches a threshold.

*boundary*, from cell ids: a voxel is boundary (1) if its id is 0, or if one of its neighbours has another id, 0
included. So both voxels of a touching pair are boundary, and boundaries are two voxels wide or more. Neighbours are the
6 that share a face, or the 4 of them in the same section for data with thick sections. Beyond the volume there are no
neighbours.

*affinity*, from cell ids: one map for each offset (z, y, x); it is 1 at voxel p if p and p + offset have the same id
that is not 0. Pairs that leave the region, or that a mask or `ignore` leaves out at either end, have weight 0.

*classes*: the number of a class for every voxel, for the softmax loss.

*ids*: the cell ids, numbered anew in every patch, for losses that compare segments; 0 stays 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from znn_dask.geometry import Triple
from znn_dask.io.stored import Region

Kind: TypeAlias = Literal["binary", "boundary", "affinity", "classes", "ids"]
NEAREST: tuple[Triple, ...] = ((0, 0, -1), (0, -1, 0), (-1, 0, 0))  # x, y, z, as in ZNN


class Target(NamedTuple):
    """A target with what each of its values counts.

    Attributes
    ----------
    values : array of shape (channel, z, y, x)
        uint8; int64 for classes and ids.
    valid : bool array of shape (1, z, y, x) or (channel, z, y, x), or None
        False where the target is not known; None: it is everywhere.
    """

    values: np.ndarray
    valid: np.ndarray | None


@dataclass(frozen=True)
class TargetSpec:
    """How a target is made from labels.

    Attributes
    ----------
    kind : "binary", "boundary", "affinity", "classes" or "ids"
    threshold : float
        binary: the smallest label that counts as 1.
    invert : bool
        Exchange 0 and 1.
    in_plane : bool
        boundary: compare along y and x only.
    offsets : tuple of (z, y, x)
        affinity: one map each.
    classes : tuple of int, optional
        classes: the label of each class, others do not count; None: labels are numbers of classes.
    ignore : int, optional
        The label of voxels that do not count.
    """

    kind: Kind = "binary"
    threshold: float = 1.0
    invert: bool = False
    in_plane: bool = False
    offsets: tuple[Triple, ...] = NEAREST
    classes: tuple[int, ...] | None = None
    ignore: int | None = None

    @property
    def halo(self) -> tuple[Triple, Triple]:
        """How many voxels (z, y, x) of labels are needed before and after a box."""
        if self.kind == "boundary":
            around = (0, 1, 1) if self.in_plane else (1, 1, 1)
            return around, around
        if self.kind == "affinity":
            before = [max(0, *(-offset[axis] for offset in self.offsets)) for axis in range(3)]
            after = [max(0, *(offset[axis] for offset in self.offsets)) for axis in range(3)]
            return (before[0], before[1], before[2]), (after[0], after[1], after[2])
        return (0, 0, 0), (0, 0, 0)

    @property
    def channels(self) -> int:
        """The number of maps of the target; classes have one."""
        return len(self.offsets) if self.kind == "affinity" else 1

    @property
    def weighs(self) -> bool:
        """Whether some voxels may not count, whatever the mask."""
        return self.kind == "affinity" or self.ignore is not None or self.classes is not None

    def make(self, labels: np.ndarray, known: np.ndarray | None = None) -> Target:
        """Make the target of a box from labels of the box and its `halo`.

        Parameters
        ----------
        labels : array of shape (z, y, x)
        known : bool array of the same shape, optional
            False where there are no labels, or they do not count.

        Returns
        -------
        Target
            Of the box.
        """
        if self.ignore is not None:
            counts = labels != self.ignore
            known = counts if known is None else known & counts
        box = self._inner(labels.shape)
        if self.kind == "affinity":
            return self._affinities(labels, known, box)
        valid = None if known is None else known[box][np.newaxis]
        if self.kind == "classes":
            return self._classes(labels[box], valid)
        if self.kind == "ids":
            found, numbers = np.unique(labels, return_inverse=True)
            numbers = numbers.reshape(labels.shape) + (0 if found[0] == 0 else 1)
            return Target(numbers[np.newaxis].astype(np.int64), valid)
        positive = boundary_map(labels, self.in_plane)[box] if self.kind == "boundary" else labels >= self.threshold
        return Target((positive != self.invert).astype(np.uint8)[np.newaxis], valid)

    def _inner(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(b, n - a) for b, a, n in zip(*self.halo, shape, strict=True))

    def _affinities(self, ids: np.ndarray, known: np.ndarray | None, box: tuple[slice, ...]) -> Target:
        size = tuple(side.stop - side.start for side in box)
        values = np.empty((len(self.offsets), *size), np.uint8)
        valid = None if known is None else np.empty(values.shape, bool)
        here = ids[box]
        for number, offset in enumerate(self.offsets):
            there = tuple(slice(side.start + o, side.stop + o) for side, o in zip(box, offset, strict=True))
            values[number] = ((ids[there] == here) & (here != 0)) != self.invert
            if valid is not None and known is not None:
                valid[number] = known[box] & known[there]
        return Target(values, valid)

    def _classes(self, labels: np.ndarray, valid: np.ndarray | None) -> Target:
        if self.classes is None:
            numbers = labels.astype(np.int64)
            if self.ignore is not None:
                numbers[labels == self.ignore] = 0
            return Target(numbers[np.newaxis], valid)
        numbers, found = np.zeros(labels.shape, np.int64), np.zeros(labels.shape, bool)
        for number, label in enumerate(self.classes):
            where = labels == label
            numbers[where] = number
            found |= where
        valid = found[np.newaxis] if valid is None else valid & found
        return Target(numbers[np.newaxis], valid)


class Labels:
    """The labels of a volume with the target that is made from them where it is indexed.

    Attributes
    ----------
    ids : array of shape (z, y, x), read by region
    spec : TargetSpec
    shape : tuple of int
        (z, y, x), or (channel, z, y, x) for affinities.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, ids: Region, spec: TargetSpec, name: str = "labels") -> None:
        self.ids, self.spec, self.name = ids, spec, name
        self.shape = (spec.channels, *ids.shape) if spec.kind == "affinity" else tuple(ids.shape)

    def __getitem__(self, where: Any) -> np.ndarray:
        """Return the target of a box, given by slices along z, y and x; of affinities all maps."""
        parts = where if isinstance(where, tuple) else (where,)
        parts = tuple(part for part in parts if part is not Ellipsis)
        parts += (slice(None),) * (3 - len(parts))
        box = tuple(slice(*part.indices(n)) for part, n in zip(parts, self.ids.shape, strict=True))
        target = self.box(box)
        return target.values if self.spec.kind == "affinity" else target.values[0]

    def box(self, box: Sequence[slice]) -> Target:
        """Return the target of a box and what counts of it, from the labels of the whole volume."""
        before, after = self.spec.halo
        low = [side.start - b for side, b in zip(box, before, strict=True)]
        high = [side.stop + a for side, a in zip(box, after, strict=True)]
        inside = tuple(slice(max(0, a), min(n, b)) for a, b, n in zip(low, high, self.ids.shape, strict=True))
        labels = np.asarray(self.ids[inside])
        pads = [(i.start - a, b - i.stop) for a, b, i in zip(low, high, inside, strict=True)]
        known = np.pad(np.ones(labels.shape, bool), pads) if any(map(any, pads)) else None
        # The outermost voxel again: a neighbour that is the voxel itself makes no boundary.
        return self.spec.make(np.pad(labels, pads, mode="edge"), known if self.spec.kind == "affinity" else None)


def boundary_map(ids: np.ndarray, in_plane: bool = False) -> np.ndarray:
    """Return where cells meet or are absent.

    Parameters
    ----------
    ids : integer array of shape (z, y, x)
        Cell ids; 0 is boundary or unlabelled.
    in_plane : bool
        Compare along y and x only.

    Returns
    -------
    bool array of shape (z, y, x)
    """
    boundary: np.ndarray = ids == 0
    for axis in (1, 2) if in_plane else (0, 1, 2):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        differs = ids[low] != ids[high]
        boundary[low] |= differs
        boundary[high] |= differs
    return boundary


def affinity_map(ids: np.ndarray, offsets: Sequence[Triple] = NEAREST) -> np.ndarray:
    """Return where pairs of voxels belong to one cell.

    Parameters
    ----------
    ids : integer array of shape (z, y, x)
        Cell ids; 0 is boundary or unlabelled.
    offsets : sequence of (z, y, x)

    Returns
    -------
    uint8 array of shape (offset, z, y, x)
        1 at p if p and p + offset have the same id that is not 0; 0 where p + offset lies outside.
    """
    target = Labels(ids, TargetSpec("affinity", offsets=tuple(offsets))).box([slice(0, n) for n in ids.shape])
    return target.values if target.valid is None else target.values * target.valid


def target_map(
    label: np.ndarray,
    target: Literal["binary", "boundary"],
    threshold: float = 1.0,
    invert: bool = False,
    in_plane: bool = False,
) -> np.ndarray:
    """Return the 0 and 1 that a configuration asks for.

    Parameters
    ----------
    label : array of shape (z, y, x)
    target : "binary" or "boundary"
        1 where ``label >= threshold``, or the `boundary_map` of cell ids.
    threshold : float
    invert : bool
        Exchange 0 and 1.
    in_plane : bool
        As in `boundary_map`.

    Returns
    -------
    uint8 array of shape (z, y, x)
    """
    return Labels(label, TargetSpec(target, threshold, invert, in_plane))[:]
