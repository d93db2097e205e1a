"""``znn-dask segment``: objects out of a prediction."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm.auto import tqdm

from znn_dask.commands.common import debug_option
from znn_dask.errors import DataError, ParameterError
from znn_dask.infer.segment import METHODS, Cutting, blocks_of, id_type, segment_blocks
from znn_dask.infer.sink import CHUNK, FORMATS, Sink, chunk_for
from znn_dask.infer.source import FileRegion
from znn_dask.io.source import parse_source
from znn_dask.io.writing import check_destination


@click.command()
@click.argument("prediction")
@click.argument("destination")
@click.option("--threshold", default=0.5, show_default=True, help="Voxels below it are inside objects, or seeds.")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="components",
    show_default=True,
    help="Connected voxels below the threshold, or a watershed that floods from them.",
)
@click.option("--limit", type=float, help="A watershed floods voxels below it.  [default: all]")
@click.option("--halo", type=click.IntRange(min=0), default=16, show_default=True, help="Voxels that a block sees.")
@click.option("--min-size", type=click.IntRange(min=1), default=1, show_default=True, help="Voxels of the smallest.")
@click.option("--channel", type=click.IntRange(min=0), help="Channel of PREDICTION.  [default: the last]")
@click.option("--invert", is_flag=True, help="PREDICTION is high inside objects.")
@click.option("--overwrite", is_flag=True, help="Replace DESTINATION if it exists.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@debug_option
def segment(
    prediction: str,
    destination: str,
    threshold: float,
    method: str,
    limit: float | None,
    halo: int,
    min_size: int,
    channel: int | None,
    invert: bool,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Number the objects in the volume PREDICTION, block by block, and write their ids to DESTINATION.

    PREDICTION is the probability of boundary (or, with --invert, of the objects; integers count from 0 to 1).
    Components are connected through faces and the same for any blocks. A watershed floods from components.

    \b
    Example:
      znn-dask segment boundaries.zarr cells.zarr --threshold 0.3 --method watershed
    """
    check_destination(destination, overwrite)
    place = parse_source(os.path.abspath(destination))
    if place.url is not None or place.format not in FORMATS:
        raise DataError(f"{destination} cannot be written block by block; name a local {', '.join(FORMATS)} file")
    image = FileRegion(prediction)
    read = boundaries(image, channel, invert)
    z, y, x = image.shape[1:]
    blocks = blocks_of((z, y, x))
    a, b, c = (chunk_for(*side) for side in zip(blocks.step, blocks.counts, blocks.size, CHUNK, strict=True))
    result = Sink(place, (1, z, y, x), id_type((z, y, x)), (a, b, c))
    seeds = result
    if method == "watershed":
        # A file of its own, since a block of the watershed reads the seeds of its neighbours.
        aside = dataclasses.replace(place, path=Path(f"{place.path}.seeds{place.path.suffix}"))
        seeds = dataclasses.replace(result, place=aside)
    bar = tqdm(unit=" blocks", desc="segmenting", disable=quiet)

    def tell(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    made = [seeds] if seeds is result else [seeds, result]
    try:
        for sink in made:
            sink.create()
        cutting = Cutting(threshold, method, limit, halo, min_size)
        count = segment_blocks(read, blocks, seeds, result, cutting, tell)
        result.finish(overwrite)
    finally:
        bar.close()
        for sink in made:
            sink.discard()
    click.echo(f"{destination}: {' x '.join(map(str, result.stored_shape))} voxels, {count} objects")
    return 0


def boundaries(image: FileRegion, channel: int | None, invert: bool) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """Return what reads a box (z, y, x) of one channel as probabilities of boundary."""
    channels = image.shape[0]
    if channel is not None and channel >= channels:
        raise ParameterError(f"{image.name} has {channels} channels, so --channel {channel} is none of them")
    chosen = channels - 1 if channel is None else channel
    top = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1

    def read(box: tuple[slice, ...]) -> np.ndarray:
        values: Any = image[(slice(chosen, chosen + 1), *box)][0].astype(np.float32) / np.float32(top)
        return np.asarray(1 - values if invert else values)

    return read
