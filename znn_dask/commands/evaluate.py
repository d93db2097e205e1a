"""``znn-dask evaluate``: how good a prediction is."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import click
import numpy as np

from znn_dask.commands.common import debug_option, parse_region
from znn_dask.errors import DataError, ParameterError, ShapeError
from znn_dask.infer import streamed
from znn_dask.infer.metrics import (
    Method,
    PixelScores,
    SegmentationScores,
    best_segmentation,
    components,
    segmentation_scores,
    true_cells,
)
from znn_dask.infer.prepare import boxes_of
from znn_dask.infer.source import FileRegion
from znn_dask.train.targets import boundary_map

Box = tuple[slice, ...]
Read = Callable[[Box], np.ndarray]
MOST_SEGMENTED = 1 << 26  # voxels that are segmented in memory


class Pair(NamedTuple):
    """A prediction and a label, read by boxes of the region that counts.

    Attributes
    ----------
    prediction, truth : callable(box) -> array of shape (z, y, x)
    boundaries : callable(box, in_plane) -> array of shape (z, y, x)
        Of the whole label, so that the region's border makes none and hides none.
    size : (z, y, x)
    top : int or None
        The largest integer of the prediction's type, if it is stored as integers.
    chunks : tuple of int or None
        What is stored together of the prediction.
    """

    prediction: Read
    truth: Read
    boundaries: Callable[[Box, bool], np.ndarray]
    size: tuple[int, ...]
    top: int | None
    chunks: tuple[int, ...] | None


@click.command()
@click.argument("prediction")
@click.argument("label")
@click.option(
    "--ids/--binary",
    "ids",
    default=None,
    help="LABEL holds cell ids, or 0 and anything else.  [default: ids if it has more than two values]",
)
@click.option(
    "--region",
    help="Part to compare as FROM:TO for z, y, x, for instance 40:50 or 40:50,:,10:90; PREDICTION may be of it alone.",
)
@click.option("--threshold", default=0.5, show_default=True, help="Values above it are 1.")
@click.option("--channel", type=click.IntRange(min=0), help="Channel of PREDICTION.  [default: the last]")
@click.option("--invert", is_flag=True, help="LABEL has 0 where PREDICTION should be 1.")
@click.option("--in-plane", is_flag=True, help="Sections one by one: boundaries within them only, cells of each.")
@click.option(
    "--segments",
    type=click.Choice(["auto", "background", "foreground", "none"]),
    default="auto",
    show_default=True,
    help="What is compared as segments: connected voxels of 0, of 1, or nothing; auto: cell ids, else voxels of 1.",
)
@click.option(
    "--method",
    type=click.Choice(["watershed", "components"]),
    default="watershed",
    show_default=True,
    help="How segments are made of PREDICTION; in training that is log.segmentation.",
)
@click.option("--affinities", is_flag=True, help="PREDICTION holds affinities: 1 where all channels are.")
@click.option("--segmentation", is_flag=True, help="PREDICTION holds ids too, of `znn-dask segment`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def evaluate(
    prediction: str,
    label: str,
    ids: bool | None,
    region: str | None,
    threshold: float,
    channel: int | None,
    invert: bool,
    in_plane: bool,
    segments: str,
    method: Method,
    affinities: bool,
    segmentation: bool,
    as_json: bool,
) -> int:
    """Compare the volume PREDICTION with the volume LABEL; they may be larger than memory.

    Prints pixel error, precision, recall and F1 at the threshold, the best threshold, and the error of always
    predicting the more frequent class. If LABEL holds cell ids, PREDICTION is taken for boundaries: the
    truth is where ids meet or are 0. Segments are compared with the cells by adapted Rand error and variation
    of information, at the threshold and at the best one: those of a watershed, as in training, or (--method
    components) connected voxels below the threshold, which the others join where they are nearest. Integers of
    PREDICTION above 1 count from 0 to 1.

    \b
    Example:
      znn-dask evaluate boundaries.tif truth.h5:/ids --region 40:50
      znn-dask evaluate cells.zarr truth.h5:/ids --segmentation
    """
    if affinities and (channel is not None or invert or segmentation):
        raise ParameterError("--affinities takes all channels; leave out --channel, --invert and --segmentation")
    pair = _open(prediction, label, channel, region, affinities)
    invert = invert or affinities
    boxes = list(boxes_of(pair.size, streamed.SLAB, pair.chunks))
    voxels = int(np.prod(pair.size))
    if segmentation:
        scores = streamed.id_scores(pair.prediction, pair.truth, boxes)
        # There is no threshold, and JSON knows no NaN.
        report: dict[str, Any] = {"label": "cell ids", "voxels": voxels, "ids": asdict(scores) | {"threshold": None}}
        click.echo(json.dumps(report, indent=2) if as_json else _text(report))
        return 0
    cells = _holds_ids(pair.truth, boxes) if ids is None else ids
    low, high = streamed.value_range(pair.prediction, boxes)
    scale = pair.top if pair.top is not None and high > 1 else 1

    def probability(box: Box) -> np.ndarray:
        values = pair.prediction(box)
        return values if scale == 1 else values.astype(np.float32) / np.float32(scale)

    def target(box: Box) -> np.ndarray:
        positive = pair.boundaries(box, in_plane) if cells else pair.truth(box) != 0
        return np.asarray(positive != invert)

    pixels = streamed.pixel_scores(probability, target, boxes, (low / scale, high / scale), threshold)
    report = {"label": "cell ids" if cells else "binary", "voxels": voxels, "pixels": asdict(pixels)}
    if segments != "none" and voxels <= MOST_SEGMENTED:
        report |= _compared(pair, probability, target, (segments, method, threshold), (cells, invert, in_plane))
    elif segments != "none":
        report["note"] = "too large to be segmented here: use `znn-dask segment`, then `evaluate --segmentation`"
    click.echo(json.dumps(report, indent=2) if as_json else _text(report))
    return 0


def _compared(
    pair: Pair, probability: Read, target: Read, how: tuple[str, Method, float], label: tuple[bool, bool, bool]
) -> dict[str, Any]:
    """Return the scores of segments, at the threshold and at the best one; nothing if there is no cell."""
    (segments, method, threshold), (cells, invert, in_plane) = how, label
    everything = tuple(slice(0, n) for n in pair.size)
    if segments == "auto":
        # Cells lie between boundaries; objects are what a label of two values marks.
        found, inside = true_cells(pair.truth(everything), in_plane, cells), invert if cells else not invert
    else:
        inside = segments == "foreground"
        found = components(target(everything) == inside, in_plane)
    if not found.any():
        return {}
    volume = probability(everything)
    boundary, cut = (1.0 - volume, 1.0 - threshold) if inside else (volume, threshold)
    return {
        "segments": asdict(segmentation_scores(boundary, found, cut, method, in_plane)),
        "best_segments": asdict(best_segmentation(boundary, found, method, in_plane)),
    }


def _open(prediction: str, label: str, channel: int | None, region: str | None, least: bool = False) -> Pair:
    values, truth = FileRegion(prediction), FileRegion(label, "label")
    if channel is not None and channel >= values.shape[0]:
        raise ParameterError(f"{prediction} has {values.shape[0]} channels, so --channel {channel} is none of them")
    chosen = values.shape[0] - 1 if channel is None else channel
    region_box = parse_region(region, truth.shape)
    size = tuple(side.stop - side.start for side in region_box)
    whole, given = truth.shape, values.shape[1:]
    if given not in (whole, size):
        part = "" if region is None else f", and the region {size}"
        raise ShapeError(f"{prediction} has size {given} (z, y, x), but {label} has {whole}{part}; they must be equal")
    origin = tuple(side.start for side in region_box)
    # A prediction of the region alone begins with it.
    start = origin if given == whole else (0, 0, 0)

    def boundaries(box: Box, in_plane: bool) -> np.ndarray:
        there = _moved(box, origin)
        around = tuple(slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(there, whole, strict=True))
        inner = tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(there, around, strict=True))
        return np.asarray(boundary_map(truth[around], in_plane)[inner])

    channels = slice(None) if least else slice(chosen, chosen + 1)
    return Pair(
        lambda box: values[(channels, *_moved(box, start))].min(axis=0),
        lambda box: truth[_moved(box, origin)],
        boundaries,
        size,
        int(np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else None,
        values.chunks,
    )


def _moved(box: Box, origin: tuple[int, ...]) -> Box:
    return tuple(slice(side.start + first, side.stop + first) for side, first in zip(box, origin, strict=True))


def _holds_ids(truth: Read, boxes: list[Box]) -> bool:
    seen: set[Any] = set()
    real = False
    for box in boxes:
        values = truth(box)
        real = values.dtype.kind == "f"
        seen.update(np.unique(values)[:3].tolist())
        if len(seen) > 2:
            break
    if len(seen) > 2 and real:
        raise DataError("the label holds real numbers of more than two values; say --ids or --binary")
    return len(seen) > 2


def _text(report: dict[str, Any]) -> str:
    lines = [f"{report['voxels']:,} voxels against {report['label']}"]
    if "pixels" in report:
        pixels = PixelScores(**report["pixels"])
        lines += [
            f"pixel error           {pixels.error:.4f}  at threshold {pixels.threshold:g}",
            f"precision             {pixels.precision:.4f}",
            f"recall                {pixels.recall:.4f}",
            f"F1                    {pixels.f1:.4f}",
            f"best pixel error      {pixels.best_error:.4f}  at threshold {pixels.best_threshold:.3f}",
            f"majority's error      {pixels.majority_error:.4f}",
        ]
    for key, name in (("segments", ""), ("best_segments", " (best threshold)"), ("ids", "")):
        if key in report:
            scores = SegmentationScores(**report[key])
            voi = scores.voi_split + scores.voi_merge
            where = "" if key == "ids" else f"  at threshold {scores.threshold:g}{name}"
            lines += [
                f"adapted Rand error    {scores.rand_error:.4f}{where}",
                f"variation of inform.  {voi:.4f}  bits: split {scores.voi_split:.4f}, merge {scores.voi_merge:.4f}",
                f"segments, cells       {scores.segments}, {scores.cells}",
            ]
    return "\n".join([*lines, *([report["note"]] if "note" in report else [])])
