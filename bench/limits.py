"""What the machine can do at this moment: multiply-adds of one core, and copies of a number of bytes.

Both are measured beside what is compared with them, in turns, so that a busy or throttled machine hits both alike.
"""

import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from znn_dask import _kernels
from znn_dask.ops.memory import empty

ROUNDS_PER_CALL = 1000
LARGE = 1 << 27  # bytes that no cache holds for one of several virtual machines


def fma_peak_run(seconds: float = 0.003) -> tuple[Callable[[], Any], float]:
    """Return a call that does nothing but multiply-adds in registers for about so long, and its operations."""
    start = time.perf_counter()
    _kernels.fma_peak(20 * ROUNDS_PER_CALL)
    once = (time.perf_counter() - start) / 20
    rounds = max(1, int(seconds / once)) * ROUNDS_PER_CALL
    return lambda: _kernels.fma_peak(rounds), _kernels.fma_peak(rounds)


@lru_cache(maxsize=2)  # arrays of the last two sizes only
def copy_run(n_bytes: int) -> Callable[[], Any]:
    """Return a call that moves so many bytes, reads and writes together, from one pooled array to another."""
    n = max(16, n_bytes // 8)
    source, target = empty((n,)), empty((n,))
    source.fill(1.0)
    return lambda: np.copyto(target, source)


def best_seconds(run: Callable[[], Any], repetitions: int = 9, n_threads: int = 1) -> float:
    """Return the least seconds of a call made by each of some threads at once."""
    return min(together(run, n_threads) for _ in range(repetitions))


def together(work: Callable[[], Any], n_threads: int, before: Callable[[], Any] = lambda: None) -> float:
    """Return the seconds of some work in each of some threads at once; what is done ``before`` is not on the clock."""
    gate = threading.Barrier(n_threads + 1)

    def wait_and_work() -> None:
        before()
        gate.wait()
        work()

    threads = [threading.Thread(target=wait_and_work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    gate.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def peak_flop_per_s(n_threads: int = 1) -> float:
    """Return the multiply-adds, counted as two operations, of all threads together in a second."""
    run, flop = fma_peak_run(0.02)
    return n_threads * flop / best_seconds(run, n_threads=n_threads)


def copy_bytes_per_s(n_threads: int = 1, n_bytes: int = LARGE) -> float:
    """Return the bytes read and written in a second by threads that copy together."""
    n = n_bytes // 8 // n_threads
    pairs = [(empty((n,)), empty((n,))) for _ in range(n_threads)]
    for source, target in pairs:
        source.fill(1.0)
        target.fill(0.0)
    left: list[tuple[Any, Any]] = []

    def run() -> None:
        source, target = left.pop()
        np.copyto(target, source)

    def turn() -> float:
        left[:] = pairs
        return best_seconds(run, 1, n_threads)

    return n_threads * n * 8 / min(turn() for _ in range(7))
