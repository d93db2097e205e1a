"""``znn-dask predict``: a model over a whole volume, or a part of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tqdm.auto import tqdm

from znn_dask.cluster.crews import CLUSTER_OPTIONS, Reach, crew_on
from znn_dask.commands.common import debug_option, parse_region, workers_option
from znn_dask.errors import ParameterError
from znn_dask.geometry import as_triple
from znn_dask.infer.files import Settings, predict_file
from znn_dask.infer.source import FileRegion
from znn_dask.io.writing import check_destination
from znn_dask.io.znn_hdf5 import is_hdf5
from znn_dask.model import Model
from znn_dask.model.outputs import TYPES
from znn_dask.model.predict import Request, see
from znn_dask.model.tiling import BLENDS
from znn_dask.ops.losses import LOSSES
from znn_dask.train.preprocess import ZNN_METHODS, Clip, Method
from znn_dask.train.run import read_stored

BORDERS = {"mirror": "mirror", "constant": "constant", "none": None}
METHODS: dict[str, Method] = {method: method for method in ZNN_METHODS.values()} | ZNN_METHODS


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command its options."""
    for option in reversed([*_WHAT, *_HOW, *CLUSTER_OPTIONS]):
        function = option(function)
    return function


_WHAT = (
    click.option(
        "--border",
        type=click.Choice(list(BORDERS)),
        default="mirror",
        show_default=True,
        help="What lies outside: the mirror image, zeros, or nothing (the output is then smaller).",
    ),
    click.option(
        "--preprocess",
        type=click.Choice(list(METHODS)),
        help="Mean 0 and deviation 1 of every section or the volume, values from -1 to 1, or nothing; or as ZNN "
        "calls them.  [default: as in training]",
    ),
    click.option("--region", help="Part to predict as FROM:TO for z, y, x, for instance 40:50 or 40:50,:,10:90."),
    click.option("--mask", metavar="VOLUME", help="Where it is 0 nothing is predicted, which gives 0."),
    click.option("--channels", help="Outputs to keep, for instance 1 or 0,2.  [default: all]"),
    click.option(
        "--dtype",
        type=click.Choice(TYPES),
        default="float32",
        show_default=True,
        help="Of the result; as integers, 0 to 1 is 0 to the largest.",
    ),
    click.option("--raw", is_flag=True, help="Outputs as they are, without softmax or logistic function."),
    click.option(
        "--loss",
        type=click.Choice(list(LOSSES)),
        help="Says what outputs mean: softmax and logistic make probabilities.  [default: that of training; for "
        "ZNN's networks softmax where there are several linear outputs, else square]",
    ),
)
_HOW = (
    click.option(
        "--memory", help="Most that a process may take in all, for instance '2 GiB'.  [default: 1 GiB for a tile]"
    ),
    click.option("--tile", help="Output voxels of a tile as Z,Y,X.  [default: the largest that fit the memory]"),
    click.option("--measure", is_flag=True, help="Time that tile against smaller ones and take the fastest."),
    click.option(
        "--blend",
        type=click.Choice(BLENDS),
        default="gaussian",
        show_default=True,
        help="Weights of overlapping tiles, which padded networks need.",
    ),
    click.option("--shards", is_flag=True, help="Pack the chunks of a zarr block into one file."),
    click.option(
        "--zarr-format", type=click.Choice(["2", "3"]), default="3", show_default=True, help="Of a zarr result."
    ),
    click.option("--overwrite", is_flag=True, help="Replace DESTINATION if it exists."),
    click.option("--restart", is_flag=True, help="Throw an unfinished prediction with other settings away."),
    click.option("--quiet", is_flag=True, help="No progress bar."),
)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source")
@click.argument("destination")
@options
@workers_option
@debug_option
def predict(
    model: Path,
    source: str,
    destination: str,
    loss: str | None,
    workers: int | None,
    quiet: bool,
    scheduler: str | None,
    cluster: int | None,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    **given: Any,
) -> int:
    """Predict the volume SOURCE with MODEL and write the result to DESTINATION.

    Volumes are .npy, .tif, .h5:/dataset, .zarr or .ome.zarr; MODEL is one of ours or a network that ZNN trained (.h5).
    The image is prepared as in training, and the result holds probabilities (after a square loss, plain outputs),
    (z, y, x), or (channel, z, y, x) for several channels. A region sees what lies around it. If it is interrupted, the
    same command goes on where it stopped.

    \b
    Example:
      znn-dask predict runs/fibsem/model.safetensors stack.h5:/raw boundaries.tif
      znn-dask predict net_current.h5 stack.tif vessels.tif --preprocess standard2D --region 7:8
      znn-dask predict model.safetensors big.zarr out.zarr --dtype uint8 --memory "4 GiB" --cluster 4
    """
    check_destination(destination, given["overwrite"])
    method = given.pop("preprocess")
    chosen, clip = _prepared_by(model) if method is None else (METHODS[method], None)
    reach = Reach(scheduler, cluster, workers, tls_ca, tls_cert, tls_key)
    with Model.load(model, num_workers=workers, loss=loss) as loaded, crew_on(reach, loaded) as crew:
        settings = replace(_settings(given, chosen, source, loaded), clip=clip)
        with Bar(quiet) as bar:
            sink = predict_file(loaded, source, destination, settings, crew, bar.tell)
    click.echo(f"{destination}: {' x '.join(map(str, sink.stored_shape))} voxels, {sink.dtype}")
    return 0


class Bar:
    """A progress bar that is drawn when there is progress."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None

    def tell(self, done: int, total: int) -> None:
        """Show how many tiles are done; those of an earlier run count, but took no time."""
        if self._bar is None:
            self._bar = tqdm(total=total, initial=done, unit=" tiles", desc="predicting", disable=self._quiet)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _settings(given: dict[str, Any], method: Method, source: str, model: Model) -> Settings:
    """Return what the options ask for."""
    border = BORDERS[given["border"]]
    region = None
    if given["region"] is not None:
        image = FileRegion(source)
        (name,) = model.net.inputs
        shape = image.shape[1:] if border is not None else see(model.net, {name: image}, Request(border)).size
        z, y, x = parse_region(given["region"], shape)
        region = (z, y, x)
    channels = _numbers(given["channels"], "channels")
    tile = _numbers(given["tile"], "tile")
    return Settings(
        border=border,
        region=region,
        mask=given["mask"],
        blend=given["blend"],
        channels=channels,
        dtype=given["dtype"],
        probabilities=not given["raw"],
        preprocess=method,
        memory=_bytes(given["memory"]),
        tile=None if tile is None else as_triple(tile, name="tile"),
        measure=given["measure"],
        overwrite=given["overwrite"],
        restart=given["restart"],
        shards=given["shards"],
        zarr_format=int(given["zarr_format"]),
    )


def _numbers(text: str | None, name: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ParameterError(f"{name} {text!r} must be whole numbers with commas, for instance 0,2")
    return tuple(map(int, parts))


def _bytes(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _prepared_by(model: Path) -> tuple[Method, Clip]:
    """Return how the images were prepared that a model was trained with."""
    if is_hdf5(model):
        raise ParameterError(
            f"{model} does not say how its images were prepared; give --preprocess as pp_types in ZNN's .spec, "
            "for instance --preprocess standard2D"
        )
    data = read_stored(model).config.data
    return data.preprocess, data.clip
