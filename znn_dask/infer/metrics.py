"""How good a prediction is: voxel by voxel, as a segmentation, and against doing without a network.

Segmentations are made by a watershed (`watershed_segments`), which bears small holes in boundaries; or in the simplest
way that is fair: voxels whose boundary probability is below a threshold form connected components (through faces), and
every remaining voxel joins the component nearest to it. Training and `znn-dask evaluate` measure alike. Adapted Rand
error (Arganda-Carreras et al. 2015) and variation of information (Meila 2007) are scikit-image's; voxels whose true id
is 0 do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy import ndimage
from skimage.measure import label as label_ids
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import watershed

from znn_dask.errors import DataError, ShapeError

_LEVELS = 1024
Method: TypeAlias = Literal["watershed", "components"]
CORE = 2.0  # voxels: what is farther inside is the core of a cell
CUTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SIGMAS = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class PixelScores:
    """Fractions of voxels; positive means 1 in the target.

    Attributes
    ----------
    error : float
        Fraction of wrong voxels at `threshold`.
    precision, recall, f1 : float
        Of the positive voxels; 0 where there are none to divide by.
    best_threshold, best_error : float
        The threshold with the smallest error, chosen on these very data, and that error.
    majority_error : float
        Of always predicting the more frequent class.
    """

    error: float
    precision: float
    recall: float
    f1: float
    threshold: float
    best_threshold: float
    best_error: float
    majority_error: float


@dataclass(frozen=True)
class SegmentationScores:
    """Agreement of segments with true cells.

    Attributes
    ----------
    rand_error : float
        Adapted Rand error, 0 (equal) to 1.
    voi_split, voi_merge : float
        Variation of information in bits: H(segments | cells), too many pieces, and H(cells | segments), too
        few.
    segments, cells : int
    threshold : float
        Boundary probability below which a voxel is inside a cell.
    """

    rand_error: float
    voi_split: float
    voi_merge: float
    segments: int
    cells: int
    threshold: float


class Scene(NamedTuple):
    """An image, what is true in it, and the box of it that counts.

    Attributes
    ----------
    image, target : arrays of shape (z, y, x)
    where : three slices, or all
    """

    image: np.ndarray
    target: np.ndarray
    where: tuple[slice, ...] = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Baseline:
    """The best threshold on a smoothed image.

    Attributes
    ----------
    error : float
        Fraction of wrong voxels.
    sigma : float
        Of the Gaussian, voxels.
    in_plane : bool
        Whether sections were smoothed one by one.
    threshold : float
    dark : bool
        Whether values below the threshold are positive.
    """

    error: float
    sigma: float
    in_plane: bool
    threshold: float
    dark: bool


def pixel_scores(prediction: np.ndarray, target: np.ndarray, threshold: float = 0.5) -> PixelScores:
    """Compare a prediction with a binary target.

    Parameters
    ----------
    prediction : float array of any shape
        Voxels above the threshold are predicted positive.
    target : bool or integer array of the same shape
        Not 0 is positive.
    threshold : float

    Raises
    ------
    ShapeError
        If the shapes differ.
    DataError
        If the prediction has values that are not finite.
    """
    _check(prediction, target)
    truth = target != 0
    said = prediction > threshold
    both = int(np.count_nonzero(said & truth))
    precision, recall = _ratio(both, int(said.sum())), _ratio(both, int(truth.sum()))
    best_threshold, best_error = best_cut(prediction, truth)
    share = float(truth.mean())
    return PixelScores(
        error=float(np.mean(said != truth)),
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
        threshold=threshold,
        best_threshold=best_threshold,
        best_error=best_error,
        majority_error=min(share, 1.0 - share),
    )


def best_cut(values: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Return the threshold with the fewest wrong voxels when values from it on are positive, and the error.

    Thresholds are the edges of 1024 bins between the smallest and the largest value; the last is above all.
    """
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high if high > low else low + 1.0, _LEVELS + 1)
    truth = target != 0
    positive = np.histogram(values[truth], edges)[0]
    negative = np.histogram(values[~truth], edges)[0]
    # Cutting at edge i: positives below it are missed, negatives above it are false.
    missed = np.concatenate([[0], np.cumsum(positive)])
    false = negative.sum() - np.concatenate([[0], np.cumsum(negative)])
    wrong = missed + false
    best = int(np.argmin(wrong))
    edges[-1] = np.nextafter(edges[-1], np.inf)
    return float(edges[best]), float(wrong[best] / truth.size)


