"""``znn-dask predict``: a model over a whole volume."""

from pathlib import Path
from typing import Literal

import click
import numpy as np
from tqdm.auto import tqdm

from znn_dask.commands.common import debug_option, workers_option
from znn_dask.errors import CheckpointError, DataError, ShapeError
from znn_dask.io.volumes import read_image
from znn_dask.io.writing import check_destination, write_volume
from znn_dask.model import Model
from znn_dask.net import Network
from znn_dask.train.losses import probabilities
from znn_dask.train.preprocess import preprocess
from znn_dask.train.run import read_stored

BORDERS = {"mirror": "mirror", "constant": "constant", "none": None}


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source")
@click.argument("destination")
@click.option(
    "--border",
    type=click.Choice(list(BORDERS)),
    default="mirror",
    show_default=True,
    help="What lies outside: the mirror image, zeros, or nothing (the output is then smaller).",
)
@click.option(
    "--preprocess",
    "method",
    type=click.Choice(["section", "volume", "none"]),
    help="Mean 0 and deviation 1 of every section or the volume, or nothing.  [default: as in training]",
)
@click.option("--overwrite", is_flag=True, help="Replace DESTINATION if it exists.")
@workers_option
@click.option("--quiet", is_flag=True, help="No progress bar.")
@debug_option
def predict(
    model: Path,
    source: str,
    destination: str,
    border: str,
    method: Literal["section", "volume", "none"] | None,
    overwrite: bool,
    workers: int | None,
    quiet: bool,
) -> int:
    """Predict the volume SOURCE with MODEL and write the result to DESTINATION.

    Files are .npy, .tif, .h5:/dataset or .zarr. The image is prepared as in training, and the result holds
    probabilities (after a square loss, plain outputs), float32 (z, y, x), or (channel, z, y, x) for several
    channels.

    \b
    Example:
      znn-dask predict runs/fibsem/model.safetensors stack.h5:/raw boundaries.tif
    """
    check_destination(destination, overwrite)
    if method is None:
        method = read_stored(model).config.data.preprocess
    with Model.load(model, num_workers=workers) as loaded:
        image = preprocess(read_image(source), method)
        _check_image(source, image, loaded.net)
        with tqdm(unit=" patches", desc="predicting", disable=quiet) as bar:

            def tell(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            output = np.asarray(loaded.predict(image, border=BORDERS[border], progress=tell))
        if not np.isfinite(output).all():
            raise CheckpointError(f"{model} gives values that are not finite; it was probably trained too fast")
        result = probabilities(output, loaded.loss)
    volume = result[0] if result.shape[0] == 1 else result
    write_volume(destination, volume, overwrite)
    click.echo(f"{destination}: {' x '.join(map(str, volume.shape))} voxels, mean {volume.mean():.4f}")
    return 0


def _check_image(source: str, image: np.ndarray, net: Network) -> None:
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise DataError("`predict` needs a network with one input and one output; use Model.predict for others")
    (channels,) = net.inputs.values()
    if image.shape[0] != channels:
        raise ShapeError(f"{source} has {image.shape[0]} channels, but the network reads {channels}")
    size, view = image.shape[1:], net.field_of_view
    if any(n < v for n, v in zip(size, view, strict=True)):
        raise ShapeError(
            f"{source} has size {size} (z, y, x), less than the network's field of view {view}. "
            "Use a larger volume, or a network with a smaller field of view"
        )
