"""The forward pass as tasks.

A node's value is one array per channel block and batch group. What converges on a node is summed: over the channel
blocks of one edge in registers (node granularity) or as tasks of their own with a sum (edge granularity), over
several edges always by a sum.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from znn_dask.geometry import volume
from znn_dask.lower.builder import DEFAULT_ORDER, ORDERS, Builder, Key, Priorities, ref, refs
from znn_dask.lower.plan import Plan
from znn_dask.net import Convolution, Dropout, Edge, MaxFilter, MaxPool, Network, Transfer
from znn_dask.ops import direct, dropout, layout, spectral, transfer
from znn_dask.ops import filter as filters
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
    spectra, kernel_spectra, argmax : dicts of keys
        Kept for the backward pass.
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
    argmax: dict[tuple[str, int, int], list[Key]] = field(default_factory=dict)

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
        if len(incoming) == 1 and len(outgoing) == 1 and isinstance(outgoing[0].op, Transfer):
            return outgoing[0]
        return None

    def transfer_arguments(self, edge: Edge | None, block: int) -> tuple[object, Activation | None]:
        """Refer to the bias (None if there is none) and name the function of a transfer edge; without one, nothing."""
        if edge is None:
            return None, None
        assert isinstance(edge.op, Transfer)
        bias = ref(self.parameters["bias", edge.name, block]) if edge.op.bias else None
        return bias, activation_of(edge.op)


def lower_forward_pass(low: Lowering) -> None:
    """Add the tasks of the forward pass; afterwards `low.values` holds every node that is kept."""
    done: set[str] = set()
    for name in low.net.nodes:
        if name in low.net.inputs:
            low.values[name] = _image(low, name)
        elif name in low.contributions:
            low.values[name] = _converge(low, name)
        else:
            continue  # only what a fused transfer makes of it is kept
        for edge in low.net.outgoing(name):
            if edge.name not in done:
                done |= _edge_forward(low, edge)


def activation_of(op: Transfer) -> Activation:
    """Return the transfer function of an operation."""
    return Activation(op.function, tuple(op.args))


def _image(low: Lowering, name: str) -> Values:
    batch = low.graph.input(("input", name), "sample", name)
    arrangement = low.arrangements[name]
    return {
        (block, group): low.graph.task(
            "image",
            (name, block, group),
            low.priorities.forward[name],
            layout.from_public,
            ref(batch),
            arrangement.groups[group],
            arrangement.blocks[block],
            arrangement.size,
            n_bytes=low.n_bytes(name, (block, group)),
        )
        for block, group in low.places(name)
    }


def _converge(low: Lowering, name: str) -> Values:
    terms = [low.contributions[name][edge.name] for edge in low.net.incoming(name)]
    return {
        place: low.graph.total(
            "node-sum", (name, *place), low.priorities.forward[name], [term[place] for term in terms]
        )
        for place in low.places(name)
    }


def _edge_forward(low: Lowering, edge: Edge) -> set[str]:
    """Add the tasks of one edge; return the edges that are done with it."""
    if isinstance(edge.op, Convolution):
        return _convolution(low, edge)
    values: Values = {}
    for block, group in low.places(edge.source):
        values |= _one_to_one(low, edge, block, group)
    low.contributions.setdefault(edge.target, {})[edge.name] = values
    return {edge.name}


def _one_to_one(low: Lowering, edge: Edge, block: int, group: int) -> Values:
    """Add the task of an edge that works map by map, for one array of its source."""
    graph, op, source = low.graph, edge.op, ref(low.values[edge.source][block, group])
    priority, index = low.priorities.forward[edge.target], (edge.name, block, group)
    n_bytes = low.n_bytes(edge.source, (block, group))
    if isinstance(op, Transfer):
        bias, function = low.transfer_arguments(edge, block)
        key = graph.task("transfer", index, priority, transfer.forward, source, bias, function, n_bytes=n_bytes)
        return {(block, group): key}
    if isinstance(op, Dropout):
        if not low.training:
            return {(block, group): low.values[edge.source][block, group]}
        key = graph.task(
            "dropout",
            index,
            priority,
            dropout.apply,
            source,
            *dropout_arguments(low, edge, block, group),
            n_bytes=n_bytes,
        )
        return {(block, group): key}
    if isinstance(op, MaxPool):
        whole = graph.task("max-pool", index, priority, filters.max_pool, source, op.window)
        return _filtered(low, edge, whole, block, group, 1)
    assert isinstance(op, MaxFilter)
    n_groups = low.plan.groups_after[edge.name]
    whole = graph.task("max-filter", index, priority, filters.max_filter, source, op.window, op.stride, n_groups)
    return _filtered(low, edge, whole, block, group, n_groups)


def dropout_arguments(low: Lowering, edge: Edge, block: int, group: int) -> tuple[object, ...]:
    """Return what `dropout.apply` takes after the image."""
    assert isinstance(edge.op, Dropout)
    arrangement = low.arrangements[edge.source]
    return arrangement, group, block, edge.op.rate, low.seed, ref(low.step), edge.name


def _filtered(low: Lowering, edge: Edge, whole: Key, block: int, group: int, n_groups: int) -> Values:
    """Take apart the images and argmax of a filter."""
    assert isinstance(edge.op, MaxFilter | MaxPool)
    graph, values, argmax = low.graph, {}, []
    for part in range(n_groups):
        place = block, group * n_groups + part
        n_bytes = low.n_bytes(edge.target, place)
        values[place] = graph.part("filtered", (edge.name, *place), whole, part)
        argmax.append(graph.part("argmax", (edge.name, *place), whole, n_groups + part))
        graph.n_bytes[values[place]] = n_bytes
        graph.n_bytes[argmax[-1]] = n_bytes // 4 * filters.index_bytes(edge.op.window)
    low.argmax[edge.name, block, group] = argmax
    return values


def image_spectrum(low: Lowering, node: str, place: Place, tiling: Tiling) -> Key:
    """Return the spectrum of a node's array, shared by all edges that leave the node with this tiling."""
    known = low.spectra.get((node, *place, tiling))
    if known is None:
        # Edges with other kernels or tiles need spectra of their own, and keys that differ.
        index = (node, *place, *tiling.tile, *tiling.kernel)
        known = low.graph.task(
            "fft-image",
            index,
            low.priorities.image_spectrum[node],
            spectral.image_spectrum,
            ref(low.values[node][place]),
            tiling,
            ref(low.wisdom),
            n_bytes=low.spectrum_bytes(node, place, tiling),
        )
        low.spectra[(node, *place, tiling)] = known
    return known


