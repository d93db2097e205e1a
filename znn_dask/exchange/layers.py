"""One edge as a layer of PyTorch, or as a few lines that torch.fx wrote down."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import NetworkError
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
    Padding,
    Softmax,
    Transfer,
    TransposedConvolution,
    Upsample,
)

Module = Any  # torch.nn.Module; PyTorch is optional
_MODES = {"zero": "zeros", "mirror": "reflect", "replicate": "replicate"}


class Kit:
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


def edge_module(kit: Kit, net: Network, edge: Edge, arrays: dict[str, npt.NDArray[Any]]) -> Module:
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


def _convolution(kit: Kit, op: Convolution, sparsity: Triple, arrays: dict[str, npt.NDArray[Any]]) -> Module:
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


def _padded(kit: Kit, image: Any, padding: Padding, sparsity: Triple) -> Any:
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


def _transposed(kit: Kit, op: TransposedConvolution, arrays: dict[str, npt.NDArray[Any]]) -> Module:
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


def _crop(kit: Kit, before: Triple, after: Triple) -> Module:
    crop = _crop_slices(kit, before, after)
    return kit.traced("Crop", lambda module, image: image[crop], {})


def _crop_slices(kit: Kit, before: Triple, after: Triple) -> tuple[slice, ...]:
    ends = zip(kit.size(before), kit.size(after), strict=True)
    return (slice(None), slice(None), *(slice(low, -high if high else None) for low, high in ends))


def _transfer(kit: Kit, op: Transfer, arrays: dict[str, npt.NDArray[Any]]) -> Module:
    standard = _layer_of(kit, op)
    if not arrays and standard is not None:
        return standard
    function = _function_of(kit, op)

    def transfer(module: Module, image: Any) -> Any:
        if op.bias:
            image = image + module.bias.view(-1, *(1,) * kit.ndim)
        return function(image)

    return kit.traced("Transfer", transfer, arrays)


def _layer_of(kit: Kit, op: Transfer) -> Module | None:
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


def _function_of(kit: Kit, op: Transfer) -> Callable[[Any], Any]:
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


def _normalisation(kit: Kit, op: Normalisation, n: int, arrays: dict[str, npt.NDArray[Any]]) -> Module:
    match op.over:
        case "batch":
            layer = kit.layer("BatchNorm")(n, op.epsilon, op.momentum, op.affine)
        case "instance":
            layer = kit.layer("InstanceNorm")(n, op.epsilon, affine=op.affine)
        case _:
            layer = kit.nn.GroupNorm(op.groups, n, op.epsilon, op.affine)
    return _filled(kit, layer, arrays)


def _filled(kit: Kit, layer: Module, arrays: Mapping[str, npt.NDArray[Any]]) -> Module:
    for key, values in arrays.items():
        getattr(layer, key).data = kit.torch.tensor(np.asarray(values, np.float32))
    return layer
