"""Interrupting training from outside: kill, Ctrl-C, and the same command again."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
from train_cases import finish, run, running, write_config

from znn_dask.io.checkpoint import read_checkpoint
from znn_dask.train.curve import read_rows
from znn_dask.train.run import CURVE, MODEL, read_stored

pytestmark = pytest.mark.timeout(280)
UPDATES = 300


def wait_for_step(process: "subprocess.Popen[str]", folder: Path, step: int) -> None:
    """Return as soon as the learning curve has a row of this step or a later one."""
    end = time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        rows = read_rows(folder / CURVE)
        if rows and rows[-1].step >= step:
            return
        time.sleep(0.002)
    pytest.fail(f"step {step} was not seen; exit code {process.poll()}")


def tensors(folder: Path) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in read_checkpoint(folder / MODEL)[0].items()}


def curve(folder: Path) -> list[tuple[object, ...]]:
    return [(r.step, r.learning_rate, r.loss, r.test_error) for r in read_rows(folder / CURVE)]


@pytest.mark.parametrize(
    ("workers", "convolution"),
    [
        (1, "auto"),
        (2, "fft"),
        pytest.param(1, "fft", marks=pytest.mark.slow),
        pytest.param(2, "auto", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_bitwise_as_the_undisturbed_one(tmp_path: Path, workers: int, convolution: str) -> None:
    config = write_config(tmp_path, UPDATES)
    command = ["train", config, f"compute.workers={workers}", f"compute.convolution={convolution}", "--quiet"]
    code, _, err = run(*command, "--out", tmp_path / "whole")
    assert (code, err) == (0, "")
    with running(*command, "--out", tmp_path / "parts") as process:
        wait_for_step(process, tmp_path / "parts", 105)
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
    assert read_stored(tmp_path / "parts" / MODEL).position.step < UPDATES
    code, out, err = run(*command, "--out", tmp_path / "parts")
    assert (code, err) == (0, "")
    assert "continuing after update" in out
    assert tensors(tmp_path / "whole") == tensors(tmp_path / "parts")
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    assert not list((tmp_path / "parts").glob(".*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves_and_the_same_command_continues(tmp_path: Path, number: int, code: int) -> None:
    config = write_config(tmp_path, UPDATES)
    command = ["train", config, "--out", tmp_path / "run", "log.checkpoint_every=10000", "--quiet"]
    with running(*command) as process:
        wait_for_step(process, tmp_path / "run", 5)
        process.send_signal(number)
        got, _, err = finish(process)
    assert got == code, err
    step = read_stored(tmp_path / "run" / MODEL).position.step
    assert 5 <= step < UPDATES
    assert err == f"stopped after update {step:,}; the same command continues\n"
    got, out, err = run(*command)
    assert (got, err) == (0, "")
    assert f"continuing after update {step:,} of {UPDATES} in" in out
    assert read_stored(tmp_path / "run" / MODEL).position.step == UPDATES
