"""A prediction that is interrupted goes on: nothing is made twice, nothing half-written is taken for whole."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from infer_cases import NET, SIZE, TILE, VOLUME, StoppedError, hidden, stopping_after

import znn_dask as znn
from znn_dask.infer import run
from znn_dask.infer.files import Settings, predict_file
from znn_dask.infer.journal import Journal
from znn_dask.infer.sink import Sink
from znn_dask.io.source import parse_source
from znn_dask.io.volumes import read_volume

pytestmark = pytest.mark.timeout(120)

# --- interruptions ---


@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.zarr", "a.tif"])
def test_an_interrupted_prediction_goes_on(model, source, tmp_path, monkeypatch, name):
    settings = Settings(tile=TILE)
    predict_file(model, source, tmp_path / f"ref{name}", settings)
    reads = []
    original = run.read_step
    monkeypatch.setattr(run, "read_step", lambda job, n: reads.append(n) or original(job, n))
    for count in (1, 5, 17):
        with pytest.raises(StoppedError):
            predict_file(model, source, tmp_path / name, settings, stopping_after(count))
        assert not (tmp_path / name).exists(), "what is partial has no name of its own"
        with Journal(tmp_path / f".{name}.progress", "it") as journal:
            done = set(journal.done)
        assert len(done) == count
    reads.clear()
    predict_file(model, source, tmp_path / name, settings)
    assert set(reads) == set(range(27)) - done, "a finished tile is not computed again"
    np.testing.assert_array_equal(read_volume(tmp_path / name), read_volume(tmp_path / f"ref{name}"))
    assert hidden(tmp_path) == []


def test_padded_networks_go_on_with_the_tiles_they_had(same, source, tmp_path, monkeypatch):
    settings = Settings(tile=(8, 8, 8))
    predict_file(same, source, tmp_path / "ref.npy", settings)
    reads = []
    original = run.read_step
    monkeypatch.setattr(run, "read_step", lambda job, n: reads.append(n) or original(job, n))
    for count in (2, 11):
        with pytest.raises(StoppedError):
            predict_file(same, source, tmp_path / "a.npy", settings, stopping_after(count))
        assert any(name.endswith(".tiles") for name in hidden(tmp_path))
    predict_file(same, source, tmp_path / "a.npy", settings)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "ref.npy"))
    # One may have been on its way when it was stopped; none that was kept is made twice.
    assert len(reads) - len(set(reads)) <= 2 * 3
    assert hidden(tmp_path) == []


def test_other_settings_do_not_go_on(model, source, tmp_path):
    with pytest.raises(StoppedError):
        predict_file(model, source, tmp_path / "a.npy", Settings(tile=TILE), stopping_after(3))
    for other, what in ((Settings("constant"), "border"), (Settings(dtype="uint8"), "finish")):
        with pytest.raises(znn.DataError, match=f"unfinished prediction with another {what}.*--restart"):
            predict_file(model, source, tmp_path / "a.npy", other)
    np.save(source, VOLUME[::-1])
    with pytest.raises(znn.DataError, match="another source"):
        predict_file(model, source, tmp_path / "a.npy", Settings(tile=TILE))
    predict_file(model, source, tmp_path / "a.npy", Settings(tile=TILE, restart=True))
    expected = model.predict(VOLUME[::-1], probabilities=True)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, atol=1e-5)


def test_another_model_does_not_go_on(model, source, tmp_path):
    with pytest.raises(StoppedError):
        predict_file(model, source, tmp_path / "a.npy", Settings(tile=TILE), stopping_after(3))
    with (
        znn.Model(NET, 4, tune=False, num_workers=1, loss="softmax", seed=2) as other,
        pytest.raises(znn.DataError, match="another model"),
    ):
        predict_file(other, source, tmp_path / "a.npy", Settings(tile=TILE))


def test_two_processes_do_not_write_one_file(model, source, tmp_path):
    with Journal(tmp_path / ".a.npy.progress", "a.npy"), pytest.raises(znn.DataError, match="another process"):
        predict_file(model, source, tmp_path / "a.npy", Settings(tile=TILE))


def test_a_line_that_was_cut_off_does_not_count(tmp_path):
    path = tmp_path / "record"
    with Journal(path, "it") as journal:
        journal.begin({"a": 1})
        journal.add(3)
        journal.add(12)
    whole = path.read_text()
    path.write_text(whole[:-2])
    with Journal(path, "it") as journal:
        assert journal.done == {3}
        journal.add(4)
    assert path.read_text() == json.dumps({"a": 1}, separators=(",", ":")) + "\n3\n4\n"
    path.write_text("{")
    with Journal(path, "it") as journal:
        assert journal.header is None


CHILD = """
import sys, time
import numpy as np
from znn_dask.infer import run
from znn_dask.infer.files import Settings, predict_file
from znn_dask.model import Model
original = run.read_step
def read(job, number):
    with open(sys.argv[3], "a") as log:
        log.write(f"{number}\\n")
    time.sleep(0.01)
    return original(job, number)
