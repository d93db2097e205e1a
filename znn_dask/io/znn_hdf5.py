"""Networks that ZNN trained, as the HDF5 files that ZNN wrote: groups of keys and arrays, exactly as they stand.

What they mean is said elsewhere (`model.znn_file`). A file is read by a child process under limits (`hdf5_child`), and
written whole or not at all.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import h5py
import numpy as np

from znn_dask.errors import CheckpointError, DataError
from znn_dask.io import hdf5_child
from znn_dask.io.atomic import replacing
from znn_dask.io.checkpoint import read_checkpoint

Value: TypeAlias = str | np.ndarray
Groups: TypeAlias = dict[str, dict[str, Value]]
ENDINGS = (".h5", ".hdf5", ".hdf")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LEAST_BYTES = 64 << 20  # that any file may take, however small
_BYTES_PER_BYTE = 16  # that a file may take for each of its own: compressed ones hold more than they show
_SECONDS = 20
_BYTES_PER_SECOND = 10 << 20
_PATIENCE = 20  # how many times longer it may take on a busy machine or a slow disk than on a CPU


@dataclass(frozen=True)
class ZnnFile:
    """What a file of ZNN holds.

    Attributes
    ----------
    groups : dict of str to dict of str to (str or array)
        The keys of every node group and edge group. ``filters`` are float32 (in, out, z, y, x), reflected; ``biases``
        (map,); ``momentum_vol`` has their shape.
    statistics : dict of str to array
        Learning curves, ``"train/it"``, ``"train/err"``, ``"test/cls"``, ...
    nested : bool
        Whether the network lies in ``/processing/znn/train/network`` instead of the root.
    """

    groups: Groups
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    nested: bool = False


def is_hdf5(path: str | Path) -> bool:
    """Return whether a file begins as HDF5 does."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_SIGNATURE)) == _SIGNATURE
    except OSError:
        return False


def read_znn(path: str | Path, curves: str | Path | None = None) -> ZnnFile:
    """Read a trained network of ZNN.

    Parameters
    ----------
    path : str or Path
    curves : str or Path, optional
        A second file with learning curves, ``{train,test}/{it,err,cls}``.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged, none of ZNN's, or takes more memory or time than its size allows.
    """
    file = unpack(*_read_in_child(Path(path), "network"))
    if not file.groups:
        raise CheckpointError(f"{path} holds no network of ZNN: it has no group of a node or edge")
    if curves is None:
        return file
    found = unpack(*_read_in_child(Path(curves), "curves")).statistics
    if not found:
        raise CheckpointError(f"{curves} holds no learning curves: it has neither train/it nor test/it")
    return ZnnFile(file.groups, found, file.nested)


def write_znn(path: str | Path, file: ZnnFile) -> None:
    """Write a network as ZNN does; ``path`` holds either the old or the complete new file."""
    with replacing(Path(path)) as temporary, h5py.File(temporary, "w", track_order=True) as handle:
        home = handle.create_group(hdf5_child.NESTED) if file.nested else handle
        network = home.create_group("network", track_order=True) if file.nested else handle
        for name, values in file.groups.items():
            group = network.create_group(name, track_order=True)
            for key, value in values.items():
                group.create_dataset(key, data=value)
        if file.statistics:
            statistics = home.create_group("statistics") if file.nested else handle
            for name, curve in file.statistics.items():
                statistics.create_dataset(name, data=curve)


def pack(file: ZnnFile) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return a file as arrays and strings by path; `unpack` gives it back."""
    arrays = {f"statistics/{name}": values for name, values in file.statistics.items()}
    strings = {"nested": "1" if file.nested else "0", "groups": json.dumps(list(file.groups))}
    for name, values in file.groups.items():
        for key, value in values.items():
            if isinstance(value, str):
                strings[f"network/{name}/{key}"] = value
            else:
                arrays[f"network/{name}/{key}"] = value
    return arrays, strings


def unpack(arrays: Mapping[str, np.ndarray], strings: Mapping[str, str]) -> ZnnFile:
    """Return the file that `pack` took apart; what is of no group is left out."""
    groups: Groups = {str(name): {} for name in json.loads(strings.get("groups", "[]"))}
    statistics: dict[str, np.ndarray] = {}
    entries: list[tuple[str, Value]] = [*strings.items(), *arrays.items()]
    for path, value in entries:
        kind, _, rest = path.partition("/")
        name, _, key = rest.rpartition("/")
        if kind == "network" and name in groups:
            groups[name][key] = value
        elif kind == "statistics" and not isinstance(value, str):
            statistics[rest] = value
    return ZnnFile(groups, statistics, strings.get("nested") == "1")


def check_volume(path: Path) -> None:
    """Let a child open a file that is to be read here as a volume.

    Raises
    ------
    DataError
        If the child does not survive that, or takes more memory or time than the file's size allows.
    """
    state = path.stat()
    _check_volume(path.resolve(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1024)
def _check_volume(path: Path, *_changes: int) -> None:
    try:
        _read_in_child(path, "volume")
    except CheckpointError as error:
        raise DataError(str(error)) from error


def _read_in_child(path: Path, mode: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Let a process of its own read a file; whatever becomes of that, this one goes on."""
    if not path.is_file():
        raise CheckpointError(f"there is no model file {path}" if not path.exists() else f"{path} is no file")
    size = path.stat().st_size
    n_bytes, seconds = limits_of(size)
    with tempfile.TemporaryDirectory(prefix="znn-dask-") as folder:
        result, messages = Path(folder) / "values.safetensors", Path(folder) / "messages"
        # -P: nothing beside the script is imported in place of a library.
        command = [sys.executable, "-P", "-W", "ignore", hdf5_child.__file__]
        arguments = [str(path.resolve()), str(result), mode, str(n_bytes), str(seconds)]
        with messages.open("wb") as said:
            try:
                code = subprocess.run(
                    command + arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    env=_environment(),
                    timeout=_PATIENCE * seconds,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise CheckpointError(
                    f"{path} was not read within {_PATIENCE * seconds} seconds: it is probably damaged"
                ) from error
        if code != 0:
            with messages.open("rb") as said:
                raise CheckpointError(_complaint(path, mode, code, said.read(2000).decode("utf-8", "replace"), seconds))
        arrays, metadata = read_checkpoint(result)
    return {name: value for name, value in arrays.items() if name != "version"}, json.loads(metadata["strings"])


def limits_of(size: int) -> tuple[int, int]:
    """Return the bytes and the seconds of computing that reading a file of some bytes may take."""
    return _LEAST_BYTES + _BYTES_PER_BYTE * size, _SECONDS + size // _BYTES_PER_SECOND


def _environment() -> dict[str, str]:
    """Return the child's environment: no plugins of HDF5, which are code, and no threads, which take memory."""
    return os.environ | {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _complaint(path: Path, mode: str, code: int, said: str, seconds: int) -> str:
    if code == hdf5_child.REFUSED:
        said = " ".join(said.split())
        if mode == "volume":
            return f"{path} {said.removeprefix('it ')}"  # it cannot be read as ..
        return f"{path} is damaged or no network of ZNN: {said}"
    if code == -getattr(signal, "SIGXCPU", 0):
        return f"{path} was not read within {seconds} seconds of computing: it is probably damaged"
    if code < 0:
        return f"{path} is damaged: the process that read it ended by signal {-code} ({signal.Signals(-code).name})"
    last = " ".join(said.strip().splitlines()[-1:])
    return f"{path} cannot be read: the process that read it ended with code {code}{f' ({last})' if last else ''}"
