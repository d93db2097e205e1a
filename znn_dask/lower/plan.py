"""The plan: every choice about how a network is computed, made before anything runs.

A plan can be printed, saved with a model and compared. Results are bitwise the same for one plan whatever the
scheduler, policy or number of workers; so a plan does not depend on any of these.
"""

import math
from collections.abc import Mapping

import msgspec

from znn_dask.errors import ParameterError, nearest
from znn_dask.geometry import ONE, Triple, ceil_div, volume
from znn_dask.lower.cost import best_tile, direct_cost, spectral_cost, whole_size
from znn_dask.net import Convolution, MaxFilter, Network
from znn_dask.ops.fft import BACKENDS, EFFORTS, resolve_backend

ALGORITHMS = ("fft", "direct", "fft-stored")
GRANULARITIES = ("node", "edge")
SUMS = ("tree",)
BLOCK = 16  # channels: whole vectors of every instruction set, and the most tasks that cost nothing
ENTRIES = 16  # tiles and fragments that a task should have, to pay for transforming the kernel
FEWEST_ENTRIES = 2  # that it may have
GROUPS = 4  # that there should be, so that workers have something to share
SMALL_INPUT = 32**3  # voxels; inputs below this are computed several examples at a time


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user may ask of a plan; "auto" leaves the choice to the cost model."""

    convolution: str | dict[str, str] = "auto"
    granularity: str = "auto"
    block: int | str = "auto"
    fft_backend: str = "auto"
    fft_effort: str = "estimate"
    sum: str = "tree"


class ConvolutionPlan(msgspec.Struct, frozen=True):
    """How one convolution edge is computed; `tile` is the transform's size, (1, 1, 1) where there is none."""

    algorithm: str
    tile: Triple = ONE


