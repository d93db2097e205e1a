"""Functions of every voxel, sums and concatenations of PyTorch: what they become here."""

from typing import TYPE_CHECKING

import numpy as np

from znn_dask.exchange.assembly import Image, Learned
from znn_dask.exchange.calls import UnsupportedError
from znn_dask.exchange.program import Call, Reference, Weight, as_float32
from znn_dask.net import Transfer

if TYPE_CHECKING:
    from znn_dask.exchange.reading import Reading

PLAIN = {
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "logistic",
    "softsign": "softsign",
    "forward_logistic": "forward_logistic",
}


def function(reading: "Reading", call: Call) -> Image:
    """A function without arguments."""
    return _transfers(reading, call, Transfer(PLAIN[call.target], bias=False))


def leaky_relu(reading: "Reading", call: Call) -> Image:
    """LeakyReLU."""
    slope = float(call.args.get("negative_slope", 0.01))
    return _transfers(reading, call, Transfer("leaky_relu", (slope,), bias=False))


def elu(reading: "Reading", call: Call) -> Image:
    """ELU."""
    if call.args.get("scale", 1) != 1 or call.args.get("input_scale", 1) != 1:
        raise UnsupportedError("it has a scale of its own")
    return _transfers(reading, call, Transfer("elu", (float(call.args.get("alpha", 1.0)),), bias=False))


def softplus(reading: "Reading", call: Call) -> Image:
    """Softplus; above its threshold PyTorch leaves the value as it is, which differs by less than rounding."""
    beta = float(call.args.get("beta", 1.0))
    if float(call.args.get("threshold", 20.0)) < 15:
        raise UnsupportedError(
            f"it has a threshold of {call.args['threshold']}; 15 is the least that keeps the function"
        )
    some = [_linear(beta), Transfer("softplus", bias=False), _linear(1 / beta)]
    return _transfers(reading, call, *(some if beta != 1 else some[1:2]))


def add(reading: "Reading", call: Call) -> Image:
    """A sum of images, or of an image and a number or a value for every map."""
    return _sum(reading, call, float(call.args.get("alpha", 1)))


def subtract(reading: "Reading", call: Call) -> Image:
    """A difference."""
    return _sum(reading, call, -float(call.args.get("alpha", 1)))


def reversed_subtract(reading: "Reading", call: Call) -> Image:
    """A number less an image."""
    number = _number(reading, call, "other")
    if number is None or call.args.get("alpha", 1) != 1:
        raise UnsupportedError("only a number less an image is known")
    return _transfers(reading, call, _linear(-1.0, number))


def negative(reading: "Reading", call: Call) -> Image:
    """The negative."""
    return _transfers(reading, call, _linear(-1.0))


def multiply(reading: "Reading", call: Call) -> Image:
    """A product with a number."""
    name = "other" if reading.is_image(call, "self") else "self"
    number = _number(reading, call, name)
    if number is None:
        raise UnsupportedError("only products of an image with a number are known")
    return _transfers(reading, call, _linear(number), argument="other" if name == "self" else "self")


def divide(reading: "Reading", call: Call) -> Image:
    """A quotient by a number."""
    number = _number(reading, call, "other")
    if number is None or number == 0 or call.args.get("rounding_mode") is not None:
        raise UnsupportedError("only quotients of an image by a number other than 0 are known")
    return _transfers(reading, call, _linear(1 / number))


def maximum(reading: "Reading", call: Call) -> Image:
    """The larger of two images at every voxel."""
    return reading.join(call, [call.args["self"], call.args["other"]], "max")


def concatenate(reading: "Reading", call: Call) -> Image:
    """The maps of several images, one after the other."""
    if call.args.get("dim", 0) not in (1, 1 - (reading.ndim + 2)):
        raise UnsupportedError(f"it is along dim={call.args.get('dim', 0)}; only 1, the maps, is known")
    return reading.join(call, call.args["tensors"], "concat")


def _sum(reading: "Reading", call: Call, factor: float) -> Image:
    one, other = call.args["self"], call.args["other"]
    if reading.is_image(call, "self") and reading.is_image(call, "other"):
        if factor == 1:
            return reading.join(call, [one, other], "sum")
        scaled = reading.assembly.apply(reading.image(call, "other"), _linear(factor), f"{reading.name(call)}_scale")
        return reading.assembly.join(
            [reading.image(call, "self"), scaled], "sum", reading.name(call), [reading.is_alone(one), True]
        )
    first = reading.is_image(call, "self")
    number = _number(reading, call, "other" if first else "self")
    image = "self" if first else "other"
    if number is not None:
        linear = _linear(1.0, number * factor) if first else _linear(factor, number)
        return _transfers(reading, call, linear, argument=image)
    return _bias(reading, call, image, "other" if first else "self", factor)


def _bias(reading: "Reading", call: Call, image: str, array: str, factor: float) -> Image:
    """A value for every map."""
    weight = reading.weight(call, array)
    source = reading.image(call, image)
    n = reading.assembly.channels(source)
    shape = (1,) * (reading.ndim + 2 - weight.values.ndim) + weight.values.shape
    if len(shape) != reading.ndim + 2 or shape[1] != n or weight.values.size != n:
        raise UnsupportedError(f"it adds an array of shape {weight.values.shape}, not a value for each of {n} maps")
    if factor != 1 and image == "other":
        raise UnsupportedError("it subtracts an image from a value for every map")
    learned = {"bias": Learned(as_float32(weight.values.reshape(n) * np.float32(factor)), weight.name)}
    name = reading.names_of(call, weight)[1]
    return reading.assembly.apply(source, Transfer("linear"), name, learned=learned)


def _linear(scale: float, shift: float = 0.0) -> Transfer:
    return Transfer("linear", (scale, shift), bias=False)


def _transfers(reading: "Reading", call: Call, *ops: Transfer, argument: str = "") -> Image:
    argument = argument or ("self" if "self" in call.args else "input")
    image, alone = reading.image(call, argument), reading.is_alone(call.args[argument])
    for op in ops:
        image = reading.assembly.apply(image, op, reading.name(call), alone=alone)
        alone = True
    return image


def _number(reading: "Reading", call: Call, name: str) -> float | None:
    """Return an argument as a number, if it is one or an array of one value."""
    value = call.args[name]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, Reference) and reading.is_weight(call, name):
        weight: Weight = reading.weight(call, name)
        return float(weight.values.reshape(-1)[0]) if weight.values.size == 1 and not weight.learned else None
    return None
