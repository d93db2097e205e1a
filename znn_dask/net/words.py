"""What operations are called in the text form: the type and the keys of each, and back.

Where ZNN has a word, that is used. Ours are: ``step`` of a convolution that skips voxels (ZNN's ``stride`` is a factor
on the sparsity of what follows), ``padding`` and ``mode``, ``crop`` of a transposed convolution, and the types that
ZNN does not know. Keys that would say what is so anyway are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, localcontext
from typing import TypeAlias, TypeVar

from znn_dask.errors import NetworkError, ParameterError
from znn_dask.geometry import ONE, Triple
from znn_dask.net.blocks import Block
from znn_dask.net.graph import Edge
from znn_dask.net.initial import HE, ZERO, Init
from znn_dask.net.operations import (
    ALIASES,
    NO_PADDING,
    Convolution,
    Dropout,
    Normalisation,
    Op,
    Padding,
    Softmax,
    Transfer,
    TransposedConvolution,
)
from znn_dask.net.sampling import AveragePool, Crop, Identity, MaxFilter, MaxPool, Upsample

Entries: TypeAlias = list[tuple[str, str]]
NODE_TYPES: Mapping[str, str] = {"sum": "sum", "concat": "concat", "max": "maxout"}  # by the join

_Made = TypeVar("_Made")
_ZNN_NAMES = {ours: znn for znn, ours in ALIASES.items()}
_EDGE_TYPES: Mapping[type, str] = {
    Convolution: "conv",
    Transfer: "transfer",
    MaxFilter: "max_filter",
    MaxPool: "max_pool",
    AveragePool: "average_pool",
    Dropout: "dropout",
    TransposedConvolution: "transposed_conv",
    Normalisation: "norm",
    Softmax: "softmax",
    Upsample: "upsample",
    Crop: "crop",
    Identity: "dummy",
}
_NOTHING: Triple = (0, 0, 0)
# Differences of decimals are exact with this many digits, whatever the exponent of a float.
_EXACT_DIGITS = 1200


def edge_entries(edge: Edge, join: str) -> Entries:
    """Return the keys of an edge that leads to a node of some join.

    Raises
    ------
    NetworkError
        If its operation is one that programs alone make, such as `Pad`.
    """
    if type(edge.op) not in _EDGE_TYPES:
        raise NetworkError(
            f"edge {edge.name!r} is a {edge.op.kind}, which the text form has no word for: others are lowered to it. "
            f"Known: {', '.join(kind.__name__ for kind in _EDGE_TYPES)}"
        )
    word = "maxout" if isinstance(edge.op, Identity) and join == "max" else _EDGE_TYPES[type(edge.op)]
    return [("type", word), *op_entries(edge.op), ("input", edge.source), ("output", edge.target)]


def op_entries(op: Op) -> Entries:
    """Return the keys of an operation without its type."""
    match op:
        case Convolution():
            sizes = [("size", triple(op.kernel)), ("stride", "1,1,1")]
            return [*_init_entries(op.init), *sizes, *_step(op.stride), *_padding_entries("padding", op.padding)]
        case TransposedConvolution():
            sizes = [("size", triple(op.kernel)), *_step(op.stride)]
            return [*_init_entries(op.init), *sizes, *_padding_entries("crop", op.crop)]
        case Transfer():
            entries = [("function", _ZNN_NAMES.get(op.function, op.function))]
            if op.args:
                entries.append(("function_args", _numbers(op.args)))
            return entries + (_init_entries(op.init) if op.bias else [("bias", "0")])
        case MaxFilter():
            return [("size", triple(op.window)), ("stride", triple(op.stride))]
        case MaxPool() | AveragePool():
            return [("size", triple(op.window))]
        case Dropout():
            return [("ratio", str(_other_share(repr(op.rate))))]
        case Normalisation():
            return _normalisation_entries(op)
        case Upsample():
            return [("factor", triple(op.factor)), ("mode", op.mode)]
        case Crop():
            assert op.after is not None
            return _ends("offset", op.before, op.after)
    return []


def read_op(block: Block) -> Op:
    """Return the operation of an edge block.

    Raises
    ------
    NetworkError
        Naming the place, if a value cannot be read.
    """
    match block.type:
        case "conv":
            _only(block, "stride", ONE, ". A convolution that skips voxels has the key 'step'")
            kernel, step = block.triple("size"), block.triple("step", ONE)
            return attempt(block, Convolution, kernel, _read_init(block, HE), step, _read_padding(block, kernel))
        case "transposed_conv":
            ends = _read_ends(block, "crop")
            kernel, step = block.triple("size"), block.triple("step", ONE)
            return attempt(
                block, TransposedConvolution, kernel, step, attempt(block, Padding, *ends), _read_init(block, HE)
            )
        case "max_filter":
            window = block.triple("size")
            return attempt(block, MaxFilter, window, block.triple("stride", window))
        case "max_pool" | "average_pool":
            window = block.triple("size")
            _only(block, "stride", window)
            return attempt(block, MaxPool, window) if block.type == "max_pool" else attempt(block, AveragePool, window)
        case "dropout":
            return _read_dropout(block)
        case "norm":
            return _read_normalisation(block)
        case "upsample":
            return attempt(block, Upsample, block.triple("factor"), block.text("mode", "nearest"))
        case "crop":
            _ = block.text("offset")
            return attempt(block, Crop, *_read_ends(block, "offset"))
        case "softmax":
            return Softmax()
        case "dummy" | "maxout":
            return Identity()
    return read_transfer(block)


def read_transfer(block: Block) -> Transfer:
    """Return the transfer of an edge block or of a node block."""
    function, args = block.text("function"), block.numbers("function_args")
    has_bias = block.whole("bias", 1) != 0
    return attempt(block, Transfer, function, args, has_bias, _read_init(block, ZERO))


def attempt(block: Block, make: Callable[..., _Made], *args: object) -> _Made:
    """Make something of what a block says; errors name the place."""
    try:
        return make(*args)
    except (ParameterError, NetworkError) as error:
        raise NetworkError(f"{block.where()}: {block.kind} {block.name!r}: {error}") from error


def triple(size: Triple) -> str:
    """Return a size as it is written."""
    return ",".join(str(v) for v in size)


def _init_entries(init: Init) -> Entries:
    return [("init", init.kind), *([("init_args", _numbers(init.args))] if init.args else [])]


def _read_init(block: Block, default: Init) -> Init:
    if "init" not in block.entries:
        if "init_args" in block.entries:
            raise NetworkError(f"{block.where('init_args')}: 'init_args' needs an 'init' beside it")
        return default
    return attempt(block, Init, block.text("init"), block.numbers("init_args"))


def _step(stride: Triple) -> Entries:
    return [] if stride == ONE else [("step", triple(stride))]


def _ends(key: str, before: Triple, after: Triple) -> Entries:
    return [(key, triple(before)), *([] if after == before else [(f"{key}_after", triple(after))])]


def _read_ends(block: Block, key: str) -> tuple[Triple, Triple]:
    before = block.triple(key, _NOTHING)
    return before, block.triple(f"{key}_after", before)


def _padding_entries(key: str, padding: Padding) -> Entries:
    if padding == NO_PADDING:
        return []
    assert padding.after is not None
    mode = [] if padding.mode == "zero" else [("mode", padding.mode)]
    return [*_ends(key, padding.before, padding.after), *mode]


def _read_padding(block: Block, kernel: Triple) -> Padding:
    mode = block.text("mode", "zero")
    if "padding" not in block.entries:
        for key in ("mode", "padding_after"):
            if key in block.entries:
                raise NetworkError(f"{block.where(key)}: {key!r} needs a 'padding' beside it, such as 'padding same'")
    if block.text("padding", "") == "same":
        _only(block, "padding_after", _NOTHING, ", since 'padding same' says both")
        return attempt(block, Padding.same, kernel, mode)
    return attempt(block, Padding, *_read_ends(block, "padding"), mode)


def _normalisation_entries(op: Normalisation) -> Entries:
    usual = Normalisation(op.over)
    entries = [("over", op.over)]
    if op.groups != usual.groups:
        entries.append(("groups", str(op.groups)))
    if op.epsilon != usual.epsilon:
        entries.append(("epsilon", repr(op.epsilon)))
    if not op.affine:
        entries.append(("affine", "0"))
    return entries if op.momentum == usual.momentum else [*entries, ("averaging", repr(op.momentum))]


def _read_normalisation(block: Block) -> Normalisation:
    usual = Normalisation()
    return attempt(
        block,
        Normalisation,
        block.text("over"),
        block.whole("groups", usual.groups),
        block.number("epsilon", usual.epsilon),
        block.whole("affine", 1) != 0,
        block.number("averaging", usual.momentum),
    )


def _read_dropout(block: Block) -> Dropout:
    if not 0 < block.number("ratio") <= 1:
        raise NetworkError(
            f"{block.where('ratio')}: ratio of dropout {block.name!r} is the share that is "
            f"kept, above 0 and at most 1, got {block.text('ratio')}"
        )
    return attempt(block, Dropout, float(_other_share(block.text("ratio"))))


def _only(block: Block, key: str, value: Triple, why: str = "") -> None:
    given = block.triple(key, value)
    if given != value:
        raise NetworkError(
            f"{block.where(key)}: {key} of {block.type} {block.name!r} must be {triple(value)}, got "
            f"{triple(given)}{why}"
        )


def _numbers(values: Sequence[float]) -> str:
    return ",".join(repr(value).removesuffix(".0") for value in values)


def _other_share(share: str) -> Decimal:
    """Return 1 - share in decimals, so that a rate survives being written as the ratio of what is kept."""
    with localcontext() as context:
        context.prec = _EXACT_DIGITS
        return 1 - Decimal(share)
