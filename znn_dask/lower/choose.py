"""Making the plan: batch groups, channel blocks, and an algorithm for every pass of every convolution.

The cost model proposes and a `Timing` tells how long the proposals take: by the counts again, or as measured on this
machine (`tune`). Nothing here depends on the number of workers; that there are a few tasks to share for several is a
rule about blocks and groups.
"""

import math
from collections.abc import Mapping

import msgspec

from znn_dask.geometry import ONE, Triple, ceil_div, volume
from znn_dask.lower.bands import choose_bands, front_of, joining, sizes_in_bands
from znn_dask.lower.blocks import shared_blocks
from znn_dask.lower.cost import candidates, predict, whole_size, work_seconds
from znn_dask.lower.expand import expand
from znn_dask.lower.layers import Layer, Timing, best, candidate_of, seconds_of, used, works
from znn_dask.lower.plan import (
    PASSES,
    ConvolutionPlan,
    Options,
    Plan,
    check_options,
    fragment_sizes,
    learning_nodes,
)
from znn_dask.lower.slabs import choose_slabs, sizes_in_slabs
from znn_dask.net import Convolution, MaxFilter, Network
from znn_dask.ops.fft import library, resolve_backend

WIDEST_BLOCKS = (64, 32, 16)  # channels; how wide blocks may be is one of the choices
NARROWEST_BLOCK = 16  # a whole vector of every instruction set: less would leave lanes idle
SHORTEST_SHARE_S = 0.2e-3  # of a kernel gradient, counted
FEWEST_TILES = 2  # that a group may have, those of all its fragments
ENOUGH_TILES = 256  # that pay for transforming all kernels
PLAIN_TILE = 64  # voxels that count as a tile where images are not transformed
WAYS = (2, 1)  # tasks to a group; groups cost transforms of kernels, blocks those of images
WORTH_ANOTHER_WAY = 0.95  # of the counted time
SMALL_INPUT = 32**3  # voxels; inputs below this are computed several examples at a time
ROUNDS = 3  # of choosing tiles for groups and groups for tiles

Blocks = dict[str, tuple[int, ...]]
Convolutions = dict[str, ConvolutionPlan]


def make_plan(
    net: Network,
    output_size: Mapping[str, Triple],
    batch: int,
    options: Options,
    timing: Timing = predict,
    blocks: Mapping[str, tuple[int, ...]] | None = None,
    training: bool = True,
) -> Plan:
    """Choose how to compute a network.

    Parameters
    ----------
    net : Network
    output_size : mapping of output to (z, y, x)
        Dense voxels.
    batch : int
        Examples at once.
    options : Options
    timing : callable
        Says how long candidates take; the cost model unless given.
    blocks : mapping of node to widths, optional
        Channel blocks that are settled already.
    training : bool
        Whether gradients will be computed.

    Raises
    ------
    ParameterError
        If an option has no valid value.
    ShapeError
        If the outputs need different sizes of one node.
    """
    check_options(net, batch, options)
    choice = _Choice(net, output_size, batch, options, training)
    variants = choice.settle(blocks)
    convolutions, chosen_blocks = choice.decide(variants, timing)
    return Plan(
        output_size=dict(output_size),
        batch=batch,
        convolutions=choice.shared(convolutions, chosen_blocks),
        blocks=chosen_blocks,
        examples_per_group=choice.examples,
        groups_after=choice.groups_after,
        granularity=choice.granularity,
        sum=options.sum,
        fft_effort=options.fft_effort,
        slabs=choice.slabs,
        bands=choice.bands,
    )


def layers_of(net: Network, plan: Plan) -> dict[str, Layer]:
    """Return the convolution layers as a plan has them."""
    choice = _Choice(net, plan.output_size, plan.batch, Options(granularity=plan.granularity), True)
    choice.groups_after = plan.groups_after
    choice.set_pieces(plan.slabs, plan.bands)
    return choice.layers(plan.blocks, choice.grouped())


