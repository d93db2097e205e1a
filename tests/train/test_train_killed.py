"""Killed (SIGKILL) at random moments, also within the writing of a checkpoint, a run ends as the undisturbed one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from killed_runs import UPDATES_EACH
from train_cases import ROOT, write_config

from znn_dask.cli import main
from znn_dask.io.checkpoint import read_checkpoint
from znn_dask.train import pictures
from znn_dask.train.curve import read_rows
from znn_dask.train.run import BEST, CURVE, read_stored

pytestmark = pytest.mark.timeout(290)


def tensors(folder: Path) -> dict[str, dict[str, bytes]]:
    """All model files of a run by their names: the current one, the best, the last few."""
    return {
        str(path.relative_to(folder)): {name: values.tobytes() for name, values in read_checkpoint(path)[0].items()}
        for path in sorted(folder.rglob("*.safetensors"))
    }


def curve(folder: Path) -> list[tuple[object, ...]]:
    """The learning curve without the seconds."""
    return [tuple(value for name, value in vars(row).items() if name != "seconds") for row in read_rows(folder / CURVE)]


@pytest.mark.parametrize(
    ("rounds", "seed"), [(5, 1), *(pytest.param(20, seed, marks=pytest.mark.slow) for seed in (2, 3))]
)
def test_a_run_killed_again_and_again_ends_bitwise_as_the_undisturbed_one(
    tmp_path: Path, rounds: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for draw in ("curve_picture", "prediction_picture"):
        monkeypatch.setattr(pictures, draw, lambda *_: b"picture")
    settings = ["log.every=5", "log.test_every=20", "log.validate_every=20", "log.checkpoint_every=5", "log.keep=4"]
    command = ["train", str(write_config(tmp_path)), *settings, "log.report=false", "--quiet", "--out"]
    total = f"training.updates={(rounds + 1) * UPDATES_EACH}"
    assert main([*command, str(tmp_path / "whole"), total]) == 0
    program, parts = Path(__file__).with_name("killed_runs.py"), tmp_path / "parts"
    done = subprocess.run(
        [sys.executable, program, parts, str(rounds), str(seed), *command, parts],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("killed")]
    assert len(lines) == rounds
    print(done.stdout)
    assert main([*command, str(tmp_path / "parts"), total]) == 0
    assert tensors(tmp_path / "whole") == tensors(tmp_path / "parts")
    assert len(tensors(tmp_path / "whole")) == 6
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    best = [read_stored(tmp_path / name / BEST).position for name in ("whole", "parts")]
    assert (best[0].best_step, best[0].best_error) == (best[1].best_step, best[1].best_error)
    assert not list((tmp_path / "parts").rglob(".*"))
