"""``znn-dask simulate`` from end to end: what it prints and draws, and how it refuses bad input."""

import pytest
from skimage.io import imread

from znn_dask.cli import main

pytestmark = pytest.mark.timeout(100)

SIMULATED = ["simulate", "CTMCTC", "--width", "4", "--output-size", "4", "--updates", "1"]


def test_simulate_prints_every_count_and_draws(capsys, tmp_path):
    picture = tmp_path / "speedup.png"
    assert main([*SIMULATED, "--workers", "1,2,120", "--bandwidth", "100", "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "memory gives 100 GB/s to all workers together" in out
    for dispatch in ("gil: ", "free-threaded: ", "native: "):
        assert dispatch in out
    assert [line.split()[0] for line in out.splitlines() if line[:7].strip().isdecimal()] == ["1", "2", "120"] * 3
    assert imread(picture).std() > 10, "a picture, not one colour"


def test_simulate_plays_what_was_asked_for(capsys):
    assert main([*SIMULATED, "--workers", "1", "--dispatch", "native", "--block", "1"]) == 0
    fine = capsys.readouterr().out
    assert main([*SIMULATED, "--workers", "1", "--dispatch", "native"]) == 0
    coarse = capsys.readouterr().out
    assert "gil" not in fine
    n_tasks = [int(text.split()[0].replace(",", "")) for text in (fine, coarse)]
    assert n_tasks[0] > 2 * n_tasks[1]


def test_simulate_by_counts_says_the_same_every_time(capsys):
    arguments = [*SIMULATED, "--counts", "--workers", "1,8", "--width", "16", "--kernel", "5"]
    told = []
    for _ in range(2):
        assert main(arguments) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert "S_inf" in told[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CTC"], "Missing option '--output-size'"),
        (["CTC", "--output-size", "4", "--workers", "1,two"], "--workers takes whole numbers from 1, got 'two'"),
        (["CTC", "--output-size", "4", "--workers", "0"], "--workers takes whole numbers from 1, got '0'"),
        (["CTC", "--output-size", "4", "--block", "wide"], "--block takes whole numbers from 1, got 'wide'"),
        (["CTC", "--output-size", "4", "--bandwidth", "-1"], "bandwidth must be bytes a second"),
        (["CTC", "--output-size", "4", "--core-bandwidth", "1"], "core_bandwidth needs the bandwidth"),
        (["CTC", "--output-size", "4", "--dispatch", "fast"], "'fast' is not one of"),
    ],
)
def test_simulate_refuses(capsys, arguments, words):
    assert main(["simulate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("znn-dask: ")
    assert err.count("\n") == 1
    assert words in err
