"""The examples on the real volumes they are made for, shortened to a few updates.

``ZNN_DASK_TEST_DATA`` names the folder with ``isbi2012/`` and ``fibsem/``; without it these tests are skipped. What
full runs reach stands in ``bench/results``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ZNN_DASK_TEST_DATA", "absent"))

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="ZNN_DASK_TEST_DATA does not name the folder of the real volumes"
)


def run(*arguments: object) -> str:
    command = [sys.executable, "-m", "znn_dask", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(example: str, image: Path | str, label: Path | str, out: Path, updates: int) -> dict[str, float]:
    run(
        "train",
        f"examples/{example}.yaml",
        f"data.image={image}",
        f"data.label={label}",
        f"training.updates={updates}",
        "log.test_every=1000",
        "--quiet",
        "--out",
        out,
    )
    return json.loads((out / "metrics.json").read_text())


def test_a_2d_network_on_serial_sections(tmp_path):
    image, label = (DATA / "isbi2012" / f"train-{name}.tif" for name in ("volume", "labels"))
    out = tmp_path / "run"
    train("isbi2012", image, label, out, updates=60)
    # Two sections are predicted, so that the test stays short.
    part = tmp_path / "part.tif"
    tifffile.imwrite(part, tifffile.imread(image)[20:22])
    run("predict", out / "model.safetensors", part, tmp_path / "inside.tif", "--quiet")
    inside = tifffile.imread(tmp_path / "inside.tif")
    truth = tifffile.imread(label)[20:22] > 127
    assert inside.shape == truth.shape
    assert 0 <= inside.min() <= inside.max() <= 1
    # After 60 updates it tells membranes from cells in part: better than a constant by rank.
    ranks = inside.reshape(-1).argsort().argsort()[::97] / inside.size
    chosen = truth.reshape(-1)[::97]
    assert ranks[chosen].mean() - ranks[~chosen].mean() > 0.1


def test_a_3d_network_with_large_kernels_on_isotropic_tissue(tmp_path):
    image = f"{DATA / 'fibsem' / 'train-image.h5'}:/stack"
    label = f"{DATA / 'fibsem' / 'train-gt.lzf.h5'}:/stack"
    metrics = train("fibsem", image, label, tmp_path / "run", updates=40)
    assert np.isfinite([value for value in metrics.values() if isinstance(value, float)]).all()
    assert (tmp_path / "run" / "prediction.png").stat().st_size > 10_000
