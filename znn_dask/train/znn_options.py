"""What becomes of every option of ZNN's job files, in one table.

ZNN's names and values are those of its shipped ``config.cfg`` and of the versions before it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from znn_dask.errors import ConfigError
from znn_dask.train.preprocess import ZNN_METHODS

YES, NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


@dataclass(frozen=True)
class To:
    """An option that is a key of ours: its dotted name, and the value it gets (None: the default)."""

    key: str
    read: Callable[[str], Any]


@dataclass(frozen=True)
class Left:
    """An option that is left out: why, and the values for which nothing is lost by that."""

    why: str
    harmless: tuple[str, ...] = ()


@dataclass(frozen=True)
class Elsewhere:
    """An option that is read together with others: what it decides."""

    what: str


def boolean(text: str) -> bool:
    """Read yes or no."""
    if text.lower() in (*YES, *NO):
        return text.lower() in YES
    raise ConfigError(f"it must be yes or no, got {text!r}")


def whole(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"it must be a whole number, got {text!r}") from None


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"it must be a number, got {text!r}") from None


def size(text: str) -> list[int]:
    """Read a size z,y,x."""
    parts = [whole(part.strip()) for part in text.split(",")]
    if len(parts) != 3:
        raise ConfigError(f"it must be a size z,y,x, got {text!r}")
    return parts


def numbers(text: str) -> list[int]:
    """Read ``1-3,6`` as 1, 2, 3, 6.

    Raises
    ------
    ConfigError
        If it is written otherwise.
    """
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        low, _, high = part.partition("-")
        first, last = whole(low.strip()), whole((high or low).strip())
        if not 0 < first <= last < 10_000:
            raise ConfigError(f"it must be numbers of samples such as 1-3,6, got {text!r}")
        found += [n for n in range(first, last + 1) if n not in found]
    return found


def _border(text: str) -> str:
    return "mirror" if boolean(text) else "none"


def _rebalance(text: str) -> str | None:
    if text.lower() not in ("none", "global", "patch", ""):
        raise ConfigError(f"it must be one of none, global, patch, got {text!r}")
    return text.lower() or None


def _conv_mode(text: str) -> str | None:
    modes = {"fft": "fft", "direct": "direct", "optimize": None}
    if text not in modes:
        raise ConfigError(f"it must be one of {', '.join(modes)}, got {text!r}")
    return modes[text]


_FILES = "files of a run lie in its folder: znn-dask train --out"
_FORWARD = "prediction is a command of its own: znn-dask predict"
_CURVE = "the learning curve is always written"

OPTIONS: dict[str, To | Left | Elsewhere] = {
    "fnet_spec": Elsewhere("network.file"),
    "fdata_spec": Elsewhere("data"),
    "train_range": Elsewhere("data.train"),
    "test_range": Elsewhere("data.test"),
    "out_type": Elsewhere("training.loss, data.target"),
    "out_dtype": Elsewhere("training.loss, data.target"),
    "cost_fn": Elsewhere("training.loss"),
    "is_data_aug": Elsewhere("data.flip, data.transpose"),
    "anneal_factor": Elsewhere("training.decay, training.schedule"),
    "train_outsz": To("training.output_size", size),
    "eta": To("training.learning_rate", number),
    "momentum": To("training.momentum", number),
    "weight_decay": To("training.weight_decay", number),
    "Num_iter_per_annealing": To("training.rate_every", whole),
    "Max_iter": To("training.updates", whole),
    "Num_iter_per_show": To("log.every", whole),
    "Num_iter_per_test": To("log.test_every", whole),
    "Num_iter_per_save": To("log.checkpoint_every", whole),
    "test_num": To("log.test_patches", whole),
    "num_threads": To("compute.workers", lambda text: whole(text) or None),
    "train_conv_mode": To("compute.convolution", _conv_mode),
    "force_fft": To("compute.convolution", lambda text: "fft" if boolean(text) else None),
    "is_bd_mirror": To("data.border", _border),
    "is_optimize": Left("the fastest algorithms are always measured", YES),
    "is_train_optimize": Left("the fastest algorithms are always measured", YES),
    "is_forward_optimize": Left(_FORWARD),
    "dtype": Left("everything is computed in float32", ("float32",)),
    "logging": Left(_CURVE, YES),
    "is_stdio": Left(_CURVE, (*YES, *NO)),
    "is_debug": Left("this is another program; see znn-dask train --debug", NO),
    "is_check": Left("this is another program; its tests check gradients", NO),
    "is_visual": Left("pictures are drawn as files", NO),
    "is_malis": Elsewhere("training.loss, data.target"),
    "malis_norm_type": Elsewhere("training.loss"),
    "is_rebalance": To("training.rebalance", lambda text: "global" if boolean(text) else None),
    "is_patch_rebalance": To("training.rebalance", lambda text: "patch" if boolean(text) else None),
    "rebalance_mode": To("training.rebalance", _rebalance),
    "Num_iter_per_dset_swap": Left("samples are drawn from all volumes"),
    "train_net": Left(_FILES),
    "train_net_prefix": Left(_FILES),
    "train_save_net": Left(_FILES),
    "train_load_net": Left("training does not begin with the weights of another network", ("",)),
    "train_seed_net": Left("training does not begin with the weights of another network", ("",)),
    "forward_range": Left(_FORWARD),
    "forward_net": Left(_FORWARD),
    "forward_outsz": Left(_FORWARD),
    "forward_conv_mode": Left(_FORWARD),
    "output_prefix": Left(_FORWARD),
}

# By cost_fn, the loss of ours; "auto" goes by out_type.
LOSSES = {
    "softmax_loss": "softmax",
    "softmax": "softmax",
    "binomial_cross_entropy": "logistic",
    "square_loss": "square",
    "square-square": "square_square(0.2)",
}
# By malis_norm_type. ZNN divides the pairs of its first four in different ways; here they are always a mean.
MALIS = dict.fromkeys(("none", "frac", "num", "pair"), "malis") | {"constrain": "malis_constrained"}
AUTO = {"boundary": "softmax", "affinity": "logistic"}
PREPROCESS = {**ZNN_METHODS, "None": "none"}
