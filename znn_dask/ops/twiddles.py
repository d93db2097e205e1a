"""Tables of the transforms of kernels, which the spectral products take along.

The transform of k taps at n frequencies is a sum over taps. Taken about their centre, opposite taps meet the same
cosine and opposite sines, so the kernels need one table of real numbers per axis; see `Twiddles` in kernels/table.hpp.
"""

from functools import lru_cache

import numpy as np

from znn_dask.geometry import Triple
from znn_dask.ops.memory import Array


@lru_cache(maxsize=4096)
def twiddles(size: Triple, kernel: Triple) -> tuple[Array, Array, Array]:
    """Return the table of each axis of a transform (z, y, x) for kernels of some size.

    Returns
    -------
    three float32 arrays of shape (n // 2 + 1, k + 2)
        In the row of frequency f: cosines of the taps up to the centre, sines of those after it, then cosine and sine
        of the centre itself; each of 2 pi f / n times the distance.
    """
    z, y, x = (_table(n, k) for n, k in zip(size, kernel, strict=True))
    return z, y, x


def _table(n: int, k: int) -> Array:
    # Distances are counted in halves, so that angles are reduced exactly.
    halves = np.arange(k) * 2 - (k - 1)
    angles = np.outer(np.arange(n // 2 + 1), np.append(halves, k - 1)) % (2 * n) * (np.pi / n)
    n_even = k - k // 2
    columns = [np.cos(angles[:, :n_even]), np.sin(angles[:, n_even:k]), np.cos(angles[:, k:]), np.sin(angles[:, k:])]
    return np.ascontiguousarray(np.concatenate(columns, axis=1), np.float32)
