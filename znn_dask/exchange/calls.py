"""What every known call of PyTorch becomes: one function each, from a reading and a call to an image.

A function that finds something it cannot express raises `UnsupportedError` with the reason; the reading says where.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from znn_dask.exchange.assembly import Image, Learned, broadcast
from znn_dask.exchange.program import Call, Weight, as_float32
from znn_dask.geometry import ONE, Triple, add
from znn_dask.net import (
    AveragePool,
    Convolution,
    Crop,
    Dropout,
    MaxFilter,
    MaxPool,
    Normalisation,
    Padding,
    Softmax,
    Transfer,
    TransposedConvolution,
    Upsample,
)
from znn_dask.net.operations import NO_PADDING

if TYPE_CHECKING:
    from znn_dask.exchange.reading import Reading

Handler: TypeAlias = Callable[["Reading", Call], "Image | Weight"]
NOTHING: Triple = (0, 0, 0)
MODES = {"constant": "zero", "reflect": "mirror", "replicate": "replicate"}


class UnsupportedError(ValueError):
    """Why a call cannot be expressed."""


def convolution(reading: "Reading", call: Call) -> Image:
    """Conv2d and Conv3d, with their padding or that of an F.pad before them."""
    image = reading.padded(call, "input")
    weight = reading.weight(call, "weight")
    if call.args.get("groups", 1) != 1:
        raise UnsupportedError(f"it has groups={call.args['groups']}; only 1 is known")
    kernel = _kernel(weight, reading.ndim)
    dilation = broadcast(call.args.get("dilation", [1]), reading.ndim)
    stride = broadcast(call.args.get("stride", [1]), reading.ndim)
    padding = _own_padding(call.args.get("padding", [0]), kernel.shape[2:], dilation, reading.ndim)
    op = Convolution(kernel.shape[2:], stride=stride, padding=_joint(image.padding, padding, dilation))
    name, _ = reading.names_of(call, weight)
    learned = {"kernel": Learned(as_float32(kernel), weight.name)}
    made = reading.assembly.apply(Image(image.node), op, name, len(kernel), learned, dilation=dilation)
    return _with_bias(reading, call, made)


def transposed(reading: "Reading", call: Call) -> Image:
    """ConvTranspose2d and ConvTranspose3d."""
    image, weight, ndim = reading.image(call, "input"), reading.weight(call, "weight"), reading.ndim
    if call.args.get("groups", 1) != 1:
        raise UnsupportedError(f"it has groups={call.args['groups']}; only 1 is known")
    if broadcast(call.args.get("dilation", [1]), ndim) != ONE:
        raise UnsupportedError(f"it has dilation={call.args['dilation']}; only 1 is known")
    kernel = _kernel(weight, ndim).swapaxes(0, 1)
    stride = broadcast(call.args.get("stride", [1]), ndim)
    before = broadcast(call.args.get("padding", [0]), ndim, 0)
    more = broadcast(call.args.get("output_padding", [0]), ndim, 0)
    if any(m > b for m, b in zip(more, before, strict=True)):
        raise UnsupportedError(f"its output_padding {more} is larger than its padding {before} (z, y, x)")
    z, y, x = (b - m for b, m in zip(before, more, strict=True))
    op = TransposedConvolution(kernel.shape[2:], stride, Padding(before, (z, y, x)))
    learned = {"kernel": Learned(as_float32(kernel), weight.name)}
    name, _ = reading.names_of(call, weight)
    return _with_bias(reading, call, reading.assembly.apply(image, op, name, len(kernel), learned))


def pad(reading: "Reading", call: Call) -> Image:
    """F.pad and padding layers: kept until the convolution that follows."""
    image = reading.padded(call, "self" if "self" in call.args else "input")
    mode, amounts = call.args.get("mode", "constant"), list(call.args["pad"])
    if mode not in MODES:
        raise UnsupportedError(f"its mode is {mode!r}; known are {', '.join(MODES)}")
    if mode == "constant" and call.args.get("value") not in (None, 0, 0.0):
        raise UnsupportedError(f"it pads with {call.args['value']}; only 0 is known")
    if any(amounts[2 * reading.ndim :]):
        raise UnsupportedError(f"it pads maps or examples: {amounts}; only z, y and x can be")
    amounts += [0] * (6 - len(amounts))
    before, after = tuple(amounts[4::-2][:3]), tuple(amounts[5::-2][:3])
    if min(amounts) < 0:
        if max(amounts) > 0 or image.padding != NO_PADDING:
            raise UnsupportedError(f"it pads and crops at once: {amounts}")
        crop = Crop(tuple(-n for n in before), tuple(-n for n in after))
        return reading.apply(call, image, crop)
    if max(amounts) == 0:
        return image
    more = Padding(before, after, MODES[mode])
    return Image(image.node, _joint(image.padding, more, ONE))


def pool(reading: "Reading", call: Call) -> Image:
    """Max-pooling side by side; with stride 1 a max-filter."""
    image, ndim = reading.image(call, "self"), reading.ndim
    window = broadcast(call.args["kernel_size"], ndim)
    stride = broadcast(call.args.get("stride") or list(window[3 - ndim :]), ndim)
    dilation = broadcast(call.args.get("dilation", [1]), ndim)
    if any(broadcast(call.args.get("padding", [0]), ndim, 0)):
        raise UnsupportedError(f"it has padding={call.args['padding']}; only 0 is known")
    if stride == window and dilation == ONE:
        _check_whole(reading, call, "self", window)
        return reading.apply(call, image, MaxPool(window))
    if stride == ONE:
        return reading.apply(call, image, MaxFilter(window, ONE), dilation=dilation)
    raise UnsupportedError(
        f"its window {window} and stride {stride} (z, y, x) differ; known are windows side by side, and stride 1"
    )


def average_pool(reading: "Reading", call: Call) -> Image:
    """Average pooling side by side."""
    image, ndim = reading.image(call, "self"), reading.ndim
    window = broadcast(call.args["kernel_size"], ndim)
    stride = broadcast(call.args.get("stride") or list(window[3 - ndim :]), ndim)
    if any(broadcast(call.args.get("padding", [0]), ndim, 0)) or stride != window:
        raise UnsupportedError(f"its windows {window} overlap or are padded; known are windows side by side")
    if call.args.get("divisor_override") is not None:
        raise UnsupportedError("it has a divisor of its own")
    _check_whole(reading, call, "self", window)
    return reading.apply(call, image, AveragePool(window))


def batch_norm(reading: "Reading", call: Call) -> Image:
    """BatchNorm2d and BatchNorm3d, which need running averages."""
    mean, variance = reading.array(call, "running_mean"), reading.array(call, "running_var")
    if mean is None or variance is None or call.args.get("training"):
        raise UnsupportedError("it keeps no running averages; only track_running_stats=True is known")
    kept = {"mean": mean, "variance": variance}
    return _normalised(reading, call, "batch", kept, momentum=float(call.args["momentum"]))


def instance_norm(reading: "Reading", call: Call) -> Image:
    """InstanceNorm2d and InstanceNorm3d without running averages."""
    if not call.args.get("use_input_stats", True):
        raise UnsupportedError("it uses running averages; only track_running_stats=False is known")
    return _normalised(reading, call, "instance", {})


def group_norm(reading: "Reading", call: Call) -> Image:
    """GroupNorm."""
    return _normalised(reading, call, "group", {}, groups=int(call.args["num_groups"]))


def _normalised(
    reading: "Reading", call: Call, over: str, kept: dict[str, Weight], momentum: float = 0.1, groups: int = 1
) -> Image:
    image = reading.image(call, "input")
    n = reading.assembly.channels(image)
    scale, shift = reading.array(call, "weight"), reading.array(call, "bias")
    affine = scale is not None or shift is not None
    arrays = {**({"scale": scale, "shift": shift} if affine else {}), **kept}
    starts = {"scale": np.ones(n), "shift": np.zeros(n)}
    learned = {
        what: Learned(as_float32(starts[what]), "") if each is None else Learned(as_float32(each.values), each.name)
        for what, each in arrays.items()
    }
    if any(each.values.shape != (n,) for each in learned.values()):
        raise UnsupportedError(f"its arrays do not have the {n} values of the maps")
    op = Normalisation(over, groups, float(call.args.get("eps", 1e-5)), affine, momentum)
    given = [each for each in arrays.values() if each is not None]
    name = reading.names_of(call, given[0])[0] if given else reading.name(call)
    return reading.assembly.apply(image, op, name, learned=learned)


def upsample(reading: "Reading", call: Call) -> Image:
    """Upsample and F.interpolate by whole factors."""
    image = reading.image(call, "self" if "self" in call.args else "input")
    if call.args.get("align_corners"):
        raise UnsupportedError("it has align_corners=True; only False is known")
    before, after = reading.sizes(call, "self" if "self" in call.args else "input"), reading.sizes_after(call)
    if any(b % a for a, b in zip(before, after, strict=True)):
        raise UnsupportedError(f"it makes {after} voxels of {before} (z, y, x); only whole factors are known")
    z, y, x = (b // a for a, b in zip(before, after, strict=True))
    linear = call.target in ("upsample_bilinear2d", "upsample_trilinear3d")
    return reading.apply(call, image, Upsample((z, y, x), "trilinear" if linear else "nearest"))


def softmax(reading: "Reading", call: Call) -> Image:
    """Softmax over the maps."""
    dim = call.args["dim"]
    if dim not in (1, 1 - (reading.ndim + 2)):
        raise UnsupportedError(f"it is along dim={dim}; only 1, the maps, is known")
    return reading.apply(call, reading.image(call, "self"), Softmax())


def dropout(reading: "Reading", call: Call) -> Image:
    """Dropout of voxels."""
    image, rate = reading.padded(call, "input"), float(call.args.get("p", 0.5))
    return reading.apply(call, reading.image(call, "input"), Dropout(rate)) if rate > 0 else image


def part(reading: "Reading", call: Call) -> "Image | Weight":
    """Slices: crops."""
    if reading.is_weight(call, "self"):
        raise UnsupportedError("it takes a part of a weight")
    dim, shape = call.args.get("dim", 0), reading.shape(call, "self")
    n = shape[dim]
    start, end, _ = slice(call.args.get("start"), call.args.get("end")).indices(n)
    if call.args.get("step", 1) != 1:
        raise UnsupportedError(f"it takes every {call.args['step']}th voxel")
    if (start, end) == (0, n):
        return reading.padded(call, "self")
    axis = dim % len(shape) - 2
    if axis < 0:
        raise UnsupportedError(
            f"it takes {start}:{end} of {n} {'maps' if axis == -1 else 'examples'}; only voxels can be"
        )
    before, after = [0, 0, 0], [0, 0, 0]
    before[axis + 3 - reading.ndim], after[axis + 3 - reading.ndim] = start, n - end
    return reading.apply(call, reading.image(call, "self"), Crop(tuple(before), tuple(after)))  # type: ignore[arg-type]


def same(reading: "Reading", call: Call) -> "Image | Weight":
    """What changes nothing here, or the shape of a weight."""
    if reading.is_weight(call, "self"):
        weight = reading.weight(call, "self")
        return replace(weight, values=weight.values.reshape(reading.shape_after(call)))
    if reading.shape_after(call) != reading.shape(call, "self"):
        raise UnsupportedError(f"it makes the shape {reading.shape_after(call)} of {reading.shape(call, 'self')}")
    return reading.padded(call, "self")


def _kernel(weight: Weight, ndim: int) -> np.ndarray:
    values = weight.values
    if values.ndim != ndim + 2:
        raise UnsupportedError(f"its weight {weight.name!r} has shape {values.shape}")
    return values[:, :, np.newaxis] if ndim == 2 else values


def _with_bias(reading: "Reading", call: Call, made: Image) -> Image:
    bias = reading.array(call, "bias")
    if bias is None:
        return made
    learned = {"bias": Learned(as_float32(bias.values), bias.name)}
    return reading.assembly.apply(made, Transfer("linear"), reading.names_of(call, bias)[1], learned=learned)


def _own_padding(given: object, kernel: tuple[int, ...], dilation: Triple, ndim: int) -> Padding:
    """Return the padding of a convolution in voxels of the image, not of its lattice."""
    if given == "same":
        total = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        before = tuple(n // 2 for n in total)
        return Padding(before, tuple(n - b for n, b in zip(total, before, strict=True)))  # type: ignore[arg-type]
    if isinstance(given, str):
        return NO_PADDING
    return Padding(broadcast(given, ndim, 0))  # type: ignore[arg-type]


def _joint(waiting: Padding, more: Padding, dilation: Triple) -> Padding:
    """Return two paddings as one, in voxels of the lattice."""
    if NO_PADDING not in (waiting, more) and (waiting.mode, more.mode) != ("zero", "zero"):
        raise UnsupportedError(f"it pads twice, with {waiting.mode} and {more.mode}")
    mode = waiting.mode if more == NO_PADDING else more.mode
    if mode != "zero" and dilation != ONE:
        raise UnsupportedError(f"it pads with {mode} where the image has a dilation of {dilation}")
    assert waiting.after is not None
    assert more.after is not None
    before, after = add(waiting.before, more.before), add(waiting.after, more.after)
    if any(n % d for n, d in zip((*before, *after), dilation * 2, strict=True)):
        raise UnsupportedError(f"its padding {before}, {after} (z, y, x) is no multiple of its dilation {dilation}")
    sizes = [tuple(n // d for n, d in zip(side, dilation, strict=True)) for side in (before, after)]
    return Padding(sizes[0], sizes[1], mode)  # type: ignore[arg-type]


def _check_whole(reading: "Reading", call: Call, name: str, window: Triple) -> None:
    size = reading.sizes(call, name)
    if any(n % w for n, w in zip(size, window, strict=True)):
        raise UnsupportedError(
            f"its window {window} (z, y, x) does not divide the image of {size}: voxels at the end would be left out. "
            "Give an example input whose size is a multiple"
        )
