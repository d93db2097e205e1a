"""``znn-dask show``: what a network is, or what it is to learn from."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from znn_dask.commands.common import debug_option
from znn_dask.commands.networks import find_network, network_options
from znn_dask.errors import ConfigError
from znn_dask.io.atomic import replacing
from znn_dask.train.config_file import load_config
from znn_dask.train.resolve import check_net, make_network, output_size, sizes
from znn_dask.train.samples import Sample
from znn_dask.train.session import open_volumes, training_samples
from znn_dask.viz.samples import samples_picture


@click.command()
@network_options
@click.argument("overrides", nargs=-1, metavar="[key=value ...]")
@click.option("--output-size", help="Show sizes for this output, k or z,y,x.")
@click.option("--samples", is_flag=True, help="Draw what the configuration NET learns from.")
@click.option("--count", type=click.IntRange(1, 50), default=6, show_default=True, help="Patches to draw.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("samples.png"), show_default=True, help="The picture."
)
@debug_option
def show(
    net: str,
    overrides: tuple[str, ...],
    output_size: str | None,
    samples: bool,
    count: int,
    out: Path,
    **settings: Any,
) -> int:
    """Print the layers, sizes and parameters of NET, or draw the samples of a configuration.

    NET is letters (C convolution, T transfer, M max-filter, P max-pool, D dropout), a .znn file, a model
    file, the .yaml configuration of a run, or a network of the zoo such as n4. With --samples it is a
    configuration, whose keys may be changed as for `train`; the picture has a row for each of the first patches of
    the run: the image, framed where the output lies, the target, and what of it counts.

    \b
    Example:
      znn-dask show CTMCTMCTCT --width 40 --output-size 12
      znn-dask show --samples run.yaml data.image=stack.tif data.label=labels.tif
    """
    if samples:
        _draw_samples(net, overrides, count, out)
        return 0
    if overrides:
        raise click.UsageError(f"'{overrides[0]}' is for --samples only.")
    network, plan = find_network(net, settings)
    click.echo(network.table(None if output_size is None else sizes(output_size)))
    if plan:
        click.echo(f"\n{plan}")
    return 0


def _draw_samples(name: str, overrides: tuple[str, ...], count: int, out: Path) -> None:
    if Path(name).suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--samples needs the .yaml configuration of a run, got {name!r}")
    config = load_config(name, overrides)
    network = make_network(config.network)
    check_net(config, network)
    train, _ = open_volumes(config, network)
    source = training_samples(config, network, train, output_size(config, network))
    patches: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
    step = 0
    while len(patches) < count:
        patches += _patches(source.sample(step))
        step += 1
    (channels,) = network.outputs.values()
    picture = samples_picture(patches[:count], channels if config.data.target == "classes" else 2)
    with replacing(out) as temporary:
        temporary.write_bytes(picture)
    shape = patches[0][0].shape
    click.echo(f"{out}: {count} patches of {' x '.join(map(str, shape[1:]))} voxels (z, y, x), as training gets them")


def _patches(sample: Sample) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Return the patches of a sample, of the first input and output."""
    image, target, weight = (
        next(iter(v.values())) if isinstance(v, dict) else v for v in (sample.image, sample.target, sample.weight)
    )
    return [(image[n], target[n], None if weight is None else weight[n]) for n in range(len(image))]
