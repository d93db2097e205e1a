"""HDF5 volumes that are damaged: a child process opens them first, and what becomes of it is told in one error."""

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from znn_dask.errors import DataError
from znn_dask.io import hdf5_child, znn_hdf5
from znn_dask.io.opening import open_volume

VOLUME = np.random.default_rng(0).integers(0, 255, (6, 20, 20), dtype=np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as handle:
        handle.create_dataset("/group/raw", data=VOLUME, chunks=(2, 10, 10), compression="gzip")
        handle.create_dataset("name", data="of a specimen")
        handle["elsewhere"] = h5py.ExternalLink("no such file.h5", "/x")
    return path


def test_a_child_looks_first_and_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = subprocess.run
    monkeypatch.setattr(znn_hdf5.subprocess, "run", lambda *a, **k: calls.append(a) or run(*a, **k))
    for _ in range(2):
        np.testing.assert_array_equal(open_volume(f"{file}:/group/raw")[:], VOLUME)
    assert len(calls) == 1
    with h5py.File(file, "a") as handle:
        handle["group/raw"][0] = 0
    assert open_volume(f"{file}:/group/raw")[:][0].max() == 0
    assert len(calls) == 2, "a file that has changed is looked at again"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"a\.h5 is damaged: .* ended by signal 11"),
        ("import sys; sys.exit(9)", r"a\.h5 cannot be read: the process that read it ended with code 9"),
    ],
)
def test_a_child_that_does_not_survive_a_file_is_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr(hdf5_child, "__file__", str(tmp_path / "script.py"))
    with pytest.raises(DataError, match=message):
        open_volume(file)


@pytest.mark.timeout(120)
def test_a_mutated_file_gives_a_volume_or_one_error(file: Path, tmp_path: Path) -> None:
    rng, whole = np.random.default_rng(1), file.read_bytes()
    refused = []
    for number in range(12):
        data = bytearray(whole)
        for place in rng.integers(0, len(whole) if number % 2 else 900, 6):
            data[place] = rng.integers(256)
        damaged = tmp_path / f"{number}.h5"
        damaged.write_bytes(data)
        try:
            open_volume(f"{damaged}:/group/raw")[:]
        except DataError as error:
            refused.append((damaged.name, str(error)))
    assert refused
    assert all(name in message for name, message in refused)