class Plan(msgspec.Struct, frozen=True):
    """Every choice for one network, output size and batch.

    Attributes
    ----------
    output_size : dict of output to (z, y, x)
    batch : int
    convolutions : dict of edge to ConvolutionPlan
    blocks : dict of node to the widths of its channel blocks
    examples_per_group : int
        Examples in a batch group of the inputs.
    groups_after : dict of max-filter edge to int
        Into how many groups it splits each of its source's.
    granularity, sum, fft_backend, fft_effort : str
    """

    output_size: dict[str, Triple]
    batch: int
    convolutions: dict[str, ConvolutionPlan]
    blocks: dict[str, tuple[int, ...]]
    examples_per_group: int
    groups_after: dict[str, int]
    granularity: str
    sum: str
    fft_backend: str
    fft_effort: str

    def to_json(self) -> str:
        """Return the plan as text."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def from_json(text: str | bytes) -> "Plan":
        """Read a plan from text; raises msgspec.ValidationError if it is none."""
        return msgspec.json.decode(text, type=Plan)


def rounded_output(net: Network, output_size: Mapping[str, Triple]) -> dict[str, Triple]:
    """Return the output sizes raised to multiples of their sparsities, so that all fragments are of one size.

    All outputs grow by the same number of voxels, or else they would need nodes of different sizes.
    """
    grown = {name: list(size) for name, size in output_size.items()}
    for axis in range(3):
        steps = {name: net.sparsity_of(name)[axis] for name in output_size}
        for more in range(math.lcm(*steps.values())):
            if all((size[axis] + more) % steps[name] == 0 for name, size in output_size.items()):
                for size in grown.values():
                    size[axis] += more
                break
    return {name: (size[0], size[1], size[2]) for name, size in grown.items()}


def make_plan(net: Network, output_size: Mapping[str, Triple], batch: int, options: Options) -> Plan:
    """Choose how to compute a network.

    Parameters
    ----------
    net : Network
    output_size : mapping of output to (z, y, x)
        Dense voxels.
    batch : int
        Examples at once.
    options : Options

    Raises
    ------
    ParameterError
        If an option has no valid value.
    ShapeError
        If the outputs need different sizes of one node.
    """
    _check(net, batch, options)
    dense = net.node_sizes(rounded_output(net, output_size))
    sizes = {node: _fragment(size, net.sparsity_of(node)) for node, size in dense.items()}
    examples = max(1, min(batch, SMALL_INPUT // max(volume(sizes[name]) for name in net.inputs)))
    convolutions = {}
    for edge in net.edges.values():
        if isinstance(edge.op, Convolution):
            algorithm = _wanted(options, edge.name)
            convolutions[edge.name] = _convolution(net, edge.name, sizes[edge.source], batch, algorithm)
    blocks = {name: _blocks(node.channels, options.block) for name, node in net.nodes.items()}
    return Plan(
        output_size=dict(output_size),
        batch=batch,
        convolutions=convolutions,
        blocks=_shared(net, blocks),
        examples_per_group=examples,
        groups_after=_groups(net, sizes, convolutions, examples),
        granularity="node" if options.granularity == "auto" else options.granularity,
        sum=options.sum,
        fft_backend=resolve_backend(options.fft_backend),
        fft_effort=options.fft_effort,
    )


def _check(net: Network, batch: int, options: Options) -> None:
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ParameterError(f"batch must be an int of at least 1, got {batch!r}")
    edges = [e.name for e in net.edges.values() if isinstance(e.op, Convolution)]
    chosen = options.convolution
    for name in chosen if isinstance(chosen, Mapping) else ():
        if name not in edges:
            raise ParameterError(
                f"convolution names {name!r}, which is no convolution of this network: {', '.join(edges)}."
                f"{nearest(name, edges)}"
            )
    for value in chosen.values() if isinstance(chosen, Mapping) else (chosen,):
        _one_of("convolution", value, ("auto", *ALGORITHMS))
    _one_of("granularity", options.granularity, ("auto", *GRANULARITIES))
    _one_of("sum", options.sum, SUMS)
    _one_of("fft_effort", options.fft_effort, EFFORTS)
    block = options.block
    if block != "auto" and (isinstance(block, bool) or not isinstance(block, int) or block < 1):
        raise ParameterError(f"block must be 'auto' or a number of channels of at least 1, got {block!r}")


def _one_of(name: str, value: object, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ParameterError(f"{name} must be one of {', '.join(valid)}, got {value!r}")


def _wanted(options: Options, edge: str) -> str:
    if isinstance(options.convolution, Mapping):
        return options.convolution.get(edge, "auto")
    return options.convolution


def _fragment(size: Triple, sparsity: Triple) -> Triple:
    z, y, x = (n // s for n, s in zip(size, sparsity, strict=True))
    return z, y, x


def _convolution(net: Network, name: str, size: Triple, batch: int, wanted: str) -> ConvolutionPlan:
    edge = net.edges[name]
    op = edge.op
    assert isinstance(op, Convolution)
    n_in, n_out = net.nodes[edge.source].channels, net.nodes[edge.target].channels
    entries = batch * volume(net.sparsity_of(edge.source))
    if wanted == "direct":
        return ConvolutionPlan("direct")
    if wanted == "fft-stored":
        return ConvolutionPlan("fft-stored", whole_size(size))
    tile = best_tile(size, op.kernel, entries, n_in, n_out)
    direct = direct_cost(size, op.kernel, entries, n_in, n_out)
    if wanted == "auto" and direct <= spectral_cost(size, op.kernel, tile, entries, n_in, n_out):
        return ConvolutionPlan("direct")
    return ConvolutionPlan("fft", tile)


def _groups(
    net: Network, sizes: Mapping[str, Triple], convolutions: Mapping[str, ConvolutionPlan], examples: int
) -> dict[str, int]:
    """Return into how many groups each max-filter splits those of its source."""
    entries = dict.fromkeys(net.inputs, examples)
    groups_after: dict[str, int] = {}
    splits: dict[tuple[Triple, Triple], int] = {}
    whole = _filters_differ(net)
    for edge in net.edges.values():
        split = 1
        if isinstance(edge.op, MaxFilter):
            n_parities = volume(edge.op.stride)
            tiles = _tiles_after(net, edge.target, sizes, convolutions)
            n_entries = n_parities * entries[edge.source] * tiles
            wanted = max(1, n_entries // ENTRIES, min(GROUPS, n_entries // FEWEST_ENTRIES))
            split = max(d for d in range(1, n_parities + 1) if n_parities % d == 0 and d <= wanted)
            # Streams that meet later must be split alike; not at all if they were filtered in other ways.
            split = (
                1 if whole else splits.setdefault((net.sparsity_of(edge.source), net.sparsity_of(edge.target)), split)
            )
            groups_after[edge.name] = split
            entries[edge.target] = entries[edge.source] * n_parities // split
        else:
            entries[edge.target] = entries[edge.source]
    return groups_after


def _filters_differ(net: Network) -> bool:
    """Whether streams meet whose max-filters had different strides on the way."""
    passed: dict[str, set[tuple[Triple, ...]]] = {name: {()} for name in net.inputs}
    for edge in net.edges.values():
        stride = (edge.op.stride,) if isinstance(edge.op, MaxFilter) and edge.op.stride != ONE else ()
        passed.setdefault(edge.target, set()).update(before + stride for before in passed[edge.source])
    return any(len(ways) > 1 for ways in passed.values())


def _tiles_after(
    net: Network, node: str, sizes: Mapping[str, Triple], convolutions: Mapping[str, ConvolutionPlan]
) -> int:
    """Return the number of tiles of the first convolution after a node (1 for a direct one)."""
    for edge in net.outgoing(node):
        if not isinstance(edge.op, Convolution):
            return _tiles_after(net, edge.target, sizes, convolutions)
        plan = convolutions[edge.name]
        if plan.algorithm != "direct":
            counts = (
                ceil_div(n - k + 1, t - k + 1) for n, k, t in zip(sizes[node], edge.op.kernel, plan.tile, strict=True)
            )
            return volume(tuple(counts))  # type: ignore[arg-type]  # three of them
    return 1


def _blocks(channels: int, block: int | str) -> tuple[int, ...]:
    width = block if isinstance(block, int) else BLOCK
    return tuple(min(width, channels - first) for first in range(0, channels, width))


def _shared(net: Network, blocks: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Give nodes joined by edges that work map by map the same blocks: the finest among them."""
    joined = {name: {name} for name in net.nodes}
    for edge in net.edges.values():
        if not isinstance(edge.op, Convolution) and joined[edge.source] is not joined[edge.target]:
            together = joined[edge.source] | joined[edge.target]
            for name in together:
                joined[name] = together
    return {name: max((blocks[other] for other in sorted(joined[name])), key=len) for name in net.nodes}


