"""Settings of the machine, read from ``ZNN_DASK_*`` variables or the ``znn-dask`` section of dask.config.

What shapes a result belongs to the model or the run's configuration, not here.
"""

import os
from pathlib import Path

import dask


def setting(name: str, default: str) -> str:
    """Return a setting: the variable ``ZNN_DASK_NAME`` first, then dask.config ``znn-dask.name``."""
    value = os.environ.get("ZNN_DASK_" + name.upper().replace("-", "_"))
    if value is None:
        value = dask.config.get(f"znn-dask.{name}", None)
    return default if value is None else str(value)


def _is_on(name: str, default: str) -> bool:
    return setting(name, default) not in ("0", "", "false", "False")


def validate() -> bool:
    """Whether every operation runs its reference twin beside it and compares (slow; for finding defects)."""
    return _is_on("validate", "0")


def tune() -> bool:
    """Whether a new model measures which algorithms are fastest here, unless it is told."""
    return _is_on("tune", "1")


def pin() -> bool:
    """Whether the workers of a model keep to a CPU each, where there are as many as CPUs."""
    return _is_on("pin", "1")


def cache_folder() -> Path:
    """Where measured choices are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(setting("cache-dir", str(Path(base) / "znn-dask")))
