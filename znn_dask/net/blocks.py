"""Blocks of ``key value`` lines, the grammar of the text form: which keys and types there are.

Every complaint names the line and lists what is known. Nothing is accepted and then silently ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from znn_dask.errors import NetworkError, nearest
from znn_dask.geometry import Triple

_TRANSFER_KEYS = ("function", "function_args", "init", "init_args", "bias")
_NODE_TYPES: dict[str, tuple[str, ...]] = {
    "input": ("size",),
    "sum": ("size",),
    "transfer": ("size", *_TRANSFER_KEYS, "edge"),
}
_EDGE_TYPES: dict[str, tuple[str, ...]] = {
    "conv": ("size", "stride", "init", "init_args"),
    "max_filter": ("size", "stride"),
    "max_pool": ("size", "stride"),
    "dropout": ("ratio",),
    "transfer": _TRANSFER_KEYS,
    "dummy": (),
}
_ENDS = ("input", "output")
_FOREIGN_TYPES = ("crop", "maxout")
# Keys of ZNN's that say how to train or to run, not what the network is.
_IGNORED = ("eta", "momentum", "weight_decay", "fft")
# Keys of ZNN's that change the network in ways this program does not know, unless they say "no".
_FOREIGN_KEYS = {"dense": "0", "repeat": "1", "filters": None, "biases": None, "seeding": None}

_Value = TypeVar("_Value")


@dataclass
class Block:
    """One block of the text.

    Attributes
    ----------
    kind : str
        ``"nodes"``, ``"edges"`` or ``"network"``.
    name : str
    line : int
        Of its head, counted from 1.
    entries : dict of str to (str, int)
        Key to value and line.
    """

    kind: str
    name: str
    line: int
    entries: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """The value of the key ``type``."""
        return self.text("type")

    def line_of(self, key: str) -> int:
        """Return the line of a key, or of the head where there is none."""
        return self.entries[key][1] if key in self.entries else self.line

    def text(self, key: str, default: str | None = None) -> str:
        """Return a value as it stands."""
        if key in self.entries:
            return self.entries[key][0]
        if default is None:
            raise NetworkError(f"line {self.line}: {self.kind} {self.name!r} needs the key {key!r}")
        return default

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a value as a whole number."""
        return self._read(key, int, "a whole number", default)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a value as a number."""
        return self._read(key, float, "a number", default)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return a value as numbers between commas, none where the key is missing."""
        return self._read(key, lambda text: tuple(float(part) for part in text.split(",")), "numbers", ())

    def triple(self, key: str, default: Triple | None = None) -> Triple:
        """Return a value as a size z,y,x."""
        return self._read(key, _triple, "a size z,y,x of three whole numbers", default)

    def _read(self, key: str, read: Callable[[str], _Value], what: str, default: _Value | None) -> _Value:
        if key not in self.entries and default is not None:
            return default
        text = self.text(key)
        try:
            return read(text)
        except ValueError:
            raise NetworkError(
                f"line {self.line_of(key)}: {key} of {self.kind} {self.name!r} must be {what}, got {text!r}"
            ) from None


def read_blocks(text: str) -> tuple[list[Block], list[str]]:
    """Split a text into blocks and check their keys and types.

    Returns
    -------
    blocks : list of Block
    ignored : list of str
        The training options that stood in them, which were taken out.

    Raises
    ------
    NetworkError
        Naming the line.
    """
    blocks: list[Block] = []
    block: Block | None = None
    for line, raw in enumerate(text.splitlines(), start=1):
        key, _, value = " ".join(raw.partition("#")[0].split()).partition(" ")
        if not key:
            # A line with a comment alone does not end a block.
            block = block if raw.strip() else None
        elif key in ("nodes", "edges", "network"):
            block = _head(key, value, line, blocks)
            blocks.append(block)
        elif block is None:
            raise NetworkError(f"line {line}: expected 'nodes NAME' or 'edges NAME', got {raw.strip()!r}")
        else:
            _entry(block, key, value, line)
    if not blocks:
        raise NetworkError("the text has no block 'nodes NAME' or 'edges NAME'")
    ignored = [key for key in _IGNORED if any(key in b.entries for b in blocks)]
    for block in blocks:
        _check(block)
    return blocks, ignored


def _head(kind: str, name: str, line: int, blocks: list[Block]) -> Block:
    if (kind == "network") == bool(name):
        raise NetworkError(f"line {line}: {kind!r} {'takes no name' if name else 'needs a name after it'}")
    for block in blocks:
        if (block.kind, block.name) == (kind, name):
            raise NetworkError(f"line {line}: {kind} {name!r} is at line {block.line} already")
    return Block(kind, name, line)


def _entry(block: Block, key: str, value: str, line: int) -> None:
    if not value:
        raise NetworkError(f"line {line}: key {key!r} of {block.kind} {block.name!r} needs a value")
    if key in block.entries:
        raise NetworkError(
            f"line {line}: key {key!r} of {block.kind} {block.name!r} is at line {block.line_of(key)} already"
        )
    block.entries[key] = (value, line)


def _check(block: Block) -> None:
    known = ("ndim",) if block.kind == "network" else _keys(block)
    for key in list(block.entries):
        value, line = block.entries[key]
        if key in known:
            continue
        if block.kind != "network" and key in _IGNORED:
            del block.entries[key]
        elif block.kind != "network" and key in _FOREIGN_KEYS:
            if value != _FOREIGN_KEYS[key]:
                raise NetworkError(f"line {line}: {key!r} of {block.kind} {block.name!r} is not supported")
        else:
            raise NetworkError(
                f"line {line}: unknown key {key!r} in {block.kind} {block.name!r}."
                f"{nearest(key, list(known))} Known: {', '.join(known)}"
            )


def _keys(block: Block) -> tuple[str, ...]:
    types = _NODE_TYPES if block.kind == "nodes" else _EDGE_TYPES
    if block.type not in types:
        line = block.line_of("type")
        foreign = block.type in _FOREIGN_TYPES
        raise NetworkError(
            f"line {line}: {'unsupported' if foreign else 'unknown'} type {block.type!r} of {block.kind} "
            f"{block.name!r}.{'' if foreign else nearest(block.type, list(types))} Known: {', '.join(types)}"
        )
    return ("type", *types[block.type], *(_ENDS if block.kind == "edges" else ()))


def _triple(text: str) -> Triple:
    z, y, x = (int(part) for part in text.split(","))
    return z, y, x
