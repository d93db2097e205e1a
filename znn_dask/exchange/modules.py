"""A network as a module of PyTorch that needs nothing of this package: its own layers, and code that can be read.

Every edge is a module of its name: a layer of PyTorch where one does just that, else a few lines that torch.fx wrote
down. The whole is a `torch.fx.GraphModule`; ``print(module.code)`` shows what it computes. The image stays dense, as in
PyTorch, and what comes after a max-filter is dilated.
"""

import operator
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import MissingExtraError, NetworkError
from znn_dask.exchange.layers import Kit, Module, edge_module
from znn_dask.exchange.state import tensors_of
from znn_dask.net import Crop, Network, Op

_NETWORK = "znn-dask network"  # under which a module keeps the text form of its network


def import_torch() -> Any:
    """Return PyTorch.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import torch
        import torch.fx
    except ImportError as error:
        raise MissingExtraError("PyTorch is needed: pip install 'znn-dask[torch]'") from error
    return torch


def to_module(net: Network, parameters: Mapping[str, npt.NDArray[Any]], ndim: int | None = None) -> Module:
    """Return a module that computes what a network does.

    Parameters
    ----------
    net : Network
    parameters : mapping of name to array
        As of `Model.parameters`.
    ndim : 2 or 3, optional
        Axes of its images; those of the network unless given. One of 2 takes (batch, channel, y, x).

    Returns
    -------
    torch.nn.Module
        In evaluation mode. Called with the inputs in the order of ``net.inputs``, it returns a tensor, or a dict where
        there are several outputs. The keys of its state dict are the names of edges, as in "conv1.weight".

    Raises
    ------
    NetworkError
        If the network is not flat, and 2 axes were asked for.
    MissingExtraError
        If PyTorch is not installed.
    """
    torch = import_torch()
    kit = Kit(torch, _axes(net, ndim))
    names = module_names(net)
    root = torch.nn.Module()
    for edge in net.edges.values():
        arrays = tensors_of(edge, parameters, kit.ndim)
        _put(torch, root, names[edge.name], edge_module(kit, net, edge, arrays))
    module = torch.fx.GraphModule(root, _graph(torch, net, names), class_name="Network")
    module.ndim = kit.ndim
    module.meta[_NETWORK] = net.to_text()
    return module.eval()


def network_of(module: Module) -> Network | None:
    """Return the network that a module was made of, if it still computes that."""
    text = getattr(module, "meta", {}).get(_NETWORK)
    if text is None:
        return None
    net = Network.from_text(text)
    zeros = {name: np.zeros(parameter.shape, np.float32) for name, parameter in net.parameters.items()}
    made = to_module(net, zeros, module.ndim)
    return net if _code(made) == _code(module) else None


def _code(module: Module) -> list[tuple[str, str]]:
    """Return what every part of a module is: its code, or how it is printed."""
    return [(name, getattr(part, "code", "") or repr(part)) for name, part in module.named_modules()]


def is_flat(net: Network) -> bool:
    """Return whether every section of an image is computed by itself and in the same way."""
    return all(_is_flat(edge.op) for edge in net.edges.values())


def _is_flat(op: Op) -> bool:
    ones = [getattr(op, name) for name in ("kernel", "window", "stride", "factor") if hasattr(op, name)]
    zeros = [padding for name in ("padding", "crop") if (padding := getattr(op, name, None)) is not None]
    zeros += [op] if isinstance(op, Crop) else []
    return all(size[0] == 1 for size in ones) and all(side.before[0] == side.after[0] == 0 for side in zeros)


def module_names(net: Network) -> dict[str, str]:
    """Return for every edge the path of its module, which a dot cannot lead through another edge's."""
    torch = import_torch()
    reserved = set(dir(torch.nn.Module())) | {"graph", "code", "meta"}
    names: dict[str, str] = {}
    taken: set[str] = set()
    for edge in net.edges:
        parts = [re.sub(r"\W", "_", part) or "_" for part in edge.split(".")]
        through = {".".join(edge.split(".")[:n]) for n in range(1, len(parts))}
        if through & net.edges.keys():
            parts = ["_".join(parts)]
        parts = [f"{part}_" if part in reserved else part for part in parts]
        name = ".".join(parts)
        while name in taken:
            name += "_"
        taken.add(name)
        names[edge] = name
    return names


def _axes(net: Network, ndim: int | None) -> int:
    flat = is_flat(net)
    if ndim == 2 and not flat:
        raise NetworkError("the network has windows, strides or paddings along z; its module needs ndim=3")
    if ndim not in (None, 2, 3):
        raise NetworkError(f"ndim must be 2 or 3, got {ndim!r}")
    return ndim or (2 if flat and net.ndim == 2 else 3)


def _put(torch: Any, root: Module, path: str, module: Module) -> None:
    *folders, name = path.split(".")
    for folder in folders:
        if folder not in dict(root.named_children()):
            root.add_module(folder, torch.nn.Module())
        root = getattr(root, folder)
    root.add_module(name, module)


def _graph(torch: Any, net: Network, names: Mapping[str, str]) -> Any:
    graph = torch.fx.Graph()
    values = {name: graph.placeholder(re.sub(r"\W", "_", name)) for name in net.inputs}
    for node in net.graph.nodes:
        images = [graph.call_module(names[edge.name], (values[edge.source],)) for edge in net.incoming(node.name)]
        if not images:
            continue
        value, *others = images
        if node.join == "concat" and others:
            value = graph.call_function(torch.cat, (images, 1))
        else:
            function = torch.maximum if node.join == "max" else operator.add
            for other in others:
                value = graph.call_function(function, (value, other))
        values[node.name] = value
    outputs = {name: values[name] for name in net.outputs}
    graph.output(outputs if len(outputs) > 1 else next(iter(outputs.values())))
    graph.lint()
    return graph
