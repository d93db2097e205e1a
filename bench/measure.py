"""Timing side by side: alternating repetitions, medians, ratios, and what machine it was.

Times of a shared machine drift; the ratio of two commands that took turns does not. Report ratios.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("znn-dask", "numpy", "dask", "distributed", "joblib", "pyfftw", "scipy", "torch")


def once(run: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(
    candidates: Mapping[str, Callable[[], object]], repetitions: int, warmup: int = 2, pause_s: float = 0.0
) -> dict[str, list[float]]:
    """Return the seconds of every repetition of every candidate, taken in turns after some warm-up.

    A pause before each lets threads that wait actively for more work (OpenMP's do) fall asleep.
    """
    for run in candidates.values():
        for _ in range(warmup):
            run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repetitions):
        for name, run in candidates.items():
            time.sleep(pause_s)
            times[name].append(once(run))
    return times


def summary(seconds: list[float]) -> dict[str, float]:
    """Return the median and the spread of some seconds."""
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}


def ratio(of: list[float], to: list[float]) -> float:
    """Return the median over turns of how many times longer the first took."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def environment(workers: int) -> dict[str, Any]:
    """Return what a number has to travel with: CPU, workers, versions and commit."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "workers": workers,
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def write_json(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write a report, by a temporary name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(path)
