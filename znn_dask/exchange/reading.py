"""From a program of PyTorch to a network with its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from znn_dask.errors import NetworkError, ParameterError, ZnnError
from znn_dask.exchange import calls, functions
from znn_dask.exchange.assembly import Assembly, Image, Learned
from znn_dask.exchange.program import (
    Call,
    Program,
    Reference,
    Weight,
    with_patterns,
    without_changes_in_place,
)
from znn_dask.geometry import Triple
from znn_dask.net import Network, Op
from znn_dask.net.operations import NO_PADDING

Array = npt.NDArray[np.float32]
_CHANNELS = 1  # the axis of maps

HANDLERS: Mapping[str, calls.Handler] = {
    **dict.fromkeys(("conv2d", "conv3d"), calls.convolution),
    **dict.fromkeys(("conv_transpose2d", "conv_transpose3d"), calls.transposed),
    "pad": calls.pad,
    **dict.fromkeys(("max_pool2d", "max_pool3d"), calls.pool),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), calls.pool),
    **dict.fromkeys(("avg_pool2d", "avg_pool3d"), calls.average_pool),
    "batch_norm": calls.batch_norm,
    "instance_norm": calls.instance_norm,
    "group_norm": calls.group_norm,
    **dict.fromkeys(("upsample_nearest2d", "upsample_nearest3d"), calls.upsample),
    **dict.fromkeys(("_upsample_nearest_exact2d", "_upsample_nearest_exact3d"), calls.upsample),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_trilinear3d"), calls.upsample),
    "softmax": calls.softmax,
    "dropout": calls.dropout,
    "slice": calls.part,
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "to", "_to_copy", "view", "reshape"), calls.same),
    **dict.fromkeys(("squeeze", "unsqueeze", "expand", "expand_as", "lift_fresh_copy"), calls.same),
    **dict.fromkeys(functions.PLAIN, functions.function),
    "leaky_relu": functions.leaky_relu,
    "elu": functions.elu,
    "softplus": functions.softplus,
    "add": functions.add,
    "sub": functions.subtract,
    "rsub": functions.reversed_subtract,
    "neg": functions.negative,
    "mul": functions.multiply,
    "div": functions.divide,
    "maximum": functions.maximum,
    "cat": functions.concatenate,
}
KNOWN = (
    "Conv2d, Conv3d, ConvTranspose2d, ConvTranspose3d, BatchNorm, InstanceNorm, GroupNorm, MaxPool, AvgPool, Upsample "
    "(interpolate), ReLU, LeakyReLU, ELU, Tanh, Sigmoid, Softsign, Softplus, Softmax(dim=1), Dropout, Identity, F.pad "
    "before a convolution, crops by slices, torch.cat(dim=1), torch.maximum, + and - of images, and products with "
    "numbers"
)
_ADVICE = {
    "feature_dropout": "Dropout2d and Dropout3d drop whole maps; Dropout, which drops voxels, is known. ",
    "alpha_dropout": "Dropout is known. ",
    "prelu": "LeakyReLU, whose slope is fixed, is known. ",
    "linear": "A Linear over maps is a convolution of 1. ",
    "_weight_norm": "Take the parametrisation away first (torch.nn.utils.remove_weight_norm). ",
}


@dataclass(frozen=True)
class Found:
    """A network that was read.

    Attributes
    ----------
    parameters : dict of name to float32 array
    origins : dict of parameter name to str
        The key in the state dict of the module; empty where it had none.
    output_size : dict of output to (z, y, x)
        For the example with which the module was recorded.
    """

    net: Network
    parameters: dict[str, Array]
    origins: dict[str, str]
    output_size: dict[str, Triple]


@dataclass
class Reading:
    """A program on its way to a network; what handlers ask."""

    program: Program
    ndim: int
    assembly: Assembly = field(default_factory=Assembly)
    made: dict[str, Image | Weight] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uses = self.program.uses()
        self.made |= self.program.weights

    def is_image(self, call: Call, name: str) -> bool:
        """Return whether an argument is an image of the network."""
        value = call.args.get(name)
        return isinstance(value, Reference) and isinstance(self.made[value.name], Image)

    def is_weight(self, call: Call, name: str) -> bool:
        """Return whether an argument is an array of the module."""
        value = call.args.get(name)
        return isinstance(value, Reference) and isinstance(self.made[value.name], Weight)

    def is_alone(self, value: object) -> bool:
        """Return whether a tensor is read only once."""
        return isinstance(value, Reference) and self.uses[value.name] == 1

    def padded(self, call: Call, name: str) -> Image:
        """Return an argument as an image, perhaps with a padding that waits."""
        value = call.args.get(name)
        found = self.made[value.name] if isinstance(value, Reference) else None
        if not isinstance(found, Image):
            raise calls.UnsupportedError("it works on a weight or a number instead of an image")
        return found

    def image(self, call: Call, name: str) -> Image:
        """Return an argument as an image."""
        return self._without_padding(self.padded(call, name))

    def weight(self, call: Call, name: str) -> Weight:
        """Return an argument as an array of the module, which is then taken."""
        found = self.array(call, name)
        if found is None:
            raise calls.UnsupportedError(f"its {name} is no weight of the module but computed from an image")
        return found

    def array(self, call: Call, name: str) -> Weight | None:
        """Return an argument as an array of the module, or None if it is not given."""
        value = call.args.get(name)
        if value is None:
            return None
        found = self.made[value.name] if isinstance(value, Reference) else None
        return found if isinstance(found, Weight) else None

    def shape(self, call: Call, name: str) -> tuple[int, ...]:
        """Return the shape of an argument."""
        return self.program.shapes[call.args[name].name]

    def shape_after(self, call: Call) -> tuple[int, ...]:
        """Return the shape of the result."""
        return self.program.shapes[call.outputs[0]]

    def sizes(self, call: Call, name: str) -> Triple:
        """Return the voxels (z, y, x) of an argument."""
        return _size(self.shape(call, name))

    def sizes_after(self, call: Call) -> Triple:
        """Return the voxels (z, y, x) of the result."""
        return _size(self.shape_after(call))

    def name(self, call: Call) -> str:
        """Return the name of an edge without arrays: that of its module, else that of its result."""
        own = call.module and call.kind.startswith("torch.nn.modules.") and ".container." not in call.kind
        return call.module if own else ".".join(filter(None, (call.module, call.outputs[0])))

    def names_of(self, call: Call, weight: Weight) -> tuple[str, str]:
        """Return names of the edges of a weight and of a bias, which may belong to one module."""
        path, _, last = weight.name.rpartition(".")
        if not weight.name or last not in ("weight", "bias", "running_mean", "running_var"):
            name = weight.name or self.name(call)
            return name, name
        path = path or self.name(call)
        return path, f"{path}_bias" if path in self.assembly.edges else path

    def apply(self, call: Call, image: Image, op: Op, dilation: Triple | None = None) -> Image:
        """Add an edge without arrays."""
        argument = next(value for value in call.args.values() if isinstance(value, Reference))
        alone = self.is_alone(argument)
        return self.assembly.apply(self._without_padding(image), op, self.name(call), alone=alone, dilation=dilation)

    def join(self, call: Call, values: Sequence[object], how: str) -> Image:
        """Add a node on which images converge."""
        found = [self.made[value.name] for value in values if isinstance(value, Reference)]
        images = [self._without_padding(image) for image in found if isinstance(image, Image)]
        if len(images) != len(values) or not images:
            raise calls.UnsupportedError("it joins images with weights or numbers")
        shapes = {self.program.shapes[value.name][2:] for value in values if isinstance(value, Reference)}
        if len(shapes) > 1 or (how != "concat" and len({self.assembly.channels(image) for image in images}) > 1):
            raise calls.UnsupportedError("it joins images of different shapes")
        alone = [self.is_alone(value) for value in values]
        return self.assembly.join(images, how, self.name(call), alone)

    def run(self) -> dict[str, Image]:
        """Make an edge of every call, and return the outputs."""
        for tensor, name in self.program.inputs.items():
            if self.uses[tensor]:
                self.made[tensor] = self.assembly.input(name, self.program.shapes[tensor][_CHANNELS])
        for call in self.program.calls:
            self.made[call.outputs[0]] = self._image_of(call)
        outputs = {}
        for name, tensor in self.program.outputs.items():
            image = self.made[tensor]
            if not isinstance(image, Image):
                raise NetworkError(f"output {name!r} of the module does not depend on its input")
            outputs[name] = self._without_padding(image)
        return outputs

    def _image_of(self, call: Call) -> Image | Weight:
        if call.target not in HANDLERS:
            raise NetworkError(
                f"{call.where} uses {call.target!r}, which is not known. {_ADVICE.get(call.target, '')}Known: {KNOWN}"
            )
        try:
            image = HANDLERS[call.target](self, call)
        except calls.UnsupportedError as error:
            raise NetworkError(f"{call.where} uses {call.target!r} in a way that is not known: {error}") from error
        except ZnnError as error:
            raise NetworkError(f"{call.where} uses {call.target!r}: {error}") from error
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise NetworkError(
                f"{call.where} uses {call.target!r} with arguments that are not understood ({error!r})"
            ) from error
        return image

    @staticmethod
    def _without_padding(image: Image) -> Image:
        if image.padding != NO_PADDING:
            raise calls.UnsupportedError("an F.pad stands before it; only one before a convolution is known")
        return image


def read_network(program: Program) -> Found:
    """Return the network of a program.

    Raises
    ------
    NetworkError
        Naming the operation and the module in which it stands, if there is nothing like it here.
    """
    program = with_patterns(without_changes_in_place(program))
    ranks = {len(program.shapes[tensor]) for tensor in program.inputs}
    if len(ranks) != 1 or not ranks <= {4, 5}:
        raise NetworkError(
            "the inputs of the module must be images of shape (batch, channel, y, x) or (batch, channel, z, y, x); "
            f"those of the example have {', '.join(map(str, sorted(ranks))) or 'no'} axes"
        )
    reading = Reading(program, ranks.pop() - 2)
    try:
        outputs = reading.run()
    except calls.UnsupportedError as error:
        raise NetworkError(f"an output of the module cannot be expressed: {error}") from error
    _check_shared(reading.assembly.learned)
    net, names = reading.assembly.finish(outputs, reading.ndim)
    learned = reading.assembly.learned
    return Found(
        net,
        {name: learned[name].values for name in net.parameters},
        {name: learned[name].origin for name in net.parameters},
        {names[name]: _size(program.shapes[tensor]) for name, tensor in program.outputs.items()},
    )


def _check_shared(learned: Mapping[str, Learned]) -> None:
    first: dict[str, str] = {}
    for name, each in learned.items():
        if each.origin and each.origin in first:
            raise ParameterError(
                f"weight {each.origin!r} is used twice, by {first[each.origin]!r} and {name!r}; parts of a network "
                "here share no weights. Give the module a copy of its own for each use"
            )
        first[each.origin] = name


def _size(shape: tuple[int, ...]) -> Triple:
    z, y, x = shape[2:] if len(shape) == 5 else (1, *shape[2:])
    return z, y, x
