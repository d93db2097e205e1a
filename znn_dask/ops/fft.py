"""Real transforms of tiles: our own kernels, or a library's plans.

"native" transforms lines of up to 16 parts of up to 16 points, vectorised over channels; cutting, padding and what
follows the transform are part of its passes (see `spectral`). The rest of this module is for the libraries: one plan
per thread, size and direction, on memory of its own.

A tile has shape ``(z, y, x, lane)``; its transform is complex ``(z, y, x // 2 + 1, lane)``. Plans are made for a few
numbers of lanes, whatever the batch and channels, so there are few of them and a tile stays in the cache.

pyfftw does any size, scipy.fft is the fallback where it is missing. A plan of FFTW owns its arrays and must never run
in two threads at once: each thread makes its own. FFTW chooses its algorithm by a fixed estimate, which is the same in
every thread and process, or by measuring; what it measured (its wisdom) then travels with graphs and models, so that
here too all compute bitwise the same.
"""

import importlib.util
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import scipy.fft

from znn_dask.errors import ParameterError
from znn_dask.geometry import Triple, ceil_div, volume
from znn_dask.ops.memory import Array, empty

if importlib.util.find_spec("pyfftw") is not None:
    import pyfftw
else:
    pyfftw = None

BACKENDS = ("auto", "native", "pyfftw", "scipy")
LONGEST = 16  # points of a straight-line transform in the kernels
TILE_BYTES = 1 << 20  # a tile and its transform should stay in the L2 cache
AXES = (0, 1, 2)


class Plan(Protocol):
    """A transform with its own memory: fill `real`, call `forward`, read `spectrum`; or the other way round."""

    real: Array
    spectrum: npt.NDArray[np.float32]  # complex values as pairs: (z, y, x // 2 + 1, 2 * lane)

    def forward(self) -> None:
        """Transform `real` into `spectrum`."""

    def inverse(self) -> None:
        """Transform `spectrum` into `real`, without the factor 1 / voxels; destroys `spectrum`."""