def kernel_value(low: Lowering, edge: Edge, block_in: int, block_out: int) -> Key:
    """Return the kernel block as the products take it: taps, or for "fft-stored" their spectrum."""
    taps = low.parameters["kernel", edge.name, block_in, block_out]
    if low.plan.convolutions[edge.name].forward != "fft-stored":
        return taps
    known = low.kernel_spectra.get((edge.name, block_in, block_out))
    if known is None:
        widths = [low.plan.blocks[n][b] for n, b in ((edge.source, block_in), (edge.target, block_out))]
        known = low.graph.task(
            "fft-kernel",
            (edge.name, block_in, block_out),
            low.priorities.forward[edge.target],
            spectral.kernel_spectrum,
            ref(taps),
            low.tiling(edge),
            ref(low.wisdom),
            n_bytes=8 * volume(low.tiling(edge).half) * widths[0] * widths[1],
        )
        low.kernel_spectra[edge.name, block_in, block_out] = known
    return known


def _convolution(low: Lowering, edge: Edge) -> set[str]:
    fused = low.fused_transfer(edge.target)
    values = {}
    for block, group in low.places(edge.target):
        if low.plan.convolutions[edge.name].forward == "direct":
            values[block, group] = _direct(low, edge, fused, block, group)
        else:
            values[block, group] = _spectral(low, edge, fused, block, group)
    last = fused or edge
    low.contributions.setdefault(last.target, {})[last.name] = values
    return {edge.name, last.name}


def _direct(low: Lowering, edge: Edge, fused: Edge | None, block: int, group: int) -> Key:
    graph, priority = low.graph, low.priorities.forward[edge.target]
    images = [low.values[edge.source][b, group] for b in range(low.n_blocks(edge.source))]
    kernels = [kernel_value(low, edge, b, block) for b in range(len(images))]
    n_bytes = low.n_bytes(edge.target, (block, group))
    if low.plan.granularity == "node":
        arguments = (refs(images), refs(kernels), *low.transfer_arguments(fused, block))
        return graph.task(
            "conv-forward",
            (edge.name, block, group),
            priority,
            direct.forward_transfer,
            *arguments,
            n_bytes=n_bytes,
        )
    terms = [
        graph.task(
            "conv-forward",
            (edge.name, b, block, group),
            priority,
            direct.forward,
            refs([i]),
            refs([k]),
            n_bytes=n_bytes,
        )
        for b, (i, k) in enumerate(zip(images, kernels, strict=True))
    ]
    total = graph.total("sum", (edge.name, block, group), priority, terms)
    if fused is None:
        return total
    bias, function = low.transfer_arguments(fused, block)
    index = (fused.name, block, group)
    return graph.task("transfer", index, priority, transfer.forward, ref(total), bias, function, n_bytes=n_bytes)


def _spectral(low: Lowering, edge: Edge, fused: Edge | None, block: int, group: int) -> Key:
    graph, priority, tiling = low.graph, low.priorities.forward[edge.target], low.tiling(edge)
    stored = low.plan.convolutions[edge.name].forward == "fft-stored"
    multiply = spectral.stored_product if stored else spectral.product
    spectra = [image_spectrum(low, edge.source, (b, group), tiling) for b in range(low.n_blocks(edge.source))]
    kernels = [kernel_value(low, edge, b, block) for b in range(len(spectra))]
    n_bytes = low.spectrum_bytes(edge.target, (block, group), tiling)
    if low.plan.granularity == "node":
        product = graph.task(
            "conv-forward",
            (edge.name, block, group),
            priority,
            multiply,
            refs(spectra),
            refs(kernels),
            tiling,
            n_bytes=n_bytes,
        )
    else:
        terms = [
            graph.task(
                "conv-forward",
                (edge.name, b, block, group),
                priority,
                multiply,
                refs([s]),
                refs([k]),
                tiling,
                n_bytes=n_bytes,
            )
            for b, (s, k) in enumerate(zip(spectra, kernels, strict=True))
        ]
        product = graph.total("sum", (edge.name, block, group), priority, terms)
    bias, function = low.transfer_arguments(fused, block)
    return graph.task(
        "ifft-image",
        (edge.name, block, group),
        priority,
        spectral.output_image,
        ref(product),
        tiling,
        bias,
        function,
        ref(low.wisdom),
        n_bytes=low.n_bytes(edge.target, (block, group)),
    )
