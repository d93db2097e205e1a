"""Checkpoints come back as they were, or one error says which file is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from znn_dask.errors import CheckpointError, ParameterError
from znn_dask.io import atomic
from znn_dask.io.checkpoint import read_checkpoint, read_metadata, write_checkpoint

TENSORS = st.dictionaries(
    st.text("abc/123", min_size=1, max_size=8),
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int32, np.uint8]),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(TENSORS, st.dictionaries(st.text(max_size=10), st.text(max_size=30), max_size=4))
def test_a_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, tensors, metadata) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "a.safetensors"
    write_checkpoint(path, tensors, metadata)
    read, text = read_checkpoint(path)
    assert text == metadata == read_metadata(path)
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert read[name].shape == value.shape
        assert read[name].tobytes() == value.tobytes()


def test_strided_arrays_keep_their_values_and_results_can_be_written_to(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    whole = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_checkpoint(path, {"t": whole.T, "s": whole[:, ::2]}, {})
    read, _ = read_checkpoint(path)
    np.testing.assert_array_equal(read["t"], whole.T)
    np.testing.assert_array_equal(read["s"], whole[:, ::2])
    read["t"] += 1


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]", b"x" * 5000], ids=range(5)
)
def test_damage_is_one_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    for read in (read_checkpoint, read_metadata):
        with pytest.raises(CheckpointError, match=r"damaged\.safetensors is damaged or no model"):
            read(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"a": np.ones(8, np.float32)}, {"k": "v"})
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)


def test_a_checkpoint_without_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="at least one array"):
        write_checkpoint(tmp_path / "a", {}, {})


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no model file .*absent"):
        read_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"is a folder, not a model file$"):
        read_metadata(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"is a folder, not a model file\. Did you mean .*model\.safetensors\?"):
        read_metadata(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"a": np.ones(3, np.float32)}, {})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, {"a": np.zeros(3, np.float32)}, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "volume.zarr"
    for number in range(2):
        with atomic.replacing(path) as temporary:
            temporary.mkdir()
            (temporary / str(number)).touch()
    assert [p.name for p in path.iterdir()] == ["1"]

    def fail() -> None:
        with atomic.replacing(path) as temporary:
            temporary.mkdir()
            temporary.mkdir()

    with pytest.raises(FileExistsError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["volume.zarr"]


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover = tmp_path / f".model.safetensors.{dead.pid}.tmp.safetensors"
    alive = tmp_path / f".model.safetensors.{os.getpid()}.tmp.safetensors"
    other = tmp_path / ".notes.tmp"
    for path in (leftover, alive, other):
        path.touch()
    atomic.remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, other])
