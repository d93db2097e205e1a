"""The obvious version of `warp`."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from znn_dask.geometry import Triple
from znn_dask.ops.memory import Array


def interpolate(
    image: Array, z: Array | None, y: Array, x: Array, moved: npt.NDArray[np.int32], low: Triple, size: Triple
) -> Array:
    """Return an image at other places, as `warp.interpolate` says."""
    shift = moved.astype(np.float32).reshape(-1, 2, 1, 1)
    sections = np.arange(size[0], dtype=np.float32).reshape(-1, 1, 1) if z is None else z
    where = [sections - low[0], y + shift[:, 0] - low[1], x + shift[:, 1] - low[2]]
    places = np.stack([np.broadcast_to(part, size) for part in where])
    return np.stack([ndimage.map_coordinates(channel, places, order=1, mode="nearest") for channel in image])
