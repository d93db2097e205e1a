"""A network as a module of PyTorch that needs nothing of this package: its own layers, and code that can be read.

Every edge is a module of its name: a layer of PyTorch where one does just that, else a few lines that torch.fx wrote
down. The whole is a `torch.fx.GraphModule`; ``print(module.code)`` shows what it computes. The image stays dense, as in
PyTorch, and what comes after a max-filter is dilated.
"""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import MissingExtraError, NetworkError
from znn_dask.exchange.state import tensors_of
from znn_dask.geometry import ONE, Triple, multiply
from znn_dask.net import (
    AveragePool,
    Convolution,
    Crop,
    Dropout,
    Edge,
    Identity,
    MaxFilter,
    MaxPool,
    Network,
    Normalisation,
    Op,
    Padding,
    Softmax,
    Transfer,
    TransposedConvolution,
    Upsample,
)

Module = Any  # torch.nn.Module; PyTorch is optional
_NETWORK = "znn-dask network"  # under which a module keeps the text form of its network
_MODES = {"zero": "zeros", "mirror": "reflect", "replicate": "replicate"}


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
    kit = _Kit(torch, _axes(net, ndim))
    names = module_names(net)
    root = torch.nn.Module()
    for edge in net.edges.values():
        arrays = tensors_of(edge, parameters, kit.ndim)
        _put(torch, root, names[edge.name], _edge_module(kit, net, edge, arrays))
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


