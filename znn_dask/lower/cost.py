"""What a convolution costs by each algorithm, and the tile that makes the spectral one cheapest.

Rates are relative and were measured once (bench/kernels.py prints them for this machine); they only have to rank the
choices. The counts are those of the algorithm: transforms of 2.5 n log2 n, eight operations per complex multiply-add,
a pruned DFT of the kernel per frequency.
"""

import math
from functools import lru_cache
from itertools import product

from znn_dask.geometry import Triple, ceil_div, volume

# FFTW's rate over 16 to 64 lanes for cubes of n, in GFLOP/s; sizes that are not here run at a third of these.
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
LARGE_RATE = 4.0
PRODUCT_RATE = 50.0  # GFLOP/s of complex products
DFT_RATE = 25.0  # of the kernel's transform
DIRECT_RATE = 75.0
LANES = 16


def fft_sizes(n: int) -> tuple[int, ...]:
    """Return transform sizes worth trying for an axis of n voxels, ascending; the last is at least n."""
    sizes = sorted(FFT_RATE)
    whole = n
    while not _is_good(whole):
        whole += 1
    return (*(s for s in sizes if s < whole), whole)


def whole_size(size: Triple) -> Triple:
    """Return the smallest good transform size (2^a 3^b 5^c 7^d, even where possible) not below ``size``."""
    z, y, x = (next(m for m in range(n, 4 * n + 4) if _is_good(m)) for n in size)
    return z, y, x


def _is_good(n: int) -> bool:
    if n > 8 and n % 2:
        return False
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


def direct_cost(size: Triple, kernel: Triple, batch: int, n_in: int, n_out: int) -> float:
    """Return the time of one direct pass, in units of 1e-9 seconds of the reference."""
    voxels = math.prod(n - k + 1 for n, k in zip(size, kernel, strict=True))
    padded = ceil_div(n_out, LANES) * LANES
    return 2.0 * volume(kernel) * voxels * batch * n_in * padded / DIRECT_RATE


def spectral_cost(size: Triple, kernel: Triple, tile: Triple, batch: int, n_in: int, n_out: int) -> float:
    """Return the time of one spectral pass: its share of the transforms, the products, the kernel's DFT."""
    n_tiles = math.prod(ceil_div(n - k + 1, t - k + 1) for n, k, t in zip(size, kernel, tile, strict=True))
    frequencies = tile[0] * tile[1] * (tile[2] // 2 + 1)
    padded = ceil_div(n_out, LANES) * LANES
    transforms = n_tiles * batch * (n_in + n_out) * 2.5 * volume(tile) * math.log2(max(2, volume(tile)))
    products = 8.0 * frequencies * n_tiles * batch * n_in * padded
    dft = 8.0 * n_in * padded * (kernel[2] * frequencies + kernel[1] * kernel[2] * tile[0] * tile[1])
    return transforms / _fft_rate(tile) + products / PRODUCT_RATE + dft / DFT_RATE


def _fft_rate(tile: Triple) -> float:
    """Rate of a tile: the slowest of its axes that are transformed at all."""
    rates = [FFT_RATE.get(n, LARGE_RATE if n > 16 else 4.0) for n in tile if n > 1]
    return min(rates, default=20.0)


@lru_cache(maxsize=4096)
def best_tile(size: Triple, kernel: Triple, batch: int, n_in: int, n_out: int) -> Triple:
    """Return the tile (z, y, x) with the least `spectral_cost`.

    An axis on which the kernel has one tap is not transformed: its voxels are batch.
    """
    z, y, x = ((1,) if k == 1 else tuple(t for t in fft_sizes(n) if t >= k) for n, k in zip(size, kernel, strict=True))
    return min(product(z, y, x), key=lambda tile: (spectral_cost(size, kernel, tile, batch, n_in, n_out), tile))
