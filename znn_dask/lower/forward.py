"""The forward pass as tasks.

A node's value is one array per channel block and batch group. What converges on a node is summed: over the channel
blocks of one edge in registers (node granularity) or as tasks of their own with a sum (edge granularity), over
several edges always by a sum.
"""

from znn_dask.geometry import volume
from znn_dask.lower import joins, mapwise, normalise
from znn_dask.lower.builder import Key, ref, refs
from znn_dask.lower.lowering import Lowering, Place, Values
from znn_dask.lower.plan import PLAIN
from znn_dask.net import Convolution, Edge, Normalisation, PhasedConvolution, Softmax
from znn_dask.ops import direct, layout, phases, spectral, transfer, winograd
from znn_dask.ops.spectral import Tiling


def lower_forward_pass(low: Lowering) -> None:
    """Add the tasks of the forward pass; afterwards `low.values` holds every node that is kept."""
    done: set[str] = set()
    for name in low.net.nodes:
        if name in low.net.inputs:
            low.values[name] = _image(low, name)
        elif name in low.contributions:
            low.values[name] = joins.forward(low, name)
        else:
            continue  # only what a fused transfer makes of it is kept
        for edge in low.net.outgoing(name):
            if edge.name not in done:
                done |= _edge_forward(low, edge)


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


def _edge_forward(low: Lowering, edge: Edge) -> set[str]:
    """Add the tasks of one edge; return the edges that are done with it."""
    if isinstance(edge.op, Convolution):
        return _convolution(low, edge)
    if isinstance(edge.op, Normalisation):
        values = normalise.forward(low, edge)
    elif isinstance(edge.op, Softmax):
        values = normalise.softmax_forward(low, edge)
    else:
        values = mapwise.forward(low, edge)
    low.contributions.setdefault(edge.target, {})[edge.name] = values
    return {edge.name}


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
    """Return the kernel between two blocks as the products take it: taps, or for "fft-stored" their spectrum."""
    if low.plan.convolutions[edge.name].forward != "fft-stored":
        return _taps(low, edge, block_in, block_out)
    known = low.kernel_spectra.get((edge.name, block_in, block_out))
    if known is None:
        widths = [low.plan.blocks[n][b] for n, b in ((edge.source, block_in), (edge.target, block_out))]
        known = low.graph.task(
            "fft-kernel",
            (edge.name, block_in, block_out),
            low.priorities.forward[edge.target],
            spectral.kernel_spectrum,
            ref(_taps(low, edge, block_in, block_out)),
            low.tiling(edge),
            ref(low.wisdom),
            n_bytes=8 * volume(low.tiling(edge).half) * widths[0] * widths[1],
        )
        low.kernel_spectra[edge.name, block_in, block_out] = known
    return known


def _taps(low: Lowering, edge: Edge, block_in: int, block_out: int) -> Key:
    """Return the taps between two blocks: those that are learned, or of them every so manyth that a phase meets."""
    (phase_in, learned_in), (phase_out, learned_out) = low.block_in(edge, block_in), low.block_out(edge, block_out)
    whole = low.parameters["kernel", edge.name, learned_in, learned_out]
    if not isinstance(edge.op, PhasedConvolution):
        return whole
    op, phase = edge.op, phase_in + phase_out  # one of them is 0
    known = low.kernel_phases.get((edge.name, block_in, block_out))
    if known is None:
        widths = low.plan.blocks[edge.source][block_in], low.plan.blocks[edge.target][block_out]
        known = low.graph.task(
            "kernel-phase",
            (edge.name, block_in, block_out),
            low.priorities.forward[edge.target],
            phases.kernel_phase,
            ref(whole),
            op.phases,
            phase,
            op.kernel,
            op.direction,
            n_bytes=4 * volume(op.kernel) * widths[0] * widths[1],
        )
        low.kernel_phases[edge.name, block_in, block_out] = known
    return known


def _convolution(low: Lowering, edge: Edge) -> set[str]:
    fused = low.fused_transfer(edge.target)
    values = {}
    for block, group in low.places(edge.target):
        if low.plan.convolutions[edge.name].forward in PLAIN:
            values[block, group] = _plain(low, edge, fused, block, group)
        else:
            values[block, group] = _spectral(low, edge, fused, block, group)
    last = fused or edge
    low.contributions.setdefault(last.target, {})[last.name] = values
    return {edge.name, last.name}


def _plain(low: Lowering, edge: Edge, fused: Edge | None, block: int, group: int) -> Key:
    graph, priority = low.graph, low.priorities.forward[edge.target]
    images = [low.values[edge.source][b, group] for b in range(low.n_blocks(edge.source))]
    kernels = [kernel_value(low, edge, b, block) for b in range(len(images))]
    n_bytes = low.n_bytes(edge.target, (block, group))
    way = winograd if low.plan.convolutions[edge.name].forward == "winograd" else direct
    if low.plan.granularity == "node":
        arguments = (refs(images), refs(kernels), *low.transfer_arguments(fused, block), low.padding_of(edge))
        return graph.task(
            "conv-forward",
            (edge.name, block, group),
            priority,
            way.forward_transfer,
            *arguments,
            n_bytes=n_bytes,
        )
    terms = [
        graph.task(
            "conv-forward",
            (edge.name, b, block, group),
            priority,
            way.forward,
            refs([i]),
            refs([k]),
            low.padding_of(edge),
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