def check_plan(net: Network, plan: Plan) -> None:
    """Raise a ParameterError unless a plan, read from a file perhaps, is one of this network."""
    convolutions = {e.name for e in net.edges.values() if isinstance(e.op, Convolution)}
    filters = {e.name for e in net.edges.values() if isinstance(e.op, MaxFilter)}
    channels = {name: node.channels for name, node in net.nodes.items()}
    fits = (
        set(plan.output_size) == set(net.outputs)
        and set(plan.convolutions) == convolutions
        and set(plan.groups_after) == filters
        and {name: sum(widths) for name, widths in plan.blocks.items()} == channels
        and _shared(net, plan.blocks) == plan.blocks
        and all(chosen.algorithm in ALGORITHMS for chosen in plan.convolutions.values())
        and min(plan.batch, plan.examples_per_group, *plan.groups_after.values(), 1) > 0
    )
    if not fits:
        raise ParameterError("its plan is not one of its network")
    _one_of("granularity", plan.granularity, GRANULARITIES)
    _one_of("sum", plan.sum, SUMS)
    _one_of("fft_effort", plan.fft_effort, EFFORTS)
    _one_of("fft_backend", plan.fft_backend, tuple(name for name in BACKENDS if name != "auto"))


def describe(net: Network, plan: Plan, peak_bytes: int | None) -> str:
    """Return the plan as a table."""
    rows = [("edge", "kind", "algorithm", "tile", "blocks in", "blocks out", "groups")]
    n_groups = {name: ceil_div(plan.batch, plan.examples_per_group) for name in net.inputs}
    for edge in net.edges.values():
        n_groups[edge.target] = n_groups[edge.source] * plan.groups_after.get(edge.name, 1)
        chosen = plan.convolutions.get(edge.name)
        rows.append(
            (
                edge.name,
                edge.op.kind,
                chosen.algorithm if chosen else "-",
                "x".join(map(str, chosen.tile)) if chosen and chosen.algorithm != "direct" else "-",
                "+".join(map(str, plan.blocks[edge.source])),
                "+".join(map(str, plan.blocks[edge.target])),
                f"{n_groups[edge.source]} -> {n_groups[edge.target]}",
            )
        )
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    sizes = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in plan.output_size.items())
    lines.append(
        f"output {sizes}; batch {plan.batch}; granularity {plan.granularity}; sum {plan.sum}; "
        f"transforms {plan.fft_backend}, {plan.fft_effort}d"
    )
    if peak_bytes is not None:
        lines.append(f"peak memory of a step about {peak_bytes / 2**20:,.0f} MiB")
    return "\n".join(lines)
