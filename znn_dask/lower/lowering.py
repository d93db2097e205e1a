"""A network being lowered: what is known of it, and what has been computed so far."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from znn_dask.geometry import Triple, ceil_div, volume
from znn_dask.lower.builder import DEFAULT_ORDER, ORDERS, Builder, Key, Priorities, ref
from znn_dask.lower.plan import Plan
from znn_dask.net import Convolution, Edge, Network, Pad, PhasedConvolution, Transfer
from znn_dask.ops import direct
from znn_dask.ops.layout import Arrangement
from znn_dask.ops.spectral import Tiling
from znn_dask.ops.transfer import Activation

Place = tuple[int, int]  # channel block, batch group
Values = dict[Place, Key]


@dataclass
class Lowering:
    """A network being lowered: what is known of it, and the keys of what has been computed so far.

    Attributes
    ----------
    parameters : dict of ("kernel", edge, block in, block out) or ("bias", edge, block) to key
    values : dict of node to keys
        What every node holds.
    contributions : dict of node to dict of edge to keys
        What has converged on every node so far; a transfer fused with a convolution counts as its edge.
    spectra, kernel_spectra, kernel_phases, argmax, largest, statistics : dicts of keys
        Kept for the backward pass: transforms, the taps of phases, where maxima were in a window and among edges that
        converge, mean and deviation of normalisations.
    padded : dict of (node, place) to key
        Images that the backward pass pads itself.
    averages : dict of ("mean" or "variance", edge, block) to key
        What a training step finds for the running averages of a normalisation over the batch.
    late_spectra : dict of keys
        Spectra of images that the backward pass makes itself.
    training : bool
        Whether dropout is active.
    order : str
        Of the nodes, see `ORDERS`.
    """

    net: Network
    plan: Plan
    arrangements: dict[str, Arrangement]
    graph: Builder
    parameters: dict[Hashable, Key]
    training: bool
    seed: int = 0
    order: str = DEFAULT_ORDER
    values: dict[str, Values] = field(default_factory=dict)
    contributions: dict[str, dict[str, Values]] = field(default_factory=dict)
    spectra: dict[tuple[str, int, int, Tiling], Key] = field(default_factory=dict)
    late_spectra: dict[tuple[str, int, int, Tiling], Key] = field(default_factory=dict)
    kernel_spectra: dict[tuple[str, int, int], Key] = field(default_factory=dict)
    kernel_phases: dict[tuple[str, int, int], Key] = field(default_factory=dict)
    argmax: dict[tuple[str, int, int], list[Key]] = field(default_factory=dict)
    largest: dict[tuple[str, Place], Key] = field(default_factory=dict)
    statistics: dict[str, Key] = field(default_factory=dict)
    averages: dict[Hashable, Key] = field(default_factory=dict)
    padded: dict[tuple[str, Place], Key] = field(default_factory=dict)

    @cached_property
    def priorities(self) -> Priorities:
        """The orders of the nodes."""
        return ORDERS[self.order](self.net)

    @cached_property
    def wisdom(self) -> Key:
        """What FFTW has learned, which every transform task takes along."""
        return self.graph.input("wisdom", "fft-wisdom")

    @cached_property
    def step(self) -> Key:
        """The number of updates made before, which names the random numbers."""
        return self.graph.input("step", "step")

    def places(self, node: str) -> Iterator[Place]:
        """Yield every (channel block, batch group) of a node."""
        arrangement = self.arrangements[node]
        for group in range(len(arrangement.groups)):
            for block in range(len(arrangement.blocks)):
                yield block, group

    def n_blocks(self, node: str) -> int:
        """Return the number of channel blocks of a node."""
        return len(self.arrangements[node].blocks)

    def n_bytes(self, node: str, place: Place) -> int:
        """Return the bytes of one array of a node."""
        arrangement = self.arrangements[node]
        first, stop = arrangement.blocks[place[0]]
        return 4 * volume(arrangement.size) * len(arrangement.groups[place[1]]) * (stop - first)

    def edge_places(self, edge: Edge) -> Iterator[Place]:
        """Yield every (channel block, batch group) that an edge which works map by map gives to its target."""
        for group in range(len(self.arrangements[edge.target].groups)):
            for block in range(self.n_blocks(edge.source)):
                yield block, group

    def edge_bytes(self, edge: Edge, place: Place) -> int:
        """Return the bytes of one array that an edge which works map by map gives to its target."""
        target, (first, stop) = self.arrangements[edge.target], self.arrangements[edge.source].blocks[place[0]]
        return 4 * volume(target.size) * len(target.groups[place[1]]) * (stop - first)

    def beside(self, node: str, group: int) -> tuple[int | None, int | None]:
        """Return the groups that hold the slabs before and after those of a group, where there are such."""
        slabs, count = self.plan.slabs, len(self.arrangements[node].groups)
        apart = count // (ceil_div(self.plan.batch, self.plan.examples_per_group) * slabs)
        slab = group // apart % slabs
        return (group - apart if slab > 0 else None), (group + apart if slab < slabs - 1 else None)

    def block_in(self, edge: Edge, block: int) -> tuple[int, int]:
        """Return the phase and the block of learned kernels that a block of a convolution's source belongs to."""
        return self._phase(edge, "down", block, self.n_blocks(edge.source))

    def block_out(self, edge: Edge, block: int) -> tuple[int, int]:
        """Return the phase and the block of learned kernels that a block of a convolution's target belongs to."""
        return self._phase(edge, "up", block, self.n_blocks(edge.target))

    def _phase(self, edge: Edge, direction: str, block: int, n_blocks: int) -> tuple[int, int]:
        if isinstance(edge.op, PhasedConvolution) and edge.op.direction == direction:
            return divmod(block, n_blocks // volume(edge.op.phases))
        return 0, block

    def tiling(self, edge: Edge) -> Tiling:
        """Return how the source of a spectral convolution is cut."""
        assert isinstance(edge.op, Convolution)
        chosen = self.plan.convolutions[edge.name]
        return Tiling(self.arrangements[edge.source].size, edge.op.kernel, chosen.tile, chosen.backend)

    def spectrum_bytes(self, node: str, place: Place, tiling: Tiling) -> int:
        """Return the bytes of one spectrum of a node."""
        arrangement = self.arrangements[node]
        first, stop = arrangement.blocks[place[0]]
        return 8 * volume(tiling.half) * tiling.n_tiles * len(arrangement.groups[place[1]]) * (stop - first)

    def fused_transfer(self, node: str) -> Edge | None:
        """Return the transfer edge that can be applied as the node's only convolution is finished, if any."""
        incoming, outgoing = self.net.incoming(node), self.net.outgoing(node)
        if len(incoming) == len(outgoing) == 1 and isinstance(outgoing[0].op, Transfer):
            return outgoing[0]
        return None

    def padding_of(self, edge: Edge) -> tuple[Triple, Triple]:
        """Return the zeros before and after its images that a convolution reads without their being there.

        That is what its only source would be padded with, if none of its passes is spectral.
        """
        incoming = self.net.incoming(edge.source)
        pad = incoming[0].op if len(incoming) == 1 else None
        if (
            isinstance(pad, Pad)
            and pad.mode == "zero"
            and not (self.plan.slabs > 1 and pad.total[0])
            and len(self.net.outgoing(edge.source)) == 1
            and isinstance(edge.op, Convolution)
            and not self.plan.convolutions[edge.name].spectral
            and all(n < k for n, k in zip((*pad.before, *pad.after), edge.op.kernel * 2, strict=True))
        ):
            return pad.before, pad.after
        return direct.NO_PADDING

    def absorbs(self, edge: Edge) -> bool:
        """Return whether the convolution after a padding does without it."""
        return any(self.padding_of(after) != direct.NO_PADDING for after in self.net.outgoing(edge.target))

    def transfer_arguments(self, edge: Edge | None, block: int) -> tuple[object, Activation | None]:
        """Refer to the bias (None if there is none) and name the function of a transfer edge; without one, nothing."""
        if edge is None:
            return None, None
        assert isinstance(edge.op, Transfer)
        bias = ref(self.parameters["bias", edge.name, block]) if edge.op.bias else None
        return bias, activation_of(edge.op)


def activation_of(op: Transfer) -> Activation:
    """Return the transfer function of an operation."""
    return Activation(op.function, tuple(op.args))
