"""What is there before any work: names and commands, imported when they are asked for, and the list of keys."""

import subprocess
import sys

import pytest

import znn_dask
from znn_dask.cli import main

pytestmark = pytest.mark.timeout(120)


def test_the_list_of_commands_waits_for_nothing_heavy() -> None:
    heavy = ["numpy", "scipy", "dask", "matplotlib", "pyfftw", "h5py"]
    code = (
        f"import sys; from znn_dask.cli import main; main(['--help']); print([n for n in {heavy} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("\n[]\n")
    assert "  segment " in done.stdout


def test_every_public_name_is_there_when_asked_for() -> None:
    code = "import znn_dask as znn; print([n for n in znn.__all__ if getattr(znn, n, None) is None], znn.model.Model)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("[] ")
    with pytest.raises(AttributeError, match="no attribute 'Netwrok'"):
        _ = znn_dask.Netwrok


def test_the_list_of_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--keys"]) == 0
    out = capsys.readouterr().out
    assert "training.learning_rate [0.01]: at the start" in out
    assert "training.rates [{}]: factors" in out
    assert "data.offsets [[[0, 0, -1], [0, -1, 0], [-1, 0, 0]]]: affinity" in out
