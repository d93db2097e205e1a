"""What a convolution costs by each algorithm, counted: proposes candidates and ranks them before any is measured.

Rates were measured once on one core with AVX-512; they only have to rank the choices. The counts are those of the
algorithm: transforms of 2.5 n log2 n, eight operations per complex multiply-add, a pruned DFT of the kernel per
frequency; and the bytes read and written, at the rate of memory.
"""

import math
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import permutations, product
from typing import Any

import msgspec
import numpy as np

from znn_dask.geometry import Triple, ceil_div, volume
from znn_dask.lower.layers import DIRECT, WINOGRAD, Asked, Candidate, Layer, Times, Work, works
from znn_dask.lower.plan import PLAIN
from znn_dask.ops import winograd
from znn_dask.ops.fft import LONGEST, backends_for, library

# FFTW's rate over 16 to 64 lanes for cubes of n, in GFLOP/s; those of sizes that are not here follow.
FFT_RATE = {
    2: 3.0,
    4: 6.0,
    6: 7.0,
    8: 9.0,
    10: 11.0,
    12: 10.5,
    14: 10.5,
    15: 11.0,
    16: 13.0,
    20: 8.5,
    28: 5.0,
    32: 9.0,
}
SMALL_RATE, LARGE_RATE = 7.0, 5.0  # of sizes up to 16 and above
# Time of a backend's transforms, FFTW's being 1.
BACKEND_TIME = {"native": 0.5, "pyfftw": 1.0, "scipy": 2.0}
PRODUCT_RATE = 70.0  # GFLOP/s of complex products
DFT_RATE = 40.0  # of the kernel's transform
DIRECT_RATE = 85.0
DIRECT_GRADIENT_RATE = 80.0
WINOGRAD_RATE = 80.0
WINOGRAD_TRANSFORM_RATE = 4.0  # values a nanosecond, there or back
MEMORY_RATE = 16.0  # GB/s, from the caches that cores share
LANES = 16
CALL_S = 20e-6  # of a task
MOST_TILES = 7  # that are proposed for a layer
LARGEST_LISTED = 32


def whole_size(size: Triple) -> Triple:
    """Return the smallest good transform size (2^a 3^b 5^c 7^d, even where possible) not below ``size``."""
    z, y, x = (next(m for m in range(n, 4 * n + 4) if _is_good(m) and (m <= 8 or m % 2 == 0)) for n in size)
    return z, y, x


