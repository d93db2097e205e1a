"""Each kernel by itself: time, rate, and how many times faster two threads are than one.

    python bench/kernels.py --workers 2

Kernels release the GIL, so threads that run them at once should reach the sum of their rates; the least that we
accept is 0.9 of it (1.8 for two threads). Every answer is compared with the reference before it is timed.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import environment, write_json

from znn_dask import _kernels
from znn_dask.ops import direct, fft, reference, spectral, transfer, update
from znn_dask.ops import filter as filters

LEAST = 0.9
RNG = np.random.default_rng(0)


class Case:
    """One kernel on one shape: what to run, what it must give, and its arithmetic."""

    def __init__(self, name: str, run: Callable[[], Any], expected: Callable[[], Any], flop: float) -> None:
        self.name, self.run, self.expected, self.flop = name, run, expected, flop

    def check(self) -> float:
        """Return the difference to the reference, relative to the largest value."""
        result, expected = _first(self.run()), _first(self.expected())
        error = float(np.abs(np.asarray(result, np.float64) - expected).max() / np.abs(expected).max())
        if not error < 1e-4:
            raise SystemExit(f"{self.name} differs from its reference by {error:.3g}: nothing was timed")
        return error


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def cases() -> list[Case]:
    return [*convolutions(8, 12, 3, 40), *convolutions(4, 16, 5, 40), *transforms(), *others()]


def convolutions(batch: int, n: int, k: int, width: int) -> list[Case]:
    image, kernel = random(batch, n, n, n, width), random(k, k, k, width, width)
    m = n - k + 1
    d_output = random(batch, m, m, m, width)
    tiling = spectral.Tiling((n, n, n), (k, k, k), (n, n, n), fft.resolve_backend("auto"))
    spectrum = spectral.image_spectrum(image, tiling)
    d_spectrum = spectral.gradient_spectrum(d_output, tiling)
    flop = 2.0 * (k * m) ** 3 * width**2 * batch
    products = 8.0 * np.prod(tiling.half) * batch * width**2
    shape = f"{n}^3 k{k} {width}x{width} batch {batch}"

    def inverse(product: np.ndarray) -> np.ndarray:
        return spectral.output_image(product, tiling)

    return [
        Case(
            f"direct forward {shape}",
            lambda: direct.forward([image], [kernel]),
            lambda: reference.conv_forward(image, kernel),
            flop,
        ),
        Case(
            f"direct kernel gradient {shape}",
            lambda: direct.kernel_gradient(image, d_output),
            lambda: reference.conv_kernel_gradient(image, d_output),
            flop,
        ),
        _Product(f"spectral product {shape}", spectrum, kernel, tiling, inverse, image, products),
        Case(
            f"spectral kernel gradient {shape}",
            lambda: spectral.kernel_gradient(spectrum, d_spectrum, tiling),
            lambda: reference.conv_kernel_gradient(image, d_output),
            products,
        ),
    ]


class _Product(Case):
    """A product of spectra, which is compared after the inverse transform."""

    def __init__(self, name, spectrum, kernel, tiling, inverse, image, flop) -> None:  # type: ignore[no-untyped-def]
        super().__init__(name, lambda: spectral.product([spectrum], [kernel], tiling), lambda: None, flop)
        self._compare = lambda: (inverse(self.run()), reference.conv_forward(image, kernel))

    def check(self) -> float:
        result, expected = self._compare()
        return Case(self.name, lambda: result, lambda: expected, 0).check()


def transforms() -> list[Case]:
    found = []
    for n, lanes in ((8, 64), (12, 64), (16, 32), (20, 16), (32, 16)):
        image = random(1, n, n, n, 4 * lanes)
        tiling = spectral.Tiling((n, n, n), (1, 1, 1), (n, n, n), fft.resolve_backend("auto"))
        expected = np.fft.rfftn(image.astype(np.float64), axes=(1, 2, 3))
        flop = 2.5 * n**3 * np.log2(n**3) * 4 * lanes
        found.append(
            Case(
                f"fft {n}^3, {4 * lanes} images, with copies",
                lambda image=image, tiling=tiling: spectral.image_spectrum(image, tiling),
                lambda expected=expected: np.stack([expected.real, expected.imag], axis=4),
                flop,
            )
        )
    return found


def others() -> list[Case]:
    image, bias = random(1, 32, 32, 32, 40), random(40)
    d_output = random(8, 16, 16, 16, 40)
    relu = transfer.Activation("relu")
    padded = random(1, 33, 33, 33, 40)
    _, argmax = filters.max_filter(padded, (2, 2, 2), (2, 2, 2))
    parameter = random(1_000_000)
    return [
        Case(
            "transfer 32^3 x 40",
            lambda: transfer.forward(image, bias, relu),
            lambda: reference.transfer_forward(image, bias, "relu"),
            2.0 * image.size,
        ),
        Case(
            "transfer backward 32^3 x 40",
            lambda: transfer.backward(image, image, relu),
            lambda: reference.transfer_backward(image, image, "relu"),
            2.0 * image.size,
        ),
        Case(
            "max-filter 2^3 33^3 x 40",
            lambda: filters.max_filter(padded, (2, 2, 2), (2, 2, 2)),
            lambda: reference.max_filter(padded, (2, 2, 2), (2, 2, 2)),
            8.0 * image.size,
        ),
        Case(
            "max-filter backward 2^3 33^3 x 40",
            lambda: filters.max_filter_backward([d_output], [argmax], (2, 2, 2), (2, 2, 2), (33, 33, 33)),
            lambda: reference.max_filter_backward(d_output, argmax, (2, 2, 2), (2, 2, 2), (33, 33, 33)),
            8.0 * image.size,
        ),
        Case(
            "sgd 1e6",
            lambda: update.sgd(parameter, parameter, parameter, 0.1, 0.9, 0.0),
            lambda: reference.sgd(parameter, parameter, parameter, 0.1, 0.9, 0.0),
            6.0 * parameter.size,
        ),
    ]


def seconds(run: Callable[[], Any], calls: int, n_threads: int) -> float:
    """Return the time for ``calls`` calls in each of some threads at once; they are started before the clock."""
    gate = threading.Barrier(n_threads + 1)

    def work() -> None:
        run()  # plans and scratch memory of this thread
        gate.wait()
        for _ in range(calls):
            run()

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    gate.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def measure(case: Case, workers: int, repetitions: int) -> dict[str, float]:
    """Return the rate of one thread, and how many times higher that of several is (median of alternating turns)."""
    once = min(seconds(case.run, 1, 1) for _ in range(3))
    calls = max(2, int(0.1 / once))
    alone, together = [], []
    for _ in range(repetitions):
        alone.append(seconds(case.run, calls, 1))
        together.append(seconds(case.run, calls, workers))
    speedup = statistics.median(workers * a / t for a, t in zip(alone, together, strict=True))
    per_call = statistics.median(alone) / calls
    return {"ms": per_call * 1e3, "gflop_per_s": case.flop / per_call / 1e9, "speedup": speedup}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", help="write the report here")
    args = parser.parse_args()
    report: dict[str, Any] = {"environment": {**environment(args.workers), "isa": _kernels.isa()}, "kernels": {}}
    for case in cases():
        if args.only not in case.name:
            continue
        error = case.check()
        result = measure(case, args.workers, args.repetitions)
        report["kernels"][case.name] = {**result, "error": error}
        mark = "" if result["speedup"] >= LEAST * args.workers else "  below what we accept"
        print(
            f"{case.name:52} {result['ms']:8.3f} ms {result['gflop_per_s']:7.1f} GFLOP/s "
            f"{args.workers} threads {result['speedup']:.2f} times{mark}",
            flush=True,
        )
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
