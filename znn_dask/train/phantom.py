"""A made-up tissue: cells separated by thin membranes, as an electron microscope might show them.

It is a problem that a threshold does not solve: every cell has a brightness of its own, the illumination
drifts, vesicles inside the cells are as dark as membranes, and there is noise. What tells a membrane is its
shape. The cells are those of a Voronoi diagram (Worley, "A cellular texture basis function", 1996) in
coordinates warped by smooth noise.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from znn_dask.geometry import Triple, volume
from znn_dask.randomness import generator

CELL = 28.0  # voxels between neighbouring cell centres
MEMBRANE = 1.3  # half of a membrane's thickness, voxels
VESICLE = 1.8  # radius, voxels


class Phantom(NamedTuple):
    """An image with its truth.

    Attributes
    ----------
    image : float32 array of shape (z, y, x)
        Brightness, membranes dark.
    boundary : uint8 array of shape (z, y, x)
        1 in membranes.
    ids : int32 array of shape (z, y, x)
        Cell ids from 1; 0 in membranes.
    """

    image: np.ndarray
    boundary: np.ndarray
    ids: np.ndarray


def make_phantom(size: Triple, seed: int, number: int = 0) -> Phantom:
    """Make a phantom, the same for the same arguments.

    Parameters
    ----------
    size : (z, y, x)
        In voxels.
    seed : int
    number : int
        Phantoms of different numbers are different tissue.
    """
    random = generator(seed, number, "phantom")
    cells, gap = _cells(size, random)
    boundary = gap < MEMBRANE
    bright = 0.6 + 0.4 * random.random(int(cells.max()) + 1)
    image = bright[cells]
    image[_vesicles(size, boundary, random)] = 0.25
    image[boundary] = 0.25
    image *= 1.0 + 0.25 * _smooth_noise(size, 24.0, random)
    image = ndimage.gaussian_filter(image, 0.8, mode="mirror")
    image += 0.14 * random.standard_normal(size)
    ids = np.where(boundary, 0, cells + 1)
    return Phantom(image.astype(np.float32), boundary.astype(np.uint8), ids.astype(np.int32))


def _cells(size: Triple, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell of every voxel, and its distance in voxels to the wall of the cell."""
    margin = CELL
    span = np.array(size) + 2 * margin
    centres = random.random((max(2, round(float(np.prod(span)) / CELL**3)), 3)) * span - margin
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1).astype(np.float64)
    for axis in range(3):
        grid[..., axis] += 3.0 * _smooth_noise(size, 20.0, random)
    distance, nearest = cKDTree(centres).query(grid.reshape(-1, 3), k=2)
    first, second = centres[nearest[:, 0]], centres[nearest[:, 1]]
    # The wall between two centres is the plane in the middle.
    gap = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * np.linalg.norm(second - first, axis=1))
    return nearest[:, 0].reshape(size), gap.reshape(size)


def _vesicles(size: Triple, boundary: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return small balls inside cells."""
    seeds = random.random(size) < 1.0 / 250.0
    inside = ndimage.distance_transform_edt(~boundary) > VESICLE + 1.0
    ball: np.ndarray = ndimage.distance_transform_edt(~(seeds & inside)) <= VESICLE
    return ball


def _smooth_noise(size: Triple, scale: float, random: np.random.Generator) -> np.ndarray:
    """Return noise of standard deviation 1 that is smooth over `scale` voxels."""
    noise = ndimage.gaussian_filter(random.standard_normal(size), scale / 2, mode="wrap")
    smooth: np.ndarray = noise / noise.std() if volume(size) > 1 else noise
    return smooth
