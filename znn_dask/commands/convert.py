"""``znn-dask convert``: networks and jobs from one form to another.

What can become what is one table, `CONVERSIONS`: a function from the source, the destination and the options for a pair
of kinds of files.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import click

from znn_dask.commands.common import debug_option
from znn_dask.commands.networks import find_network
from znn_dask.errors import DataError, ParameterError
from znn_dask.io.atomic import refuse_existing, replacing
from znn_dask.io.znn_hdf5 import read_znn
from znn_dask.model import Model
from znn_dask.model.znn_file import interpret
from znn_dask.ops.losses import LOSSES
from znn_dask.train.resolve import sizes, zoo_names
from znn_dask.train.znn_curve import rows_of, write_rows
from znn_dask.train.znn_job import read_job

# By ending, the kind of a file.
KINDS = {
    ".znn": "network",
    ".yaml": "configuration",
    ".yml": "configuration",
    ".cfg": "job",
    ".h5": "znn",
    ".hdf5": "znn",
    ".hdf": "znn",
    ".safetensors": "model",
    ".csv": "curve",
}
NAMES = {
    "network": "the text form of a network (.znn)",
    "zoo": "a network of the zoo by name",
    "configuration": "the configuration of a run (.yaml)",
    "job": "a job of ZNN (.cfg)",
    "znn": "a network that ZNN trained (.h5)",
    "model": "a model of ours (.safetensors)",
    "curve": "a learning curve (.csv)",
}


@dataclass(frozen=True)
class Options:
    """What a conversion may be told besides the files."""

    output_size: str | None = None
    loss: str | None = None
    curves: Path | None = None


Conversion: TypeAlias = Callable[[Path, Path, Options], str]


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--output-size", help="Of a model that is made, k or z,y,x.  [default: as in IN]")
@click.option("--loss", type=click.Choice(list(LOSSES)), help="Of a model that is made.  [default: as in IN]")
@click.option("--curves", type=click.Path(path_type=Path), help="A second file of ZNN with the learning curves.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@debug_option
def convert(
    source: Path, destination: Path, output_size: str | None, loss: str | None, curves: Path | None, overwrite: bool
) -> int:
    """Write IN in the form that the ending of OUT asks for.

    .znn is the text form of a network, .h5 a network that ZNN trained, .safetensors a model of ours, .cfg a job of ZNN
    (with its .spec), .yaml a configuration of ours, .csv a learning curve. What has no place in the new form is told
    as a warning.

    \b
    Example:
      znn-dask convert net_current.h5 model.safetensors
      znn-dask convert job.cfg config.yaml
    """
    kinds = _kind(source, "IN"), _kind(destination, "OUT")
    if kinds not in CONVERSIONS:
        raise ParameterError(_impossible(source, *kinds))
    if curves is not None and kinds[1] != "curve":
        raise ParameterError(f"--curves goes with an OUT of the ending .csv, not with {destination}")
    refuse_existing(destination, overwrite)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        told = CONVERSIONS[kinds](source, destination, Options(output_size, loss, curves))
    for warning in caught:
        click.echo(f"warning: {' '.join(str(warning.message).split())}", err=True)
    click.echo(f"{destination}: {told}")
    return 0


def _kind(path: Path, what: str) -> str:
    if what == "IN" and str(path) in zoo_names():
        return "zoo"
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise ParameterError(f"{what} {str(path)!r} has the ending {path.suffix!r}; known are {', '.join(KINDS)}")
    return kind


def _impossible(source: Path, found: str, wanted: str) -> str:
    possible = [NAMES[out] for kind, out in CONVERSIONS if kind == found]
    if wanted in ("model", "znn") and found in ("network", "zoo", "configuration", "job"):
        why = f"{NAMES[found]} has no weights; znn-dask train makes a model"
    else:
        why = f"{NAMES[found]} cannot become {NAMES[wanted]}"
    can = f"It can become {', '.join(possible)}" if possible else "It can become nothing else"
    return f"{source}: {why}. {can}"


def _to_text(source: Path, destination: Path, options: Options) -> str:
    network, _ = find_network(str(source), {})
    with replacing(destination) as temporary:
        network.save(temporary)
    return f"a network of {len(network.edges)} edges and {network.n_parameters:,} parameters, without weights"


def _to_model(source: Path, destination: Path, options: Options) -> str:
    size = None if options.output_size is None else sizes(options.output_size)
    with Model.load(source, output_size=size, num_workers=1, loss=options.loss) as model:
        model.save(destination)
        return f"{model.net.n_parameters:,} parameters, loss {model.loss}, {model.step_count:,} updates"


def _to_curve(source: Path, destination: Path, options: Options) -> str:
    file = read_znn(source, options.curves)
    try:
        rows = rows_of(file.statistics, interpret(file, source).optimizer.learning_rate)
    except DataError as error:
        raise DataError(f"{source}: {error}; a second file with them is named by --curves") from error
    write_rows(destination, rows)
    return f"{len(rows):,} rows"


def _to_configuration(source: Path, destination: Path, options: Options) -> str:
    job = read_job(source)
    with replacing(destination) as temporary:
        temporary.write_text(job.to_yaml(), encoding="utf-8")
    for text in job.warnings:
        click.echo(f"warning: {text}", err=True)
    return f"{len(job.told)} options, {len(job.warnings)} warnings"


CONVERSIONS: dict[tuple[str, str], Conversion] = {
    **{(kind, "network"): _to_text for kind in ("network", "zoo", "configuration", "znn", "model")},
    **{(kind, out): _to_model for kind in ("znn", "model") for out in ("model", "znn")},
    ("znn", "curve"): _to_curve,
    ("job", "configuration"): _to_configuration,
}