def smoothed_threshold(scenes: Sequence[Scene]) -> Baseline:
    """Return the best that a threshold on the smoothed image reaches: what a network must beat.

    Smoothing (in three axes or within sections), its width, the threshold and its sign are chosen on these
    very data, so this is the strongest form of that baseline.

    Parameters
    ----------
    scenes : sequence of Scene
        One choice serves them all.
    """
    best = Baseline(np.inf, 0.0, False, 0.0, False)
    target = np.concatenate([scene.target[scene.where].ravel() for scene in scenes]) != 0
    for in_plane in (False, True):
        for sigma in SIGMAS:
            widths = (0.0 if in_plane else sigma, sigma, sigma)
            smooth = np.concatenate(
                [
                    ndimage.gaussian_filter(s.image.astype(np.float32), widths, mode="mirror")[s.where].ravel()
                    for s in scenes
                ]
            )
            for dark in (False, True):
                cut, error = best_cut(-smooth if dark else smooth, target)
                if error < best.error:
                    best = Baseline(error, sigma, in_plane, -cut if dark else cut, dark)
    return best


def segment(boundary: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return cell ids, 1 and up, made from the probability of boundary; see the head of this module.

    Parameters
    ----------
    boundary : float array of shape (z, y, x)
    threshold : float

    Returns
    -------
    int32 array of shape (z, y, x)
        One segment 1 where no voxel is below the threshold.
    """
    labels, count = ndimage.label(boundary < threshold)
    if count == 0:
        return np.ones(boundary.shape, np.int32)
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    grown: np.ndarray = labels[tuple(nearest)]
    return grown.astype(np.int32)


def watershed_segments(boundary: np.ndarray, threshold: float = 0.5, in_plane: bool = False) -> np.ndarray:
    """Return cell ids, 1 and up, by a watershed, which a small hole in a boundary does not leak through.

    Seeds are the connected components (through faces) of the voxels that are more than 2 voxels away from every voxel
    of the threshold or above; from them the probability of boundary is flooded until every voxel has a seed's id.

    Parameters
    ----------
    boundary : float array of shape (z, y, x)
    threshold : float
    in_plane : bool
        Whether every section is segmented on its own, as for thick sections; ids of different sections then differ.

    Returns
    -------
    int32 array of shape (z, y, x)
        One segment 1 where there is no seed.
    """
    if in_plane and boundary.shape[0] > 1:
        return number_on([watershed_segments(section[np.newaxis], threshold) for section in boundary])
    inside = boundary < threshold
    # Without any voxel to be away from, the distance is that to nowhere.
    far = ndimage.distance_transform_edt(inside) > CORE if not inside.all() else inside
    seeds, count = ndimage.label(far)
    if count == 0:
        return np.ones(boundary.shape, np.int32)
    flooded: np.ndarray = watershed(boundary, seeds)
    return flooded.astype(np.int32)


def make_segments(
    boundary: np.ndarray, threshold: float = 0.5, method: Method = "watershed", in_plane: bool = False
) -> np.ndarray:
    """Return cell ids, 1 and up, made from the probability of boundary by `watershed_segments` or `segment`."""
    if method == "watershed":
        return watershed_segments(boundary, threshold, in_plane)
    if in_plane and boundary.shape[0] > 1:
        return number_on([segment(section[np.newaxis], threshold) for section in boundary])
    return segment(boundary, threshold)


def true_cells(ids: np.ndarray, in_plane: bool = False, several: bool | None = None) -> np.ndarray:
    """Return the cells that labels tell, 0 where there is none.

    Parameters
    ----------
    ids : integer array of shape (z, y, x)
    in_plane : bool
        Whether sections are taken one by one; cells are then the connected voxels of one id in a section.
    several : bool, optional
        Whether ids are those of cells; by default they are if there are more than two values. If not, cells are the
        connected voxels that are not 0.
    """
    if several is None:
        several = holds_ids([ids])
    if not several:
        return components(ids != 0, in_plane)
    if in_plane:
        return number_on([label_ids(_small(section)[np.newaxis], connectivity=1) for section in ids])
    return _small(ids)


def holds_ids(labels: Sequence[np.ndarray]) -> bool:
    """Return whether labels have more than two values, so that these are ids of cells."""
    seen: set[float] = set()
    for values in labels:
        seen.update(np.unique(values)[:3].tolist())
    return len(seen) > 2


def _small(ids: np.ndarray) -> np.ndarray:
    """Return ids numbered from 1, 0 staying 0."""
    found, numbers = np.unique(ids, return_inverse=True)
    return (numbers.reshape(ids.shape) + (0 if found[0] == 0 else 1)).astype(np.int32)


def segmentation_scores(
    boundary: np.ndarray,
    ids: np.ndarray,
    threshold: float = 0.5,
    method: Method = "watershed",
    in_plane: bool = False,
) -> SegmentationScores:
    """Compare the segmentation of a boundary prediction with true cell ids.

    Parameters
    ----------
    boundary : float array of shape (z, y, x)
        Probability of boundary.
    ids : integer array of shape (z, y, x)
        0 does not count.
    threshold : float
    method : "watershed" or "components"
    in_plane : bool
        Whether sections are segmented one by one.

    Raises
    ------
    ShapeError, DataError
        If the shapes differ, or no voxel belongs to a cell.
    """
    _check(boundary, ids)
    return compare_segments(make_segments(boundary, threshold, method, in_plane), ids, threshold)


def compare_segments(segments: np.ndarray, ids: np.ndarray, threshold: float = 0.5) -> SegmentationScores:
    """Compare segments, made at a threshold, with true cell ids; voxels whose true id is 0 do not count.

    Parameters
    ----------
    segments, ids : integer arrays of the same shape
    threshold : float
        Noted in the scores.

    Raises
    ------
    DataError
        If no voxel belongs to a cell.
    """
    counted = ids != 0
    if not counted.any():
        raise DataError("the labels hold no cell: every id is 0")
    segments, cells = segments[counted], ids[counted]
    # Where all segments or all cells are single voxels there are no pairs to divide by.
    with np.errstate(invalid="ignore"):
        rand_error = np.nan_to_num(adapted_rand_error(cells, segments, ignore_labels=())[0])
    split, merge = (float(part) for part in variation_of_information(cells, segments))
    return SegmentationScores(
        float(rand_error), split, merge, len(np.unique(segments)), len(np.unique(cells)), threshold
    )


def best_segmentation(
    boundary: np.ndarray, ids: np.ndarray, method: Method = "watershed", in_plane: bool = False
) -> SegmentationScores:
    """Return the scores at the threshold with the smallest adapted Rand error, chosen on these very data."""
    found = (segmentation_scores(boundary, ids, t, method, in_plane) for t in CUTS)
    return min(found, key=lambda scores: scores.rand_error)


def components(voxels: np.ndarray, in_plane: bool = False) -> np.ndarray:
    """Return ids of the connected components (through faces) of the voxels that are not 0; 0 elsewhere.

    Parameters
    ----------
    voxels : array of shape (z, y, x)
    in_plane : bool
        Whether sections are not connected.
    """
    structure = ndimage.generate_binary_structure(3, 1)
    if in_plane:
        structure[[0, 2]] = False
    labels: np.ndarray = ndimage.label(voxels, structure)[0]
    return labels


def number_on(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join arrays of ids along the first axis so that no two share an id; 0 stays 0."""
    counts = [int(part.max()) for part in parts]
    first = np.cumsum([0, *counts[:-1]])
    joined = np.concatenate([np.where(part > 0, part + start, 0) for part, start in zip(parts, first, strict=True)])
    return joined.astype(np.int32)


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else 0.0


def _check(values: np.ndarray, target: np.ndarray) -> None:
    if values.shape != target.shape:
        raise ShapeError(f"prediction {values.shape} and label {target.shape} must have the same size (z, y, x)")
    if not np.isfinite(values).all():
        raise DataError("the prediction has values that are not finite")
