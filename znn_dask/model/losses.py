"""The losses of a model's outputs: one for all, or one for each with a factor."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from znn_dask.errors import ParameterError
from znn_dask.model.optimizers import as_rate
from znn_dask.net import Network
from znn_dask.ops.losses import Target, parse_loss

Losses: TypeAlias = str | dict[str, tuple[str, float]]


def as_losses(given: object, net: Network) -> Losses:
    """Return losses checked against a network: a text, or (text, factor) by output.

    Parameters
    ----------
    given : str, or mapping of output to str or (str, factor)
    net : Network

    Raises
    ------
    ParameterError
        If there is no such loss or output, or a loss does not suit the output's channels.
    """
    if not isinstance(given, Mapping):
        text: Any = given
        for channels in net.outputs.values():
            _check(text, channels)
        return str(text)
    if set(given) != set(net.outputs):
        raise ParameterError(
            f"loss must be given for the outputs {', '.join(net.outputs)}, got {', '.join(map(str, given)) or 'none'}"
        )
    found = {}
    for name, channels in net.outputs.items():
        text, factor = (given[name], 1.0) if isinstance(given[name], str) else _pair(name, given[name])
        _check(text, channels)
        found[name] = text, as_rate(f"the factor of the loss of {name!r}", factor)
    return found


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ParameterError(f"the loss of {name!r} must be a name or (name, factor), got {value!r}")
    return value[0], value[1]


def _check(text: Any, channels: int) -> None:
    loss = parse_loss(text) if isinstance(text, str) else parse_loss(repr(text))
    if loss.target == "segments":
        loss.offsets(channels)


def by_output(loss: Losses) -> str | tuple[tuple[str, str, float], ...]:
    """Return losses as `StepOptions` has them."""
    return loss if isinstance(loss, str) else tuple((name, text, factor) for name, (text, factor) in loss.items())


def targets_of(loss: Losses, net: Network) -> dict[str, Target]:
    """Return what the target of each output holds."""
    return {name: parse_loss(loss if isinstance(loss, str) else loss[name][0]).target for name in net.outputs}
