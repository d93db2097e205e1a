"""From what a configuration says to what it means: the network, sizes, the learning rate of an update."""

import math
from typing import Any

from znn_dask.errors import ConfigError, NetworkError
from znn_dask.geometry import Triple, as_triple
from znn_dask.net import MaxPool, Network, zoo
from znn_dask.train.config import Config, NetworkSection, TrainingSection


def make_network(section: NetworkSection) -> Network:
    """Return the network that a configuration names.

    Raises
    ------
    ConfigError
        If not exactly one of letters, file and zoo is given, or the zoo has no such network.
    NetworkError, ParameterError
        If there can be no such network.
    """
    given = [name for name in ("letters", "file", "zoo") if getattr(section, name) is not None]
    if len(given) != 1:
        found = " and ".join(f"network.{name}" for name in given) or "none of them"
        raise ConfigError(f"give one of network.letters, network.file and network.zoo, got {found}")
    if section.file is not None:
        return Network.load(section.file)
    if section.zoo is not None:
        return zoo_network(section.zoo)
    return Network.parse(
        section.letters or "",
        width=section.width,
        kernel=sizes(section.kernel),
        window=sizes(section.window),
        stride=None if section.stride is None else sizes(section.stride),
        ndim=section.ndim,
        in_channels=section.in_channels,
        out_channels=section.out_channels,
        transfer=section.transfer,
        dropout=section.dropout,
        init=section.init,
    )


def zoo_names() -> list[str]:
    """Return the names of the networks of the zoo."""
    return zoo.names()


def zoo_network(name: str) -> Network:
    """Return a network of the zoo by name.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    try:
        return zoo.network(name)
    except NetworkError as error:
        raise ConfigError(str(error)) from None


def sizes(value: Any) -> Any:
    """Return sizes as `Network.parse` reads them: a list has one per letter, a tuple is (z, y, x)."""
    if isinstance(value, str):
        parts = value.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise ConfigError(f"a size is an integer or 'z,y,x', got {value!r}")
        numbers = tuple(int(part) for part in parts)
        return numbers[0] if len(numbers) == 1 else numbers
    if isinstance(value, list):
        return [tuple(item) if isinstance(item, list) else sizes(item) for item in value]
    return value


def output_size(config: Config, net: Network) -> Triple:
    """Return the output patch of an update, (z, y, x)."""
    given = config.training.output_size
    return as_triple(
        tuple(given) if isinstance(given, list) else sizes(given), ndim=net.ndim, name="training.output_size"
    )


def learning_rate(training: TrainingSection, step: int) -> float:
    """Return the learning rate of an update (from 0); it changes every `rate_every` updates only."""
    rounds = step // training.rate_every
    if training.warmup:
        # Steps up to the full rate, which the first updates of a fresh network could not bear.
        rise = min(1.0, (rounds + 1) * training.rate_every / training.warmup)
        return rise * _course(training, rounds)
    return _course(training, rounds)


def _course(training: TrainingSection, rounds: int) -> float:
    if training.schedule == "exponential":
        return training.learning_rate * float(training.decay**rounds)
    part = min(1.0, rounds * training.rate_every / training.updates)
    if training.schedule == "linear":
        return training.learning_rate * (1.0 - part)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1.0 + math.cos(math.pi * part))
    return training.learning_rate


def check_net(config: Config, net: Network) -> None:
    """Raise unless the network can be trained on volumes with the loss.

    Raises
    ------
    ConfigError
        If it has several inputs or outputs, is not dense, or its channels do not suit the loss.
    """
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise ConfigError(
            f"`train` needs a network with one input and one output; this one has the inputs "
            f"{', '.join(net.inputs)} and the outputs {', '.join(net.outputs)}"
        )
    pools = [name for name, edge in net.edges.items() if isinstance(edge.op, MaxPool)]
    if pools:
        raise ConfigError(
            f"`train` needs an output for every voxel, but {pools[0]!r} is a max-pool, which skips some; "
            "use a max-filter (letter M), which does the same and stays dense"
        )
    (channels,) = net.outputs.values()
    loss = config.training.loss
    if channels != (2 if loss == "softmax" else 1):
        need = "2 output channels, absent and present" if loss == "softmax" else "1 output channel"
        raise ConfigError(f"loss {loss!r} of a target of 0 and 1 needs {need}, but the network has {channels}")
