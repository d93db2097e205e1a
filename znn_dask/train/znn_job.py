"""ZNN's job files, ``.cfg`` and ``.spec``, as a configuration of ours.

Nothing is dropped in silence: every option is translated, or named in a warning with the reason. What becomes of which
is said in `znn_options`.
"""

import configparser
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from znn_dask.errors import ConfigError, ZnnError, nearest
from znn_dask.net import Network
from znn_dask.train.config_file import make_config
from znn_dask.train.znn_options import (
    AUTO,
    LOSSES,
    MALIS,
    OPTIONS,
    PREPROCESS,
    Left,
    To,
    boolean,
    number,
    numbers,
)

Raw = dict[str, Any]
_Read = TypeVar("_Read")
_SECTION = "parameters"
_DATA_KEYS = {
    "image": ("fnames", "pp_types", "is_auto_crop"),
    "label": ("fnames", "pp_types", "is_auto_crop", "fmasks"),
}


@dataclass
class Job:
    """A job of ZNN, translated.

    Attributes
    ----------
    raw : dict
        The configuration, as `make_config` reads it.
    warnings : list of str
        What could not be translated.
    told : list of str
        A line for every option of the ``.cfg``, saying what became of it.
    """

    raw: Raw = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def set(self, key: str, value: Any) -> None:
        """Set a value by its dotted key."""
        section, _, name = key.partition(".")
        self.raw.setdefault(section, {})[name] = value

    def to_yaml(self) -> str:
        """Return the configuration as a YAML file, which begins with what became of every option."""
        lines = [*self.told, *(f"Note: {text}" for text in self.warnings)]
        comments = [f"# {' '.join(line.split())}" for line in ["Made from a job of ZNN.", *lines]]
        return "\n".join([*comments, str(yaml.safe_dump(self.raw, sort_keys=False))])


