"""Train dense-output 2D and 3D ConvNets on the CPUs you have, as Dask graphs of FFT and convolution tasks.

    import znn_dask as znn

    net = znn.Network.parse("CTMCTMCTCT", width=24, kernel=3, window=2)
    model = znn.Model(net, output_size=(12, 12, 12), loss="logistic")
    loss = model.step(image, target)
    prediction = model.predict(volume)

Describing a network: `Network`, `zoo`. Running one: `Model`, with `SGD`, `Adam` or `AdamW`; one of PyTorch:
`from_torch`. A whole run: `Trainer`, `Callback`. Scheduling any Dask graph: `get`, `Scheduler`.
Seeing what its workers do: `Trace`. How fast it would be with more of them: `simulate`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from znn_dask.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
    MemoryLimitError,
    MissingExtraError,
    NetworkError,
    OutputExistsError,
    ParameterError,
    SaveError,
    ShapeError,
    ZnnError,
)

if TYPE_CHECKING:
    from znn_dask.model import SGD, Adam, AdamW, Model, from_torch
    from znn_dask.net import Network, zoo
    from znn_dask.ops.balance import balanced_weights
    from znn_dask.sched import Dispatch, Program, Scheduler, Trace, get
    from znn_dask.sched.simulation import Simulation
    from znn_dask.sched.speedup import simulate
    from znn_dask.train.callbacks import Callback
    from znn_dask.train.schedules import Schedule
    from znn_dask.train.trainer import Trainer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Callback",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Dispatch",
    "DivergenceError",
    "MemoryLimitError",
    "MissingExtraError",
    "Model",
    "Network",
    "NetworkError",
    "OutputExistsError",
    "ParameterError",
    "Program",
    "SaveError",
    "Schedule",
    "Scheduler",
    "ShapeError",
    "Simulation",
    "Trace",
    "Trainer",
    "ZnnError",
    "balanced_weights",
    "from_torch",
    "get",
    "simulate",
    "zoo",
]
__version__ = "0.1.0"


# Where the names live that are imported when they are first asked for: scipy, dask and matplotlib take a second or two,
# which `znn-dask --help` need not wait for.
_HOMES = {
    "znn_dask.model": ("SGD", "Adam", "AdamW", "Model", "from_torch"),
    "znn_dask.net": ("Network", "zoo"),
    "znn_dask.ops.balance": ("balanced_weights",),
    "znn_dask.sched": ("Dispatch", "Program", "Scheduler", "Trace", "get"),
    "znn_dask.sched.simulation": ("Simulation",),
    "znn_dask.sched.speedup": ("simulate",),
    "znn_dask.train.callbacks": ("Callback",),
    "znn_dask.train.schedules": ("Schedule",),
    "znn_dask.train.trainer": ("Trainer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_PACKAGES = ("exchange", "infer", "io", "lower", "model", "net", "ops", "sched", "train", "tune", "viz")


def __getattr__(name: str) -> Any:
    """Import a public name, or a package, when it is asked for."""
    if name in _HOME_OF:
        found = getattr(import_module(_HOME_OF[name]), name)
    elif name in _PACKAGES:
        found = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
