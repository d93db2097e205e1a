"""How good a prediction is, of volumes larger than memory: the figures of `metrics`, counted slab by slab."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from znn_dask.errors import DataError
from znn_dask.infer.metrics import PixelScores, SegmentationScores

Values = npt.NDArray[Any]
Box = tuple[slice, ...]
Read = Callable[[Box], Values]
LEVELS = 1024  # bins between the smallest and the largest value, as in `metrics.best_cut`
SLAB = 1 << 22  # voxels that are held


def value_range(read: Read, boxes: Iterable[Box]) -> tuple[float, float]:
    """Return the smallest and the largest value.

    Raises
    ------
    DataError
        If one is not finite.
    """
    low, high = np.inf, -np.inf
    for box in boxes:
        values = read(box)
        least, most = float(values.min()), float(values.max())
        if not np.isfinite([least, most]).all():
            raise DataError("the prediction has values that are not finite")
        low, high = min(low, least), max(high, most)
    return low, high


def pixel_scores(
    prediction: Read, target: Read, boxes: list[Box], bounds: tuple[float, float], threshold: float = 0.5
) -> PixelScores:
    """Return what `metrics.pixel_scores` would, of volumes that are read by region.

    Parameters
    ----------
    prediction, target : callable(box) -> array of shape (z, y, x)
        Not 0 is positive in the target.
    boxes : list of boxes
        That cover what counts.
    bounds : (float, float)
        The smallest and the largest value of the prediction.
    """
    low, high = bounds
    edges = np.linspace(low, high if high > low else low + 1.0, LEVELS + 1)
    positive, negative = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64)
    both = said_count = true_count = wrong_count = total = 0
    for box in boxes:
        values, truth = prediction(box), target(box) != 0
        said = values > threshold
        both += int(np.count_nonzero(said & truth))
        said_count += int(said.sum())
        true_count += int(truth.sum())
        wrong_count += int(np.count_nonzero(said != truth))
        total += truth.size
        positive += np.histogram(values[truth], edges)[0]
        negative += np.histogram(values[~truth], edges)[0]
    missed = np.concatenate([[0], np.cumsum(positive)])
    wrong = missed + negative.sum() - np.concatenate([[0], np.cumsum(negative)])
    best = int(np.argmin(wrong))
    edges[-1] = np.nextafter(edges[-1], np.inf)
    precision, recall = _ratio(both, said_count), _ratio(both, true_count)
    share = true_count / total
    return PixelScores(
        error=wrong_count / total,
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
        threshold=threshold,
        best_threshold=float(edges[best]),
        best_error=float(wrong[best] / total),
        majority_error=min(share, 1.0 - share),
    )


def id_scores(segments: Read, cells: Read, boxes: Iterable[Box]) -> SegmentationScores:
    """Compare ids with true ids, from the number of voxels that each pair of them shares.

    Adapted Rand error (Arganda-Carreras et al. 2015) and variation of information (Meila 2007), as in scikit-image;
    voxels whose true id is 0 do not count.

    Raises
    ------
    DataError
        If no voxel belongs to a cell.
    """
    parts: list[Values] = []
    counts: list[Values] = []
    for box in boxes:
        truth = cells(box)
        counted = truth != 0
        pairs = np.stack([truth[counted].astype(np.int64), segments(box)[counted].astype(np.int64)], axis=1)
        found, n = np.unique(pairs, axis=0, return_counts=True)
        parts.append(found)
        counts.append(n)
    pairs = np.concatenate(parts)
    if not len(pairs):
        raise DataError("the labels hold no cell: every id is 0")
    _, rows = np.unique(pairs[:, 0], return_inverse=True)
    _, columns = np.unique(pairs[:, 1], return_inverse=True)
    table = sparse.coo_matrix((np.concatenate(counts).astype(np.float64), (rows, columns))).tocsr()
    total = table.sum()
    a, b = np.asarray(table.sum(axis=1)).ravel(), np.asarray(table.sum(axis=0)).ravel()
    shared, squares = table.data @ table.data - total, a @ a + b @ b - 2 * total
    joint = _entropy(table.data / total)
    return SegmentationScores(
        rand_error=float(1 - 2 * shared / squares) if squares > 0 else 0.0,
        voi_split=joint - _entropy(a / total),
        voi_merge=joint - _entropy(b / total),
        segments=len(b),
        cells=len(a),
        threshold=float("nan"),
    )


def _entropy(shares: Values) -> float:
    return float(-(shares * np.log2(shares)).sum())


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else 0.0
