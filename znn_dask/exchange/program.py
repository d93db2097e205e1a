"""What a PyTorch module computes, as plain values: the calls that torch.export recorded.

`archive` reads them from a file, `reading` makes a network of them. Nothing here needs PyTorch.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import NetworkError

Array = npt.NDArray[Any]
# Calls whose result may share its memory with their argument: changing either in place changes both.
VIEWS = frozenset(
    {"slice", "view", "reshape", "alias", "detach", "unsqueeze", "squeeze", "expand", "select", "permute"}
)


@dataclass(frozen=True)
class Reference:
    """A tensor by its name in the program."""

    name: str


@dataclass(frozen=True)
class Call:
    """One operation of PyTorch.

    Attributes
    ----------
    target : str
        Its name, such as "conv3d".
    overload : str
        Such as "default" or "padding".
    args : mapping of str to Reference, number, str, bool, None or list of these
        By the names of its schema; those with their default value may be missing.
    outputs : tuple of str
        Tensors that it makes.
    module : str
        The path of the module in which it is, such as "encoder.conv1"; empty for the whole.
    kind : str
        The class of that module, such as "torch.nn.modules.conv.Conv3d".
    line : str
        Where it stands in somebody's code; empty if unknown.
    """

    target: str
    overload: str
    args: Mapping[str, Any]
    outputs: tuple[str, ...]
    module: str = ""
    kind: str = ""
    line: str = ""

    @property
    def where(self) -> str:
        """Where it is, in words."""
        at = f" at {self.line}" if self.line else ""
        return f"module {self.module!r} ({self.kind.rpartition('.')[2]}){at}" if self.module else f"the module{at}"

    def references(self) -> Iterator[str]:
        """Yield the tensors it reads, as often as it reads them."""
        for value in self.args.values():
            yield from (each.name for each in _flat(value) if isinstance(each, Reference))


@dataclass(frozen=True)
class Weight:
    """An array of a module.

    Attributes
    ----------
    name : str
        Its path in the module, such as "encoder.conv1.weight"; the key in the state dict.
    values : array
    learned : bool
        Whether it is a parameter, not a buffer or a constant.
    """

    name: str
    values: Array
    learned: bool = True


@dataclass(frozen=True)
class Program:
    """Calls in the order in which they are made.

    Attributes
    ----------
    inputs : dict of str to str
        Tensors given by users, and the names of the arguments.
    outputs : dict of str to str
        Names of the results, and the tensors.
    weights : dict of str to Weight
        By tensor.
    shapes : dict of str to tuple of int
        Of the tensors.
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    weights: dict[str, Weight]
    shapes: dict[str, tuple[int, ...]]
    calls: tuple[Call, ...]

    def uses(self) -> Counter[str]:
        """Return how often every tensor is read."""
        count = Counter(name for call in self.calls for name in call.references())
        count.update(self.outputs.values())
        return count


def without_changes_in_place(program: Program) -> Program:
    """Return an equal program in which no call changes its argument: ``relu_`` becomes ``relu``.

    Raises
    ------
    NetworkError
        If what is changed is part of another tensor.
    """
    now: dict[str, str] = {}  # what a name means after it was changed
    shared: set[str] = set()
    calls = []
    for given in program.calls:
        call = replace(given, args={key: _renamed(value, now) for key, value in given.args.items()})
        if call.target.endswith("_") and not call.target.endswith("__"):
            changed = next(call.references())
            if changed in shared:
                raise NetworkError(
                    f"{call.where} changes in place ({call.target}) what is part of another tensor, or of which a "
                    f"part was taken. Use {call.target.removesuffix('_')}"
                )
            call = replace(call, target=call.target.removesuffix("_"))
            now |= {name: call.outputs[0] for name, means in [*now.items(), (changed, changed)] if means == changed}
        elif call.target in VIEWS:
            shared.update(call.references(), call.outputs)
        calls.append(call)
    outputs = {name: now.get(tensor, tensor) for name, tensor in program.outputs.items()}
    return replace(program, calls=tuple(calls), outputs=outputs)


def with_patterns(program: Program) -> Program:
    """Return an equal program in which functions that PyTorch writes with several calls are one.

    ``x / (1 + |x|)`` becomes "softsign"; ``sigmoid(x).detach() + (x - x.detach())``, whose gradient passes unchanged,
    becomes "forward_logistic". Calls whose results nobody needs are left out.
    """
    made = {call.outputs[0]: call for call in program.calls if call.outputs}
    calls = tuple(_softsign(call, made) or _forward_logistic(call, made) or call for call in program.calls)
    needed = set(program.outputs.values())
    kept = []
    for call in reversed(calls):
        if needed.intersection(call.outputs):
            needed.update(call.references())
            kept.append(call)
    return replace(program, calls=tuple(reversed(kept)))


def _softsign(call: Call, made: Mapping[str, Call]) -> Call | None:
    x = call.args.get("self")
    below = _made(call.args.get("other"), "add", made) if call.target == "div" else None
    size = _made(below.args.get("self"), "abs", made) if below is not None and below.args.get("other") == 1 else None
    if size is None or size.args.get("self") != x:
        return None
    return replace(call, target="softsign", overload="default", args={"self": x})


def _forward_logistic(call: Call, made: Mapping[str, Call]) -> Call | None:
    if call.target != "add":
        return None
    value, zero = _made(call.args.get("self"), "detach", made), _made(call.args.get("other"), "sub", made)
    logistic = None if value is None else _made(value.args.get("self"), "sigmoid", made)
    detached = None if zero is None else _made(zero.args.get("other"), "detach", made)
    if logistic is None or zero is None or detached is None:
        return None
    x = logistic.args.get("self")
    if not x == zero.args.get("self") == detached.args.get("self"):
        return None
    return replace(call, target="forward_logistic", overload="default", args={"self": x})


def _made(value: object, target: str, made: Mapping[str, Call]) -> Call | None:
    call = made.get(value.name) if isinstance(value, Reference) else None
    return call if call is not None and call.target == target else None


def _renamed(value: Any, now: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(each, now) for each in value]
    return Reference(now.get(value.name, value.name)) if isinstance(value, Reference) else value


def _flat(value: Any) -> list[Any]:
    return [each for part in value for each in _flat(part)] if isinstance(value, list) else [value]


def as_float32(values: Array) -> npt.NDArray[np.float32]:
    """Return an array as float32."""
    return np.ascontiguousarray(values, np.float32)
