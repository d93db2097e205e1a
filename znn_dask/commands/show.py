"""``znn-dask show``: what a network is."""

from pathlib import Path

import click

from znn_dask.commands.common import debug_option
from znn_dask.errors import NetworkError
from znn_dask.model import Model
from znn_dask.net import Network
from znn_dask.train.config_file import load_config, make_config
from znn_dask.train.resolve import make_network, sizes, zoo_names, zoo_network


@click.command()
@click.argument("net")
@click.option("--width", default="16", show_default=True, help="Maps, one or one per C but the last: 8,16,16.")
@click.option("--kernel", default="3", show_default=True, help="Size k of every C.")
@click.option("--window", default="2", show_default=True, help="Size k of every M and P.")
@click.option("--ndim", type=click.IntRange(2, 3), default=3, show_default=True, help="2: a size k means 1,k,k.")
@click.option("--in-channels", type=click.IntRange(min=1), default=1, show_default=True, help="Channels of the image.")
@click.option(
    "--out-channels", type=click.IntRange(min=1), default=1, show_default=True, help="Channels of the output."
)
@click.option("--output-size", help="Show sizes for this output, k or z,y,x.")
@debug_option
def show(
    net: str,
    width: str,
    kernel: str,
    window: str,
    ndim: int,
    in_channels: int,
    out_channels: int,
    output_size: str | None,
) -> int:
    """Print the layers, sizes and parameters of NET.

    NET is letters (C convolution, T transfer, M max-filter, P max-pool, D dropout), a .znn file, a model
    file, the .yaml configuration of a run, or a network of the zoo such as n4.

    \b
    Example:
      znn-dask show CTMCTMCTCT --width 40 --output-size 12
    """
    settings: dict[str, object] = {
        "width": [int(part) for part in width.split(",")] if "," in width else width,
        "kernel": kernel,
        "window": window,
        "ndim": ndim,
        "in_channels": in_channels,
        "out_channels": out_channels,
    }
    network, plan = _find(net, settings)
    click.echo(network.table(None if output_size is None else sizes(output_size)))
    if plan:
        click.echo(f"\n{plan}")
    return 0


def _find(net: str, settings: dict[str, object]) -> tuple[Network, str]:
    """Return the network that a name means, and the plan of a model file."""
    path = Path(net)
    if path.suffix == ".znn":
        return Network.load(path), ""
    if path.suffix in (".yaml", ".yml"):
        return make_network(load_config(path).network), ""
    if path.suffix == ".safetensors" or path.exists():
        with Model.load(path, num_workers=1) as model:
            return model.net, str(model.plan)
    if net in zoo_names():
        return zoo_network(net), ""
    if not net.isupper():
        raise NetworkError(
            f"there is no file {net!r}, it is no network of the zoo ({', '.join(zoo_names())}), and "
            "letters of a chain "
            "are upper-case, for instance CTMCTMCTCT"
        )
    return make_network(make_config({"network": {"letters": net, **settings}}, name="options").network), ""
