"""Every operation of U-Nets beside its reference, on random shapes: for the tests and for each instruction set."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

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

CHANNELS = (1, 2, 3, 4, 7, 8, 13, 16, 17, 33, 40, 63, 65, 130)
Case = tuple[str, Callable[..., Any], Callable[..., Any], tuple[Any, ...]]


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def triple(rng: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    z, y, x = rng.integers(low, high + 1, 3)
    return int(z), int(y), int(x)


def times(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n * m for n, m in zip(a, b, strict=True))


def cases(rng: np.random.Generator, channels: int) -> Iterator[Case]:
    """Yield name, operation, reference and arguments."""
    yield from borders(rng, channels)
    yield from lattices(rng, channels)
    yield from resampling(rng, channels)
    yield from maps(rng, channels)
    yield from normalising(rng, channels)


def borders(rng: np.random.Generator, channels: int) -> Iterator[Case]:
    size, entries = triple(rng, 1, 7), int(rng.integers(1, 4))
    image = random(rng, entries, *size, channels)
    for mode in reference_sampling.MODES:
        before, after = (tuple(int(rng.integers(0, n if mode == "mirror" else 5)) for n in size) for _ in range(2))
        arguments = image, before, after, mode
        yield "pad", border.pad, reference_sampling.pad, arguments
        padded = reference_sampling.pad(*arguments)
        d = random(rng, *padded.shape)
        yield "pad backward", border.pad_backward, reference_sampling.pad_backward, (d, before, after, mode)
        yield "crop", border.crop, reference_sampling.crop, (padded, before, after)
        yield "crop backward", border.crop_backward, reference_sampling.crop_backward, (image, before, after)


def lattices(rng: np.random.Generator, channels: int) -> Iterator[Case]:
    stride, entries = triple(rng, 1, 3), int(rng.integers(1, 4))
    image = random(rng, entries, *times(triple(rng, 1, 4), stride), channels)
    yield "split", phases.split, reference_sampling.split, (image, stride)
    yield "merge", phases.merge, reference_sampling.merge, (reference_sampling.split(image, stride), stride)
    learned = triple(rng, 1, 5)
    size = tuple(-(-n // s) + int(rng.integers(0, 2)) for n, s in zip(learned, stride, strict=True))
    kernel, n = random(rng, *learned, 3, channels), int(np.prod(stride))
    pieces = [random(rng, *size, 3, channels) for _ in range(n)]
    for direction in reference_sampling.DIRECTIONS:
        arguments = kernel, stride, int(rng.integers(0, n)), size, direction
        yield "kernel phase", phases.kernel_phase, reference_sampling.kernel_phase, arguments
        arguments = pieces, stride, learned, direction
        yield "kernel gradient", phases.kernel_phase_gradient, reference_sampling.kernel_phase_gradient, arguments


def resampling(rng: np.random.Generator, channels: int) -> Iterator[Case]:
    factor, entries = triple(rng, 1, 4), int(rng.integers(1, 4))
    image = random(rng, entries, *triple(rng, 1, 5), channels)
    larger = random(rng, entries, *times(image.shape[1:4], factor), channels)
    yield "average pool", pool.average_pool, reference_sampling.average_pool, (larger, factor)
    yield "pool backward", pool.average_pool_backward, reference_sampling.average_pool_backward, (image, factor)
    for mode in reference_sampling.UPSAMPLINGS:
        yield f"{mode}", upsample.upsample, reference_sampling.upsample, (image, factor, mode)
        yield (
            f"{mode} backward",
            upsample.upsample_backward,
            reference_sampling.upsample_backward,
            (larger, factor, mode),
        )


def maps(rng: np.random.Generator, channels: int) -> Iterator[Case]:
    shape = int(rng.integers(1, 4)), *triple(rng, 1, 7)
    blocks = [random(rng, *shape, c) * np.float32(5) for c in (channels, 2, channels)]
    outputs, d = reference_channels.softmax(blocks), [random(rng, *block.shape) for block in blocks]
    yield "softmax", softmax.softmax, reference_channels.softmax, (blocks,)
    yield "softmax backward", softmax.softmax_backward, reference_channels.softmax_backward, (d, outputs)
    images = [rng.integers(-3, 3, (*shape, channels)).astype(np.float32) for _ in range(4)]
    yield "largest", maxout.largest, reference_channels.largest, (images,)
    argmax = rng.integers(0, 3, (*shape, channels)).astype(np.uint8)
    yield "largest backward", maxout.largest_backward, reference_channels.largest_backward, (images[0], argmax, 3)


def normalising(rng: np.random.Generator, channels: int) -> Iterator[Case]:
    image = random(rng, 4, *triple(rng, 1, 9), channels)
    d, examples, n_examples, block = random(rng, *image.shape), (1, 0, 1, 2), 3, (2, 2 + channels)
    statistics, coefficients = (random(rng, n_examples, 2, channels + 3) for _ in range(2))
    scale, shift = random(rng, channels), random(rng, channels)
    yield "moments", normalise.moments, reference_normalise.moments, (image, examples, n_examples)
    for a, b in ((scale, shift), (None, None)):
        arguments = image, statistics, examples, block, a, b
        yield "normalise", normalise.apply, reference_normalise.apply, arguments
        arguments = d, image, statistics, coefficients, examples, block, a
        yield "normalise backward", normalise.backward, reference_normalise.backward, arguments
    arguments = d, image, statistics, examples, block, n_examples
    yield "gradient moments", normalise.gradient_moments, reference_normalise.gradient_moments, arguments


def assert_equal(name: str, found: Any, expected: Any) -> None:
    """Compare an answer, or each of several, with its reference."""
    if isinstance(expected, tuple):
        assert len(found) == len(expected), name
        for part, other in zip(found, expected, strict=True):
            assert_equal(name, part, other)
        return
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype, name
    assert found.flags.c_contiguous, name
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * size, err_msg=name)


def check_all(rng: np.random.Generator, channels: int) -> None:
    """Compare every operation with its reference, and see that it left its arguments alone."""
    for name, operation, reference, arguments in cases(rng, channels):
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        arrays += [b for a in arguments if isinstance(a, tuple | list) for b in a if isinstance(b, np.ndarray)]
        before = [array.copy() for array in arrays]
        assert_equal(f"{name}, {channels} channels", operation(*arguments), reference(*arguments))
        for array, kept in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(array, kept, err_msg=name)
