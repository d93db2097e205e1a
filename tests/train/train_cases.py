"""A small problem on which every run takes a second: bright squares in noise, a 2D network with a max-filter."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).parents[2]


def write_volumes(folder: Path) -> dict[str, str]:
    """Write image and label; return the data section that names them."""
    random = np.random.default_rng(0)
    label = np.kron(random.integers(0, 2, (4, 8, 8)), np.ones((1, 5, 5), int)).astype(np.uint8)
    image = label + 0.5 * random.standard_normal(label.shape)
    np.save(folder / "image.npy", image.astype(np.float32))
    np.save(folder / "label.npy", label)
    return {"image": str(folder / "image.npy"), "label": str(folder / "label.npy")}


def settings(folder: Path, updates: int = 30) -> dict[str, object]:
    """Return the plain values of a configuration."""
    return {
        "network": {
            "letters": "CTMCTC",
            "ndim": 2,
            "width": 4,
            "init": ["he", "he", "gaussian(0, 0.1)"],
        },
        "training": {"output_size": 8, "updates": updates, "learning_rate": 0.05, "seed": 5, "rate_every": 10},
        "data": {**write_volumes(folder), "train": [{"z": [0, 3]}], "test": [{"z": [3, 4]}]},
        "log": {"every": 5, "test_every": 10, "test_patches": 4, "checkpoint_every": 10},
        "compute": {"workers": 1},
    }


def write_config(folder: Path, updates: int = 30) -> Path:
    """Write a configuration and its volumes into a folder."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(folder, updates)))
    return path


@contextmanager
def running(*arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Run a command in a process of its own, which ends with the block at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-m", "znn_dask", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def run(*arguments: object) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code and what it printed."""
    with running(*arguments) as process:
        return finish(process)


def finish(process: "subprocess.Popen[str]", seconds: float = 120) -> tuple[int, str, str]:
    """Wait for a command; return its exit code and what it printed."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err
