"""Blocks of ``key value`` lines, the grammar of the text form: which keys and types there are.

Every complaint names the line and lists what is known. Nothing is accepted and then silently ignored. The HDF5 form
of ZNN has the same blocks, as groups; their complaints name the group.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from znn_dask.errors import NetworkError, nearest
from znn_dask.geometry import Triple

_TRANSFER_KEYS = ("function", "function_args", "init", "init_args", "bias")
NODE_TYPES: dict[str, tuple[str, ...]] = {
    "input": ("size",),
    "sum": ("size",),
    "concat": ("size", "order"),
    "maxout": ("size",),
    "transfer": ("size", *_TRANSFER_KEYS, "edge"),
}
EDGE_TYPES: dict[str, tuple[str, ...]] = {
    "conv": ("size", "stride", "step", "padding", "padding_after", "mode", "init", "init_args"),
    "max_filter": ("size", "stride"),
    "max_pool": ("size", "stride"),
    "average_pool": ("size", "stride"),
    "dropout": ("ratio",),
    "transfer": _TRANSFER_KEYS,
    "norm": ("over", "groups", "epsilon", "affine", "averaging"),
    "softmax": (),
    "transposed_conv": ("size", "step", "crop", "crop_after", "init", "init_args"),
    "upsample": ("factor", "mode"),
    "crop": ("offset", "offset_after"),
    "maxout": (),
    "dummy": (),
}
_ENDS = ("input", "output")
# Of keys that may be missing, for messages.
_EXAMPLES = {
    "type": "conv",
    "size": "1,3,3",
    "function": "rectify_linear",
    "ratio": "0.5",
    "over": "instance",
    "factor": "1,2,2",
    "offset": "0,1,1",
    "input": "NODE",
    "output": "NODE",
    "ndim": "2",
}
# Keys of ZNN's that say how to train or to run, not what the network is.
_IGNORED = ("eta", "momentum", "weight_decay", "fft")
# Keys of ZNN's that change the network in ways this program does not know, unless they say "no"; and what to do.
_FOREIGN_KEYS = {
    "dense": (
        "0",
        "a sparsity that begins again at 1, for which there is no rule here; take it out if the network does without",
    ),
    "repeat": ("1", "filters that are repeated; write out the edges instead"),
    "filters": (None, "weights in a file of their own; the HDF5 form of a trained network holds them"),
    "biases": (None, "biases in a file of their own; the HDF5 form of a trained network holds them"),
    "seeding": (None, "random numbers of an edge; give Model(seed=...) instead"),
}

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
    place : str
        Where it stands if not in lines, such as "group 'conv1'".
    """

    kind: str
    name: str
    line: int
    entries: dict[str, tuple[str, int]] = field(default_factory=dict)
    place: str = ""

    @property
    def type(self) -> str:
        """The value of the key ``type``."""
        return self.text("type")

    def where(self, key: str = "") -> str:
        """Return where a key stands, or the head where there is none, for messages."""
        return self.place or f"line {self.entries[key][1] if key in self.entries else self.line}"

    def text(self, key: str, default: str | None = None) -> str:
        """Return a value as it stands."""
        if key in self.entries:
            return self.entries[key][0]
        if default is None:
            example = f" Add a line such as '{key} {_EXAMPLES[key]}'" if key in _EXAMPLES else ""
            raise NetworkError(f"{self.where()}: {self.kind} {self.name!r} needs the key {key!r}.{example}")
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
                f"{self.where(key)}: {key} of {self.kind} {self.name!r} must be {what}, got {text!r}"
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
    blocks: dict[tuple[str, str], Block] = {}
    block: Block | None = None
    for line, raw in enumerate(text.splitlines(), start=1):
        key, _, value = " ".join(raw.partition("#")[0].split()).partition(" ")
        if not key:
            # A line with a comment alone does not end a block.
            block = block if raw.strip() else None
        elif key in ("nodes", "edges", "network"):
            block = _head(key, value, line, blocks)
            blocks[key, value] = block
        elif block is None:
            raise NetworkError(
                f"line {line}: expected 'nodes NAME' or 'edges NAME', got {_short(raw)}. A blank line ends a block"
            )
        else:
            _entry(block, key, value, line)
    if not blocks:
        raise NetworkError("the text has no block 'nodes NAME' or 'edges NAME'")
    return list(blocks.values()), check_blocks(blocks.values())


def check_blocks(blocks: Iterable[Block]) -> list[str]:
    """Check keys and types; take training options out and return which there were.

    Raises
    ------
    NetworkError
        Naming the place.
    """
    blocks = list(blocks)
    ignored = [key for key in _IGNORED if any(key in b.entries for b in blocks)]
    for block in blocks:
        _check(block)
    return ignored


def _head(kind: str, name: str, line: int, blocks: dict[tuple[str, str], Block]) -> Block:
    if (kind == "network") == bool(name):
        raise NetworkError(f"line {line}: {kind!r} {'takes no name' if name else 'needs a name after it'}")
    if (kind, name) in blocks:
        first = blocks[kind, name].line
        raise NetworkError(f"line {line}: {kind} {name!r} is at line {first} already. Give one of them another name")
    return Block(kind, name, line)


def _entry(block: Block, key: str, value: str, line: int) -> None:
    if not value:
        raise NetworkError(f"line {line}: key {key!r} of {block.kind} {block.name!r} needs a value")
    if key in block.entries:
        raise NetworkError(
            f"line {line}: key {key!r} of {block.kind} {block.name!r} is at {block.where(key)} already. "
            "Keep one of them"
        )
    block.entries[key] = (value, line)


def _check(block: Block) -> None:
    known = ("ndim",) if block.kind == "network" else _keys(block)
    for key in list(block.entries):
        if key in known:
            continue
        if block.kind != "network" and key in _IGNORED:
            del block.entries[key]
        elif block.kind != "network" and key in _FOREIGN_KEYS:
            harmless, meaning = _FOREIGN_KEYS[key]
            if block.text(key) != harmless:
                raise NetworkError(
                    f"{block.where(key)}: {key!r} of {block.kind} {block.name!r} is not supported: it means {meaning}"
                )
        else:
            raise NetworkError(
                f"{block.where(key)}: unknown key {key!r} in {block.kind} {block.name!r}."
                f"{nearest(key, list(known))} Known: {', '.join(known)}"
            )


def _keys(block: Block) -> tuple[str, ...]:
    types = NODE_TYPES if block.kind == "nodes" else EDGE_TYPES
    if block.type not in types:
        raise NetworkError(
            f"{block.where('type')}: unknown type {block.type!r} of {block.kind} {block.name!r}."
            f"{nearest(block.type, list(types))} Known: {', '.join(types)}"
        )
    return ("type", *types[block.type], *(_ENDS if block.kind == "edges" else ()))


def _triple(text: str) -> Triple:
    z, y, x = (int(part) for part in text.split(","))
    return z, y, x


def _short(text: str) -> str:
    """Return a line as it is quoted in messages: files that are no text may have very long ones."""
    text = text.strip()
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
