"""The passes of U-Nets beside convolutions, for `kernels.py`: borders, phases, pooling, upsampling, normalisation.

Each is compared with a copy of the bytes that it cannot avoid.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from kernel_cases import Case, random, wide

from znn_dask.ops import (
    border,
    maxout,
    normalise,
    phases,
    pool,
    reference_channels,
    reference_normalise,
    reference_sampling,
    softmax,
    upsample,
)

TWO = (2, 2, 2)
ONE = (1, 1, 1)


def unet_cases() -> Iterator[Case]:
    """Yield every case; arrays are made only as it is asked for."""
    for entries, n, channels in ((1, 64, 16), (8, 16, 40), (1, 32, 17), (1, 64, 1)):
        image = random(entries, n, n, n, channels)
        shape = f"{entries} x {n}^3 x {channels}"
        for name, operation, reference, arguments, images in (*moved(image), *resampled(image), *normalised(image)):
            yield case(f"{name} {shape}", operation, reference, arguments, images * image.nbytes)
    for channels in (2, 3, 16):
        yield from softmax_cases(random(1, 48, 48, 48, channels), f"1 x 48^3 x {channels}")


def case(
    name: str, operation: Callable[..., Any], reference: Callable[..., Any], arguments: Any, n_bytes: float
) -> Case:
    double = [wide(a) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in arguments]
    run, expected = partial(operation, *arguments), partial(reference, *double)
    return Case("element-wise", name, run, expected, n_bytes=float(n_bytes), accepted=False)


def moved(image: Any) -> Iterator[tuple[Any, ...]]:
    """Yield name, operation, reference, arguments, and how many images go by."""
    padded = border.pad(image, ONE, ONE, "zero")
    ratio = 1 + padded.nbytes / image.nbytes
    yield "pad zero 1", border.pad, reference_sampling.pad, (image, ONE, ONE, "zero"), ratio
    yield "pad mirror 1", border.pad, reference_sampling.pad, (image, ONE, ONE, "mirror"), ratio
    for mode in ("zero", "mirror"):
        arguments = padded, ONE, ONE, mode
        yield f"pad backward {mode} 1", border.pad_backward, reference_sampling.pad_backward, arguments, ratio
    yield "split 2^3", phases.split, reference_sampling.split, (image, TWO), 2
    yield "merge 2^3", phases.merge, reference_sampling.merge, (phases.split(image, TWO), TWO), 2


def resampled(image: Any) -> Iterator[tuple[Any, ...]]:
    small = pool.average_pool(image, TWO)
    yield "average pool 2^3", pool.average_pool, reference_sampling.average_pool, (image, TWO), 1.125
    backward: tuple[Any, ...] = pool.average_pool_backward, reference_sampling.average_pool_backward
    yield "average pool backward 2^3", *backward, (small, TWO), 1.125
    for mode in reference_sampling.UPSAMPLINGS:
        yield f"upsample {mode} 2^3 to", upsample.upsample, reference_sampling.upsample, (small, TWO, mode), 1.125
        backward = upsample.upsample_backward, reference_sampling.upsample_backward
        yield f"upsample {mode} backward 2^3", *backward, (image, TWO, mode), 1.125


def normalised(image: Any) -> Iterator[tuple[Any, ...]]:
    entries, channels = len(image), image.shape[4]
    examples, block, d = tuple(range(entries)), (0, channels), random(*image.shape)
    moments, scale, shift = normalise.moments(image, examples, entries), random(channels), random(channels)
    statistics = normalise.statistics([[moments]], image[0, ..., 0].size, "instance", 1, 1e-5)
    coefficients = random(*statistics.shape)
    yield "moments", normalise.moments, reference_normalise.moments, (image, examples, entries), 1
    arguments: Any = image, statistics, examples, block, scale, shift
    yield "normalise", normalise.apply, reference_normalise.apply, arguments, 2
    arguments = d, image, statistics, examples, block, entries
    yield "gradient moments", normalise.gradient_moments, reference_normalise.gradient_moments, arguments, 2
    arguments = d, image, statistics, coefficients, examples, block, scale
    yield "normalise backward", normalise.backward, reference_normalise.backward, arguments, 3


def softmax_cases(image: Any, shape: str) -> Iterator[Case]:
    outputs, d, other = softmax.softmax([image]), random(*image.shape), random(*image.shape)
    argmax, one = maxout.largest([image, other])[1], image.nbytes
    of_softmax = softmax.softmax_backward, reference_channels.softmax_backward
    of_largest = maxout.largest_backward, reference_channels.largest_backward
    yield case(f"softmax {shape}", softmax.softmax, reference_channels.softmax, ([image],), 2 * one)
    yield case(f"softmax backward {shape}", *of_softmax, ([d], outputs), 3 * one)
    yield case(f"largest of 2 {shape}", maxout.largest, reference_channels.largest, ([image, other],), 3.25 * one)
    yield case(f"largest backward {shape}", *of_largest, (d, argmax, 2), 3.25 * one)
