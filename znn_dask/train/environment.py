"""On what a run was computed: processor and versions, but nothing that names a machine or its folders."""

import importlib.metadata
import os
import platform
from pathlib import Path

from znn_dask.ops.machine import instruction_set

PACKAGES = ("znn-dask", "numpy", "scipy", "dask", "pyfftw", "safetensors")


def environment(num_workers: int, parallel: object = None) -> dict[str, str]:
    """Return what there is to say, by name."""
    return {
        "processor": _processor(),
        "instructions": instruction_set().replace("isa_", "x86-64-"),
        "CPUs, workers": f"{os.cpu_count()}, {num_workers}",
        **({} if parallel is None else {"trained by": str(parallel)}),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        **{name: version for name in PACKAGES if (version := _version(name))},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
