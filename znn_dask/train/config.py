"""The configuration of a run: every key, its default and its meaning, in one place.

A run is described by a YAML file and by ``key=value`` overrides (`config_file`). It is stored with the
model, so that a model says how it was made and a run can tell whether it continues the same one.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from znn_dask.errors import ParameterError
from znn_dask.infer.metrics import Method
from znn_dask.ops.losses import parse_loss
from znn_dask.train.augment import Augmentation
from znn_dask.train.schedules import Course
from znn_dask.train.targets import NEAREST, Kind

# A size is k, [z, y, x] or the text "z,y,x"; a list for letters has such entries.
Size: TypeAlias = int | str | list[int]
Sizes: TypeAlias = int | str | list[int | str | list[int]]
Range: TypeAlias = tuple[int, int]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
Offset: TypeAlias = tuple[int, int, int]
Offsets: TypeAlias = Annotated[tuple[Offset, ...], msgspec.Meta(min_length=1)]
# One file, or one for every input or output of the network by name.
Files: TypeAlias = str | dict[str, str]


def _key(description: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=description, **limits)


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of keys; unknown ones are errors."""


class NetworkSection(_Section, frozen=True, kw_only=True):
    """Which network: one of `letters`, `file` and `zoo`; the other keys belong to `letters`."""

    letters: Annotated[str | None, _key("a chain of letters C T M P D, for instance CTMCTMCTC")] = None
    file: Annotated[str | None, _key("a network in the .znn text form")] = None
    zoo: Annotated[str | None, _key("the name of a published network, for instance n4")] = None
    width: Annotated[int | list[int], _key("maps of every convolution but the last")] = 16
    kernel: Annotated[Sizes, _key("size k or 'z,y,x', or a list with one for each C")] = 3
    window: Annotated[Sizes, _key("size, or a list with one for each M and P")] = 2
    stride: Annotated[Sizes | None, _key("factor of M on later sparsity, or a list; default: the window")] = None
    ndim: Annotated[Literal[2, 3], _key("2: a size k means 1,k,k")] = 3
    in_channels: Annotated[int, _key("channels of the image", ge=1)] = 1
    out_channels: Annotated[int, _key("channels of the prediction", ge=1)] = 1
    transfer: Annotated[str | list[str], _key("function, or a list with one for each T")] = "relu"
    dropout: Annotated[float | list[float], _key("probability of dropping, or a list with one for each D")] = 0.5
    init: Annotated[str | list[str], _key("how kernels start, or a list with one for each C")] = "he"


class TrainingSection(_Section, frozen=True, kw_only=True):
    """How long, how fast, by which loss."""

    output_size: Annotated[Size, _key("output patch of one update, k or [z, y, x]")] = 12
    batch: Annotated[int, _key("patches in one update", ge=1)] = 1
    accumulate: Annotated[int, _key("updates of which only the last is made, by the mean of all gradients", ge=1)] = 1
    loss: Annotated[
        str | dict[str, str | tuple[str, float]],
        _key(
            "square, logistic, softmax, square_square(0.2), dice, malis or malis_constrained; a mapping from outputs "
            "to these or to [loss, factor]"
        ),
    ] = "logistic"
    rebalance: Annotated[
        Literal["none", "global", "patch"],
        _key("weigh classes so that each counts the same, by their numbers in the training data or in each patch"),
    ] = "none"
    updates: Annotated[int, _key("stop after this many updates", ge=1)] = 10_000
    max_minutes: Annotated[Positive | None, _key("or after so many minutes, resumed parts included")] = None
    learning_rate: Annotated[float, _key("at the start", gt=0)] = 0.01
    rates: Annotated[
        dict[str, float], _key("factors on the learning rate by edge or parameter, for instance {conv1: 0.1}")
    ] = {}
    optimizer: Annotated[Literal["sgd", "adam", "adamw"], _key("how parameters change, as in torch")] = "sgd"
    momentum: Annotated[float, _key("of sgd", ge=0, lt=1)] = 0.9
    nesterov: Annotated[bool, _key("sgd: Nesterov's momentum")] = False
    betas: Annotated[tuple[float, float], _key("adam, adamw: of the means of gradients and squares")] = (0.9, 0.999)
    epsilon: Annotated[float, _key("adam, adamw: added to the root of the mean square", ge=0)] = 1e-8
    weight_decay: Annotated[float, _key("of all three; of adamw apart from the gradient", ge=0)] = 0.0
    clip_norm: Annotated[Positive | None, _key("most that the norm of all gradients together may be")] = None
    clip_value: Annotated[Positive | None, _key("most that one value of a gradient may be")] = None
    schedule: Annotated[
        Course, _key("course of the learning rate: constant, step, exponential, linear, cosine; the last two reach 0")
    ] = "constant"
    decay: Annotated[
        float, _key("factor of exponential every `rate_every` updates, of step at milestones", gt=0, le=1)
    ] = 0.997
    milestones: Annotated[tuple[Count, ...], _key("step: updates at which the learning rate falls")] = ()
    warmup: Annotated[int, _key("updates during which the learning rate rises to its course", ge=0)] = 0
    rate_every: Annotated[int, _key("updates between changes of the learning rate", ge=1)] = 100
    seed: Annotated[int, _key("of parameters, samples and dropout", ge=0)] = 0

    def __post_init__(self) -> None:
        for given in self.loss.values() if isinstance(self.loss, dict) else (self.loss,):
            parse_loss(given if isinstance(given, str) else given[0])
        if self.schedule == "step" and not self.milestones:
            raise ParameterError("schedule 'step' needs milestones, the updates at which the learning rate falls")