class _Choice:
    """What is known while a plan is made; `settle` fixes the groups, `decide` the rest."""

    def __init__(
        self, net: Network, output_size: Mapping[str, Triple], batch: int, options: Options, training: bool
    ) -> None:
        self.net, self.batch, self.options, self.training = expand(net), batch, options, training
        net = self.net
        whole = fragment_sizes(net, output_size)
        self.examples = max(1, min(batch, SMALL_INPUT // max(volume(whole[name]) for name in net.inputs)))
        self._whole = whole
        tasks = ceil_div(options.tasks, ceil_div(batch, self.examples))
        slabs = choose_slabs(net, whole, tasks)
        self.set_pieces(slabs, 1 if slabs > 1 else choose_bands(net, whole, tasks))
        self.granularity = "node" if options.granularity == "auto" else options.granularity
        self.groups_after: dict[str, int] = {}

    def set_pieces(self, slabs: int, bands: int) -> None:
        """Cut images into so many slabs, those before the first filter into so many bands."""
        self.slabs, self.bands, self.joined = slabs, bands, joining(self.net, bands)
        self.front = front_of(self.net) if bands > 1 else None
        self.sizes = sizes_in_bands(self.net, sizes_in_slabs(self.net, self._whole, slabs), bands)

    @property
    def _input_groups(self) -> int:
        return ceil_div(self.batch, self.examples) * self.slabs * self.bands

    def settle(self, blocks: Mapping[str, tuple[int, ...]] | None) -> list[Blocks]:
        """Fix the groups by the cost model; return the channel blocks to choose from, widest first."""
        # At first as if all were one task, since the groups are not known yet.
        whole: Blocks = {name: (node.channels,) for name, node in self.net.nodes.items()}
        pieces = dict.fromkeys(self.net.nodes, self.slabs)
        pieces |= dict.fromkeys(self.front.nodes if self.front else (), self.bands)
        one = {name: (n, self.batch * volume(self.net.sparsity_of(name))) for name, n in pieces.items()}
        first = self._best(self.layers(whole, one), predict)
        found: list[tuple[dict[str, int], list[Blocks]]] = []
        costs: list[float] = []
        for way in WAYS:
            variants = self._settle(blocks, way, first)
            if (self.groups_after, variants) not in found:
                found.append((self.groups_after, variants))
                layers = self.layers(variants[0], self.grouped())
                costs += _totals([layers], self._best(layers, predict), predict)
        chosen = min(range(len(found)), key=lambda i: costs[i] * (1.0 if i == 0 else 1 / WORTH_ANOTHER_WAY))
        self.groups_after, variants = found[chosen]
        return variants

    def _settle(
        self, blocks: Mapping[str, tuple[int, ...]] | None, tasks_per_group: int, convolutions: Convolutions
    ) -> list[Blocks]:
        self.groups_after = {}
        for _ in range(ROUNDS):
            before = self.groups_after
            self.groups_after = self._groups(convolutions, tasks_per_group)
            variants = self._variants(blocks)
            if before == self.groups_after:
                break
            convolutions = self._best(self.layers(variants[0], self.grouped()), predict)
        return variants

    def decide(self, variants: list[Blocks], timing: Timing) -> tuple[Convolutions, Blocks]:
        """Choose algorithms with the widest blocks, then the blocks."""
        layers = [self.layers(blocks, self.grouped()) for blocks in variants]
        convolutions = self._best(layers[0], timing)
        if len(variants) == 1:
            return convolutions, variants[0]
        totals = _totals(layers, convolutions, timing)
        if math.inf in totals:
            totals = _totals(layers, convolutions, predict)
        return convolutions, variants[totals.index(min(totals))]

    def shared(self, convolutions: Convolutions, blocks: Blocks) -> Convolutions:
        """Let several tasks share the kernel gradients of layers that have few of them."""
        found = dict(convolutions)
        for name, layer in self.layers(blocks, self.grouped()).items():
            shares = n_shares(layer, convolutions[name], self.options.tasks)
            found[name] = msgspec.structs.replace(convolutions[name], shares=shares)
        return found

    def layers(self, blocks: Blocks, grouped: Mapping[str, tuple[int, int]]) -> dict[str, Layer]:
        """Return the layers for which there is a choice."""
        net, learning = self.net, learning_nodes(self.net)
        found = {}
        for edge in net.edges.values():
            if isinstance(edge.op, Convolution) and self.options.algorithm(edge.name) != "fft-stored":
                passes = PASSES if edge.source in learning else ("forward", "gradient")
                n_groups, entries = grouped[edge.source]
                found[edge.name] = Layer(
                    size=self.sizes[edge.source],
                    kernel=edge.op.kernel,
                    entries=entries,
                    groups=n_groups,
                    blocks_in=blocks[edge.source],
                    blocks_out=blocks[edge.target],
                    passes=passes if self.training else ("forward",),
                    granularity=self.granularity,
                )
        return found

    def grouped(self) -> dict[str, tuple[int, int]]:
        """Return the number of batch groups of every node, and the entries of each."""
        found = dict.fromkeys(self.net.inputs, (self._input_groups, self.examples))
        for edge in self.net.edges.values():
            n_groups, entries = found[edge.source]
            if isinstance(edge.op, MaxFilter):
                split = self.groups_after[edge.name]
                n_groups, entries = n_groups * split, entries * volume(edge.op.stride) // split
            found[edge.target] = n_groups // self.joined.get(edge.name, 1), entries
        return found

    def _best(self, layers: Mapping[str, Layer], timing: Timing) -> Convolutions:
        asked = []
        for name, layer in layers.items():
            asked.append((layer, candidates(layer, self.options.algorithm(name), self.options.fft_backend)))
        plans = {
            name: best(layer, told or counted)[0]
            for (name, layer), told, counted in zip(layers.items(), timing(asked), predict(asked), strict=True)
        }
        return {
            edge.name: plans.get(edge.name) or self._stored(edge.source)
            for edge in self.net.edges.values()
            if isinstance(edge.op, Convolution)
        }

    def _stored(self, source: str) -> ConvolutionPlan:
        name, tile = "fft-stored", whole_size(self.sizes[source])
        return ConvolutionPlan(name, name, name, tile, library(resolve_backend(self.options.fft_backend), tile))

    def _variants(self, blocks: Mapping[str, tuple[int, ...]] | None) -> list[Blocks]:
        """Return the channel blocks of all nodes for every width they may have at most, each once."""
        if blocks is not None:
            return [dict(blocks)]
        grouped, found = self.grouped(), []
        for widest in WIDEST_BLOCKS:
            widths = {
                name: _fixed(node.channels, self.options.block)
                if isinstance(self.options.block, int)
                else block_widths(node.channels, grouped[name][0], widest, self.options.tasks)
                for name, node in self.net.nodes.items()
            }
            shared = shared_blocks(self.net, widths)
            if shared not in found:
                found.append(shared)
        return found

    def _groups(self, convolutions: Convolutions, tasks_per_group: int) -> dict[str, int]:
        """Return into how many groups each max-filter splits those of its source.

        There should be as many as there are tasks to share, over ``tasks_per_group``; more where each still has
        tiles enough.
        """
        net = self.net
        entries = dict.fromkeys(net.inputs, self.examples)
        n_groups = dict.fromkeys(net.inputs, self._input_groups)
        groups_after: dict[str, int] = {}
        splits: dict[tuple[Triple, Triple], int] = {}
        whole = filters_differ(net)
        for edge in net.edges.values():
            split, source_groups = 1, n_groups[edge.source] // self.joined.get(edge.name, 1)
            if isinstance(edge.op, MaxFilter):
                n_parities = volume(edge.op.stride)
                n_tiles = n_parities * entries[edge.source] * self._tiles_after(edge.target, convolutions)
                few = ceil_div(ceil_div(self.options.tasks, tasks_per_group), source_groups)
                wanted = max(1, n_tiles // ENOUGH_TILES, min(few, n_tiles // FEWEST_TILES))
                split = max(d for d in range(1, n_parities + 1) if n_parities % d == 0 and d <= wanted)
                # Streams that meet later must be split alike; not at all if they were filtered in other ways.
                way = net.sparsity_of(edge.source), net.sparsity_of(edge.target)
                split = 1 if whole else splits.setdefault(way, split)
                groups_after[edge.name] = split
                entries[edge.target] = entries[edge.source] * n_parities // split
            else:
                entries[edge.target] = entries[edge.source]
            n_groups[edge.target] = source_groups * split
        return groups_after

    def _tiles_after(self, node: str, convolutions: Convolutions) -> int:
        """Return the number of tiles of a fragment in the first convolution after a node, at least 1."""
        for edge in self.net.outgoing(node):
            if not isinstance(edge.op, Convolution):
                return self._tiles_after(edge.target, convolutions)
            plan = convolutions[edge.name]
            output = [n - k + 1 for n, k in zip(self.sizes[node], edge.op.kernel, strict=True)]
            if not plan.spectral:
                return max(1, math.prod(output) // PLAIN_TILE)
            steps = (t - k + 1 for k, t in zip(edge.op.kernel, plan.tile, strict=True))
            return math.prod(ceil_div(n, step) for n, step in zip(output, steps, strict=True))
        return 1


def _totals(variants: list[dict[str, Layer]], convolutions: Convolutions, timing: Timing) -> list[float]:
    """Return the seconds of all layers for every variant of them; infinite where some are not told."""
    # All in one question: what is asked together is measured in the order of its weight.
    asked = [(layer, convolutions[edge]) for layers in variants for edge, layer in layers.items()]
    told = timing([(layer, used(layer, plan)) for layer, plan in asked])
    each = [seconds_of(layer, times, plan) for (layer, plan), times in zip(asked, told, strict=True)]
    count = len(variants[0])
    return [sum(each[i * count : (i + 1) * count]) for i in range(len(variants))]


def block_widths(channels: int, n_groups: int, widest: int, tasks: int) -> tuple[int, ...]:
    """Return balanced widths of channel blocks: few, since each reads all its input, but enough to share.

    As wide as ``widest`` allows; narrower, to a whole vector on the average, where blocks times groups would else be
    fewer than ``tasks``; narrower still only where CPUs, of which there are half as many, would else have none. Widths
    are multiples of 16 where the channels are, else of 8 but for the last, and differ by no more than that: 40 is
    24+16 or 16+16+8.
    """
    wanted, whole = ceil_div(tasks, n_groups), max(1, channels // NARROWEST_BLOCK)
    if whole < ceil_div(wanted, 2):
        whole = ceil_div(channels, NARROWEST_BLOCK)
    count = max(ceil_div(channels, widest), min(wanted, whole))
    unit = 16 if channels % 16 == 0 else 8
    units = ceil_div(channels, unit)
    count = min(count, units)
    each, more = divmod(units, count)
    stops = [unit * (each * (i + 1) + min(i + 1, more)) for i in range(count)]
    return tuple(min(stop, channels) - first for first, stop in zip([0, *stops], stops, strict=False))


def n_shares(layer: Layer, plan: ConvolutionPlan, fewest: int) -> int:
    """Return how many tasks share the gradient of a kernel block: enough for ``fewest``, none of them too short."""
    if "gradient" not in layer.passes:
        return 1
    spectral = plan.gradient == "fft"
    tasks = works(layer, candidate_of(plan, "gradient"))["gradient"]
    # What is shared: frequencies, entries or positions along the first axis that has several.
    output = (layer.entries, *(n - k + 1 for n, k in zip(layer.size, layer.kernel, strict=True)))
    along = next((n for n in (plan.tile if spectral else output) if n > 1), 1)
    most = along // 2 + 1 if spectral else along
    wanted = ceil_div(fewest, len(tasks) * layer.groups)
    return max(1, min(wanted, most, int(min(map(work_seconds, tasks)) / SHORTEST_SHARE_S)))


def _fixed(channels: int, width: int) -> tuple[int, ...]:
    return tuple(min(width, channels - first) for first in range(0, channels, width))


def filters_differ(net: Network) -> bool:
    """Whether streams meet whose max-filters had different strides on the way."""
    passed: dict[str, set[tuple[Triple, ...]]] = {name: {()} for name in net.inputs}
    for edge in net.edges.values():
        stride = (edge.op.stride,) if isinstance(edge.op, MaxFilter) and edge.op.stride != ONE else ()
        passed.setdefault(edge.target, set()).update(before + stride for before in passed[edge.source])
    return any(len(ways) > 1 for ways in passed.values())