run.read_step = read
with Model.load(sys.argv[1], num_workers=1) as model:
    predict_file(model, sys.argv[2], sys.argv[4], Settings(tile=(4, 5, 6)))
"""


def test_kill_9_at_any_moment_changes_nothing(model, source, tmp_path):
    model.save(tmp_path / "m.safetensors")
    predict_file(model, source, tmp_path / "ref.zarr", Settings(tile=(4, 5, 6)))
    log, out, record = tmp_path / "log", tmp_path / "a.zarr", tmp_path / ".a.zarr.progress"
    command = [sys.executable, "-c", CHILD, str(tmp_path / "m.safetensors"), str(source), str(log), str(out)]
    total = int(np.prod([-(-n // t) for n, t in zip(SIZE, (4, 5, 6), strict=True)]))
    done: set[int] = set()
    for lines in (4, 40):
        log.write_text("")
        with subprocess.Popen(command) as child:
            until = time.monotonic() + 60
            while not (record.exists() and record.read_bytes().count(b"\n") > lines):
                assert time.monotonic() < until
                assert child.poll() is None
                time.sleep(0.002)
            os.kill(child.pid, signal.SIGKILL)
        assert not out.exists()
        assert not set(map(int, log.read_text().split())) & done, "a finished tile was read again"
        with Journal(record, "it") as journal:
            done = set(journal.done)
        assert 0 < len(done) < total
    subprocess.run(command, check=True, timeout=60)
    np.testing.assert_array_equal(read_volume(out), read_volume(tmp_path / "ref.zarr"))
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("name", ["out.zarr", "out.ome.zarr", "out.zarr:/a/b"])
@pytest.mark.parametrize(("zarr_format", "shard"), [(2, None), (3, None), (3, (8, 8, 8))])
def test_chunks_are_on_the_disk_when_their_block_is_written(name, zarr_format, shard, tmp_path, monkeypatch):
    pytest.importorskip("zarr", reason="zarr is not installed")
    synced = []
    monkeypatch.setattr("znn_dask.infer.sink.sync", synced.append)
    place = parse_source(str(tmp_path / name))
    sink = Sink(place, (2, 10, 9, 8), "float32", (4, 4, 4), shard, zarr_format)
    sink.create()
    before = {path for path in sink.partial.rglob("*") if path.is_file()}
    for box in [(slice(0, 8), slice(0, 8), slice(0, 8)), (slice(8, 10), slice(8, 9), slice(0, 8))]:
        sink.write(box, np.ones((2, *(side.stop - side.start for side in box)), np.float32))
        made = {path for path in sink.partial.rglob("*") if path.is_file()} - before
        assert made
        assert made <= set(synced)
        folders = {folder for path in made for folder in path.parents if folder.is_relative_to(sink.partial)}
        assert folders <= set(synced)
        for folder in {path.parent for path in made}:
            assert synced.index(folder) > max(synced.index(path) for path in made if path.parent == folder)
        before |= made
        synced.clear()
    # What is all zero has no file, and nothing is missed.
    sink.write((slice(8, 10), slice(0, 8), slice(0, 8)), np.zeros((2, 2, 8, 8), np.float32))
