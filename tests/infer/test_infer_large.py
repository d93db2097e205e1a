"""A volume of 100 x 512 x 512 in a quarter of the memory, killed three times: peak memory measured, nothing changed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr

import znn_dask as znn
from znn_dask.infer.journal import Journal
from znn_dask.net import Network

pytestmark = [pytest.mark.timeout(3000), pytest.mark.slow]
SIZE = (100, 512, 512)
NET = Network.parse("CTMCTCTCT", width=8, kernel=5)
CHILD = """
import sys
from znn_dask.infer.files import Settings, predict_file
from znn_dask.model import Model
with Model.load(sys.argv[1], num_workers=2) as model:
    predict_file(model, sys.argv[2], sys.argv[3], Settings(memory=int(sys.argv[4])))
"""


def run(command, until=None):
    """Run a process, killed once a condition holds; return its peak resident bytes."""
    with subprocess.Popen(command) as child:
        while until is not None and not until():
            assert child.poll() is None
            time.sleep(0.01)
        if until is not None:
            os.kill(child.pid, signal.SIGKILL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert until is not None or child.returncode == 0
    return usage.ru_maxrss * 1024


def test_a_quarter_of_the_memory_and_three_kills(tmp_path, record_property):
    rng = np.random.default_rng(0)
    source = zarr.create_array(tmp_path / "in.zarr", shape=SIZE, chunks=(25, 128, 128), dtype="u1")
    for z in range(0, SIZE[0], 25):
        source[z : z + 25] = rng.integers(0, 256, (25, *SIZE[1:]), dtype=np.uint8)
    with znn.Model(NET, (4, 16, 16), tune=False, num_workers=2) as model:
        model.save(tmp_path / "m.safetensors")
        unlimited = model._core.tile_bytes(SIZE)
    n_voxels = int(np.prod(SIZE))
    memory = (n_voxels + 4 * n_voxels + unlimited) // 4
    started = time.monotonic()

    def command(name):
        args = [tmp_path / "m.safetensors", tmp_path / "in.zarr", tmp_path / name, memory]
        return [sys.executable, "-c", CHILD, *map(str, args)]

    peaks = [run(command("whole.zarr"))]
    seconds = time.monotonic() - started
    record = tmp_path / ".a.zarr.progress"
    moments = []
    for _ in range(3):
        before = record.read_bytes().count(b"\n") if record.exists() else 0
        lines = before + int(rng.integers(1, 4))
        delay = time.monotonic()

        def reached(lines=lines):
            return record.exists() and record.read_bytes().count(b"\n") > lines

        peaks.append(run(command("a.zarr"), reached))
        moments.append(time.monotonic() - delay)
        assert not (tmp_path / "a.zarr").exists()
        with Journal(record, "it") as journal:
            assert len(journal.done) >= 1
    peaks.append(run(command("a.zarr")))
    whole, found = (zarr.open_array(tmp_path / name, mode="r") for name in ("whole.zarr", "a.zarr"))
    for z in range(0, SIZE[0], 25):
        np.testing.assert_array_equal(found[z : z + 25], whole[z : z + 25])
    figures = {"memory": memory, "peaks": peaks, "seconds": seconds, "killed_after_s": moments}
    record_property("figures", json.dumps(figures))
    print(figures)
    assert max(peaks) <= memory
