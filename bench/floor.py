"""The floor of one update: what its plan's algorithms have to compute and move, at the rates measured here.

Arithmetic: two operations per tap of a direct convolution and per product of a Winograd one, eight per complex
multiply-add of a product of spectra, 2.5 n log2 n of a transform; transforms of kernels on the fly are left out, those
of stored kernels are not. Bytes: every pass reads each operand once and writes its result once. Bytes that stay in a
cache from one pass to the next cost less than this says; so it is a floor to think with, not a limit.
"""

import math
from typing import Any, NamedTuple

from limits import copy_bytes_per_s, peak_flop_per_s

import znn_dask as znn
from znn_dask.geometry import volume
from znn_dask.lower import arrange
from znn_dask.lower.plan import PLAIN
from znn_dask.net import Convolution, MaxFilter, MaxPool, Transfer
from znn_dask.ops import winograd
from znn_dask.ops.filter import index_bytes
from znn_dask.ops.layout import Arrangement
from znn_dask.ops.spectral import Tiling

SMALLEST_COPY = 1 << 23


class Work(NamedTuple):
    """Floating-point operations of each kind, and bytes read and written."""

    direct: float = 0.0
    products: float = 0.0
    transforms: float = 0.0
    n_bytes: float = 0.0

    def plus(self, other: "Work") -> "Work":
        """Return the sum."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def flop(self) -> float:
        """All arithmetic."""
        return self.direct + self.products + self.transforms


def floor(model: znn.Model, workers: int) -> dict[str, Any]:
    """Return the work of one update of a model, the rates measured now, and the seconds that follow."""
    work = work_of(model)
    peak = peak_flop_per_s(workers)
    bandwidth = copy_bytes_per_s(workers, max(SMALLEST_COPY, model.plan.peak_bytes))
    return {
        "gflop": {name: getattr(work, name) / 1e9 for name in ("direct", "products", "transforms")},
        "gbytes": work.n_bytes / 1e9,
        "peak_gflop_per_s": peak / 1e9,
        "copy_gb_per_s": bandwidth / 1e9,
        "arithmetic_s": work.flop / peak,
        "bytes_s": work.n_bytes / bandwidth,
        "seconds": work.flop / peak + work.n_bytes / bandwidth,
    }


def work_of(model: znn.Model) -> Work:
    """Return the work of one update by the model's plan."""
    net, plan = model.net, model.plan.plan
    nodes = arrange(net, plan)
    total = Work()
    for edge in net.edges.values():
        source, target = nodes[edge.source], nodes[edge.target]
        ends = image_bytes(source), image_bytes(target)
        op, learns_below = edge.op, edge.source not in net.inputs
        if isinstance(op, Convolution):
            chosen = plan.convolutions[edge.name]
            total = total.plus(convolution(source, target, op.kernel, chosen.algorithms, chosen.tile, learns_below))
        elif isinstance(op, MaxFilter | MaxPool):
            index = ends[1] / 4 * index_bytes(op.window)
            total = total.plus(Work(n_bytes=(1 + learns_below) * (sum(ends) + index)))
        elif isinstance(op, Transfer):
            arriving = net.incoming(edge.source)
            fused = len(arriving) == 1 and isinstance(arriving[0].op, Convolution)
            total = total.plus(Work(n_bytes=(3 if fused else 5) * ends[0]))
        else:
            total = total.plus(Work(n_bytes=4 * ends[0]))
    losses = sum(3 * image_bytes(nodes[name]) for name in net.outputs)
    return total.plus(Work(n_bytes=losses + 5 * 4 * net.n_parameters))


def convolution(
    source: Arrangement,
    target: Arrangement,
    kernel: tuple[int, int, int],
    algorithms: tuple[str, str, str],
    tile: tuple[int, int, int],
    backward: bool,
) -> Work:
    """Return the work of a convolution's passes: output, input gradient if wanted, kernel gradient."""
    n_in, n_out, entries = source.n_channels, target.n_channels, n_entries(source)
    images, kernels = (image_bytes(source), image_bytes(target)), 4.0 * volume(kernel) * n_in * n_out
    wanted = (True, backward, True)
    plain = [name for name, want in zip(algorithms, wanted, strict=True) if want and name in PLAIN]
    each = {"direct": volume(kernel) * volume(target.size)}
    if winograd.fits(kernel):
        z, y, x = target.size
        each["winograd"] = kernel[0] * z * winograd.points(y, x, kernel[1])
    taps = 2.0 * entries * n_in * n_out * sum(each[name] for name in plain)
    work = Work(direct=taps, n_bytes=len(plain) * (sum(images) + kernels))
    forward_is, backward_is, gradient_is = (
        want and name not in PLAIN for name, want in zip(algorithms, wanted, strict=True)
    )
    products = forward_is + backward_is + gradient_is
    if not products:
        return work
    tiling = Tiling(source.size, kernel, tile)
    n_tiles = tiling.n_tiles * entries
    once = 2.5 * volume(tile) * math.log2(max(2, volume(tile)))
    lanes = (n_in * (forward_is or gradient_is), n_out * forward_is, n_out * (backward_is or gradient_is))
    n_lanes = sum(lanes) + n_in * backward_is
    spectra = [8.0 * volume(tiling.half) * n_tiles * n for n in (n_in, n_out)]
    # Of the four transforms those of the source's side move its image and spectrum, the others the target's.
    moved = (forward_is or gradient_is) + backward_is, forward_is + (backward_is or gradient_is)
    n_bytes = sum(count * (i + s) for count, i, s in zip(moved, images, spectra, strict=True))
    transforms = once * n_lanes * n_tiles
    if "fft-stored" in algorithms:
        transforms += 2 * once * n_in * n_out
        kernels = 8.0 * volume(tiling.half) * n_in * n_out
    return work.plus(
        Work(
            products=products * 8.0 * volume(tiling.half) * n_tiles * n_in * n_out,
            transforms=transforms,
            n_bytes=n_bytes + products * (sum(spectra) + kernels),
        )
    )


def n_entries(node: Arrangement) -> int:
    """Return the fragments of a node."""
    return sum(len(group) for group in node.groups)


def image_bytes(node: Arrangement) -> float:
    """Return the bytes of a node's images."""
    return 4.0 * n_entries(node) * volume(node.size) * node.n_channels
