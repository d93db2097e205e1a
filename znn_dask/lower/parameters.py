"""Parameters between their public form and the blocks they are kept in, and how they start."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError
from znn_dask.lower.plan import Plan
from znn_dask.lower.step import parameter_blocks
from znn_dask.net import Init, Network, Parameter
from znn_dask.ops.layout import kernel_to_internal, kernel_to_public
from znn_dask.randomness import generator

Array = npt.NDArray[np.float32]
Blocks = dict[Hashable, Array]


def initial_parameters(net: Network, seed: int) -> dict[str, Array]:
    """Return parameters as their initialisers say; each has random numbers of its own.

    Returns
    -------
    dict of name to float32 array
        Kernels (out, in, z, y, x), biases (channel,).
    """
    return {name: _initial(parameter, generator(seed, 0, name)) for name, parameter in net.parameters.items()}


def _initial(parameter: Parameter, rng: np.random.Generator) -> Array:
    values = _draw(parameter.init, parameter, rng)
    return np.ascontiguousarray(np.broadcast_to(values, parameter.shape), np.float32)


def _draw(init: Init, parameter: Parameter, rng: np.random.Generator) -> Any:
    shape, args = parameter.shape, init.args
    match init.kind:
        case "he" | "msra":
            return rng.normal(0.0, np.sqrt(2.0 / parameter.fan_in), shape)
        case "xavier":
            limit = np.sqrt(6.0 / (parameter.fan_in + parameter.fan_out))
            return rng.uniform(-limit, limit, shape)
        case "zero":
            return 0.0
        case "constant":
            return args[0]
        case "uniform":
            low, high = (-args[0], args[0]) if len(args) == 1 else args
            return rng.uniform(low, high, shape)
        case "gaussian":
            return rng.normal(args[0], args[1], shape)
        case "bernoulli":
            return rng.random(shape) < args[0]
        case _:
            raise ParameterError(f"parameter {parameter.name!r} has the unknown initialiser {init.kind!r}")


def to_blocks(net: Network, plan: Plan, public: Mapping[str, npt.NDArray[Any]]) -> Blocks:
    """Cut public parameters, or some of them, into blocks, which are new arrays."""
    blocks: Blocks = {}
    for key, name, part in parameter_blocks(net, plan):
        if name not in public:
            continue
        values = np.asarray(public[name], np.float32)[part]
        blocks[key] = kernel_to_internal(values) if values.ndim == 5 else values.copy()
    return blocks


def to_public(net: Network, plan: Plan, blocks: Mapping[Hashable, Array]) -> dict[str, Array]:
    """Put blocks together to public parameters, which are new arrays; those that have no blocks are left out."""
    owned = {name for key, name, _ in parameter_blocks(net, plan) if key in blocks}
    public = {name: np.empty(each.shape, np.float32) for name, each in net.parameters.items() if name in owned}
    for key, name, part in parameter_blocks(net, plan):
        if name not in owned:
            continue
        values = blocks[key]
        public[name][part] = kernel_to_public(values) if values.ndim == 5 else values
    return public


def check_parameters(net: Network, given: Mapping[str, Any], learned: bool = False) -> None:
    """Raise unless names and shapes are those of the network, or of what it learns.

    Raises
    ------
    ParameterError
        Naming what is missing, unknown or of another shape.
    """
    expected = {name: each for name, each in net.parameters.items() if each.learned or not learned}
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown)
        raise ParameterError(f"parameters do not belong to this network: {'; '.join(parts)}")
    for name, parameter in expected.items():
        shape = np.shape(given[name])
        if shape != parameter.shape:
            raise ParameterError(f"parameter {name!r} must have shape {parameter.shape}, got {shape}")
