"""Reads the HDF5 files of ZNN, and looks into others, in a process of its own: a file from a stranger can do no harm.

libhdf5 can abort, loop or ask for any amount of memory on a damaged file. So this file is run as a script
(`znn_hdf5` does) under limits of memory and time, and hands back numbers and text in a safetensors file; no object is
ever made from what a file says. It imports nothing of the package, so that it starts quickly.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import safetensors.numpy

try:
    import resource
except ImportError:  # Windows has no such limits; those on sizes and time remain
    resource = None  # type: ignore[assignment]

REFUSED = 3  # the exit code that goes with a message on standard error
NESTED = "/processing/znn/train"
MOST_ENTRIES = 100_000
_CURVES = ("train", "test")


class RefusedError(Exception):
    """The file cannot be used; the message says why."""


class Budget:
    """How many bytes and entries may still be read."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes, self.n_entries = n_bytes, MOST_ENTRIES

    def take(self, n_bytes: int, name: str) -> None:
        """Use some; raises a RefusedError if there are not so many."""
        self.n_bytes -= n_bytes
        self.n_entries -= 1
        if self.n_bytes < 0 or self.n_entries < 0:
            raise RefusedError(f"{name!r} would be more than a file of this size can hold")


def read(path: str, mode: str, n_bytes: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a network or learning curves; or open what a volume may be, which gives nothing.

    Parameters
    ----------
    path : str
    mode : "network", "curves" or "volume"
    n_bytes : int
        The most that all values together may take.

    Returns
    -------
    arrays, strings : dict
        By ``network/GROUP/KEY`` and ``statistics/train/KEY``; the string "nested" is "1" where the network lies
        in `NESTED`.
    """
    budget = Budget(n_bytes)
    arrays: dict[str, np.ndarray] = {}
    strings: dict[str, str] = {}
    with h5py.File(path, "r") as file:
        if mode == "volume":
            look_at_volumes(file, budget)
            return arrays, strings
        home = _find(file, NESTED)
        strings["nested"] = "0" if home is None else "1"
        curves = file if home is None else _find(home, "statistics")
        if mode == "network":
            network = file if home is None else _find(home, "network")
            if network is None:
                raise RefusedError(f"it has no group {NESTED}/network")
            # Curves may lie beside a network at the root.
            strings["groups"] = json.dumps(_read_network(network, home is None, budget, arrays, strings))
        if curves is not None:
            for name in _CURVES:
                group = _find(curves, name)
                if group is not None and "group_type" not in group:
                    _read_group(group, f"statistics/{name}", budget, arrays, strings)
    return arrays, strings


def _read_network(
    network: h5py.Group, at_root: bool, budget: Budget, arrays: dict[str, np.ndarray], strings: dict[str, str]
) -> list[str]:
    """Read the groups of a network; return their names in order."""
    groups = []
    for name, item in _members(network):
        if not isinstance(item, h5py.Group):
            raise RefusedError(f"{name!r} is no group of a network. ZNN's files have a group for every node and edge")
        if "group_type" not in item:
            if at_root and name in (*_CURVES, "processing"):
                continue
            raise RefusedError(f"group {name!r} has no group_type. ZNN's files have a group for every node and edge")
        _read_group(item, f"network/{name}", budget, arrays, strings)
        groups.append(name)
    return groups


def _read_group(
    group: h5py.Group, path: str, budget: Budget, arrays: dict[str, np.ndarray], strings: dict[str, str]
) -> None:
    for name, item in _members(group):
        if not isinstance(item, h5py.Dataset):
            raise RefusedError(f"{path}/{name!r} is no dataset")
        value = _value(item, f"{path}/{name}", budget)
        if isinstance(value, str):
            strings[f"{path}/{name}"] = value
        else:
            arrays[f"{path}/{name}"] = value


def look_at_volumes(file: h5py.File, budget: Budget) -> None:
    """Visit every dataset, and read a voxel of those whose chunks are no larger than the file may take."""

    def look(name: str, item: object) -> None:
        budget.take(0, name)
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "buif" and item.size:
            chunk = int(np.prod(item.chunks or (1,))) * item.dtype.itemsize
            if chunk <= budget.n_bytes:
                item[(0,) * item.ndim]

    file.visititems(look)


def _find(group: h5py.Group, path: str) -> h5py.Group | None:
    for part in path.strip("/").split("/"):
        if not isinstance(group, h5py.Group) or part not in group:
            return None
        _check_link(group, part)
        group = group[part]
    return group if isinstance(group, h5py.Group) else None


def _members(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    for number, name in enumerate(group):
        if number >= MOST_ENTRIES:
            raise RefusedError("it has too many entries")
        name.encode("utf-8")  # refused with the others that are no text
        _check_link(group, name)
        yield name, group[name]


def _check_link(group: h5py.Group, name: str) -> None:
    # A link may lead to any other file of the machine.
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise RefusedError(f"{name!r} is a link to somewhere else, which is not followed")


def _value(dataset: h5py.Dataset, name: str, budget: Budget) -> np.ndarray | str:
    if dataset.external or dataset.is_virtual:
        raise RefusedError(f"{name!r} lies in another file, which is not read")
    if dataset.shape is None:
        raise RefusedError(f"{name!r} is empty")
    if h5py.check_string_dtype(dataset.dtype) is not None:
        if dataset.shape != ():
            raise RefusedError(f"{name!r} has shape {dataset.shape}; a text must be a scalar")
        text = dataset[()]
        text = text.decode("utf-8") if isinstance(text, bytes) else str(text)
        budget.take(len(text), name)
        return text
    if dataset.dtype.kind not in "iuf" or dataset.dtype.itemsize > 8:
        raise RefusedError(f"{name!r} holds {dataset.dtype}; only numbers and text are read")
    budget.take(int(dataset.size) * dataset.dtype.itemsize, name)
    return np.array(dataset[()], dtype=dataset.dtype.newbyteorder("="), order="C")


def limit(n_bytes: int, seconds: int) -> None:
    """Limit this process: memory beyond what it has now, time on a CPU, the size of files, and no core files."""
    if resource is None:
        return
    with open("/proc/self/statm", encoding="ascii") if os.path.exists("/proc/self/statm") else open(os.devnull) as file:
        pages = (file.read().split() or ["0"])[0]
    now = int(pages) * resource.getpagesize()
    # The first limit of time ends it by a signal of its own, the second by SIGKILL.
    limits = {"RLIMIT_CPU": (seconds, seconds + 2), "RLIMIT_FSIZE": (2 * n_bytes,) * 2, "RLIMIT_CORE": (0, 0)}
    if now:
        limits["RLIMIT_AS"] = (now + 4 * n_bytes,) * 2
    for name, pair in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), pair)
        except (AttributeError, ValueError, OSError):
            # Not every system has every limit, and one that is lower already may not be raised.
            continue


def convert(source: str, destination: str, mode: str, n_bytes: int) -> str | None:
    """Read a file and write what it holds; return why it cannot be used, or None."""
    try:
        arrays, strings = read(source, mode, n_bytes)
        # Something must be in it: a file without any array would be malformed.
        whole = {"version": np.zeros(1, np.int64), **arrays}
        with open(destination, "wb") as file:
            file.write(safetensors.numpy.save(whole, {"strings": json.dumps(strings)}))
    except RefusedError as error:
        return str(error)
    except MemoryError:
        return "it needs more memory than a file of its size may take"
    except Exception as error:  # h5py raises whatever it likes on damaged files
        return f"it cannot be read as HDF5 ({' '.join(str(error).split()) or type(error).__name__})"
    return None


def main(arguments: list[str]) -> int:
    """Run as a script: SOURCE DESTINATION MODE BYTES SECONDS."""
    source, destination, mode, n_bytes, seconds = arguments
    limit(int(n_bytes), int(seconds))
    message = convert(source, destination, mode, int(n_bytes))
    if message is not None:
        print(message[:2000], file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
