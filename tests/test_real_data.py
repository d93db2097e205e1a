"""The examples on the real volumes they are made for, shortened to a few updates.

``ZNN_DASK_TEST_DATA`` names the folder with ``isbi2012/``, ``fibsem/`` and ``vessel/``; without it these tests are
skipped. What full runs reach stands in ``bench/results``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
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


@pytest.mark.parametrize(
    ("stack", "labels", "section", "error"),
    [
        ("burgess2014_bbbDisruption_BM4D_denoised", "burgess2014_bbbDisruption_labels_v1", 7, 0.0632),
        ("poon2015_BBB_noLeakage_BM4D_denoised", "poon2015_BBB_noLeakage_manualLabel_v2", 12, 0.0540),
    ],
)
def test_a_network_that_znn_trained_finds_vessels(tmp_path, stack, labels, section, error):
    """The errors that an independent program found, to within 0.001."""
    folder = DATA / "vessel"
    net, image = folder / "VD2D_tanh-net_current.h5", folder / f"{stack}.tif"
    region = f"{section}:{section + 1}"
    options = ["--preprocess", "standard2D", "--border", "mirror", "--region", region, "--quiet"]
    run("predict", net, image, tmp_path / "vessels.npy", *options)
    vessel = np.load(tmp_path / "vessels.npy")[0, 0]
    truth = tifffile.imread(folder / f"{labels}.tif")[section] > 0
    assert abs(np.mean((vessel > 0.5) != truth) - error) < 0.001


def test_the_file_of_a_network_that_znn_trained_is_written_as_it_was(tmp_path):
    original = DATA / "vessel" / "VD2D_tanh-net_current.h5"
    run("convert", original, tmp_path / "model.safetensors")
    run("convert", tmp_path / "model.safetensors", tmp_path / "net.h5")
    with h5py.File(original) as one, h5py.File(tmp_path / "net.h5") as other:
        assert set(one) == set(other)
        count = 0
        for name, group in one.items():
            assert set(group) == set(other[name])
            for key, item in group.items():
                a, b = item[()], other[name][key][()]
                assert np.array_equal(a, b), (name, key)
                assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
                count += 1
    assert count > 300
