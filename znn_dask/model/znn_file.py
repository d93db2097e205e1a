"""What the groups of ZNN's trained networks mean: a network, its parameters and how fast they move; and back.

ZNN convolves, so its filters are our kernels reflected along z, y and x, (in, out) instead of (out, in). It keeps
``m = momentum*m - eta*(g + weight_decay*w)`` and adds m to w; our velocity v is -m/eta. The rate is one for the network
here; where ZNN's differ, that of most groups is taken.

What has no place in a model (keys such as ``fft``, learning curves, the momentum as it was written, since v*eta is m to
rounding only) is kept as its *origin*, a `ZnnFile` without weights, so that reading and writing again is exact.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from znn_dask.errors import CheckpointError, NetworkError, ParameterError
from znn_dask.io.znn_hdf5 import Groups, Value, ZnnFile
from znn_dask.model.optimizers import SGD
from znn_dask.net import Network, Normalisation, Parameter
from znn_dask.net.blocks import Block, check_blocks
from znn_dask.net.text import assemble, blocks_of

Array = npt.NDArray[np.float32]
WEIGHTS = ("filters", "biases")
MOMENTUM = "momentum_vol"
_KINDS = {"node": "nodes", "edge": "edges"}
_OF_GROUPS = ("name", "group_type", *WEIGHTS, MOMENTUM)  # keys that say nothing about the network
_RATES = {"eta": "learning_rate", "momentum": "momentum", "weight_decay": "weight_decay"}
_TRIPLES = ("size", "stride", "offset")  # stored as integers, not as text


@dataclass(frozen=True)
class Meaning:
    """A file of ZNN as a model.

    Attributes
    ----------
    parameters, velocities : dict of parameter name to float32 array
    optimizer : SGD
    loss : str
        What the output's function suggests: softmax over several linear maps; else square.
    step_count : int
        The last iteration of the learning curve.
    origin : ZnnFile
        The file without its weights.
    """

    net: Network
    parameters: dict[str, Array]
    velocities: dict[str, Array]
    optimizer: SGD
    loss: str
    step_count: int
    origin: ZnnFile


def interpret(file: ZnnFile, path: str | Path) -> Meaning:
    """Return what a file means.

    Raises
    ------
    CheckpointError
        Naming the file and the group, if it is no network that can be.
    """
    try:
        net, learned = _network(file.groups)
        optimizer = _optimizer(file.groups, learned, path)
        parameters, velocities = {}, {}
        for group, name in learned.items():
            parameter = net.parameters[name]
            key = WEIGHTS[len(parameter.shape) == 1]
            parameters[name] = _array(file.groups[group], group, key, parameter)
            moved = _array(file.groups[group], group, MOMENTUM, parameter, optional=True)
            velocities[name] = _velocity(moved, optimizer.learning_rate)
        _check_others(file.groups, learned)
    except (NetworkError, ParameterError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    steps = file.statistics.get("train/it", np.zeros(0))
    count = int(steps.max()) if steps.size and np.isfinite(steps).all() and 0 <= steps.max() < 2**31 else 0
    return Meaning(net, parameters, velocities, optimizer, loss_of(net), count, without_weights(file))


def compose(
    net: Network,
    parameters: Mapping[str, Array],
    velocities: Mapping[str, Array],
    optimizer: SGD,
    origin: ZnnFile | None = None,
) -> ZnnFile:
    """Return the file that means a network with these parameters; with an origin, as that was written."""
    file = _described(net, optimizer) if origin is None else origin
    _, learned = _network(file.groups)
    before = _optimizer(file.groups, learned)
    groups: Groups = {}
    for group, keys in file.groups.items():
        groups[group] = dict(keys)
        if group not in learned:
            continue
        name = learned[group]
        groups[group][WEIGHTS[parameters[name].ndim == 1]] = _turned(parameters[name])
        groups[group][MOMENTUM] = _momentum(keys.get(MOMENTUM), velocities[name], before, optimizer)
        for key, attribute in _RATES.items():
            if getattr(before, attribute) != getattr(optimizer, attribute):
                groups[group][key] = repr(getattr(optimizer, attribute))
    return replace(file, groups=groups)


def without_weights(file: ZnnFile) -> ZnnFile:
    """Return a file without its filters and biases, which a model keeps."""
    groups = {name: {k: v for k, v in keys.items() if k not in WEIGHTS} for name, keys in file.groups.items()}
    return replace(file, groups=groups)


def still_true(origin: ZnnFile, velocities: Mapping[str, Array]) -> ZnnFile:
    """Return an origin without the momentum of groups that have moved on since."""
    _, learned = _network(origin.groups)
    rate = _optimizer(origin.groups, learned).learning_rate
    groups: Groups = {}
    for group, keys in origin.groups.items():
        moved = keys.get(MOMENTUM)
        true = isinstance(moved, np.ndarray) and _means(moved, rate, velocities[learned[group]])
        groups[group] = {k: v for k, v in keys.items() if k != MOMENTUM or true}
    return replace(origin, groups=groups)


def check_origin(origin: ZnnFile, net: Network) -> None:
    """Raise a NetworkError or ParameterError unless an origin can be written with the weights of a network."""
    found, learned = _network(origin.groups)
    if found.parameters != net.parameters:
        raise NetworkError("the groups of ZNN's file are of another network")
    _optimizer(origin.groups, learned)
    _check_others(origin.groups, learned)


def loss_of(net: Network) -> str:
    """Return the loss that suits the outputs of a network of ZNN, whose files do not say it."""
    (edges,) = [net.incoming(name) for name in net.outputs][:1]
    function = getattr(edges[0].op, "function", "linear")
    several = next(iter(net.outputs.values())) > 1
    return "softmax" if several and function == "linear" else "square"


def _network(groups: Groups) -> tuple[Network, dict[str, str]]:
    """Return the network of some groups, and the parameter of every group that has one."""
    blocks: dict[str, Block] = {}
    taken: dict[tuple[str, str], str] = {}
    for group, keys in groups.items():
        kind = _KINDS.get(str(keys.get("group_type", "")))
        if kind is None:
            raise NetworkError(f"group {group!r} has group_type {keys.get('group_type')!r}; it must be node or edge")
        name = str(keys.get("name", group))
        if (kind, name) in taken:
            raise NetworkError(f"groups {taken[kind, name]!r} and {group!r} are both {kind} {name!r}; rename one")
        taken[kind, name] = group
        entries = {key: (_text(group, key, value), 0) for key, value in keys.items() if key not in _OF_GROUPS}
        blocks[group] = Block(kind, name, 0, entries, f"group {group!r}")
    reading = assemble(list(blocks.values()), check_blocks(blocks.values()))
    for edge in reading.edges:
        if isinstance(edge.op, Normalisation):
            raise NetworkError(
                f"files of ZNN have no place for what normalisation {edge.name!r} learns and keeps; save the model as "
                ".safetensors"
            )
    by_block = {(block.kind, block.name): group for group, block in blocks.items()}
    return Network.from_reading(reading), {by_block[block]: name for block, name in reading.learned.items()}


def _text(group: str, key: str, value: Value) -> str:
    if isinstance(value, str):
        return value.strip()
    if value.ndim > 1 or value.size > 16:
        raise NetworkError(f"group {group!r}: {key} has shape {value.shape}; it must be a number or a few")
    return ",".join(str(number) for number in value.ravel().tolist())


def _optimizer(groups: Groups, learned: Mapping[str, str], path: str | Path | None = None) -> SGD:
    """Return the rates of most groups; with a path, warn of those that have others."""
    chosen = {}
    for key, attribute in _RATES.items():
        found = {group: _number(group, key, groups[group][key]) for group in learned if key in groups[group]}
        if not found:
            continue
        chosen[attribute] = Counter(found.values()).most_common(1)[0][0]
        others = [group for group, value in found.items() if value != chosen[attribute]]
        if others and path is not None:
            warnings.warn(
                f"{path}: {key} is {chosen[attribute]:g} for the whole model; {', '.join(others[:5])} "
                f"{'and others ' if len(others) > 5 else ''}had another",
                stacklevel=4,
            )
    return SGD(chosen["learning_rate"], chosen["momentum"], chosen["weight_decay"])


def _number(group: str, key: str, value: Value) -> float:
    try:
        return float(value) if isinstance(value, str) else float(value.item())
    except ValueError:
        raise ParameterError(f"group {group!r}: {key} must be a number, got {value!r}") from None


def _array(keys: Mapping[str, Value], group: str, key: str, parameter: Parameter, optional: bool = False) -> Array:
    """Return an array of a group as a parameter of ours."""
    expected = parameter.shape
    if len(expected) == 5:
        expected = (expected[1], expected[0], *expected[2:])
    value = keys.get(key)
    if value is None and optional:
        return np.zeros(parameter.shape, np.float32)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        raise ParameterError(f"group {group!r} needs {key}, an array of shape {expected}, and has none")
    if value.shape != expected:
        raise ParameterError(f"group {group!r}: {key} has shape {value.shape}; its keys say {expected}")
    with np.errstate(over="ignore"):
        return _turned_back(value.astype(np.float32))


def _turned(values: Array) -> Array:
    """Return a kernel (out, in, z, y, x) as a filter (in, out, z, y, x), reflected; a bias as it is."""
    return np.ascontiguousarray(values.swapaxes(0, 1)[:, :, ::-1, ::-1, ::-1] if values.ndim == 5 else values)


_turned_back = _turned  # reflecting and exchanging are their own inverses


def _velocity(moved: Array, rate: float) -> Array:
    """Return -m/eta."""
    if not np.any(moved):
        return np.zeros_like(moved)
    if rate == 0:
        raise ParameterError(f"{MOMENTUM} is not zero although eta is 0; there is no velocity that means this")
    with np.errstate(over="ignore"):
        velocity: Array = (moved / -np.float64(rate)).astype(np.float32)
    if np.isinf(velocity).sum() > np.isinf(moved).sum():
        raise ParameterError(f"{MOMENTUM} over an eta of {rate:g} is more than a number of 32 bits can say")
    return velocity


def _means(written: np.ndarray, rate: float, velocity: Array) -> bool:
    return np.array_equal(_velocity(_turned_back(written), rate), velocity, equal_nan=True)


def _momentum(written: Value | None, velocity: Array, before: SGD, optimizer: SGD) -> Array:
    """Return -eta*v: the very bits that were written if they still mean this velocity at this rate."""
    same_rate = before.learning_rate == optimizer.learning_rate
    if same_rate and isinstance(written, np.ndarray) and _means(written, before.learning_rate, velocity):
        return written
    return _turned((velocity * -np.float64(optimizer.learning_rate)).astype(np.float32))


def _check_others(groups: Groups, learned: Mapping[str, str]) -> None:
    for group, keys in groups.items():
        for key in (*WEIGHTS, MOMENTUM):
            if key in keys and group not in learned:
                raise ParameterError(f"group {group!r} has {key}, but {keys.get('type')!r} learns nothing")


def _described(net: Network, optimizer: SGD) -> ZnnFile:
    """Return a network in ZNN's words, without arrays."""
    blocks = blocks_of(net.graph, net.ndim)
    edges = {block.name for block in blocks if block.kind == "edges"}
    if any(block.kind == "network" for block in blocks):
        warnings.warn(
            f"ZNN's files have no place for ndim={net.ndim}, which the windows do not tell; it is left out",
            stacklevel=4,
        )
    groups: Groups = {}
    for block in blocks:
        if block.kind == "network":
            continue
        # Nodes and edges share one space of names in a file.
        group = f"{block.name}.node" if block.kind == "nodes" and block.name in edges else block.name
        keys: dict[str, Value] = {"name": block.name, "group_type": block.kind.removesuffix("s")}
        for key, (value, _) in block.entries.items():
            keys[key] = np.array([int(n) for n in value.split(",")], np.int64) if key in _TRIPLES else value
        groups[group] = keys
    _, learned = _network(groups)
    for group in learned:
        groups[group] |= {key: repr(getattr(optimizer, attribute)) for key, attribute in _RATES.items()}
    return ZnnFile(groups)
