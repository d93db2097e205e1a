"""Chains written as letters: ``CTMCTMCTCT`` and one value, or one per letter, for each property.

The authors of ZNN describe networks so; it is the shortest form that says everything about a chain.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from znn_dask.errors import NetworkError, ParameterError
from znn_dask.geometry import Triple, as_triple
from znn_dask.net.graph import Edge, Node
from znn_dask.net.initial import Init
from znn_dask.net.operations import Convolution, Dropout, Normalisation, Op, Transfer
from znn_dask.net.sampling import MaxFilter, MaxPool

LETTERS = {"C": "convolution", "T": "transfer", "M": "max-filter", "P": "max-pool", "D": "dropout"}
EDGE_NAMES = {"C": "conv", "T": "transfer", "M": "max_filter", "P": "max_pool", "D": "dropout"}

Size: TypeAlias = int | Sequence[int]
Sizes: TypeAlias = Size | Sequence[Size]
Transfers: TypeAlias = str | Transfer | Sequence[str | Transfer]
Inits: TypeAlias = str | Init | Sequence[str | Init]

_CALL = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*")


@dataclass(frozen=True)
class Chain:
    """What is said of a chain, as it was said; `chain` makes the nodes and edges of it."""

    layers: str
    width: int | Sequence[int] | None
    kernel: Sizes
    window: Sizes
    ndim: int
    in_channels: int
    out_channels: int | None
    transfer: Transfers
    stride: Sizes | None
    dropout: float | Sequence[float]
    init: Inits


def chain(spec: Chain) -> tuple[list[Node], list[Edge]]:
    """Return the nodes and edges of a chain.

    Every node is named after the edge that makes it, but for the ends, ``input`` and ``output``.

    Raises
    ------
    NetworkError
        If a letter is unknown, or the number of values is not the number of letters.
    ParameterError
        If a value is outside its range.
    """
    _check_letters(spec.layers)
    if spec.ndim not in (2, 3):
        raise NetworkError(f"ndim must be 2 or 3, got {spec.ndim!r}")
    ops = _operations(spec)
    widths = iter(_widths(spec))
    channels = spec.in_channels
    nodes, edges = [Node("input", channels)], []
    counts = dict.fromkeys(LETTERS, 0)
    for place, (letter, op) in enumerate(zip(spec.layers, ops, strict=True)):
        counts[letter] += 1
        name = f"{EDGE_NAMES[letter]}{counts[letter]}"
        if letter == "C":
            channels = next(widths)
        target = "output" if place == len(ops) - 1 else name
        edges.append(Edge(name, nodes[-1].name, target, op))
        nodes.append(Node(target, channels))
    return nodes, edges


def read_transfer(value: str | Transfer) -> Transfer:
    """Read ``"relu"`` or ``"tanh(1.7159, 0.6666)"``; a Transfer is returned as it is."""
    return value if isinstance(value, Transfer) else Transfer(*_call(value, "transfer"))


def read_init(value: str | Init) -> Init:
    """Read ``"he"`` or ``"uniform(0.05)"``; an Init is returned as it is."""
    return value if isinstance(value, Init) else Init(*_call(value, "init"))


def read_norm(value: str | Normalisation) -> Normalisation:
    """Read ``"batch"``, ``"instance"`` or ``"group(8)"``; a Normalisation is returned as it is."""
    if isinstance(value, Normalisation):
        return value
    over, args = _call(value, "norm")
    if len(args) > (over == "group"):
        raise ParameterError(f"norm must be 'batch', 'instance' or 'group(8)' with a number of groups, got {value!r}")
    return Normalisation(over, *(int(n) if n == int(n) else n for n in args))  # type: ignore[arg-type]


def _check_letters(layers: str) -> None:
    known = ", ".join(f"{letter} ({kind})" for letter, kind in LETTERS.items())
    if not isinstance(layers, str) or not layers:
        raise NetworkError(f"layers must be letters such as 'CTMCT', got {layers!r}. Known: {known}")
    for place, letter in enumerate(layers):
        if letter not in LETTERS:
            near = f" Did you mean {letter.upper()!r}?" if letter.upper() in LETTERS else ""
            raise NetworkError(f"unknown letter {letter!r} at place {place + 1} of {layers!r}.{near} Known: {known}")


def _operations(spec: Chain) -> list[Op]:
    layers, ndim = spec.layers, spec.ndim
    kernels = iter(_sizes(spec.kernel, layers, "C", "kernel", ndim))
    windows = iter(_sizes(spec.window, layers, "MP", "window", ndim))
    strides = iter(_strides(spec))
    transfers = iter(_spread(spec.transfer, layers, "T", "transfer", lambda v: isinstance(v, str | Transfer)))
    rates = iter(_spread(spec.dropout, layers, "D", "dropout", lambda v: not isinstance(v, Sequence)))
    inits = iter(_spread(spec.init, layers, "C", "init", lambda v: isinstance(v, str | Init)))
    make: dict[str, Callable[[], Op]] = {
        "C": lambda: Convolution(next(kernels), read_init(next(inits))),
        "T": lambda: read_transfer(next(transfers)),
        "M": lambda: _max_filter(next(windows), next(strides)),
        "P": lambda: MaxPool(next(windows)),
        "D": lambda: Dropout(next(rates)),
    }
    return [make[letter]() for letter in layers]


def _max_filter(window: Triple, stride: Triple | None) -> MaxFilter:
    return MaxFilter(window, window if stride is None else stride)


def _strides(spec: Chain) -> Sequence[Triple | None]:
    if spec.stride is None:
        return [None] * spec.layers.count("M")
    return _sizes(spec.stride, spec.layers, "M", "stride", spec.ndim)


def _widths(spec: Chain) -> list[int]:
    """Return the maps of every convolution; `out_channels`, unless None, decides those of the last."""
    count = spec.layers.count("C")
    if not count:
        if spec.out_channels not in (None, spec.in_channels):
            raise NetworkError(
                f"{spec.layers!r} has no convolution, so out_channels must be in_channels "
                f"({spec.in_channels}) or None, got {spec.out_channels!r}"
            )
        return []
    if spec.width is None:
        if count > 1 or spec.out_channels is None:
            raise NetworkError(f"width, the number of maps of a convolution, is needed for {spec.layers!r}")
        return [spec.out_channels]
    if isinstance(spec.width, Sequence) and len(spec.width) == count - 1 and spec.out_channels is not None:
        return [*(_map_count(value) for value in spec.width), spec.out_channels]
    widths = _spread(spec.width, spec.layers, "C", "width", lambda v: not isinstance(v, Sequence))
    last = widths[-1] if spec.out_channels is None else spec.out_channels
    return [_map_count(value) for value in (*widths[:-1], last)]


def _map_count(value: object) -> int:
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ParameterError(f"width must be a whole number of maps, got {value!r}") from None
    if count < 1:
        raise ParameterError(f"width must be at least 1, got {count}")
    return count


def _sizes(value: Sizes, layers: str, letters: str, name: str, ndim: int) -> list[Triple]:
    values: list[Size] = _spread(value, layers, letters, name, lambda v: _is_one_size(v, ndim))
    return [as_triple(operator.index(v) if hasattr(v, "__index__") else v, ndim, name) for v in values]


def _is_one_size(value: object, ndim: int) -> bool:
    # A tuple such as (1, 5, 5) is one size; a list is one size for each letter.
    if isinstance(value, tuple):
        return len(value) in ((3,) if ndim == 3 else (2, 3)) and all(hasattr(v, "__index__") for v in value)
    return hasattr(value, "__index__")


def _spread(value: Any, layers: str, letters: str, name: str, is_one: Callable[[object], bool]) -> list[Any]:
    count = sum(letter in letters for letter in layers)
    if is_one(value):
        return [value] * count
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ParameterError(f"{name} must be one value or a list with one for each letter {letters}, got {value!r}")
    if len(value) != count:
        kinds = " or ".join(LETTERS[letter] for letter in letters)
        hint = ". One size in z, y, x is written as a tuple" if len(value) == 3 and _is_flat(value) else ""
        raise NetworkError(
            f"{name} has {len(value)} values, but {layers!r} has {count} of the letter "
            f"{' or '.join(letters)} ({kinds}). Give one value, or one for each{hint}"
        )
    return list(value)


def _is_flat(value: Sequence[object]) -> bool:
    return all(hasattr(v, "__index__") for v in value)


def _call(text: str, what: str) -> tuple[str, tuple[float, ...]]:
    match = _CALL.fullmatch(text)
    if match is None:
        raise ParameterError(f"{what} must look like 'name' or 'name(1, 2)', got {text!r}")
    try:
        return match[1], tuple(float(part) for part in (match[2] or "").split(",") if part.strip())
    except ValueError:
        raise ParameterError(f"{what} needs numbers in its brackets, got {text!r}") from None
