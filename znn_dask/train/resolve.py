"""From what a configuration says to what it means: the network, sizes, the learning rate of an update."""

from typing import Any

from znn_dask.errors import ConfigError, NetworkError
from znn_dask.geometry import Triple, as_triple
from znn_dask.model import SGD, Adam, AdamW
from znn_dask.model.losses import as_losses, targets_of
from znn_dask.model.optimizers import Optimizer
from znn_dask.net import MaxPool, Network, zoo
from znn_dask.train.config import Config, NetworkSection, TrainingSection
from znn_dask.train.schedules import Schedule


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
    return make_schedule(training)(step)


def make_schedule(training: TrainingSection) -> Schedule:
    """Return the course of the learning rate."""
    return Schedule(
        training.learning_rate,
        training.schedule,
        training.updates,
        training.decay,
        training.milestones,
        training.warmup,
        training.rate_every,
    )


def make_optimizer(training: TrainingSection) -> Optimizer:
    """Return the optimiser that a configuration names.

    Raises
    ------
    ParameterError
        If its numbers do not go together.
    """
    common: dict[str, Any] = {
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "clip_norm": training.clip_norm,
        "clip_value": training.clip_value,
        "accumulate": training.accumulate,
        "rates": training.rates,
    }
    if training.optimizer == "sgd":
        return SGD(momentum=training.momentum, nesterov=training.nesterov, **common)
    kind = Adam if training.optimizer == "adam" else AdamW
    return kind(betas=training.betas, epsilon=training.epsilon, **common)


def check_parallel(config: Config, given: bool) -> None:
    """Raise a ConfigError if a configuration asks for a cluster that only the command line starts."""
    compute = config.compute
    for key, value in (("cluster", compute.cluster), ("scheduler", compute.scheduler)):
        if value is not None and not given:
            raise ConfigError(
                f"compute.{key}={value} is for `znn-dask train`; in Python give Trainer(..., "
                "parallel=DataParallel.on(client)) with a client of that cluster"
            )


def check_net(config: Config, net: Network) -> None:
    """Raise unless the network can be trained on volumes with the loss.

    Raises
    ------
    ConfigError
        If it has several outputs, is not dense, or its channels do not suit the loss.
    """
    if len(net.outputs) != 1:
        raise ConfigError(f"`train` needs a network with one output; this one has the outputs {', '.join(net.outputs)}")
    pools = [name for name, edge in net.edges.items() if isinstance(edge.op, MaxPool)]
    if pools and not net.is_dense:
        raise ConfigError(
            f"`train` needs an output for every voxel, but {pools[0]!r} is a max-pool, which skips some; "
            "use a max-filter (letter M), which does the same and stays dense"
        )
    (channels,) = net.outputs.values()
    _check_outputs(config, net, channels)


def _check_outputs(config: Config, net: Network, channels: int) -> None:
    """Raise unless the number of output channels suits the target and the loss."""
    data, loss = config.data, config.training.loss
    (needed,) = targets_of(as_losses(loss, net), net).values()
    if (needed == "segments") != (data.target == "ids"):
        raise ConfigError(
            f"MALIS and the target 'ids' belong together, got training.loss {loss!r} and data.target {data.target!r}"
        )
    softmax = needed == "classes"
    if data.target == "classes":
        if not softmax:
            raise ConfigError(f"data.target 'classes' needs training.loss 'softmax', got {loss!r}")
        if data.classes is not None and len(data.classes) != channels:
            raise ConfigError(
                f"data.classes names {len(data.classes)} classes, but the network has {channels} output channels; "
                "it needs one for each class"
            )
    elif data.target == "affinity":
        if softmax:
            raise ConfigError("data.target 'affinity' needs a loss of every channel, such as 'logistic', not 'softmax'")
        if channels != len(data.offsets):
            raise ConfigError(
                f"data.offsets names {len(data.offsets)} offsets, but the network has {channels} output channels; "
                "it needs one for each offset"
            )
    elif data.target != "ids" and channels != (2 if softmax else 1):
        need = "2 output channels, absent and present" if softmax else "1 output channel"
        raise ConfigError(f"loss {loss!r} of a target of 0 and 1 needs {need}, but the network has {channels}")
