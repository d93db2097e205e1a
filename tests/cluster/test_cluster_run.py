"""Whole runs on a cluster: the curve, tests, checkpoints and ends of the run of one process."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import znn_dask as znn
from znn_dask.cli import main
from znn_dask.cluster import DataParallel, Reach
from znn_dask.io.checkpoint import read_checkpoint
from znn_dask.train.curve import read_rows
from znn_dask.train.phantom import make_phantom
from znn_dask.train.run import CURVE, MODEL

distributed = pytest.importorskip("distributed", reason="distributed is not installed")
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZNN_DASK_TUNE", "0")


def settings(folder: Path, updates: int = 14) -> dict[str, Any]:
    """A network with dropout on a phantom, gradients that are clipped and collected, classes that are balanced."""
    if not (folder / "image.npy").exists():
        tissue = make_phantom((12, 30, 30), seed=0)
        np.save(folder / "image.npy", tissue.image)
        np.save(folder / "label.npy", tissue.boundary)
    files = {name: str(folder / f"{name}.npy") for name in ("image", "label")}
    return {
        "network": {"letters": "CTMCTDC", "ndim": 2, "width": 4, "dropout": 0.2},
        "training": {
            "output_size": 8,
            "batch": 3,
            "accumulate": 2,
            "clip_norm": 0.5,
            "rebalance": "patch",
            "updates": updates,
            "learning_rate": 0.05,
            "rate_every": 5,
        },
        "data": {**files, "train": [{"z": [0, 8]}], "test": [{"z": [8, 12]}]},
        "log": {"every": 3, "test_every": 6, "test_patches": 3, "validate_every": 7, "checkpoint_every": 5},
        "compute": {"workers": 1},
    }


def write(folder: Path, raw: dict[str, Any]) -> str:
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    return str(folder / "config.yaml")


def workers(count: int) -> Any:
    """A cluster in this process."""
    options = {"processes": False, "n_workers": count, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    return distributed.Client(**options, silence_logs=logging.CRITICAL)


def assert_same_run(one: Path, other: Path) -> None:
    for name, values in read_checkpoint(one / MODEL)[0].items():
        np.testing.assert_allclose(read_checkpoint(other / MODEL)[0][name], values, atol=1e-5, err_msg=name)
    rows = [
        [[-1 if v is None else v for v in (r.step, r.loss, r.test_loss, r.region_error)] for r in read_rows(f / CURVE)]
        for f in (one, other)
    ]
    assert [row[0] for row in rows[0]] == [row[0] for row in rows[1]]
    for first, second in zip(*rows, strict=True):
        assert second == pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("stop", [None, 9])
def test_the_command_trains_as_one_process_and_goes_on_with_other_workers(
    tmp_path: Path, stop: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, settings(tmp_path))
    assert main(["train", config, "--quiet", "--out", str(tmp_path / "one")]) == 0
    here = ["train", config, "--quiet", "--out", str(tmp_path / "many"), "--scheduler"]
    with workers(2) as client:
        if stop is None:
            assert main([*here, client.scheduler.address]) == 0
        else:
            first = {"callbacks": [Signalled(stop)], "parallel": DataParallel.on(client), "progress": False}
            with znn.Trainer(None, settings(tmp_path), folder=tmp_path / "many", **first) as trainer:
                trainer.run()
                assert trainer.stopped_by == signal.SIGTERM
                assert stop <= trainer.step <= stop + 1
    if stop is not None:
        with workers(3) as client:
            assert main([*here, client.scheduler.address]) == 0
    assert "worker processes" in capsys.readouterr().out
    assert_same_run(tmp_path / "one", tmp_path / "many")
    assert (tmp_path / "many" / "report.html").read_text().count("worker processes") == 1


class Signalled(znn.Callback):
    """Sends SIGTERM after an update."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Any, loss: float) -> None:
        if run.step == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("key", ["cluster", "scheduler"])
def test_python_is_told_to_bring_its_own_client(key: str, tmp_path: Path) -> None:
    raw = settings(tmp_path)
    raw["compute"][key] = 2 if key == "cluster" else "tcp://127.0.0.1:1"
    with pytest.raises(znn.ConfigError, match=rf"compute\.{key}=.* is for `znn-dask train`"):
        znn.Trainer(None, raw, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_on_a_cluster_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = settings(tmp_path)
    config = write(tmp_path, raw)
    out = ["--quiet", "--out", str(tmp_path / "run")]
    assert main(["train", config, *out, "--cluster", "2", "--scheduler", "tcp://127.0.0.1:1"]) != 0
    assert "not both" in capsys.readouterr().err
    assert main(["train", config, *out, "--tls-ca", "ca.pem"]) != 0
    assert "TLS needs --scheduler" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_command_line_counts_before_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[Reach] = []

    def note(reach: Reach) -> Any:
        reached.append(reach)
        raise znn.ParameterError("this is enough")

    monkeypatch.setattr("znn_dask.commands.train.trained_on", note)
    raw = settings(tmp_path)
    raw["compute"] = {"workers": 3, "scheduler": "tcp://there:8786"}
    config = write(tmp_path, raw)
    for more in ([], ["--cluster", "2"]):
        assert main(["train", config, "--out", str(tmp_path / "run"), *more]) != 0
    assert reached == [Reach("tcp://there:8786", None, 3), Reach(None, 2, 3)]


@pytest.mark.slow
def test_ctrl_c_for_all_processes_of_a_terminal_saves_and_ends(tmp_path: Path) -> None:
    raw = settings(tmp_path, 10**6)
    raw["compute"]["cluster"] = 2
    out = tmp_path / "run"
    command = [sys.executable, "-m", "znn_dask", "train", write(tmp_path, raw), "--quiet", "--out", str(out)]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + 60
            while not (out / CURVE).exists() and time.monotonic() < end:
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert b"the same command continues" in errors
    assert b"Traceback" not in errors
    rows = read_rows(out / CURVE)
    with znn.Model.load(out / MODEL, num_workers=1) as model:
        assert model.step_count >= rows[-1].step
