"""Reading a configuration: YAML, then ``key=value`` overrides, then every key and value is checked."""

import json
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from znn_dask.errors import ConfigError, nearest
from znn_dask.train.augment import describe_kinds
from znn_dask.train.config import Config


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file and apply overrides.

    Parameters
    ----------
    path : str or Path
        A YAML file.
    overrides : iterable of str
        ``key=value`` with a dotted key; entries of lists by number (``data.train.0.image=a.npy``). Values are
        read as YAML.

    Raises
    ------
    ConfigError
        Naming the file, the key and what would do.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from error
    except yaml.YAMLError as error:
        words = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ConfigError(f"{path} is not YAML: {words}") from error
    return make_config({} if raw is None else raw, overrides, str(path))


def make_config(raw: object, overrides: Iterable[str] = (), name: str = "the configuration") -> Config:
    """Make a configuration from plain values; see `load_config`."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{name} must be a mapping from keys to values, got {type(raw).__name__}")
    _check_keys(raw, Config, "", name)
    for override in overrides:
        raw = _override(raw, override)
        _check_keys(raw, Config, "", f"override {override!r}")
    try:
        return msgspec.convert(raw, Config, strict=False)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        where = place.strip("`").lstrip(".").replace("[...]", "") or "the top"
        got = "" if ", got" in text else _got(raw, where)
        raise ConfigError(f"{name}: {where}: {text[0].lower()}{text[1:]}{got}") from error


def _got(raw: object, where: str) -> str:
    """Return ``, got VALUE`` for a dotted key of plain values; nothing where it names none."""
    for part in where.split("."):
        if not isinstance(raw, dict) or part not in raw:
            return ""
        raw = raw[part]
    return "" if isinstance(raw, dict | list) else f", got {raw!r}"


def to_json(config: Config) -> str:
    """Return the configuration as text that `from_json` reads back as an equal one."""
    return msgspec.json.encode(config).decode()


def from_json(text: str) -> Config:
    """Read what `to_json` wrote; a key it does not know raises `ConfigError`."""
    try:
        return msgspec.json.decode(text, type=Config)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"the stored configuration cannot be read: {error}") from error


def to_yaml(config: Config) -> str:
    """Return the whole configuration, defaults included, as a YAML file."""
    return str(yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False))


def flat(config: Config) -> dict[str, Any]:
    """Return every value by its dotted key."""
    return dict(_flatten(msgspec.to_builtins(config), ""))


def describe() -> str:
    """Return a line for every key: name, default, meaning."""
    kinds = [f"  {line}" for line in describe_kinds()]
    return "\n".join([*_describe(Config, ""), "augmentations (kind of an entry of data.augment):", *kinds])


def _describe(section: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    for field in msgspec.structs.fields(section):
        # The last, since a type may bring one of its own (a check without words).
        meta = typing.get_type_hints(section, include_extras=True)[field.name].__metadata__[-1]
        inner = _section_of(field.type)
        if inner is None:
            default = _default_of(field)
            yield f"  {prefix}{field.name}{default}: {meta.description}"
        else:
            number = "N." if _is_sequence(field.type) else ""
            yield f"{prefix}{field.name}: {meta.description}"
            yield from _describe(inner, f"{prefix}{field.name}.{number}")


def _default_of(field: msgspec.structs.FieldInfo) -> str:
    """Return `` [VALUE]`` as YAML writes it, or nothing where there is no default."""
    factory = field.default_factory
    value = field.default if factory is msgspec.NODEFAULT else factory()
    return "" if value is None or value is msgspec.NODEFAULT else f" [{json.dumps(value).strip(chr(34))}]"


def _check_keys(raw: object, section: type[msgspec.Struct], prefix: str, name: str) -> None:
    """Raise on keys that do not exist, with the nearest that does (msgspec would not say which)."""
    if isinstance(raw, list):
        for number, item in enumerate(raw):
            _check_keys(item, section, f"{prefix}{number}.", name)
    if not isinstance(raw, dict):
        return
    fields = {field.name: field for field in msgspec.structs.fields(section)}
    for key, value in raw.items():
        if key not in fields:
            near = _elsewhere(str(key)) or nearest(str(key), list(fields))
            raise ConfigError(f"{name}: unknown key '{prefix}{key}'.{near} Known here: {', '.join(fields)}")
        inner = _section_of(fields[key].type)
        if inner is not None:
            _check_keys(value, inner, f"{prefix}{key}.", name)


def _elsewhere(key: str) -> str:
    """Return a hint if the key exists in another section."""
    for field in msgspec.structs.fields(Config):
        inner = _section_of(field.type)
        if inner is not None and key in {f.name for f in msgspec.structs.fields(inner)}:
            return f" Did you mean '{field.name}.{key}'?"
    return ""


def _override(raw: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} must be key=value, for instance training.updates=1000")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML") from error
    changed = _set(raw, key.split("."), value, override)
    assert isinstance(changed, dict)
    return changed


def _set(raw: object, path: list[str], value: object, override: str) -> object:
    """Return a copy of `raw` in which the value at `path` is another."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    # A number makes or extends a list; a new entry is allowed right after the last.
    if head.isdecimal() and (raw is None or isinstance(raw, list)):
        items = list(raw or [])
        number = int(head)
        if number > len(items):
            raise ConfigError(f"override {override!r}: the list has {len(items)} entries, so {head} is none of them")
        items[number : number + 1] = [_set(items[number] if number < len(items) else None, rest, value, override)]
        return items
    if raw is not None and not isinstance(raw, dict):
        raise ConfigError(f"override {override!r}: what comes before '{head}' is {raw!r}, which has no keys")
    mapping = dict(raw or {})
    mapping[head] = _set(mapping.get(head), rest, value, override)
    return mapping


def _flatten(value: object, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        for number, inner in enumerate(value):
            yield from _flatten(inner, f"{prefix}.{number}")
    else:
        yield prefix, value


def _section_of(kind: Any) -> type[msgspec.Struct] | None:
    """Return the section that a key holds, alone or in a list."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple and not isinstance(kind, types.UnionType):
        kind = typing.get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def _is_sequence(kind: Any) -> bool:
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return typing.get_origin(kind) is tuple
