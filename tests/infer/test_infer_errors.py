"""One clear error for whatever is wrong with a prediction from file to file."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from infer_cases import SIZE, TILE, VOLUME, hidden

import znn_dask as znn
from znn_dask.infer import files
from znn_dask.infer.files import Settings, predict_file
from znn_dask.infer.journal import Journal
from znn_dask.infer.sink import Sink
from znn_dask.io.volumes import read_volume

pytestmark = pytest.mark.timeout(120)

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
