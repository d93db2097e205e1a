"""What was measured, on the disk: one small file per layer shape, in a folder per machine and versions.

A file is written to a temporary name and renamed, so processes that tune at once cannot spoil it; the last one's
figures stay. A file that is damaged, of another machine or not for this layer is taken as absent and written anew. A
folder that cannot be written costs a warning.
"""

import hashlib
import importlib.metadata
import logging
import math
import platform
from functools import cache
from pathlib import Path

import msgspec

from znn_dask.config import cache_folder
from znn_dask.io.atomic import replacing
from znn_dask.lower.layers import Candidate, Layer, Times, works
from znn_dask.lower.plan import ConvolutionPlan
from znn_dask.ops.machine import instruction_set, kernels_digest

FORMAT = 1
PACKAGES = ("znn-dask", "numpy", "scipy", "pyfftw")
log = logging.getLogger("znn_dask.tune")
_told: set[Path] = set()  # folders of which it was said that they cannot be written


class Machine(msgspec.Struct, frozen=True):
    """What a time depends on besides the task."""

    format: int
    cpu: str
    instruction_set: str
    kernels: str
    versions: dict[str, str]


class Measured(msgspec.Struct, frozen=True):
    """A candidate's times in one batch group, by part; not ``complete`` if it was given up as too slow."""

    candidate: Candidate
    parts: Times
    complete: bool


class _File(msgspec.Struct, frozen=True):
    machine: Machine
    layer: Layer
    measured: list[Measured]
    choice: ConvolutionPlan | None  # of these, for whoever reads the file


@cache
def this_machine() -> Machine:
    """Return what this process runs on."""
    return Machine(FORMAT, _cpu(), instruction_set(), kernels_digest(), {name: _version(name) for name in PACKAGES})


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    # The numbers too: virtual machines name their processors loosely.
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "CPU part")
    found = dict(line.split(":", 1) for line in reversed(lines) if line.split("\t")[0].strip() in wanted)
    return "; ".join(sorted(f"{k.strip()} {v.strip()}" for k, v in found.items())) or platform.processor()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


class Store:
    """The files of one machine.

    Parameters
    ----------
    folder : Path, optional
        The cache folder of the configuration unless given.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._machine = this_machine()
        self.folder = (folder or cache_folder()) / "tuning" / _digest(self._machine)

    def path(self, layer: Layer) -> Path:
        """Return the file of a layer."""
        return self.folder / f"{_digest(layer)}.json"

    def read(self, layer: Layer) -> dict[Candidate, Measured]:
        """Return what is known of a layer; nothing if there is no file, or none of ours."""
        try:
            file = msgspec.json.decode(self.path(layer).read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError):
            return {}
        if file.machine != self._machine or file.layer != layer or not all(_is_sound(layer, m) for m in file.measured):
            return {}
        return {measured.candidate: measured for measured in file.measured}

    def write(self, layer: Layer, known: dict[Candidate, Measured], choice: ConvolutionPlan | None) -> None:
        """Keep what is known of a layer."""
        text = msgspec.json.format(msgspec.json.encode(_File(self._machine, layer, list(known.values()), choice)))
        try:
            with replacing(self.path(layer)) as temporary:
                temporary.write_bytes(text + b"\n")
        except OSError as error:
            if self.folder not in _told:
                _told.add(self.folder)
                log.warning(
                    "what was measured cannot be kept in %s (%s): every new model measures again. "
                    "Set ZNN_DASK_CACHE_DIR to a folder that can be written, or ZNN_DASK_TUNE=0",
                    self.folder,
                    error.strerror or error,
                )


def _is_sound(layer: Layer, measured: Measured) -> bool:
    times = measured.parts.values()
    if not all(math.isfinite(value) and value > 0 for value in times):
        return False
    return not measured.complete or measured.parts.keys() == works(layer, measured.candidate).keys()


def _digest(value: msgspec.Struct) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:20]
