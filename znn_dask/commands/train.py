"""``znn-dask train``: from a configuration and volumes to a model."""

from pathlib import Path

import click

from znn_dask.commands.common import debug_option, write_json
from znn_dask.commands.pictures import PREDICTION_PICTURE, CurveDrawer, draw_curve, draw_prediction
from znn_dask.train.config_file import describe, load_config
from znn_dask.train.heldout import HeldOut, evaluate_regions
from znn_dask.train.loop import Loop
from znn_dask.train.run import CURVE, CURVE_PICTURE, MODEL
from znn_dask.train.samples import Volume
from znn_dask.train.session import open_run

METRICS = "metrics.json"


@click.command()
@click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG.yaml", required=False)
@click.argument("overrides", nargs=-1, metavar="[key=value ...]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/NAME of CONFIG]")
@click.option("--restart", is_flag=True, help="Start over instead of continuing.")
@click.option("--keys", is_flag=True, help="List every key of a configuration, its default and meaning.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@debug_option
def train(
    config: Path | None, overrides: tuple[str, ...], out: Path | None, restart: bool, keys: bool, quiet: bool
) -> int:
    """Train a network on volumes.

    The folder of the run receives the model, the learning curve and the held-out error. The same command
    again continues where the last checkpoint was written; Ctrl-C writes one.

    \b
    Example:
      znn-dask train examples/isbi2012.yaml data.image=train-volume.tif \\
          data.label=train-labels.tif training.max_minutes=15
    """
    if keys:
        click.echo(describe())
        return 0
    if config is None:
        raise click.UsageError("Missing argument 'CONFIG.yaml'.")
    settings = load_config(config, overrides)
    folder = out if out is not None else Path("runs") / config.stem
    loop, test = open_run(settings, folder, restart)
    with loop.model:
        loop.on_checkpoint = CurveDrawer(folder)
        _introduce(loop)
        loop.run(progress=not quiet)
        draw_curve(folder)
        if loop.stopped_by:
            click.echo(f"stopped after update {loop.position.step:,}; the same command continues", err=True)
            return 128 + loop.stopped_by  # as a shell counts signals: 130 for Ctrl-C
        _conclude(loop, test)
    return 0


def _introduce(loop: Loop) -> None:
    start, total = loop.position.step, loop.config.training.updates
    if start:
        click.echo(f"continuing after update {start:,} of {total:,} in {loop.folder}")
    net = loop.model.net
    click.echo(
        f"network of {net.n_parameters:,} parameters, field of view {net.field_of_view} (z, y, x); "
        f"{loop.model.num_workers} workers"
    )


def _conclude(loop: Loop, test: list[Volume]) -> None:
    """Measure and draw what was reached, and say where it is."""
    folder, position = loop.folder, loop.position
    click.echo(f"{position.step:,} updates in {position.seconds / 60:.1f} minutes")
    files = [MODEL, CURVE, CURVE_PICTURE]
    if test:
        found = evaluate_regions(loop.model, test)
        write_json(folder / METRICS, {"updates": position.step, "seconds": position.seconds, **found.figures()})
        draw_held_out(folder, test[0], found)
        click.echo(describe_error(found))
        files += [METRICS, PREDICTION_PICTURE]
    click.echo(f"{folder}: {', '.join(files)}")


def draw_held_out(folder: Path, item: Volume, found: HeldOut) -> None:
    """Draw the learning curve with its baselines, and the prediction of a held-out region."""
    scores = found.scores
    draw_curve(folder, {"majority": scores.majority_error, "best threshold": found.baseline.error})
    where = tuple(slice(low, high) for low, high in item.region)
    draw_prediction(folder, item.image[(0, *where)], item.target[where], found.predictions[0], scores.error)


def describe_error(found: HeldOut) -> str:
    """Return the held-out error and what it compares with, in a sentence."""
    scores, baseline = found.scores, found.baseline
    return (
        f"held-out error {scores.error:.4f} (precision {scores.precision:.3f}, recall {scores.recall:.3f}); "
        f"always the more frequent class: {scores.majority_error:.4f}; "
        f"best threshold on the smoothed image: {baseline.error:.4f}"
    )
