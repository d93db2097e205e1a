"""`znn-dask show --samples` draws what training gets."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from skimage.io import imread

from znn_dask.cli import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    np.save(tmp_path / "image.npy", random.standard_normal((4, 40, 40)).astype(np.float32))
    np.save(tmp_path / "label.npy", np.kron(random.integers(0, 9, (4, 8, 8)), np.ones((1, 5, 5), int)))
    path = tmp_path / "run.yaml"
    raw = {
        "network": {"letters": "CTC", "ndim": 2, "width": 2, "out_channels": 2},
        "training": {"output_size": [1, 9, 9], "batch": 2},
        "data": {
            **{kind: str(tmp_path / f"{kind}.npy") for kind in ("image", "label")},
            "target": "affinity",
            "offsets": [[0, 0, -1], [0, -1, 0]],
        },
    }
    path.write_text(yaml.safe_dump(raw))
    return path


def test_samples_are_drawn(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.png"
    assert main(["show", "--samples", str(config), "--count", "3", "--out", str(out)]) == 0
    assert "3 patches of 1 x 13 x 13 voxels" in capsys.readouterr().out
    plain = imread(out)
    assert plain.std() > 10, "a picture, not one colour"
    assert plain.shape[0] > 3 * 200
    other = tmp_path / "b.png"
    noise = "data.augment=[{kind: noise, sigma: 3}]"
    assert main(["show", "--samples", str(config), noise, "--count", "3", "--out", str(other)]) == 0
    assert not np.array_equal(plain, imread(other))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "--samples", "CTC"], "--samples needs the .yaml configuration of a run, got 'CTC'"),
        (["show", "CTC", "data.flip=z"], "'data.flip=z' is for --samples only"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
