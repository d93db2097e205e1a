"""From what users say to what is computed: padded, strided and transposed convolutions in terms of dense ones.

A padded convolution is a valid one of a padded image. A strided one is dense between phases (Shi et al. 2016,
arXiv 1609.05158, turned round): with stride s, output voxel m reads input voxels s*m + d, and those of one phase p of
the input lattice by the taps d = p, p + s, p + 2s... alone. So the image is split into phases, which count as maps, and
every phase meets its own taps; no voxel is computed that is not wanted. A transposed convolution is the same from the
other side: its phases are computed from the image, then merged.
"""

from collections.abc import Iterator
from functools import lru_cache

from znn_dask.geometry import ONE, Triple, add, ceil_div, multiply, subtract, volume
from znn_dask.net import (
    Convolution,
    Crop,
    Edge,
    Merge,
    Network,
    Node,
    Op,
    Pad,
    PhasedConvolution,
    Split,
    TransposedConvolution,
)

NOTHING: Triple = (0, 0, 0)


@lru_cache(maxsize=64)
def expand(net: Network) -> Network:
    """Return a network of the same inputs, outputs and parameters whose convolutions are all valid and dense.

    One that has no others is returned as it is, and so is what was expanded before.
    """
    nodes: list[Node] = list(net.nodes.values())
    edges: list[Edge] = []
    for edge in net.edges.values():
        steps = list(_steps(edge, net.nodes[edge.target].channels, net.nodes[edge.source].channels))
        source = edge.source
        for suffix, op, channels in steps[:-1]:
            name = edge.name if isinstance(op, Convolution) else f"{edge.name}.{suffix}"
            nodes.append(Node(f"{edge.name}.{suffix}", channels))
            edges.append(Edge(name, source, f"{edge.name}.{suffix}", op))
            source = f"{edge.name}.{suffix}"
        suffix, op, _ = steps[-1]
        name = edge.name if len(steps) == 1 or isinstance(op, Convolution) else f"{edge.name}.{suffix}"
        edges.append(Edge(name, source, edge.target, op))
    return net if len(edges) == len(net.edges) else Network(nodes, edges, net.ndim)


def _steps(edge: Edge, n_out: int, n_in: int) -> Iterator[tuple[str, Op, int]]:
    """Yield the steps that an edge is made of: a name, an operation, the maps after it."""
    if isinstance(edge.op, TransposedConvolution):
        yield from _transposed(edge.op, n_in, n_out)
    elif isinstance(edge.op, Convolution):
        yield from _strided(edge.op, n_in, n_out)
    else:
        yield "", edge.op, n_out


def _strided(op: Convolution, n_in: int, n_out: int) -> Iterator[tuple[str, Op, int]]:
    if isinstance(op, PhasedConvolution) or (op.stride == ONE and op.padding.total == NOTHING):
        yield "", op, n_out
        return
    kernel = _dense(op.kernel, op.stride)
    # Phases must be of one size: taps beyond the kernel's end are zero and meet voxels that do not matter.
    least = subtract(subtract(op.kernel, op.stride), op.rest)  # what the image lacks
    after = subtract(add(least, subtract(multiply(kernel, op.stride), op.kernel)), op.padding.before)
    more = _at_least(after)
    if (op.padding.before, more) != (NOTHING, NOTHING):
        yield "pad", Pad(op.padding.before, more, op.padding.mode), n_in
    less = subtract(more, after)
    if less != NOTHING:
        yield "crop", Crop(NOTHING, less), n_in
    if op.stride == ONE:
        yield "conv", Convolution(op.kernel, op.init), n_out
        return
    yield "split", Split(op.stride), n_in * volume(op.stride)
    yield "conv", PhasedConvolution(kernel, op.init, learned=op.kernel, phases=op.stride, direction="down"), n_out


def _transposed(op: TransposedConvolution, n_in: int, n_out: int) -> Iterator[tuple[str, Op, int]]:
    kernel, n_phases = _dense(op.kernel, op.stride), volume(op.stride)
    if kernel != ONE:
        around = subtract(kernel, ONE)
        yield "pad", Pad(around, around), n_in
    phased = PhasedConvolution(kernel, op.init, learned=op.kernel, phases=op.stride, direction="up")
    yield "phases", phased, n_out * n_phases
    yield "merge", Merge(op.stride), n_out
    assert op.crop.after is not None
    # The taps beyond the kernel's end are zero: so are the voxels that they alone would reach.
    end = add(op.crop.after, subtract(multiply(kernel, op.stride), op.kernel))
    if (op.crop.before, end) != (NOTHING, NOTHING):
        yield "crop", Crop(op.crop.before, end), n_out


def _dense(kernel: Triple, stride: Triple) -> Triple:
    z, y, x = (ceil_div(k, s) for k, s in zip(kernel, stride, strict=True))
    return z, y, x


def _at_least(size: Triple) -> Triple:
    z, y, x = (max(n, 0) for n in size)
    return z, y, x
