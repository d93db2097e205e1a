"""The kernels and shapes that `kernels.py` measures: those of the networks of `presets.py`, and what they must give.

Images are ``(entry, z, y, x, channel)``. Arithmetic is that of the algorithm: two operations per tap of a direct
convolution, eight per complex multiply-add of a product of spectra (the kernel's transform is not counted, though its
time is), 2.5 n log2 n of a real transform. Element-wise passes count the bytes they cannot avoid: every operand read
once, every result written once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from znn_dask.geometry import Triple, ceil_div, volume
from znn_dask.ops import direct, fft, reference, spectral, transfer, update, winograd
from znn_dask.ops import filter as filters
from znn_dask.ops.spectral import Tiling

RNG = np.random.default_rng(0)
MOST_ERROR = 1e-5  # relative, in the 2-norm
WANTED = {"direct": 0.65, "product": 0.45, "transform": 1.5, "element-wise": 0.7}

# What tuned plans of the presets ask of a batch group on a machine of two CPUs: how many tiles its entries have, of
# what size, the kernel, the maps; below, the lanes of a block. The last of each list are others, to compare.
PRODUCTS: tuple[tuple[int, Triple, Triple, int], ...] = (
    (16, (10, 10, 18), (3, 3, 3), 40),
    (32, (7, 7, 7), (3, 3, 3), 40),
    (32, (5, 5, 5), (3, 3, 3), 40),
    (4, (27, 27, 27), (5, 5, 5), 40),
    (16, (16, 16, 27), (5, 5, 5), 80),
    (32, (11, 11, 11), (5, 5, 5), 40),
    (32, (7, 7, 7), (5, 5, 5), 40),
    (16, (14, 40, 40), (7, 7, 7), 40),
    (32, (15, 15, 15), (7, 7, 7), 40),
    (32, (9, 9, 9), (7, 7, 7), 40),
    (16, (14, 24, 24), (5, 5, 5), 40),
    (20, (1, 32, 64), (1, 11, 11), 40),
    (24, (1, 24, 54), (1, 11, 11), 40),
    (8, (1, 42, 42), (1, 11, 11), 40),
    (8, (1, 24, 24), (1, 11, 11), 40),
    (24, (1, 80, 64), (1, 20, 20), 16),
    (8, (1, 90, 90), (1, 20, 20), 16),
    (8, (1, 32, 32), (1, 20, 20), 16),
    (16, (8, 8, 8), (3, 3, 3), 40),
    (8, (16, 16, 16), (5, 5, 5), 40),
    (8, (16, 16, 16), (7, 7, 7), 40),
    (4, (20, 20, 20), (7, 7, 7), 40),
)
TRANSFORMS: tuple[tuple[int, Triple, int], ...] = (
    (32, (5, 5, 5), 16),
    (32, (7, 7, 7), 16),
    (32, (9, 9, 9), 16),
    (16, (10, 10, 18), 16),
    (32, (11, 11, 11), 16),
    (32, (15, 15, 15), 16),
    (4, (27, 27, 27), 16),
    (16, (14, 40, 40), 16),
    (9, (32, 32, 32), 16),
    (20, (1, 32, 64), 16),
    (24, (1, 24, 54), 16),
    (8, (1, 42, 42), 16),
    (8, (1, 90, 90), 16),
    (1, (12, 12, 12), 40),
    (1, (16, 16, 16), 40),
    (1, (24, 24, 24), 40),
)


@dataclass
class Case:
    """One kernel on one shape.

    Attributes
    ----------
    kind : "direct" | "winograd" | "product" | "transform" | "element-wise"
    expected : callable
        The answer in float64; what `result` of an answer must equal.
    flop, n_bytes : float
        Arithmetic, and compulsory traffic; kinds other than element-wise have no traffic here.
    accepted : bool
        Whether the acceptance speaks of this shape.
    peers : callable
        Gives names and calls of what else computes it, for transforms.
    """

    kind: str
    name: str
    run: Callable[[], Any]
    expected: Callable[[], Any]
    flop: float = 0.0
    n_bytes: float = 0.0
    accepted: bool = True
    result: Callable[[Any], Any] = lambda answer: answer
    peers: Callable[[], list[tuple[str, Callable[[], Any]]]] = list

    def check(self) -> float:
        """Return the error relative to the reference in the 2-norm; stop if it is too large."""
        found, expected = self.result(self.run()), self.expected()
        pairs = list(zip(found, expected, strict=True)) if isinstance(expected, tuple) else [(found, expected)]
        error = max(_error(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs)
        if not error < MOST_ERROR:
            raise SystemExit(f"{self.name} differs from its reference by {error:.3g}: nothing was timed")
        return error


def _error(found: Any, expected: Any) -> float:
    if found.shape != expected.shape:
        raise SystemExit(f"an answer has shape {found.shape} instead of {expected.shape}")
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def random(*shape: int) -> Any:
    return RNG.standard_normal(shape, dtype=np.float32)


def wide(array: Any) -> Any:
    return array.astype(np.float64)


def cases() -> Iterator[Case]:
    """Yield every case; arrays are made only as it is asked for."""
    for width in (32, 40, 48, 64):
        yield from direct_cases(8, (14, 14, 14), (3, 3, 3), width, width)
    # Layers of CTMCTMCTCT, width 40, output 12^3, and of the two-dimensional networks.
    yield from direct_cases(8, (17, 17, 17), (3, 3, 3), 40, 40, blocked=True)
    yield from direct_cases(64, (7, 7, 7), (3, 3, 3), 40, 40)
    yield from direct_cases(64, (5, 5, 5), (3, 3, 3), 40, 40)
    yield from direct_cases(8, (14, 14, 14), (5, 5, 5), 40, 40, accepted=False)
    for kernel, side in ((3, 37), (5, 51)):
        yield from direct_cases(1, (side,) * 3, (kernel,) * 3, 1, 40, accepted=False)
    yield from direct_cases(1, (1, 160, 160), (1, 11, 11), 1, 40, accepted=False)
    for batch, size, kernel_size, n_in, n_out in (
        (8, (14, 14, 14), (3, 3, 3), 40, 40),
        (16, (1, 86, 86), (1, 3, 3), 48, 48),
        (16, (1, 38, 38), (1, 3, 3), 60, 60),
        (8, (16, 16, 16), (4, 4, 4), 40, 40),
    ):
        for way in (direct, winograd):
            yield from direct_cases(batch, size, kernel_size, n_in, n_out, accepted=False, way=way)
    for tiles, tile, taps, width in PRODUCTS:
        yield from product_cases(tiles, tile, taps, width, width)
    yield from product_cases(1, (16, 16, 16), (7, 7, 7), 1, 40, accepted=False)
    for tiles, tile, lanes in TRANSFORMS:
        yield from transform_cases(tiles, tile, lanes)
    for entries, n in ((8, 16), (1, 32)):
        yield from element_cases(entries, n, 40)


def direct_cases(
    batch: int,
    size: Triple,
    kernel_size: Triple,
    n_in: int,
    n_out: int,
    blocked: bool = False,
    accepted: bool = True,
    way: ModuleType = direct,
) -> Iterator[Case]:
    """Yield the three passes of a direct convolution; ``blocked`` also as blocks of 16 channels, as plans have them.

    ``way`` is `direct` or `winograd`, whose arithmetic counts as that of direct: so its fraction may be above one.
    """
    out = tuple(n - k + 1 for n, k in zip(size, kernel_size, strict=True))
    image, kernel = random(batch, *size, n_in), random(*kernel_size, n_in, n_out)
    d_output = random(batch, *out, n_out)
    flop = 2.0 * volume(kernel_size) * np.prod(out) * batch * n_in * n_out
    shape = f"{batch} x {_text(size)} k{_text(kernel_size)} {n_in}->{n_out}"
    forward = partial(reference.conv_forward, wide(image), kernel)
    backward = partial(reference.conv_input_gradient, wide(d_output), kernel)
    gradient = partial(reference.conv_kernel_gradient, wide(image), d_output)
    name = way.__name__.rpartition(".")[2]
    case = partial(Case, name, flop=flop, accepted=accepted)
    yield case(f"{name} forward {shape}", lambda: way.forward([image], [kernel]), forward)
    if n_in > 1:
        yield case(f"{name} input gradient {shape}", lambda: way.backward([d_output], [kernel]), backward)
    yield case(f"{name} kernel gradient {shape}", lambda: way.kernel_gradient(image, d_output), gradient)
    if blocked:
        cuts = range(16, n_in, 16)
        images = [np.ascontiguousarray(part) for part in np.split(image, cuts, axis=4)]
        kernels = [np.ascontiguousarray(part[..., :16]) for part in np.split(kernel, cuts, axis=3)]
        yield case(
            f"direct forward {shape}, 16 of them from blocks of 16",
            lambda: direct.forward(images, kernels),
            lambda: forward()[..., :16],
            flop=flop * 16 / n_out,
        )


def product_cases(
    batch: int, tile: Triple, kernel_size: Triple, n_in: int, n_out: int, accepted: bool = True
) -> Iterator[Case]:
    """Yield the products of one tile in each of ``batch`` entries; compared after the inverse transform."""
    tiling = Tiling(tile, kernel_size, tile, fft.library("native", tile))
    image, kernel = random(batch, *tile, n_in), random(*kernel_size, n_in, n_out)
    d_output = random(batch, *tiling.output_size, n_out)
    spectrum, d_spectrum = spectral.image_spectrum(image, tiling), spectral.gradient_spectrum(d_output, tiling)
    flop = 8.0 * volume(tiling.half) * batch * n_in * n_out
    shape = f"{batch} x {_text(tile)} k{_text(kernel_size)} {n_in}->{n_out}"
    case = partial(Case, "product", flop=flop, accepted=accepted)
    yield case(
        f"spectral product {shape}",
        lambda: spectral.product([spectrum], [kernel], tiling),
        lambda: reference.conv_forward(wide(image), kernel),
        result=lambda product: spectral.output_image(product, tiling),
    )
    if n_in > 1:
        yield case(
            f"spectral product backward {shape}",
            lambda: spectral.product([d_spectrum], [kernel], tiling, True),
            lambda: reference.conv_input_gradient(wide(d_output), kernel),
            result=lambda product: spectral.gradient_image(product, tiling),
        )
    yield case(
        f"spectral kernel gradient {shape}",
        lambda: spectral.kernel_gradient(spectrum, d_spectrum, tiling),
        lambda: reference.conv_kernel_gradient(wide(image), d_output),
    )


def transform_cases(tiles: int, tile: Triple, lanes: int) -> Iterator[Case]:
    """Yield both directions of some tiles, with all copies of ours, beside pyfftw without any."""
    tiling = Tiling(tile, (1, 1, 1), tile, "native")
    image = random(tiles, *tile, lanes)
    spectrum = spectral.image_spectrum(image, tiling)
    flop = 2.5 * volume(tile) * np.log2(volume(tile)) * lanes * tiles
    shape = f"{tiles} x {_text(tile)}, {lanes} lanes"
    yield Case(
        "transform",
        f"transform {shape}",
        lambda: spectral.image_spectrum(image, tiling),
        lambda: _spectrum(image),
        flop,
        peers=partial(fftw_plans, tiles, tile, lanes, forward=True),
    )
    yield Case(
        "transform",
        f"inverse transform {shape}",
        lambda: spectral.output_image(spectrum, tiling),
        lambda: wide(image),
        flop,
        peers=partial(fftw_plans, tiles, tile, lanes, forward=False),
    )


def _spectrum(image: Any) -> Any:
    """Return what `image_spectrum` should, (fz, fy, entry, fx, 2, channel)."""
    found = np.fft.rfftn(wide(image), axes=(1, 2, 3))
    return np.stack([found.real, found.imag], axis=4).transpose(1, 2, 0, 3, 4, 5)


def fftw_plans(tiles: int, tile: Triple, lanes: int, forward: bool) -> list[tuple[str, Callable[[], Any]]]:
    """Return executions of FFTW, one per effort and number of lanes at once; none where it is not installed."""
    if "pyfftw" not in fft.backends_for(tile):
        return []
    found: list[tuple[str, Callable[[], Any]]] = []
    for effort in fft.EFFORTS:
        for at_once in sorted({lanes, min(16, lanes), 8}):
            plan = fft.plan("pyfftw", tile, at_once, fft.learn("pyfftw", effort, [(tile, at_once)]))
            plan.real[...] = random(*tile, at_once)
            plan.forward()
            execute, times = plan.forward if forward else plan.inverse, tiles * ceil_div(lanes, at_once)
            found.append((f"{effort}, {at_once} lanes at once", partial(_several, execute, times)))
    return found


def _several(execute: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        execute()


def element_cases(entries: int, n: int, channels: int) -> Iterator[Case]:
    """Yield the passes between convolutions on images of ``entries x n^3 x channels``."""
    image, d_output, bias = (
        random(entries, n, n, n, channels),
        random(entries, n, n, n, channels),
        random(channels),
    )
    one = float(image.nbytes)
    shape = f"{entries} x {n}^3 x {channels}"
    for function in ("relu", "tanh"):
        activation = transfer.Activation(function)
        output = transfer.forward(image, bias, activation)
        yield Case(
            "element-wise",
            f"transfer {function} {shape}",
            partial(transfer.forward, image, bias, activation),
            partial(reference.transfer_forward, wide(image), bias, function),
            n_bytes=2 * one,
        )
        yield Case(
            "element-wise",
            f"transfer backward {function} {shape}",
            partial(transfer.backward, d_output, output, activation),
            partial(reference.transfer_backward, wide(d_output), output, function),
            n_bytes=3 * one,
        )
    yield from filter_cases(entries, n, channels)
    n_values = entries * n**3 * channels
    parameter, velocity, gradient = random(n_values), random(n_values), random(n_values)
    yield Case(
        "element-wise",
        f"sgd {n_values}",
        lambda: update.sgd(parameter, velocity, gradient, 0.1, 0.9, 0.0),
        lambda: reference.sgd(wide(parameter), velocity, gradient, 0.1, 0.9, 0.0),
        n_bytes=5 * one,
    )


def filter_cases(entries: int, n: int, channels: int) -> Iterator[Case]:
    """Yield max-filter and max-pool of window 2 and both gradients."""
    two = (2, 2, 2)
    padded = random(entries, n + 1, n + 1, n + 1, channels)
    even = padded[:, :n, :n, :n].copy()
    output, argmax = filters.max_filter(padded, two, two)
    pooled, index = filters.max_pool(even, two)
    d_output, d_pooled = random(*output.shape), random(*pooled.shape)
    large, small = float(padded.nbytes), float(output.nbytes + argmax.nbytes)
    tiny = float(pooled.nbytes + index.nbytes)
    shape, case = f"{entries} x {n}^3 x {channels}", partial(Case, "element-wise")
    yield case(
        f"max-filter 2^3 {shape}",
        lambda: filters.max_filter(padded, two, two),
        lambda: reference.max_filter(padded, two, two),
        n_bytes=large + small,
    )
    yield case(
        f"max-filter backward 2^3 {shape}",
        lambda: filters.max_filter_backward([d_output], [argmax], two, two, (n + 1,) * 3),
        lambda: reference.max_filter_backward(wide(d_output), argmax, two, two, (n + 1,) * 3),
        n_bytes=large + small,
    )
    yield case(
        f"max-pool 2^3 {shape}",
        lambda: filters.max_pool(even, two),
        lambda: reference.max_pool(even, two),
        n_bytes=float(even.nbytes) + tiny,
    )
    yield case(
        f"max-pool backward 2^3 {shape}",
        lambda: filters.max_pool_backward(d_pooled, index, two, (n,) * 3),
        lambda: reference.max_pool_backward(wide(d_pooled), index, two),
        n_bytes=float(even.nbytes) + tiny,
    )


def _text(size: Triple) -> str:
    return f"{size[0]}^3" if size[0] == size[1] == size[2] else "x".join(map(str, size))