class VolumeSection(_Section, frozen=True, kw_only=True):
    """One volume or a part of it."""

    image: Annotated[Files | None, _key("image file, or one for each input; default: data.image")] = None
    label: Annotated[Files | None, _key("label file, or one for each output; default: data.label")] = None
    mask: Annotated[str | None, _key("mask file, 0 where labels do not count; default: data.mask")] = None
    z: Annotated[Range | None, _key("sections [from, to) whose labels are used; default: all")] = None
    y: Annotated[Range | None, _key("rows [from, to)")] = None
    x: Annotated[Range | None, _key("columns [from, to)")] = None
    reach: Annotated[
        Literal["region", "volume"], _key("inputs stay inside the region, or may see the rest of the volume")
    ] = "region"


class TargetSection(_Section, frozen=True, kw_only=True):
    """How the target of an output is made; the keys are those of data."""

    target: Annotated[Kind, _key("as data.target")] = "binary"
    threshold: Annotated[float, _key("as data.threshold")] = 1.0
    invert: Annotated[bool, _key("as data.invert")] = False
    in_plane: Annotated[bool, _key("as data.in_plane")] = False
    offsets: Annotated[Offsets, _key("as data.offsets")] = NEAREST
    classes: Annotated[tuple[int, ...] | None, _key("as data.classes")] = None
    ignore: Annotated[int | None, _key("as data.ignore")] = None