def read_job(path: str | Path) -> Job:
    """Translate a job file and the data file it names.

    Parameters
    ----------
    path : str or Path
        The ``.cfg``. Files it names are looked for beside it, then as they stand.

    Raises
    ------
    ConfigError
        Naming the file and the option, if something cannot be read.
    """
    path = Path(path)
    options, data = _parse(path)
    job = Job()
    for section in ("network", "training", "data"):
        job.raw[section] = {}
    for option, value in options.items():
        try:
            _translate(job, option, value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {option}: {error}") from error
    try:
        _network(job, options, path)
        _loss(job, options)
        _augment(job, options)
        _volumes(job, options, data, path)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    job.raw = {section: values for section, values in job.raw.items() if values}
    make_config(job.raw, name=str(path))  # raises if a value is out of range
    return job


def _parse(path: Path) -> tuple[dict[str, str], configparser.RawConfigParser]:
    """Return the options of a job, and all sections of it and of its data file."""
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    _read_into(parser, path)
    if not parser.has_section(_SECTION):
        raise ConfigError(f"{path} has no section [{_SECTION}]; a job file of ZNN begins with it")
    options = {name: value.strip() for name, value in parser.items(_SECTION)}
    if options.get("fdata_spec"):
        _read_into(parser, _beside(path, options["fdata_spec"]))
    return options, parser


def _read_into(parser: configparser.RawConfigParser, path: Path) -> None:
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read the job file {path}: {reason}") from error
    except configparser.Error as error:
        raise ConfigError(f"{path} is no job file of ZNN: {' '.join(str(error).split())}") from error


def _translate(job: Job, option: str, value: str) -> None:
    """Translate an option that stands for itself, and tell what becomes of any."""
    rule = OPTIONS.get(option)
    if rule is None:
        job.warnings.append(f"{option} = {value} is unknown and was left out.{nearest(option, list(OPTIONS))}")
        job.told.append(f"{option} = {value}: left out, unknown")
    elif isinstance(rule, Left):
        job.told.append(f"{option} = {value}: left out, {rule.why}")
        if value.lower() not in rule.harmless:
            job.warnings.append(f"{option} = {value} was left out: {rule.why}")
    elif isinstance(rule, To):
        job.told.append(f"{option} = {value}: {rule.key}")
        read = rule.read(value)
        if read is not None:
            job.set(rule.key, read)
    else:
        job.told.append(f"{option} = {value}: {rule.what}")


def _network(job: Job, options: dict[str, str], path: Path) -> None:
    if not options.get("fnet_spec"):
        raise ConfigError("fnet_spec, the file of the network, is missing")
    job.set("network.file", str(_found(job, path, options["fnet_spec"])))


def _loss(job: Job, options: dict[str, str]) -> None:
    out_type = options.get("out_type", options.get("out_dtype", "boundary"))
    name = options.get("cost_fn", "auto")
    if name == "auto":
        if out_type not in AUTO:
            raise ConfigError(f"out_type must be one of {', '.join(AUTO)}, got {out_type!r}")
        loss = AUTO[out_type]
    elif name in LOSSES:
        loss = LOSSES[name]
    else:
        raise ConfigError(f"cost_fn must be one of auto, {', '.join(LOSSES)}, got {name!r}")
    logistic = _ends_in_logistic(job.raw["network"]["file"])
    if loss == "logistic" and logistic:
        # Its gradient passes the function unchanged, so that of the square loss is twice that of the cross-entropy.
        loss = "square"
        job.warnings.append(
            "the network ends in forward_logistics, so binomial_cross_entropy became the square loss, whose gradient "
            "there is twice as large: training.learning_rate is half of eta"
        )
        if "learning_rate" in job.raw["training"]:
            job.raw["training"]["learning_rate"] /= 2
    job.set("training.loss", loss)
    if out_type == "affinity":
        job.set("data.target", "affinity")
    if _value(options, "is_malis", "no", boolean):
        _malis(job, options.get("malis_norm_type") or "none", out_type, logistic)


def _malis(job: Job, norm: str, out_type: str, logistic: bool) -> None:
    if norm not in MALIS:
        raise ConfigError(f"malis_norm_type must be one of {', '.join(MALIS)}, got {norm!r}")
    if out_type != "affinity":
        job.warnings.append(f"is_malis = yes was left out: it is for out_type = affinity, not {out_type}")
    elif logistic:
        job.warnings.append(
            "is_malis = yes was left out: here MALIS takes what comes before the logistic function, and the network "
            "ends in forward_logistics. Write linear there, then training.loss=malis data.target=ids"
        )
    else:
        job.set("training.loss", MALIS[norm])
        job.set("data.target", "ids")
        job.warnings.append(
            f"is_malis = yes became the loss {MALIS[norm]!r}: pairs weigh the squared error of an affinity, those of "
            "ZNN the gradient of cost_fn"
        )


def _ends_in_logistic(name: str) -> bool:
    try:
        net = Network.load(name)
    except ZnnError:
        return False  # whoever trains with it is told
    functions = [getattr(edge.op, "function", "") for output in net.outputs for edge in net.incoming(output)]
    return "forward_logistic" in functions


def _value(options: Mapping[str, str], option: str, default: str, read: Callable[[str], _Read]) -> _Read:
    try:
        return read(options.get(option) or default)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from error


def _augment(job: Job, options: dict[str, str]) -> None:
    augmented = _value(options, "is_data_aug", "no", boolean)
    job.set("data.flip", "zyx" if augmented else "")
    job.set("data.transpose", augmented)
    factor = _value(options, "anneal_factor", "1", number)
    if factor != 1:
        job.set("training.schedule", "exponential")
        job.set("training.decay", factor)


def _volumes(job: Job, options: dict[str, str], data: configparser.RawConfigParser, path: Path) -> None:
    """Translate the samples of both ranges."""
    methods: dict[str, None] = {}
    targets: dict[str, None] = {}
    for role in ("train", "test"):
        volumes = []
        for sample in _value(options, f"{role}_range", "", numbers):
            ends = _sample(job, data, f"sample{sample}")
            volume = {}
            for kind, section in ends.items():
                file, method = _file(job, data, section, kind)
                volume[kind] = str(_found(job, path, file))
                (methods if kind == "image" else targets)[method] = None
            volumes.append(volume)
        if volumes:
            job.set(f"data.{role}", volumes)
    if "train" not in job.raw["data"]:
        job.warnings.append("train_range names no sample; give data.image and data.label")
    _prepare(job, list(methods), list(targets))


def _prepare(job: Job, methods: list[str], targets: list[str]) -> None:
    if methods:
        job.set("data.preprocess", PREPROCESS[methods[0]])
        if len(methods) > 1:
            job.warnings.append(f"images have pp_types {', '.join(methods)}; {methods[0]} was taken for all")
    for target in targets:
        if target not in ("binary_class", "one_class") and not (target == "affinity" and "target" in job.raw["data"]):
            job.warnings.append(f"labels have pp_types {target}; znn-dask train makes 0 and 1 of them (data.target)")
    if targets[:1] == ["binary_class"] and job.raw["training"]["loss"] == "softmax":
        # ZNN's first channel is where the label is, ours the second.
        job.set("data.invert", True)
    if len(targets) > 1:
        job.warnings.append(f"labels have pp_types {', '.join(targets)}; {targets[0]} was taken for all")


def _sample(job: Job, data: configparser.RawConfigParser, section: str) -> dict[str, str]:
    """Return the sections of a sample's image and label."""
    found: dict[str, str] = {}
    for end, value in _items(data, section):
        kind = "image" if end.startswith("input") else "label"
        places = numbers(value)
        if kind in found or len(places) != 1:
            job.warnings.append(
                f"[{section}] {end} = {value} was left out: znn-dask train reads one image and one label"
            )
        if places and kind not in found:
            found[kind] = f"{kind}{places[0]}"
    for kind, name in (("image", "input"), ("label", "output")):
        if kind not in found:
            raise ConfigError(f"[{section}] names no {name}, for instance '{name} = 1'")
    return found


def _file(job: Job, data: configparser.RawConfigParser, section: str, kind: str) -> tuple[str, str]:
    """Return the file of an image or label, and its preprocessing."""
    items = dict(_items(data, section))
    files, methods = _list(items.get("fnames", "")), _list(items.get("pp_types", "none"))
    if not files:
        raise ConfigError(f"[{section}] names no file in fnames")
    if len(files) > 1:
        job.warnings.append(f"[{section}] has {len(files)} files in fnames; only {files[0]} was taken")
    for name, value in items.items():
        if name not in _DATA_KEYS[kind]:
            job.warnings.append(f"[{section}] {name} = {value} is unknown and was left out")
    if _list(items.get("fmasks", "")):
        job.warnings.append(f"[{section}] fmasks = {items['fmasks']} was left out: there are no masks")
    if len(files) > 1 and _value(items, "is_auto_crop", "no", boolean):
        job.warnings.append(f"[{section}] is_auto_crop was left out: files are not cropped to one size")
    method = (methods or ["none"])[0]
    if kind == "image" and method not in PREPROCESS:
        raise ConfigError(
            f"[{section}] pp_types must be one of {', '.join(PREPROCESS)}, got {method!r}."
            f"{nearest(method, list(PREPROCESS))}"
        )
    return files[0], method


def _items(data: configparser.RawConfigParser, section: str) -> Iterator[tuple[str, str]]:
    if not data.has_section(section):
        raise ConfigError(f"there is no section [{section}]; the .spec has {', '.join(_named(data)) or 'none'}")
    yield from ((name, " ".join(value.split())) for name, value in data.items(section))


def _named(data: configparser.RawConfigParser) -> Iterable[str]:
    return [section for section in data.sections() if section != _SECTION]


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _beside(path: Path, name: str) -> Path:
    beside = path.parent / name
    return beside if beside.exists() else Path(name)


def _found(job: Job, path: Path, name: str) -> Path:
    file = _beside(path, name)
    if not file.exists():
        text = f"there is no file {name}, neither beside {path.name} nor from here"
        if text not in job.warnings:
            job.warnings.append(text)
    return file
