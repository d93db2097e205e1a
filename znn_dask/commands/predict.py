"""``znn-dask predict``: a model over a whole volume, or a part of it."""

from pathlib import Path

import click
import numpy as np
from tqdm.auto import tqdm

from znn_dask.commands.common import debug_option, parse_region, workers_option
from znn_dask.errors import CheckpointError, DataError, ParameterError, ShapeError
from znn_dask.geometry import ONE, add, as_triple, subtract
from znn_dask.io.volumes import read_image
from znn_dask.io.writing import check_destination, write_volume
from znn_dask.io.znn_hdf5 import is_hdf5
from znn_dask.model import Model
from znn_dask.model.predict import read, see
from znn_dask.net import Network
from znn_dask.ops.losses import LOSSES
from znn_dask.train.losses import probabilities
from znn_dask.train.preprocess import ZNN_METHODS, Method, preprocess
from znn_dask.train.run import read_stored

BORDERS = {"mirror": "mirror", "constant": "constant", "none": None}
METHODS: dict[str, Method] = {method: method for method in ZNN_METHODS.values()} | ZNN_METHODS


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
    type=click.Choice(list(METHODS)),
    help="Mean 0 and deviation 1 of every section or the volume, values from -1 to 1, or nothing; or as ZNN calls "
    "them.  [default: as in training]",
)
@click.option("--region", help="Part to predict as FROM:TO for z, y, x, for instance 40:50 or 40:50,:,10:90.")
@click.option(
    "--loss",
    type=click.Choice(list(LOSSES)),
    help="Says what outputs mean: softmax and logistic make probabilities.  [default: that of training; for ZNN's "
    "networks softmax where there are several linear outputs, else square]",
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
    method: str | None,
    region: str | None,
    loss: str | None,
    overwrite: bool,
    workers: int | None,
    quiet: bool,
) -> int:
    """Predict the volume SOURCE with MODEL and write the result to DESTINATION.

    Files are .npy, .tif, .h5:/dataset or .zarr; MODEL is one of ours or a network that ZNN trained (.h5). The image is
    prepared as in training, and the result holds probabilities (after a square loss, plain outputs), float32
    (z, y, x), or (channel, z, y, x) for several channels. A region sees what lies around it.

    \b
    Example:
      znn-dask predict runs/fibsem/model.safetensors stack.h5:/raw boundaries.tif
      znn-dask predict net_current.h5 stack.tif vessels.tif --preprocess standard2D --region 7:8
    """
    check_destination(destination, overwrite)
    chosen = _method(model) if method is None else METHODS[method]
    with Model.load(model, num_workers=workers, loss=loss) as loaded:
        image = preprocess(read_image(source), chosen)
        _check_image(source, image, loaded.net)
        image, edge = _part(image, region, loaded.net, BORDERS[border])
        with tqdm(unit=" patches", desc="predicting", disable=quiet) as bar:

            def tell(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            output = np.asarray(loaded.predict(image, border=edge, progress=tell))
        if not np.isfinite(output).all():
            raise CheckpointError(f"{model} gives values that are not finite; it was probably trained too fast")
        result = probabilities(output, loaded.loss)
    volume = result[0] if result.shape[0] == 1 else result
    write_volume(destination, volume, overwrite)
    click.echo(f"{destination}: {' x '.join(map(str, volume.shape))} voxels, mean {volume.mean():.4f}")
    return 0


def _method(model: Path) -> Method:
    """Return how the images were prepared that a model was trained with."""
    if is_hdf5(model):
        raise ParameterError(
            f"{model} does not say how its images were prepared; give --preprocess as pp_types in ZNN's .spec, "
            "for instance --preprocess standard2D"
        )
    return read_stored(model).config.data.preprocess


def _part(image: np.ndarray, region: str | None, net: Network, border: str | None) -> tuple[np.ndarray, str | None]:
    """Return the image whose prediction is a region, and the border to predict it with."""
    if region is None:
        return image, border
    box = parse_region(region, image.shape[1:])
    origin = as_triple([side.start for side in box], minimum=0)
    size = as_triple([side.stop - side.start for side in box])
    if border is None:
        return image[(slice(None), *box)], None
    (name,) = net.inputs
    scene = see(net, {name: image}, border)
    (reach,) = scene.views.values()
    return read(scene, name, origin, add(size, subtract(reach, ONE))), None


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
