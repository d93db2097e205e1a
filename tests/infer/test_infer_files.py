"""From file to file: every format, bounded and recorded, and one clear error for whatever is wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

import znn_dask as znn
from znn_dask.infer import files, run
from znn_dask.infer.files import Settings, predict_file
from znn_dask.infer.job import Job
from znn_dask.infer.journal import Journal
from znn_dask.infer.prepare import Prepared, moments_of
from znn_dask.infer.sink import Sink
from znn_dask.io.volumes import read_volume
from znn_dask.model.predictor import close_all
from znn_dask.net import Convolution, Edge, Network
from znn_dask.train.preprocess import preprocess

pytestmark = pytest.mark.timeout(120)
NET = Network.parse("CTMC", width=3, kernel=2, out_channels=2)
SIZE = (14, 20, 26)
TILE = (6, 9, 10)
VOLUME = np.random.default_rng(0).integers(0, 255, SIZE, dtype=np.uint8)
SAME = Network(
    {"input": 1, "a": 2, "output": 1},
    [
        Edge("c1", "input", "a", Convolution((3, 3, 3), padding="same")),
        Edge("c2", "a", "output", Convolution((1, 1, 1))),
    ],
)


@pytest.fixture(scope="module")
def model():
    with znn.Model(NET, 4, tune=False, num_workers=1, loss="softmax", seed=1) as model:
        yield model
    close_all()


@pytest.fixture(scope="module")
def same():
    with znn.Model(SAME, 4, tune=False, num_workers=1, seed=1) as model:
        yield model


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "in.npy", VOLUME)
    return tmp_path / "in.npy"


def hidden(folder):
    """What an unfinished prediction leaves."""
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


# --- formats ---


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.h5:/x/y", "a.zarr", "a.zarr:/x", "a.ome.zarr"])
def test_every_format_holds_what_predict_gives(model, source, tmp_path, name):
    told = []
    settings = Settings(tile=TILE, dtype="uint16")
    sink = predict_file(model, source, tmp_path / name, settings, progress=lambda *call: told.append(call))
    expected = model.predict(VOLUME, probabilities=True, dtype="uint16")
    found = read_volume(tmp_path / name)
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert sink.stored_shape == found.shape
    assert told[-1] == (27, 27)
    assert hidden(tmp_path) == []


def test_inputs_of_every_format_give_the_same(model, source, tmp_path):
    predict_file(model, source, tmp_path / "ref.npy", Settings(tile=TILE))
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("raw", data=VOLUME, chunks=(4, 5, 6))
    for version in (2, 3):
        zarr.create_array(tmp_path / f"{version}.zarr", data=VOLUME, chunks=(4, 5, 6), zarr_format=version)
    zarr.create_array(tmp_path / "s.zarr", data=VOLUME, chunks=(4, 5, 6), shards=(8, 10, 12))
    for name in ("in.h5:/raw", "2.zarr", "3.zarr", "s.zarr"):
        predict_file(model, tmp_path / name, tmp_path / "out.npy", Settings(tile=TILE, overwrite=True))
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.load(tmp_path / "ref.npy"))


@pytest.mark.parametrize(("shards", "version"), [(False, 2), (False, 3), (True, 3)])
def test_no_two_blocks_share_a_chunk_or_shard(model, source, tmp_path, shards, version):
    settings = Settings(tile=TILE, shards=shards, zarr_format=version)
    predict_file(model, source, tmp_path / "a.zarr", settings)
    array = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert array.metadata.zarr_format == version
    shared = array.shards if shards else array.chunks
    assert (array.shards is None) != shards
    assert all(step % n == 0 for step, n in zip(TILE, shared[1:], strict=True))


def test_ome_zarr_says_what_its_axes_are(model, source, tmp_path):
    predict_file(model, source, tmp_path / "a.ome.zarr", Settings(tile=TILE, channels=[1]))
    image = zarr.open_group(tmp_path / "a.ome.zarr", mode="r").attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert read_volume(tmp_path / "a.ome.zarr").shape == SIZE


def test_other_datasets_of_an_hdf5_file_stay(model, source, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["mine"] = np.arange(5)
    predict_file(model, source, tmp_path / "a.h5:/new", Settings(tile=TILE, overwrite=True))
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {"mine", "new"}


@pytest.mark.parametrize("method", ["section", "volume", "rescale", "none"])
def test_images_are_prepared_as_in_training(monkeypatch, method):
    monkeypatch.setattr("znn_dask.infer.prepare.SLAB", 700)
    stack = np.random.default_rng(3).integers(0, 200, (2, 7, 20, 30)).astype(np.float32)
    stack[1, 3] = 8.0  # constant
    image = Prepared(stack, "stack")
    image.moments = moments_of(image, method)
    whole = tuple(slice(0, n) for n in stack.shape)
    np.testing.assert_allclose(image[whole], preprocess(stack, method), atol=2e-6)
    part = (slice(0, 2), slice(3, 6), slice(4, 9), slice(1, 2))
    np.testing.assert_allclose(image[part], preprocess(stack, method)[part], atol=2e-6)


def test_regions_borders_and_masks(model, source, tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[2:9, 4:12, 3:20] = 1
    np.save(tmp_path / "mask.npy", mask)
    box = (slice(1, 9), slice(3, 12), slice(0, 20))
    whole = model.predict(VOLUME, border="constant", probabilities=True)
    settings = Settings("constant", box, str(tmp_path / "mask.npy"), tile=TILE)
    predict_file(model, source, tmp_path / "a.npy", settings)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), (whole * mask)[(slice(None), *box)], atol=1e-5)
    predict_file(model, source, tmp_path / "b.npy", Settings(None, tile=TILE))
    inside = model.predict(VOLUME, border=None, probabilities=True)
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), inside, atol=1e-5)


def test_padded_networks_are_blended_as_in_memory(same, source, tmp_path):
    settings = Settings(tile=(8, 8, 8), probabilities=False)
    predict_file(same, source, tmp_path / "a.zarr", settings)
    found = read_volume(tmp_path / "a.zarr")
    expected = same.predict(VOLUME)[0]  # a single tile
    inner = tuple(slice(4, n - 4) for n in SIZE)
    assert np.abs(found - expected)[inner].mean() < 0.05 * np.abs(expected).mean()
    assert hidden(tmp_path) == []


# --- interruptions ---


class StoppedError(Exception):
    """Stands for whatever may happen."""


def stopping_after(count):
    """A runner that stops after some blocks."""

    def runner(job: Job, journal: Journal, progress):
        added = journal.add

        def add(number):
            added(number)
            if len(journal.done) >= count:
                raise StoppedError

        journal.add = add
        run.run_local(job, journal, progress)

    return files.Crew(runner, 1)


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


# --- what is wrong ---


def test_a_corrupt_chunk_is_named_and_nothing_is_taken_for_whole(model, tmp_path):
    zarr.create_array(tmp_path / "in.zarr", data=VOLUME, chunks=(7, 10, 13))
    chunk = tmp_path / "in.zarr" / "c" / "1" / "0" / "1"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(znn.DataError, match=r"in\.zarr cannot be read.*damaged at .*leave it out with a region"):
        predict_file(model, tmp_path / "in.zarr", tmp_path / "a.zarr", Settings(tile=TILE))
    assert not (tmp_path / "a.zarr").exists()
    chunk.write_bytes(content)
    predict_file(model, tmp_path / "in.zarr", tmp_path / "a.zarr", Settings(tile=TILE))
    expected = model.predict(VOLUME, probabilities=True)
    np.testing.assert_allclose(read_volume(tmp_path / "a.zarr"), expected, atol=1e-5)


def test_a_full_disk_stops_it_and_it_goes_on(model, source, tmp_path, monkeypatch):
    original, count = Sink.write, []

    def full(self, box, values):
        count.append(box)
        if len(count) == 5:
            monkeypatch.setattr(zarr.Array, "__setitem__", refuse)
        original(self, box, values)

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    settings = Settings(tile=TILE)
    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", full)
        with pytest.raises(
            znn.DataError, match=r"cannot be written: No space left on device.*run the same command again"
        ):
            predict_file(model, source, tmp_path / "a.zarr", settings)
    monkeypatch.undo()
    assert not (tmp_path / "a.zarr").exists()
    with Journal(tmp_path / ".a.zarr.progress", "it") as journal:
        assert len(journal.done) == 4
    predict_file(model, source, tmp_path / "a.zarr", settings)
    assert hidden(tmp_path) == []


def test_too_little_space_is_said_before_any_work(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage)
    with pytest.raises(znn.DataError, match=r"needs .* bytes and .* has 1,000 free.*--dtype uint8"):
        predict_file(model, source, tmp_path / "a.npy", Settings(tile=TILE))
    assert hidden(tmp_path) == []


class _Usage:
    free = 1000


def test_a_folder_that_cannot_be_written(model, source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(znn.DataError, match=r"cannot be written: (Not a directory|File exists)"):
        predict_file(model, source, tmp_path / "file" / "a.zarr", Settings(tile=TILE))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((14, 20, 26, 1), np.uint8), "has 14 channels, but the network reads 1"),
        (np.zeros((20, 26), np.complex64), "holds complex64"),
        (np.zeros((2, 20, 26), np.uint8), "less than the network's field of view"),
        (np.zeros((3, 2, 2, 2, 2), np.uint8), "an image must be"),
        (np.full((14, 20, 26), np.nan, np.float32), "nan at .* not finite"),
    ],
)
def test_volumes_that_cannot_be_predicted(model, tmp_path, array, words):
    np.save(tmp_path / "in.npy", array)
    with pytest.raises(znn.ZnnError, match=words):
        predict_file(model, tmp_path / "in.npy", tmp_path / "a.zarr", Settings(tile=TILE))
    assert hidden(tmp_path) == []
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        (Settings(memory="1 MB"), "a.npy", "memory of .* is too little.*Give"),
        (Settings(memory="much"), "a.npy", "memory must be"),
        (Settings(shards=True), "a.npy", "shards are of zarr format 3"),
        (Settings(preprocess="none", dtype="int8"), "a.npy", "dtype must be one of"),
        (Settings(), "s3://bucket/a.zarr", "cannot be written block by block"),
    ],
)
def test_settings_that_cannot_be(model, source, tmp_path, settings, name, words):
    with pytest.raises(znn.ZnnError, match=words):
        predict_file(model, source, name if "://" in name else tmp_path / name, settings)
    assert hidden(tmp_path) == []


def test_memory_decides_the_tiles(model, tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((60, 80, 90), np.uint8))
    counts = []
    for more in (6_000_000, 400_000_000):
        told = []
        memory = files.resident_bytes() + more
        predict_file(
            model,
            tmp_path / "in.npy",
            tmp_path / "a.npy",
            Settings(memory=memory, overwrite=True),
            progress=lambda *call, told=told: told.append(call),
        )
        counts.append(told[-1][1])
    assert counts[0] > 4
    assert counts[1] == 1


def test_the_destination_is_kept_unless_told(model, source, tmp_path):
    out = tmp_path / "a.npy"
    out.write_bytes(b"mine")
    with pytest.raises(znn.OutputExistsError):
        predict_file(model, source, out, Settings(tile=TILE))
    assert out.read_bytes() == b"mine"
    assert isinstance(predict_file(model, source, out, Settings(tile=TILE, overwrite=True)).place.path, Path)
    assert np.load(out).shape == (2, *SIZE)
