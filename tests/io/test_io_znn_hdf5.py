"""HDF5 of strangers is read by another process under limits; whatever becomes of that is one clear error."""

import os
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from znn_dask.errors import CheckpointError
from znn_dask.io import hdf5_child, znn_hdf5
from znn_dask.io.znn_hdf5 import ZnnFile, is_hdf5, read_znn, unpack, write_znn

pytestmark = pytest.mark.timeout(100)

GROUPS = {
    "b": {"name": "b", "group_type": "edge", "type": "conv", "filters": np.ones((1, 2, 1, 3, 3), np.float32)},
    "a": {"name": "a", "group_type": "node", "type": "input", "size": np.array([1])},
}


@pytest.fixture
def path(tmp_path):
    write_znn(tmp_path / "net.h5", ZnnFile(GROUPS))
    return tmp_path / "net.h5"


def changed(path, change):
    with h5py.File(path, "a") as file:
        change(file)


def test_order_and_values_survive(path):
    found = read_znn(path)
    assert list(found.groups) == ["b", "a"]
    assert found.groups["b"]["type"] == "conv"
    np.testing.assert_array_equal(found.groups["b"]["filters"], GROUPS["b"]["filters"])
    assert not found.nested


def test_files_are_told_by_how_they_begin(path, tmp_path):
    assert is_hdf5(path)
    (tmp_path / "text.h5").write_text("hello")
    assert not is_hdf5(tmp_path / "text.h5")
    assert not is_hdf5(tmp_path / "absent.h5")


def test_curves_in_a_second_file(path, tmp_path):
    with h5py.File(tmp_path / "curves.h5", "w") as file:
        file["train/it"], file["test/cls"] = np.arange(3), np.zeros(2)
    found = read_znn(path, tmp_path / "curves.h5").statistics
    assert found.keys() == {"train/it", "test/cls"}
    assert read_znn(path).statistics == {}
    with pytest.raises(CheckpointError, match=r"net\.h5 holds no learning curves"):
        read_znn(path, path)


def link_out(file):
    file["b/momentum_vol"] = h5py.ExternalLink("other.h5", "/secret")


def link_soft(file):
    file["b/momentum_vol"] = h5py.SoftLink("/b/filters")


def lie_elsewhere(file):
    file["b"].create_dataset("secret", (10,), "f4", external=[("secret.bin", 0, h5py.h5f.UNLIMITED)])


def be_virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (4,))
    file["b"].create_virtual_dataset("secret", layout)


def be_huge(file):
    file["b"].create_dataset("huge", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")


def be_many(file):
    for n in range(30):
        file["b"].create_dataset(f"huge{n}", (1 << 20,), "f4", chunks=(1 << 20,), compression="gzip")


CASES = {
    "external link": (link_out, "'momentum_vol' is a link to somewhere else, which is not followed"),
    "soft link": (link_soft, "'momentum_vol' is a link to somewhere else"),
    "external storage": (lie_elsewhere, "'network/b/secret' lies in another file, which is not read"),
    "virtual": (be_virtual, "'network/b/secret' lies in another file"),
    "huge": (be_huge, "'network/b/huge' would be more than a file of this size can hold"),
    "many": (be_many, r"'network/b/huge\d+' would be more than"),
    "compound": (
        lambda f: f["b"].create_dataset("x", (2,), [("a", "f4"), ("b", "i4")]),
        "only numbers and text are read",
    ),
    "reference": (lambda f: f["b"].create_dataset("x", (), h5py.ref_dtype), "only numbers and text are read"),
    "texts": (lambda f: f["b"].create_dataset("x", data=["a", "b"]), "a text must be a scalar"),
    "nothing": (lambda f: f["b"].create_dataset("x", data=h5py.Empty("f4")), "'network/b/x' is empty"),
    "no text": (lambda f: f["b"].create_dataset("x", data=b"\xff\xfe"), "cannot be read as HDF5"),
    "group in a group": (lambda f: f["b"].create_group("x"), "is no dataset"),
    "no group_type": (lambda f: f["a"].__delitem__("group_type"), "group 'a' has no group_type"),
    "an image": (lambda f: f.create_dataset("stack", data=np.zeros(3)), "'stack' is no group of a network"),
    "empty": (lambda f: [f.__delitem__(name) for name in list(f)], "has no group of a node or edge"),
}


@pytest.mark.parametrize("kind", CASES)
def test_what_is_not_read(path, kind):
    change, message = CASES[kind]
    changed(path, change)
    with pytest.raises(CheckpointError, match=rf"net\.h5.*{message}") as caught:
        read_znn(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.h5", r"there is no model file .*absent\.h5"), ("folder.h5", r"folder\.h5 is no file")],
)
def test_what_is_no_file(tmp_path, name, message):
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(CheckpointError, match=message):
        read_znn(tmp_path / name)


CHILDREN = {
    "aborts": ("import os; os.abort()", r"ended by signal 6 \(SIGABRT\)"),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"ended by signal 9 \(SIGKILL\)"),
    "fails": ("raise SystemExit(7)", "ended with code 7"),
    "cannot begin": ("import nonsense_that_is_not_there", r"code 1 \(ModuleNotFoundError: No module"),
    "loops": (
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 3))\nwhile True: pass",
        "was not read within 1 seconds of computing: it is probably damaged",
    ),
    "sleeps": ("import time; time.sleep(60)", "was not read within 2 seconds: it is probably damaged"),
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_child_that_ends_otherwise_is_one_error(path, kind, monkeypatch, tmp_path):
    script, message = CHILDREN[kind]
    (tmp_path / "child.py").write_text(script)
    monkeypatch.setattr(hdf5_child, "__file__", str(tmp_path / "child.py"))
    monkeypatch.setattr(znn_hdf5, "_SECONDS", 1)
    monkeypatch.setattr(znn_hdf5, "_PATIENCE", 2 if kind == "sleeps" else 60)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=rf"net\.h5 .*{message}"):
        read_znn(path)
    assert time.monotonic() - start < 60


LIMITED = """
import sys
sys.path.insert(0, {folder!r})
import hdf5_child
hdf5_child.limit(32 << 20, 3)
{work}
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit of memory needs Linux's /proc")
def test_the_limits_hold(path, monkeypatch, tmp_path):
    folder = str(Path(hdf5_child.__file__).parent)
    script = tmp_path / "child.py"
    monkeypatch.setattr(hdf5_child, "__file__", str(script))
    script.write_text(LIMITED.format(folder=folder, work="bytearray(512 << 20)"))
    with pytest.raises(CheckpointError, match="MemoryError"):
        read_znn(path)
    script.write_text(LIMITED.format(folder=folder, work="open(sys.argv[2], 'wb').write(bytes(80 << 20))"))
    with pytest.raises(CheckpointError, match="File too large"):
        read_znn(path)
    script.write_text(LIMITED.format(folder=folder, work="while True: pass"))
    with pytest.raises(CheckpointError, match="seconds of computing"):
        read_znn(path)
    assert hasattr(signal, "SIGXCPU")


def test_memory_is_refused_inside_the_child(path, monkeypatch):
    def flood(*_):
        raise MemoryError

    monkeypatch.setattr(hdf5_child, "read", flood)
    assert "more memory" in hdf5_child.convert(str(path), os.devnull, "network", 1 << 20)


def test_what_is_of_no_group_is_left_out():
    found = unpack(
        {"network/x/filters": np.zeros(1), "other": np.zeros(1)}, {"groups": '["a"]', "network/a/type": "sum"}
    )
    assert found.groups == {"a": {"type": "sum"}}
    assert found.statistics == {}
