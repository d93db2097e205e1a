"""Parameters of a network and the arrays of PyTorch's layers: the same numbers under other names."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.net import Edge, TransposedConvolution
from znn_dask.net.operations import Convolution

Array = npt.NDArray[Any]
_KEYS = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "shift": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}


def key_of(parameter: str, names: Mapping[str, str]) -> str:
    """Return the key of a parameter in the state dict of a module whose edges have these names."""
    edge, _, what = parameter.rpartition("/")
    return f"{names[edge]}.{_KEYS[what]}"


def tensors_of(edge: Edge, parameters: Mapping[str, Array], ndim: int) -> dict[str, Array]:
    """Return the arrays of an edge as its layer keeps them."""
    given = {what: parameters.get(f"{edge.name}/{what}") for what in _KEYS}
    return {_KEYS[what]: to_layer(edge, values, ndim) for what, values in given.items() if values is not None}


def to_layer(edge: Edge, values: Array, ndim: int) -> Array:
    """Return an array as a layer keeps it."""
    if isinstance(edge.op, TransposedConvolution):
        values = values.swapaxes(0, 1)
    if isinstance(edge.op, Convolution | TransposedConvolution) and ndim == 2:
        values = values[:, :, 0]
    return np.array(values, np.float32)


def from_layer(edge: Edge, values: Array) -> Array:
    """Return an array of a layer as a parameter."""
    if isinstance(edge.op, Convolution | TransposedConvolution) and values.ndim == 4:
        values = values[:, :, np.newaxis]
    if isinstance(edge.op, TransposedConvolution):
        values = values.swapaxes(0, 1)
    return np.ascontiguousarray(values, np.float32)