class _Kit:
    """PyTorch's layers for images of 2 or 3 axes."""

    def __init__(self, torch: Any, ndim: int) -> None:
        self.torch, self.ndim = torch, ndim
        self.nn, self.functional = torch.nn, torch.nn.functional

    def layer(self, name: str) -> Any:
        return getattr(self.nn, f"{name}{self.ndim}d")

    def call(self, name: str) -> Any:
        return getattr(self.functional, f"{name}{self.ndim}d")

    def size(self, size: Triple) -> tuple[int, ...]:
        """Return a size for as many axes."""
        return size[3 - self.ndim :]

    def traced(self, name: str, function: Callable[..., Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Module:
        """Return a module whose code is what a function (of the module and its image) does."""

        class Body(self.nn.Module):  # type: ignore[name-defined, misc]
            def forward(self, image: Any) -> Any:
                return function(self, image)

        body = Body()
        for key, values in arrays.items():
            body.register_parameter(key, self.nn.Parameter(self.torch.tensor(values)))
        return self.torch.fx.GraphModule(body, self.torch.fx.Tracer().trace(body), class_name=name)


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


def _edge_module(kit: _Kit, net: Network, edge: Edge, arrays: dict[str, npt.NDArray[Any]]) -> Module:
    """Return the module of an edge, its arrays in place."""
    nn, op, sparsity = kit.nn, edge.op, net.edge_sparsity(edge.name)
    match op:
        case Convolution():
            return _convolution(kit, op, sparsity, arrays)
        case TransposedConvolution():
            return _transposed(kit, op, arrays)
        case Transfer():
            return _transfer(kit, op, arrays)
        case MaxFilter():
            window, dilation = kit.size(op.window), kit.size(sparsity)
            return kit.layer("MaxPool")(window, stride=1, dilation=dilation)
        case MaxPool():
            return kit.layer("MaxPool")(kit.size(op.window))
        case AveragePool():
            return kit.layer("AvgPool")(kit.size(op.window))
        case Dropout():
            return nn.Dropout(op.rate)
        case Normalisation():
            return _normalisation(kit, op, net.nodes[edge.target].channels, arrays)
        case Softmax():
            return nn.Softmax(dim=1)
        case Upsample():
            mode = {"nearest": "nearest", "trilinear": "trilinear" if kit.ndim == 3 else "bilinear"}[op.mode]
            return nn.Upsample(scale_factor=tuple(map(float, kit.size(op.factor))), mode=mode)
        case Crop():
            assert op.after is not None
            return _crop(kit, op.before, op.after)
        case Identity():
            return nn.Identity()
    raise NetworkError(f"edge {edge.name!r} is a {op.kind}, for which PyTorch has no module")


def _convolution(kit: _Kit, op: Convolution, sparsity: Triple, arrays: dict[str, npt.NDArray[Any]]) -> Module:
    padding, weight = op.padding, arrays["weight"]
    assert padding.after is not None
    stride, dilation = kit.size(op.stride), kit.size(sparsity)
    if padding.before == padding.after and (padding.mode == "zero" or sparsity == ONE):
        layer = kit.layer("Conv")(
            weight.shape[1],
            weight.shape[0],
            kit.size(op.kernel),
            stride,
            kit.size(multiply(padding.before, sparsity)),
            dilation,
            bias=False,
            padding_mode=_MODES[padding.mode],
        )
        return _filled(kit, layer, arrays)

    def convolve(module: Module, image: Any) -> Any:
        padded = _padded(kit, image, padding, sparsity)
        return kit.call("conv")(padded, module.weight, None, stride, 0, dilation)

    return kit.traced("PaddedConvolution", convolve, arrays)


def _padded(kit: _Kit, image: Any, padding: Padding, sparsity: Triple) -> Any:
    assert padding.after is not None
    before, after = (kit.size(multiply(side, sparsity)) for side in (padding.before, padding.after))
    if padding.mode == "zero" or sparsity == ONE:
        ends = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
        mode = "constant" if padding.mode == "zero" else _MODES[padding.mode]
        return kit.functional.pad(image, ends, mode)
    # Every sub-lattice is padded by itself, so that a voxel's neighbours stay on it.
    for axis, (low, high, step) in enumerate(zip(before, after, kit.size(sparsity), strict=True), start=2):
        if low or high:
            image = _reflected(kit.torch, image, axis, low, high, step, padding.mode)
    return image


def _reflected(torch: Any, image: Any, axis: int, low: int, high: int, step: int, mode: str) -> Any:
    n = image.size(axis)
    place = image.tracer.create_proxy("call_function", torch.arange, (-low, n + high), {})
    phase = torch.remainder(place, step)
    number = torch.div(place - phase, step, rounding_mode="floor")
    last = torch.div(n - 1 - phase, step, rounding_mode="floor")
    if mode == "mirror":
        number = last - torch.abs(last - torch.abs(number))
    else:
        number = torch.minimum(torch.clamp(number, min=0), last)
    return torch.index_select(image, axis, number * step + phase)


def _transposed(kit: _Kit, op: TransposedConvolution, arrays: dict[str, npt.NDArray[Any]]) -> Module:
    before, after, weight = op.crop.before, op.crop.after, arrays["weight"]
    assert after is not None
    more = tuple(b - a for b, a in zip(before, after, strict=True))
    stride = kit.size(op.stride)
    if all(0 <= m < s for m, s in zip(more, op.stride, strict=True)):
        padding, extra = kit.size(before), more[3 - kit.ndim :]
        kernel = kit.size(op.kernel)
        sizes = weight.shape[0], weight.shape[1], kernel, stride, padding, extra
        return _filled(kit, kit.layer("ConvTranspose")(*sizes, bias=False), arrays)
    crop = _crop_slices(kit, before, after)

    def spread(module: Module, image: Any) -> Any:
        return kit.call("conv_transpose")(image, module.weight, None, stride)[crop]

    return kit.traced("CroppedTransposedConvolution", spread, arrays)


def _crop(kit: _Kit, before: Triple, after: Triple) -> Module:
    crop = _crop_slices(kit, before, after)
    return kit.traced("Crop", lambda module, image: image[crop], {})


def _crop_slices(kit: _Kit, before: Triple, after: Triple) -> tuple[slice, ...]:
    ends = zip(kit.size(before), kit.size(after), strict=True)
    return (slice(None), slice(None), *(slice(low, -high if high else None) for low, high in ends))


def _transfer(kit: _Kit, op: Transfer, arrays: dict[str, npt.NDArray[Any]]) -> Module:
    standard = _layer_of(kit, op)
    if not arrays and standard is not None:
        return standard
    function = _function_of(kit, op)

    def transfer(module: Module, image: Any) -> Any:
        if op.bias:
            image = image + module.bias.view(-1, *(1,) * kit.ndim)
        return function(image)

    return kit.traced("Transfer", transfer, arrays)


def _layer_of(kit: _Kit, op: Transfer) -> Module | None:
    """Return the layer of PyTorch that is just this function."""
    nn, args = kit.nn, op.args
    match op.function:
        case "relu":
            return nn.ReLU()
        case "logistic":
            return nn.Sigmoid()
        case "softsign":
            return nn.Softsign()
        case "softplus":
            return nn.Softplus(threshold=50)
        case "elu":
            return nn.ELU(*args)
        case "leaky_relu":
            return nn.LeakyReLU(*args)
        case "tanh" if args == (1.0, 1.0):
            return nn.Tanh()
    return None


def _function_of(kit: _Kit, op: Transfer) -> Callable[[Any], Any]:
    torch, functional = kit.torch, kit.functional
    match op.function:
        case "linear":
            a, b = op.args

            def linear(x: Any) -> Any:
                x = x if a == 1 else a * x
                return x if b == 0 else x + b

            return linear
        case "tanh":
            a, b = op.args

            def tanh(x: Any) -> Any:
                y = torch.tanh(x if b == 1 else b * x)
                return y if a == 1 else a * y

            return tanh
        case "forward_logistic":
            # The sum with zero has the gradient of x itself, so that it passes unchanged.
            return lambda x: torch.sigmoid(x).detach() + (x - x.detach())
        case "softplus":
            # Above the threshold PyTorch returns x, which is then the same in float64.
            return lambda x: functional.softplus(x, threshold=50)
    plain: dict[str, Callable[..., Any]] = {
        "relu": functional.relu,
        "logistic": torch.sigmoid,
        "softsign": functional.softsign,
        "elu": functional.elu,
        "leaky_relu": functional.leaky_relu,
    }
    return lambda x: plain[op.function](x, *op.args)


def _normalisation(kit: _Kit, op: Normalisation, n: int, arrays: dict[str, npt.NDArray[Any]]) -> Module:
    match op.over:
        case "batch":
            layer = kit.layer("BatchNorm")(n, op.epsilon, op.momentum, op.affine)
        case "instance":
            layer = kit.layer("InstanceNorm")(n, op.epsilon, affine=op.affine)
        case _:
            layer = kit.nn.GroupNorm(op.groups, n, op.epsilon, op.affine)
    return _filled(kit, layer, arrays)


def _filled(kit: _Kit, layer: Module, arrays: Mapping[str, npt.NDArray[Any]]) -> Module:
    for key, values in arrays.items():
        getattr(layer, key).data = kit.torch.tensor(np.asarray(values, np.float32))
    return layer