def _is_good(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


def tile_sizes(n: int, k: int) -> tuple[int, ...]:
    """Return the transform sizes worth trying along an axis of n voxels for k taps, ascending.

    Of sizes that cut the axis into the same number of tiles, a larger one is worth it only if it runs faster.
    An axis on which the kernel has one tap is not transformed: its voxels are batch.
    """
    if k == 1:
        return (1,)
    whole = whole_size((n, n, n))[0]
    listed = [m for m in range(k, whole) if m <= LONGEST or (_is_good(m) and (m <= LARGEST_LISTED or m % 16 == 0))]
    found: dict[int, tuple[int, float]] = {}
    sizes = []
    for m in [*listed, whole]:
        count, rate = ceil_div(n - k + 1, m - k + 1), _axis_rate(m)
        before = found.get(count)
        if before is None or rate / m > before[1]:
            found[count] = m, rate / m
            sizes.append(m)
    return tuple(sizes)


def predict(asked: Asked) -> list[dict[Candidate, Times]]:
    """Return the counted times of every candidate: the `Timing` that measures nothing."""
    return [{candidate: predicted(layer, candidate) for candidate in candidates} for layer, candidates in asked]


@lru_cache(maxsize=4096)
def predicted(layer: Layer, candidate: Candidate) -> Times:
    """Return the seconds of every part of a layer."""
    parts = works(layer, candidate)
    return {name: layer.groups * sum(work_seconds(work) for work in tasks) for name, tasks in parts.items()}


def work_seconds(work: Work) -> float:
    """Return the counted time of one task."""
    counted = {"direct": _direct, "winograd": _winograd}.get(work.operation.partition("-")[0], _spectral)
    flops, moved = counted(work)
    # Nanoseconds: billions of operations a second, billions of bytes a second.
    return CALL_S + 1e-9 * (flops + moved / MEMORY_RATE)


def _direct(work: Work) -> tuple[float, float]:
    voxels = math.prod(n - k + 1 for n, k in zip(work.size, work.kernel, strict=True))
    n_read, padded = sum(work.read), ceil_div(work.made, LANES // 2) * LANES // 2
    rate = DIRECT_GRADIENT_RATE if work.operation == "direct-gradient" else DIRECT_RATE
    operations = 2.0 * volume(work.kernel) * voxels * work.entries * n_read * padded
    return operations / rate, 4.0 * work.entries * volume(work.size) * (n_read + work.made)


def _winograd(work: Work) -> tuple[float, float]:
    z, y, x = (n - k + 1 for n, k in zip(work.size, work.kernel, strict=True))
    if work.operation == "winograd-backward":
        z, y, x = work.size
    n_read, padded = sum(work.read), ceil_div(work.made, LANES // 2) * LANES // 2
    kz, ky, _ = work.kernel
    points = winograd.points(y, x, ky) * work.entries
    products = 2.0 * kz * points * z * n_read * padded
    transformed = points * ((z + kz - 1) * n_read + z * padded)
    moved = 4.0 * work.entries * volume(work.size) * (n_read + work.made)
    return products / WINOGRAD_RATE + transformed / WINOGRAD_TRANSFORM_RATE, moved


def _spectral(work: Work) -> tuple[float, float]:
    speed = BACKEND_TIME.get(work.backend, 1.0) / _fft_rate(work.tile)
    return _spectral_counts(work, work.tile, math.log2(max(2, volume(work.tile))), speed)


def _spectral_counts(work: Work, tile: Any, log_points: Any, speed: Any) -> tuple[Any, Any]:
    """Return the time of the operations and the bytes moved of a task; of many tiles at once, if these are arrays."""
    n_read, padded = sum(work.read), ceil_div(work.made, LANES) * LANES
    counts = (ceil_div(n - k + 1, t - k + 1) for n, k, t in zip(work.size, work.kernel, tile, strict=True))
    batch = math.prod(counts) * work.entries
    frequencies = tile[0] * tile[1] * (tile[2] // 2 + 1)
    if work.backend:
        points = math.prod(tile)
        operations = _lanes(batch, work.made) * 2.5 * points * log_points
        moved = batch * work.made * (4.0 * points + 8.0 * frequencies)
        return operations * speed, moved
    products = 8.0 * frequencies * batch * n_read * padded
    _, ky, kx = work.kernel
    dft = 8.0 * n_read * padded * (kx * frequencies + ky * kx * tile[0] * tile[1])
    return products / PRODUCT_RATE + dft / DFT_RATE, 8.0 * frequencies * batch * (n_read + work.made)


def _lanes(batch: Any, channels: int) -> Any:
    """Return the lanes of vectors that transforms take: where channels are few, tiles share a vector."""
    if 2 * channels < LANES:
        return ceil_div(batch, LANES // channels) * LANES
    return batch * channels


def _axis_rate(n: int) -> float:
    return FFT_RATE.get(n, LARGE_RATE if n > 16 else SMALL_RATE)


def _fft_rate(tile: Triple) -> float:
    """Rate of a tile: the slowest of its axes that are transformed at all."""
    return min((_axis_rate(n) for n in tile if n > 1), default=20.0)


@lru_cache(maxsize=1024)
def candidates(layer: Layer, algorithm: str, backend: str) -> tuple[Candidate, ...]:
    """Return what is worth considering for a layer, the cheapest tiles by the counts and the whole image among it.

    Parameters
    ----------
    layer : Layer
    algorithm : "auto" | "direct" | "winograd" | "fft"
        "winograd" is "direct" for a kernel that it is not for.
    backend : str
        Of the transforms; "auto" for each that can do a size.
    """
    fits = winograd.fits(layer.kernel)
    if algorithm in PLAIN:
        return (WINOGRAD if fits and algorithm == "winograd" else DIRECT,)
    proposed = [Candidate("fft", tile, able) for tile in _tiles(layer, backend) for able in _backends(backend, tile)]
    plain = (DIRECT, WINOGRAD) if fits else (DIRECT,)
    return (*plain, *proposed) if algorithm == "auto" else tuple(proposed)


def _tiles(layer: Layer, backend: str) -> list[Triple]:
    # Ranked with whole nodes as blocks: quicker, and the order is nearly the same.
    merged = msgspec.structs.replace(layer, blocks_in=(sum(layer.blocks_in),), blocks_out=(sum(layer.blocks_out),))

    @cache
    def cost(tile: Triple) -> tuple[float, Triple]:
        parts = works(merged, Candidate("fft", tile, _backends(backend, tile)[0]))
        return sum(work_seconds(work) for tasks in parts.values() for work in tasks), tile

    z, y, x = (tile_sizes(n, k) for n, k in zip(layer.size, layer.kernel, strict=True))
    proposed: Iterable[Triple] = product(z, y, x)
    if z != y or y != x:
        proposed = _promising(merged, list(proposed), backend, 4 * MOST_TILES)
    else:
        # Three numbers in all their orders cost nearly the same: of the best ones, the best order.
        forms = [(a, b, c) for a in z for b in z for c in z if a <= b <= c]
        forms = sorted(_promising(merged, forms, backend, 6 * MOST_TILES), key=cost)
        proposed = [min(_orders(form), key=cost) for form in forms[: 3 * MOST_TILES]]
    found = sorted(proposed, key=cost)[:MOST_TILES]
    whole = (z[-1], y[-1], x[-1])
    return found if whole in found else [*found, whole]


def _promising(merged: Layer, tiles: list[Triple], backend: str, most: int) -> list[Triple]:
    """Return the cheapest tiles, counted all at once: one by one, thousands of them take longer than a prediction."""
    if len(tiles) <= most:
        return tiles
    sizes = np.array(tiles, np.float64).T
    log_points = np.log2(np.maximum(2.0, sizes.prod(axis=0)))
    backends = [_backends(backend, tile)[0] for tile in tiles]
    speed = np.array([BACKEND_TIME.get(b, 1.0) / _fft_rate(t) for b, t in zip(backends, tiles, strict=True)])
    seconds = np.zeros(len(tiles))
    for tasks in works(merged, Candidate("fft", tiles[0], backends[0])).values():
        for work in tasks:
            flops, moved = _spectral_counts(work, sizes, log_points, speed)
            seconds += flops + moved / MEMORY_RATE
    return [tiles[n] for n in np.argpartition(seconds, most)[:most]]


def _orders(form: Triple) -> list[Triple]:
    return [(a, b, c) for a, b, c in permutations(form)]


def _backends(wanted: str, tile: Triple) -> tuple[str, ...]:
    return backends_for(tile) if wanted == "auto" else (library(wanted, tile),)
