"""``znn-dask demo``: the whole job on made-up tissue, in about a minute."""

from pathlib import Path

import click

from znn_dask.commands.common import debug_option, workers_option
from znn_dask.errors import OutputExistsError
from znn_dask.io.writing import write_volume
from znn_dask.train.config import Config
from znn_dask.train.config_file import make_config
from znn_dask.train.phantom import make_phantom
from znn_dask.train.run import METRICS, MODEL, PREDICTION_PICTURE, REPORT, read_stored
from znn_dask.train.trainer import Trainer

SIZE, TEST_SIZE = (64, 96, 96), (32, 96, 96)
"""Voxels (z, y, x) of the phantom that is learnt from, and of the one that is predicted."""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("znn-dask-demo"),
    show_default=True,
    help="Folder for the results; those of an earlier demo are replaced.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of tissue and network.")
@click.option("--updates", type=click.IntRange(min=1), default=2000, show_default=True, help="Length of the training.")
@workers_option
@click.option("--quiet", is_flag=True, help="No progress bar.")
@debug_option
def demo(out: Path, seed: int, updates: int, workers: int | None, quiet: bool) -> int:
    """Train a small 3D network on a made-up tissue and predict another one.

    Takes about a minute on two cores and needs no data. The results are the same for every number of workers.

    \b
    Example:
      znn-dask demo --out results
    """
    click.echo(f"making two phantoms: cells with membranes, vesicles and noise, {SIZE} and {TEST_SIZE} voxels")
    _check_out(out)
    sources = _make_volumes(out, seed)
    config = _config(sources, seed, updates, workers)
    with Trainer(None, config, folder=out, restart=True, progress=not quiet) as trainer:
        net = trainer.model.net
        click.echo(
            f"training to find the membranes: {updates:,} updates of a network of {net.n_parameters:,} parameters, "
            f"field of view {net.field_of_view}, {trainer.model.num_workers} workers; "
            "then the second phantom is predicted, which training has not seen"
        )
        result = trainer.run()
    if trainer.stopped_by:
        click.echo(f"stopped after update {result.step:,}", err=True)
        return 128 + trainer.stopped_by
    click.echo(str(result))
    click.echo(f"look at {out / PREDICTION_PICTURE} and {out / REPORT}; figures are in {out / METRICS}")
    click.echo(f"predict more with: znn-dask predict {out / MODEL} {sources['test_image']} prediction.npy")
    return 0


def _check_out(out: Path) -> None:
    """Raise if the folder holds a model that no demo made."""
    path = out / MODEL
    if path.exists() and Path(str(read_stored(path).config.data.train[0].image)).name != "train_image.npy":
        raise OutputExistsError(
            f"{out} holds another run, which the demo would replace; choose another folder by --out"
        )


def _make_volumes(out: Path, seed: int) -> dict[str, str]:
    """Write the phantoms, so that the other commands can be tried on them; return their names."""
    sources = {}
    for number, (name, size) in enumerate((("train", SIZE), ("test", TEST_SIZE))):
        phantom = make_phantom(size, seed, number)
        for kind, volume in (("image", phantom.image), ("label", phantom.boundary), ("ids", phantom.ids)):
            sources[f"{name}_{kind}"] = str(out / f"{name}_{kind}.npy")
            write_volume(sources[f"{name}_{kind}"], volume, overwrite=True)
    return sources


def _config(sources: dict[str, str], seed: int, updates: int, workers: int | None) -> Config:
    parts = {
        role: [{"image": sources[f"{role}_image"], "label": sources[f"{role}_label"]}] for role in ("train", "test")
    }
    return make_config(
        {
            "network": {
                "letters": "CTMCTCTCT",
                "width": 12,
                "kernel": 3,
                "window": 2,
                "transfer": ["relu", "relu", "relu", "linear"],
                "init": ["he", "he", "he", "gaussian(0, 0.01)"],
            },
            "training": {
                "output_size": 12,
                "loss": "logistic",
                "updates": updates,
                "learning_rate": 0.01,
                "schedule": "cosine",
                "warmup": 200,
                "rate_every": 20,
                "seed": seed,
            },
            "data": {**parts, "preprocess": "volume"},
            "log": {
                "every": 50,
                "test_every": 250,
                "validate_every": 500,
                "checkpoint_every": 500,
                "segments": "background",
            },
            "compute": {"workers": workers},
        },
        name="the demo's configuration",
    )
