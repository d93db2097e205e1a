"""How long one task takes: the operation itself, on random arrays of the task's shapes, in one thread."""

import math
import time
from collections.abc import Callable
from types import ModuleType

import numpy as np

from znn_dask.lower.layers import Work
from znn_dask.ops import direct, spectral, winograd
from znn_dask.ops.memory import Array, empty

ENOUGH_S = 0.02  # of repetitions of one task
MOST_CALLS = 7
FIRST_S = 0.1  # that the first call may take longer
RANDOM = np.random.default_rng(0).standard_normal(1 << 18, dtype=np.float32)


def seconds(work: Work, limit_s: float = math.inf) -> float:
    """Return the least time of a few calls; one call is enough if it takes more than ``limit_s``.

    It is the processor's time of this thread, to which other programs on a busy machine add little.
    """
    call = prepare(work)
    least, spent = math.inf, 0.0
    for n_calls in range(MOST_CALLS):
        start = time.thread_time()
        call()
        took = time.thread_time() - start
        least = min(least, took)
        # The first call also makes plans and takes memory from the system.
        spent = spent + took if n_calls else 0.0
        if spent > ENOUGH_S or took > limit_s + (0 if n_calls else FIRST_S):
            break
    return least


def prepare(work: Work) -> Callable[[], Array]:
    """Return the call of a task."""
    way = {"direct": direct, "winograd": winograd}.get(work.operation.partition("-")[0])
    return _spectral(work) if way is None else _plain(work, way)


def _plain(work: Work, way: ModuleType) -> Callable[[], Array]:
    size, kernel, entries, read, made = work.size, work.kernel, work.entries, work.read, work.made
    valid = tuple(n - k + 1 for n, k in zip(size, kernel, strict=True))
    if work.operation.endswith("forward"):
        images = [_random(entries, *size, width) for width in read]
        kernels = [_random(*kernel, width, made) for width in read]
        return lambda: way.forward(images, kernels)
    d_outputs = [_random(entries, *valid, width) for width in read]
    if work.operation.endswith("backward"):
        kernels = [_random(*kernel, made, width) for width in read]
        return lambda: way.backward(d_outputs, kernels)
    image, d_output = _random(entries, *size, read[0]), _random(entries, *valid, made)
    return lambda: way.kernel_gradient(image, d_output)


def _spectral(work: Work) -> Callable[[], Array]:
    tiling = spectral.Tiling(work.size, work.kernel, work.tile, work.backend or "pyfftw")
    entries, made = work.entries, work.made

    def spectrum(width: int) -> Array:
        return _random(*tiling.spectrum_shape(entries, width))

    if work.operation == "image-spectrum":
        image = _random(entries, *work.size, made)
        return lambda: spectral.image_spectrum(image, tiling)
    if work.operation == "gradient-spectrum":
        d_output = _random(entries, *tiling.output_size, made)
        return lambda: spectral.gradient_spectrum(d_output, tiling)
    spectra = [spectrum(width) for width in work.read]
    if work.operation == "output-image":
        return lambda: spectral.output_image(spectra[0], tiling)
    if work.operation == "gradient-image":
        return lambda: spectral.gradient_image(spectra[0], tiling)
    if work.operation == "spectral-gradient":
        d_spectrum = spectrum(made)
        return lambda: spectral.kernel_gradient(spectra[0], d_spectrum, tiling)
    backward = work.operation == "product-backward"
    kernels = [_random(*work.kernel, *((made, width) if backward else (width, made))) for width in work.read]
    return lambda: spectral.product(spectra, kernels, tiling, backward)


def _random(*shape: int) -> Array:
    # Drawing as many numbers as there are would take longer than the task.
    array = empty(shape)
    array.reshape(-1)[:] = np.resize(RANDOM, array.size)
    return array
