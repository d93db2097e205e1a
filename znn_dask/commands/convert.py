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
from znn_dask.exchange import Found, read_pt2, read_state, write_pt2, write_state
from znn_dask.io.atomic import refuse_existing, replacing
from znn_dask.io.znn_hdf5 import read_znn
from znn_dask.model import Model, model_of
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
    ".pt2": "program",
    ".pt": "state",
    ".pth": "state",
    ".onnx": "onnx",
}
NAMES = {
    "network": "the text form of a network (.znn)",
    "zoo": "a network of the zoo by name",
    "configuration": "the configuration of a run (.yaml)",
    "job": "a job of ZNN (.cfg)",
    "znn": "a network that ZNN trained (.h5)",
    "model": "a model of ours (.safetensors)",
    "curve": "a learning curve (.csv)",
    "program": "a module of torch.export (.pt2)",
    "state": "a state dict of PyTorch (.pt)",
    "onnx": "a network in the form of ONNX (.onnx)",
}


@dataclass(frozen=True)
class Options:
    """What a conversion may be told besides the files."""

    output_size: str | None = None
    loss: str | None = None
    curves: Path | None = None
    net: str | None = None


Conversion: TypeAlias = Callable[[Path, Path, Options], str]


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--output-size", help="Of a model that is made, k or z,y,x.  [default: as in IN]")
@click.option("--loss", type=click.Choice(list(LOSSES)), help="Of a model that is made.  [default: as in IN]")
@click.option("--net", help="Of a state dict: the network as a .znn file, a model, or by its name in the zoo.")
@click.option("--curves", type=click.Path(path_type=Path), help="A second file of ZNN with the learning curves.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@debug_option
def convert(
    source: Path,
    destination: Path,
    output_size: str | None,
    loss: str | None,
    net: str | None,
    curves: Path | None,
    overwrite: bool,
) -> int:
    """Write IN in the form that the ending of OUT asks for.

    .znn is the text form of a network, .h5 a network that ZNN trained, .safetensors a model of ours, .cfg a job of ZNN
    (with its .spec), .yaml a configuration of ours, .csv a learning curve. Of PyTorch, .pt2 is a module that
    torch.export saved, .pt a state dict, whose network --net names; .onnx is written only. What has no
    place in the new form is told as a warning.

    \b
    Example:
      znn-dask convert net_current.h5 model.safetensors
      znn-dask convert job.cfg config.yaml
      znn-dask convert model.safetensors model.onnx
    """
    kinds = _kind(source, "IN"), _kind(destination, "OUT")
    if kinds not in CONVERSIONS:
        raise ParameterError(_impossible(source, *kinds))
    if curves is not None and kinds[1] != "curve":
        raise ParameterError(f"--curves goes with an OUT of the ending .csv, not with {destination}")
    if (net is not None) != (kinds[0] == "state"):
        raise ParameterError(
            f"{source} is a state dict, which does not say what it computes: give --net"
            if net is None
            else f"--net goes with an IN of the ending .pt or .pth, not with {source}"
        )
    refuse_existing(destination, overwrite)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        told = CONVERSIONS[kinds](source, destination, Options(output_size, loss, curves, net))
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


def _from_program(source: Path, destination: Path, options: Options) -> str:
    return _save(read_pt2(source), destination, options)


def _from_state(source: Path, destination: Path, options: Options) -> str:
    net, _ = find_network(str(options.net), {})
    if options.output_size is None:
        raise ParameterError(f"{source} says no sizes: give --output-size for the model")
    return _save(Found(net, read_state(source, net), {}, {}), destination, options)


def _save(found: Found, destination: Path, options: Options) -> str:
    size = found.output_size if options.output_size is None else sizes(options.output_size)
    with model_of(found, size, loss=options.loss or "square", num_workers=1, tune=False) as model:
        model.save(destination)
        return f"{model.net.n_parameters:,} parameters, loss {model.loss}"


def _program_to_text(source: Path, destination: Path, options: Options) -> str:
    network = read_pt2(source).net
    with replacing(destination) as temporary:
        network.save(temporary)
    return f"a network of {len(network.edges)} edges and {network.n_parameters:,} parameters, without weights"


def _to_pytorch(source: Path, destination: Path, options: Options) -> str:
    size = None if options.output_size is None else sizes(options.output_size)
    with Model.load(source, output_size=size, num_workers=1) as model:
        net, parameters = model.net, model.parameters
        inputs = model.net.node_sizes(model.output_size)
        match KINDS[destination.suffix.lower()]:
            case "state":
                write_state(net, parameters, destination)
            case "program":
                write_pt2(net, parameters, destination, inputs)
            case _:
                model.to_onnx(destination)
        ends = ", ".join(f"{name} of {inputs[name]}" for name in net.inputs)
    return f"{net.n_parameters:,} parameters, {ends} voxels (z, y, x)"


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
    **{(kind, out): _to_pytorch for kind in ("znn", "model") for out in ("program", "state", "onnx")},
    **{("program", out): _from_program for out in ("model", "znn")},
    **{("state", out): _from_state for out in ("model", "znn")},
    ("program", "network"): _program_to_text,
    ("job", "configuration"): _to_configuration,
}
