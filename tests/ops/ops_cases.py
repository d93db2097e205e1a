"""What the tests of the operations share: shapes to draw, arrays from a seed, two checks of a derivative."""

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from znn_dask.ops import reference, transfer
from znn_dask.ops.transfer import Activation

# What the table of kernels calls itself, by what was wished for. Elsewhere there is only plain C++.
SETS = {"v2": "isa_v2", "v3": "isa_v3"} if platform.machine() in ("x86_64", "AMD64") else {"": "isa_plain"}

SEEDS = st.integers(0, 2**32 - 1)


def triples(low: int, high: int) -> st.SearchStrategy[tuple[int, int, int]]:
    """Sizes (z, y, x) with every axis between ``low`` and ``high``."""
    return st.tuples(*[st.integers(low, high)] * 3)


def normal(rng: np.random.Generator, *shape: int, dtype: Any = np.float64) -> np.ndarray:
    """Gaussian numbers of a shape."""
    return rng.standard_normal(shape).astype(dtype)


def grow(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    """The size of a valid input: a + b - 1 per axis."""
    return tuple(n + k - 1 for n, k in zip(a, b, strict=True))


def times(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    """The product per axis."""
    return tuple(n * k for n, k in zip(a, b, strict=True))


def philox(counter, key):
    """Return the four words of a counter of Philox4x32-10, as its authors define it."""
    low = 0xFFFFFFFF
    c, k = [counter & low, counter >> 32, 0, 0], [key & low, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & low, p0 >> 32 ^ c[3] ^ k[1], p0 & low]
        k = [k[0] + 0x9E3779B9 & low, k[1] + 0xBB67AE85 & low]
    return c


def convolution_arrays(seed, size, kernel, batch, blocks, n_out):
    """An image in channel blocks, kernels for them, and a gradient of the output."""
    rng = np.random.default_rng(seed)
    images = [normal(rng, batch, *grow(size, kernel), n, dtype=np.float32) for n in blocks]
    kernels = [normal(rng, *kernel, n, n_out, dtype=np.float32) for n in blocks]
    return images, kernels, normal(rng, batch, *size, n_out, dtype=np.float32)


def check_fused(way, problem, function, has_bias):
    """Compare `way`, direct or winograd, bit for bit with a convolution that is followed by the transfer function."""
    images, kernels, _ = convolution_arrays(*problem)
    n_out = kernels[0].shape[4]
    bias = normal(np.random.default_rng(0), n_out, dtype=np.float32) if has_bias else None
    args = tuple(2.0**-k - 0.3 for k, _ in enumerate(reference.TRANSFERS[function][0]))
    activation = Activation(function, args)
    expected = transfer.forward(way.forward(images, kernels), bias, activation)
    np.testing.assert_array_equal(way.forward_transfer(images, kernels, bias, activation), expected)


def assert_adjoint(left: np.ndarray, y: np.ndarray, x: np.ndarray, right: np.ndarray, rtol=1e-10) -> None:
    """Check <Ax, y> = <x, A'y>, given Ax = left and A'y = right."""
    assert left.shape == y.shape
    assert x.shape == right.shape
    one, other = np.vdot(left, y), np.vdot(x, right)
    scale = np.linalg.norm(left) * np.linalg.norm(y)
    assert abs(one - other) <= rtol * max(scale, 1e-30)


def assert_gradient(
    function: Callable[[np.ndarray], float],
    at: np.ndarray,
    gradient: np.ndarray,
    rng: np.random.Generator,
    rtol: float = 1e-6,
) -> None:
    """Compare a gradient with central differences along random directions; everything in float64."""
    assert gradient.shape == at.shape
    h = 1e-5
    for _ in range(3):
        direction = rng.standard_normal(at.shape)
        slope = (function(at + h * direction) - function(at - h * direction)) / (2 * h)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs(slope - np.vdot(gradient, direction)) <= rtol * scale + 1e-9


def on_threads(function: Callable[[], Any], num_workers: int, repetitions: int = 1) -> list[Any]:
    """Run a function on several threads that start together, and return all results."""
    start = threading.Barrier(num_workers)

    def work(_: int) -> list[Any]:
        start.wait(timeout=30)
        return [function() for _ in range(repetitions)]

    with ThreadPoolExecutor(num_workers) as pool:
        return [result for results in pool.map(work, range(num_workers), timeout=50) for result in results]


def run_with_instruction_set(program: str, wish: str) -> None:
    """Run a test file as a program on another instruction set; it checks, and prints what it ran on."""
    # Named, for where Python is told not to look in a program's own folder.
    folders = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path(program).parent))))
    result = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        env=os.environ | {"ZNN_DASK_ISA": wish, "PYTHONPATH": folders},
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == SETS[wish]
