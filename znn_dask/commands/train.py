"""``znn-dask train``: from a configuration and volumes to a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from znn_dask.cluster.crews import CLUSTER_OPTIONS, Reach, trained_on
from znn_dask.commands.common import debug_option
from znn_dask.train.config import Config
from znn_dask.train.config_file import describe, load_config
from znn_dask.train.trainer import Trainer


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the options of clusters."""
    for option in reversed(CLUSTER_OPTIONS):
        function = option(function)
    return function


@click.command()
@click.argument("config", type=click.Path(path_type=Path), metavar="CONFIG.yaml", required=False)
@click.argument("overrides", nargs=-1, metavar="[key=value ...]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/NAME of CONFIG]")
@click.option("--restart", is_flag=True, help="Start over instead of continuing.")
@click.option("--keys", is_flag=True, help="List every key of a configuration, its default and meaning.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@cluster_options
@debug_option
def train(
    config: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    restart: bool,
    keys: bool,
    quiet: bool,
    **cluster: Any,
) -> int:
    """Train a network on volumes.

    The folder of the run receives the model, the best model, the learning curve, the held-out error and a
    page about it all. The same command again continues where the last checkpoint was written; Ctrl-C writes
    one, a second Ctrl-C stops at once.

    With --scheduler or --cluster (or compute.scheduler, compute.cluster) workers share every minibatch
    (training.batch) and make the steps of one process. A run may go on with another number of them.

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
    with (
        trained_on(_reach(settings, cluster)) as parallel,
        Trainer(None, settings, folder=folder, parallel=parallel, restart=restart, progress=not quiet) as trainer,
    ):
        _introduce(trainer)
        result = trainer.run()
    if trainer.stopped_by:
        click.echo(f"stopped after update {result.step:,}; the same command continues", err=True)
        return 128 + trainer.stopped_by  # as a shell counts signals: 130 for Ctrl-C, 143 for SIGTERM
    click.echo(str(result))
    return 0


def _reach(settings: Config, given: dict[str, Any]) -> Reach:
    """Return where to compute: what the command line says, else the configuration."""
    compute = settings.compute
    if given["scheduler"] is None and given["cluster"] is None:
        given = given | {"scheduler": compute.scheduler, "cluster": compute.cluster}
    return Reach(num_workers=compute.workers, **given)


def _introduce(trainer: Trainer) -> None:
    start, total = trainer.step, trainer.config.training.updates
    if start:
        click.echo(f"continuing after update {start:,} of {total:,} in {trainer.folder}")
    net = trainer.model.net
    click.echo(
        f"network of {net.n_parameters:,} parameters, field of view {net.field_of_view} (z, y, x); "
        f"{trainer.parallel or f'{trainer.model.num_workers} workers'}"
    )
    if str(trainer.balance):
        click.echo(f"classes that are balanced: {trainer.balance}")
