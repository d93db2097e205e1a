"""``znn-dask show``: what a network is."""

from typing import Any

import click

from znn_dask.commands.common import debug_option
from znn_dask.commands.networks import find_network, network_options
from znn_dask.train.resolve import sizes


@click.command()
@network_options
@click.option("--output-size", help="Show sizes for this output, k or z,y,x.")
@debug_option
def show(net: str, output_size: str | None, **settings: Any) -> int:
    """Print the layers, sizes and parameters of NET.

    NET is letters (C convolution, T transfer, M max-filter, P max-pool, D dropout), a .znn file, a model
    file, the .yaml configuration of a run, or a network of the zoo such as n4.

    \b
    Example:
      znn-dask show CTMCTMCTCT --width 40 --output-size 12
    """
    network, plan = find_network(net, settings)
    click.echo(network.table(None if output_size is None else sizes(output_size)))
    if plan:
        click.echo(f"\n{plan}")
    return 0
