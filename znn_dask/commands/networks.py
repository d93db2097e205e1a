"""Naming a network on the command line: letters, a file, the zoo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from znn_dask.errors import NetworkError, nearest
from znn_dask.model import Model
from znn_dask.net import Network
from znn_dask.train.config_file import load_config, make_config
from znn_dask.train.resolve import make_network, zoo_names, zoo_network

_Function = TypeVar("_Function", bound=Callable[..., Any])

OPTIONS = (
    click.option("--width", default="16", show_default=True, help="Maps, one or one per C but the last: 8,16,16."),
    click.option("--kernel", default="3", show_default=True, help="Size k of every C."),
    click.option("--window", default="2", show_default=True, help="Size k of every M and P."),
    click.option("--ndim", type=click.IntRange(2, 3), default=3, show_default=True, help="2: a size k means 1,k,k."),
    click.option("--in-channels", type=click.IntRange(min=1), default=1, show_default=True, help="Of the image."),
    click.option("--out-channels", type=click.IntRange(min=1), default=1, show_default=True, help="Of the output."),
)


def network_options(function: _Function) -> _Function:
    """Give a command the argument NET and the options of letters."""
    for option in reversed(OPTIONS):
        function = option(function)
    return click.argument("net")(function)


def find_network(net: str, settings: dict[str, Any]) -> tuple[Network, str]:
    """Return the network that a name means, and the plan of a model file.

    Raises
    ------
    NetworkError
        If there is nothing of that name.
    """
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
            f"letters of a chain are upper-case, for instance CTMCTMCTCT.{nearest(net, zoo_names())}"
        )
    width = settings["width"]
    settings = {**settings, "width": [int(part) for part in width.split(",")] if "," in width else width}
    return make_network(make_config({"network": {"letters": net, **settings}}, name="options").network), ""