class DataSection(_Section, frozen=True, kw_only=True):
    """What is learnt from, and what the error is measured on."""

    image: Annotated[Files | None, _key("image file of every volume that names none; a mapping for several inputs")] = (
        None
    )
    label: Annotated[
        Files | None, _key("label file of every volume that names none; a mapping for several outputs")
    ] = None
    mask: Annotated[str | None, _key("mask file of every volume that names none; 0 where labels do not count")] = None
    target: Annotated[
        Kind,
        _key(
            "binary: 1 where label >= threshold; boundary: 1 where cell ids meet or are 0; affinity: 1 where a voxel "
            "and that at an offset have one id; classes: the number of a class; ids: cell ids, for MALIS"
        ),
    ] = "binary"
    threshold: Annotated[float, _key("binary: smallest label that counts as 1")] = 1.0
    invert: Annotated[bool, _key("exchange 0 and 1")] = False
    in_plane: Annotated[bool, _key("boundary: compare ids along y and x only")] = False
    offsets: Annotated[Offsets, _key("affinity: one output map for each offset [z, y, x]")] = NEAREST
    classes: Annotated[
        tuple[int, ...] | None, _key("classes: label of each class, others do not count; default: 0, 1, 2, ...")
    ] = None
    ignore: Annotated[int | None, _key("label of voxels that do not count")] = None
    targets: Annotated[dict[str, TargetSection], _key("targets by output, where outputs differ: the keys above")] = {}
    preprocess: Annotated[
        Literal["section", "volume", "rescale", "none"],
        _key("mean 0 and deviation 1 of every section or of the volume, -1 to 1, or values as stored"),
    ] = "volume"
    clip: Annotated[
        tuple[float, float] | None, _key("values beyond [least, greatest] become these, before anything else")
    ] = None
    in_memory: Annotated[float, _key("GiB of files kept in memory; larger volumes are read by region", ge=0)] = 2.0
    border: Annotated[Literal["mirror", "none"], _key("mirror: inputs reach over the border by mirroring")] = "mirror"
    flip: Annotated[str, _key("axes along which patches are flipped at random", pattern="^[zyx]*$")] = "zyx"
    transpose: Annotated[bool, _key("exchange y and x at random")] = True
    augment: Annotated[
        tuple[Augmentation, ...], _key("what else is done to patches, each {kind: ..., ...}; kinds are listed below")
    ] = ()
    train: Annotated[tuple[VolumeSection, ...], _key("volumes to learn from", min_length=1)] = (VolumeSection(),)
    test: Annotated[tuple[VolumeSection, ...], _key("held-out volumes; none: no test error")] = ()


class LogSection(_Section, frozen=True, kw_only=True):
    """What is written, and when."""

    every: Annotated[int, _key("updates between rows of the learning curve", ge=1)] = 100
    test_every: Annotated[int, _key("updates between test errors", ge=1)] = 500
    test_patches: Annotated[int, _key("held-out and as many training patches of each test", ge=1)] = 16
    checkpoint_every: Annotated[int, _key("updates between checkpoints", ge=1)] = 1000
    checkpoint_minutes: Annotated[float, _key("or minutes, whichever comes first", gt=0)] = 2.0
    keep: Annotated[int, _key("checkpoints to keep, the current one included; the best is kept besides", ge=1)] = 3
    validate_every: Annotated[int, _key("updates between predictions of the whole held-out regions; 0: none", ge=0)] = (
        2000
    )
    segments: Annotated[
        Literal["auto", "background", "foreground", "none"],
        _key(
            "what Rand error and variation of information compare: connected voxels of 0 (1 separates them), of 1, "
            "or nothing; auto: the cell ids of a boundary, affinity or ids target, the 1 of a binary one"
        ),
    ] = "auto"
    segmentation: Annotated[
        Method, _key("how segments are made of a prediction: by a seeded watershed, or as connected components")
    ] = "watershed"
    tensorboard: Annotated[bool, _key("write files for TensorBoard; needs the extra tensorboard")] = False
    report: Annotated[bool, _key("write a page about the run at its end")] = True


class ComputeSection(_Section, frozen=True, kw_only=True):
    """How it is computed; results do not depend on `workers`, and on processes in the last bits only."""

    workers: Annotated[Count | None, _key("threads of each process; default: all CPUs it may use")] = None
    convolution: Annotated[
        str | dict[str, str], _key("auto, fft, direct, winograd or fft-stored, or a mapping from edge to one of them")
    ] = "auto"
    cluster: Annotated[
        Count | None, _key("processes of this machine that share every minibatch; default: this one alone")
    ] = None
    scheduler: Annotated[str | None, _key("or the address of a Dask cluster whose workers share it")] = None


class Config(_Section, frozen=True, kw_only=True):
    """A whole run."""

    network: Annotated[NetworkSection, _key("which network")] = NetworkSection()
    training: Annotated[TrainingSection, _key("how long, how fast, by which loss")] = TrainingSection()
    data: Annotated[DataSection, _key("what is learnt from")] = DataSection()
    log: Annotated[LogSection, _key("what is written, and when")] = LogSection()
    compute: Annotated[ComputeSection, _key("how it is computed")] = ComputeSection()
