"""``znn-dask evaluate``: how good a prediction is."""

import json
from dataclasses import asdict
from typing import Any

import click
import numpy as np

from znn_dask.commands.common import debug_option, parse_region
from znn_dask.errors import DataError, ParameterError, ShapeError
from znn_dask.infer.metrics import (
    PixelScores,
    SegmentationScores,
    best_segmentation,
    pixel_scores,
    segmentation_scores,
)
from znn_dask.io.volumes import read_image, read_label
from znn_dask.train.targets import boundary_map


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
@click.option("--in-plane", is_flag=True, help="Cell ids: boundaries within sections only.")
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
    as_json: bool,
) -> int:
    """Compare the volume PREDICTION with the volume LABEL.

    Prints pixel error, precision, recall and F1 at the threshold, the best threshold, and the error of always
    predicting the more frequent class. If LABEL holds cell ids, PREDICTION is taken for boundaries: the
    truth is where ids meet or are 0, and segments (connected voxels below the threshold; the others join
    the nearest) are compared with the cells by adapted Rand error and variation of information, at the
    threshold and at the best one.

    \b
    Example:
      znn-dask evaluate boundaries.tif truth.h5:/ids --region 40:50
    """
    volume, truth = _read(prediction, label, channel)
    box = parse_region(region, truth.shape)
    whole, truth = truth.shape, truth[box]
    if volume.shape == whole:
        volume = volume[box]
    elif volume.shape != truth.shape:
        part = "" if region is None else f", and the region {truth.shape}"
        raise ShapeError(
            f"{prediction} has size {volume.shape} (z, y, x), but {label} has {whole}{part}; they must be equal"
        )
    cells = _holds_ids(truth) if ids is None else ids
    # Boundaries of the whole label, so that the region's border makes none and hides none.
    target = boundary_map(read_label(label), in_plane)[box] if cells else truth != 0
    report: dict[str, Any] = {
        "label": "cell ids" if cells else "binary",
        "voxels": int(truth.size),
        "pixels": asdict(pixel_scores(volume, target != invert, threshold)),
    }
    if cells:
        boundary = 1.0 - volume if invert else volume
        cut = 1.0 - threshold if invert else threshold
        report["segments"] = asdict(segmentation_scores(boundary, truth, cut))
        report["best_segments"] = asdict(best_segmentation(boundary, truth))
    click.echo(json.dumps(report, indent=2) if as_json else _text(report))
    return 0


def _read(prediction: str, label: str, channel: int | None) -> tuple[np.ndarray, np.ndarray]:
    values = read_image(prediction)
    if channel is not None and channel >= values.shape[0]:
        raise ParameterError(f"{prediction} has {values.shape[0]} channels, so --channel {channel} is none of them")
    return values[-1 if channel is None else channel], read_label(label)


def _holds_ids(truth: np.ndarray) -> bool:
    values = np.unique(truth)
    if len(values) > 2 and truth.dtype.kind == "f":
        raise DataError("the label holds real numbers of more than two values; say --ids or --binary")
    return len(values) > 2


def _text(report: dict[str, Any]) -> str:
    lines = [f"{report['voxels']:,} voxels against {report['label']}"]
    pixels = PixelScores(**report["pixels"])
    lines += [
        f"pixel error           {pixels.error:.4f}  at threshold {pixels.threshold:g}",
        f"precision             {pixels.precision:.4f}",
        f"recall                {pixels.recall:.4f}",
        f"F1                    {pixels.f1:.4f}",
        f"best pixel error      {pixels.best_error:.4f}  at threshold {pixels.best_threshold:.3f}",
        f"majority's error      {pixels.majority_error:.4f}",
    ]
    for key, name in (("segments", ""), ("best_segments", " (best threshold)")):
        if key in report:
            scores = SegmentationScores(**report[key])
            voi = scores.voi_split + scores.voi_merge
            lines += [
                f"adapted Rand error    {scores.rand_error:.4f}  at threshold {scores.threshold:g}{name}",
                f"variation of inform.  {voi:.4f}  bits: split {scores.voi_split:.4f}, merge {scores.voi_merge:.4f}",
                f"segments, cells       {scores.segments}, {scores.cells}",
            ]
    return "\n".join(lines)
