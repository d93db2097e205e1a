"""Ten thousand damaged files: each gives a network or one clear error, never a crash, a hang or a flood of memory.

A few hundred run with the other tests, all of them with ``make test-all``.
"""

import contextlib
from collections import Counter

import pytest
from mutated_files import SECONDS, make, originals, run_apart

import znn_dask as znn
from znn_dask.io import znn_hdf5

KINDS = ("znn", "h5", "safetensors")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return originals(tmp_path_factory.mktemp("good"))


def read_damaged(folder, kind, content, seeds, monkeypatch):
    """Return the outcomes of damaged files; those that must not be fail the test."""
    paths = make(folder, kind, content, seeds)
    outcomes = run_apart(kind, paths)
    if kind == "h5":
        # What ended the process that read many must be one clear error where each has a process of its own.
        monkeypatch.setattr(znn_hdf5, "_SECONDS", int(SECONDS))
        for path in (path for path, word in zip(paths, outcomes, strict=True) if word.startswith("died")):
            with pytest.raises(znn.CheckpointError, match=path.name):
                znn.Model.load(path)
        outcomes = ["error" if word.startswith("died") else word for word in outcomes]
        made = [path.with_name(f"{path.name}.out") for path, w in zip(paths, outcomes, strict=True) if w == "made"]
        outcomes = [word for word in outcomes if word != "made"] + run_apart("groups", made)
    found = Counter(outcomes)
    assert set(found) <= {"error", "network"}, found
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            path.unlink()
    return found


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_errors_or_networks(tmp_path, good, kind, monkeypatch):
    found = read_damaged(tmp_path, kind, good[kind], range(200 if kind == "znn" else 100), monkeypatch)
    assert found["error"] > 20, "the damage is too small to test anything"
    assert found["network"] > 0, "the damage is too great to reach what lies deep"


PARTS = {"znn": [(first, 800) for first in range(1000, 4200, 800)]}
PARTS["h5"] = PARTS["safetensors"] = [(first, 200) for first in range(1000, 4400, 200)]


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("kind", "part"), [(kind, part) for kind in KINDS for part in PARTS[kind]], ids=str)
def test_ten_thousand_damaged_files(tmp_path, good, kind, part, monkeypatch):
    first, count = part
    found = read_damaged(tmp_path, kind, good[kind], range(first, first + count), monkeypatch)
    assert found.total() == count


def test_they_are_ten_thousand():
    assert sum(count for parts in PARTS.values() for _, count in parts) == 10_000