class _FftwPlan:
    def __init__(self, size: Triple, lanes: int, effort: str) -> None:
        flags = (f"FFTW_{effort.upper()}",)
        half = (*size[:2], size[2] // 2 + 1, lanes)
        self.real = pyfftw.empty_aligned((*size, lanes), np.float32, n=64)
        complex_spectrum = pyfftw.empty_aligned(half, np.complex64, n=64)
        self.spectrum = complex_spectrum.view(np.float32)
        self._forward = pyfftw.FFTW(self.real, complex_spectrum, axes=AXES, flags=flags)
        self._inverse = pyfftw.FFTW(complex_spectrum, self.real, axes=AXES, direction="FFTW_BACKWARD", flags=flags)
        self.forward: Callable[[], None] = self._forward.execute
        self.inverse: Callable[[], None] = self._inverse.execute


class _ScipyPlan:
    def __init__(self, size: Triple, lanes: int) -> None:
        self._size = size
        self.real = empty((*size, lanes))
        self._complex = np.empty((*size[:2], size[2] // 2 + 1, lanes), np.complex64)
        self.spectrum = self._complex.view(np.float32)

    def forward(self) -> None:
        self._complex[...] = scipy.fft.rfftn(self.real, axes=AXES, workers=1)

    def inverse(self) -> None:
        self.real[...] = scipy.fft.irfftn(self._complex, s=self._size, axes=AXES, norm="forward", workers=1)


class Wisdom(NamedTuple):
    """How FFTW chooses its algorithms: by estimate, or as it has measured before.

    Attributes
    ----------
    effort : "estimate" | "measure"
    single : bytes
        What FFTW measured, in its own form; empty for estimates.
    """

    effort: str = "estimate"
    single: bytes = b""


EFFORTS = ("estimate", "measure")
ESTIMATE = Wisdom()


class _Planned(threading.local):
    """The plans of this thread."""

    def __init__(self) -> None:
        self.plans: dict[tuple[str, Triple, int, Wisdom], Plan] = {}


_planned = _Planned()
_planning = threading.Lock()  # owns FFTW's planner and the wisdom it holds


def resolve_backend(name: str) -> str:
    """Return the backend that a name stands for.

    Raises
    ------
    ParameterError
        If there is no such backend, or it is not installed.
    """
    if name not in BACKENDS:
        raise ParameterError(f"fft_backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name == "auto":
        return "native"
    if name == "pyfftw" and pyfftw is None:
        raise ParameterError("fft_backend 'pyfftw' is not installed: pip install pyfftw, or use fft_backend='scipy'")
    return name


def library(backend: str, size: Triple) -> str:
    """Return the backend that transforms a size where ``backend`` is wanted: "native" leaves odd sizes to a library."""
    if backend != "native" or native(size):
        return backend
    return "scipy" if pyfftw is None else "pyfftw"


def backends_for(size: Triple) -> tuple[str, ...]:
    """Return the backends that can transform a size (z, y, x), the likely fastest first."""
    rest = ("scipy",) if pyfftw is None else ("pyfftw",)
    return ("native", *rest) if native(size) else rest


def native(size: Triple) -> bool:
    """Whether our own kernels can transform a size (z, y, x)."""
    return all(_parts(n) for n in size)


@lru_cache(maxsize=4096)
def native_axes(size: Triple) -> list[Array]:
    """Return how "native" splits each axis: float32 exp(-2 pi i p k / n), (parts, points, 2), n = parts * points."""

    def table(n: int) -> Array:
        parts = _parts(n)
        angle = 2 * np.pi * (np.outer(np.arange(parts), np.arange(n // parts)) % n) / n
        values: npt.NDArray[Any] = np.stack([np.cos(angle), -np.sin(angle)], axis=-1)
        return np.ascontiguousarray(values, np.float32)

    return [table(n) for n in size]


def _parts(n: int) -> int:
    """Return into how many parts a line of n points is split, 0 if it is too long or has too large a prime."""
    if n <= LONGEST:
        return 1
    return max((p for p in range(2, LONGEST + 1) if n % p == 0 and p <= n // p <= LONGEST), default=0)


def plan(backend: str, size: Triple, lanes: int, wisdom: Wisdom = ESTIMATE) -> Plan:
    """Return this thread's plan for tiles of a size (z, y, x) with a number of lanes."""
    key = (backend, size, lanes, wisdom)
    found = _planned.plans.get(key)
    if found is None:
        if backend == "pyfftw":
            with _planning, _only(wisdom):
                found = _FftwPlan(size, lanes, wisdom.effort)
        else:
            found = _ScipyPlan(size, lanes)
        _planned.plans[key] = found
    return found


def learn(backend: str, effort: str, tiles: Iterable[tuple[Triple, int]], known: Wisdom | None = None) -> Wisdom:
    """Let FFTW measure what it does not know yet, and return all it knows then; nothing to do for estimates.

    Parameters
    ----------
    backend : str
    effort : "estimate" | "measure"
    tiles : iterable of (size, lanes)
        What will be transformed.
    known : Wisdom, optional
        What was learned before, which stays as it is.
    """
    if backend != "pyfftw" or effort == "estimate":
        return Wisdom(effort)
    with _planning, _only(known or Wisdom(effort)):
        for size, lanes in tiles:
            _FftwPlan(size, lanes, effort)
        return Wisdom(effort, pyfftw.export_wisdom()[1])


@contextmanager
def _only(wisdom: Wisdom) -> Iterator[None]:
    """Let FFTW know this and nothing else (in single precision) for a while, whatever the process learned before."""
    double, single, long_double = pyfftw.export_wisdom()
    pyfftw.forget_wisdom()
    nothing = pyfftw.export_wisdom()[1]
    pyfftw.import_wisdom((double, wisdom.single or nothing, long_double))
    try:
        yield
    finally:
        pyfftw.forget_wisdom()
        pyfftw.import_wisdom((double, single, long_double))


def lanes_for(size: Triple, n_lanes: int) -> int:
    """Return how many lanes of ``n_lanes`` to transform at once.

    A power of two that keeps a tile in the cache and wastes the fewest lanes; the largest of those.
    """
    largest = 64
    while largest > 8 and volume(size) * largest * 8 > TILE_BYTES:
        largest //= 2
    smallest = min(largest, 16)
    while smallest > 1 and smallest // 2 >= n_lanes:
        smallest //= 2
    choices = [1 << i for i in range(7) if smallest <= 1 << i <= largest]
    return min(choices, key=lambda lanes: (ceil_div(n_lanes, lanes) * lanes, -lanes))
