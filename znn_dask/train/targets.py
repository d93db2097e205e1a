"""What a network is to say: 0 or 1 for every voxel, made from labels.

Convention for cell ids: a voxel is *boundary* (1) if its id is 0, or if one of its neighbours has another
id, 0 included. So both voxels of a touching pair are boundary, and boundaries are two voxels wide or more.
Neighbours are the 6 that share a face, or the 4 of them in the same section for data with thick sections.
Beyond the volume there are no neighbours.
"""

from typing import Literal

import numpy as np


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
    positive = boundary_map(label, in_plane) if target == "boundary" else label >= threshold
    chosen: np.ndarray = positive != invert
    return chosen.astype(np.uint8)
