"""The backward pass as tasks: gradients of every node and parameter.

The roles of forward are swapped: what left a node now converges on it. The spectra of images that forward made are
used again for the kernel gradients, and the spectra of output gradients serve input and kernel gradients alike.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import product

from znn_dask.geometry import Triple, volume
from znn_dask.lower import joins, mapwise, normalise
from znn_dask.lower.builder import Key, ref, refs
from znn_dask.lower.forward import kernel_value
from znn_dask.lower.lowering import Lowering, Place, Values
from znn_dask.lower.plan import PLAIN, learning_nodes
from znn_dask.net import Convolution, Edge, Normalisation, PhasedConvolution, Softmax, Transfer
from znn_dask.ops import border, direct, phases, spectral, winograd
from znn_dask.ops.fft import Wisdom
from znn_dask.ops.memory import Array
from znn_dask.tasks import fresh

INPUT_GRADIENTS: dict[str, Callable[..., Array]] = {
    "direct": direct.backward,
    "winograd": winograd.backward,
    "fft": spectral.product,
    "fft-stored": spectral.stored_product,
}
KERNEL_GRADIENTS: dict[str, Callable[..., Array]] = {
    "direct": direct.kernel_gradient,
    "winograd": winograd.kernel_gradient,
    "fft": spectral.kernel_gradient,
    "fft-stored": spectral.stored_kernel_gradient,
}


@dataclass
class Backward:
    """What the backward pass has made so far: gradients arriving at nodes, gradients of parameters."""

    arriving: dict[str, list[Values]] = field(default_factory=dict)
    gradients: dict[Hashable, Key] = field(default_factory=dict)


def lower_backward_pass(low: Lowering, d_outputs: dict[str, Values]) -> dict[Hashable, Key]:
    """Add the tasks of the backward pass; return the keys of the parameters' gradients by parameter block."""
    back = Backward(arriving={name: [values] for name, values in d_outputs.items()})
    learning = learning_nodes(low.net)
    for name in reversed(low.net.nodes):
        if name not in back.arriving:
            continue
        priority = low.priorities.backward[name]
        d_values = {
            place: low.graph.total(
                "node-sum-gradient", (name, *place), priority, [term[place] for term in back.arriving[name]]
            )
            for place in low.places(name)
        }
        shares = joins.backward(low, name, d_values)
        for edge in low.net.incoming(name):
            _edge_backward(low, back, edge, shares[edge.name], edge.source in learning)
    return back.gradients


def _edge_backward(low: Lowering, back: Backward, edge: Edge, d_values: Values, wanted: bool) -> None:
    """Add the tasks of one edge; ``wanted`` says whether the gradient of its source is."""
    values: Values = {}
    if isinstance(edge.op, Convolution):
        values = _convolution(low, back, edge, d_values, wanted)
    elif isinstance(edge.op, Transfer):
        values = _transfer(low, back, edge, d_values)
    elif isinstance(edge.op, Normalisation):
        values = normalise.backward(low, edge, d_values, back.gradients)
    elif isinstance(edge.op, Softmax) and wanted:
        values = normalise.softmax_backward(low, edge, d_values)
    elif wanted:
        values = mapwise.backward(low, edge, d_values)
    if wanted:
        back.arriving.setdefault(edge.source, []).append(values)


def _transfer(low: Lowering, back: Backward, edge: Edge, d_values: Values) -> Values:
    values, biases = mapwise.transfer_backward(low, edge, d_values)
    for block, terms in biases.items():
        total = low.graph.total("bias-gradient", (edge.name, block), low.priorities.backward[edge.source], terms)
        back.gradients["bias", edge.name, block] = total
    return values


def _convolution(low: Lowering, back: Backward, edge: Edge, d_values: Values, wanted: bool) -> Values:
    chosen = low.plan.convolutions[edge.name]
    spectra: Values = {}
    if chosen.gradient not in PLAIN or (wanted and chosen.backward not in PLAIN):
        spectra = {place: _fft_gradient(low, edge, place, d_values) for place in d_values}
    arriving = d_values if chosen.gradient in PLAIN else spectra
    _kernel_gradients(low, back, edge, arriving)
    if not wanted:
        return {}
    arriving = d_values if chosen.backward in PLAIN else spectra
    return {place: _input_gradient(low, edge, place, arriving) for place in low.places(edge.source)}


def _image_spectrum(low: Lowering, edge: Edge, place: Place, after: Key) -> Key:
    """Return the spectrum of an image that the forward pass made and keeps; else one made when its gradient arrives."""
    tiling = low.tiling(edge)
    name = edge.source, *place, tiling
    if name in low.spectra and low.plan.convolutions[edge.name].keep:
        return low.spectra[name]
    if name in low.late_spectra:
        return low.late_spectra[name]
    index = (edge.source, *place, *tiling.tile, *tiling.kernel)
    key = low.graph.task(
        "backward-fft-image",
        index,
        low.priorities.gradient_spectrum[edge.target],
        _spectrum_after,
        ref(low.values[edge.source][place]),
        tiling,
        ref(low.wisdom),
        ref(after),
        n_bytes=low.spectrum_bytes(edge.source, place, tiling),
    )
    low.late_spectra[name] = key
    return key


def _image(low: Lowering, edge: Edge, place: Place, after: Key) -> Key:
    """Return an image of a convolution's source, padded now if the forward pass did without."""
    image = low.values[edge.source][place]
    padding = low.padding_of(edge)
    if padding == direct.NO_PADDING:
        return image
    if (edge.source, place) not in low.padded:
        low.padded[edge.source, place] = low.graph.task(
            "backward-pad-image",
            (edge.source, *place),
            low.priorities.gradient_spectrum[edge.target],
            _padded_after,
            ref(image),
            *padding,
            ref(after),
            n_bytes=low.n_bytes(edge.source, place),
        )
    return low.padded[edge.source, place]


@fresh
def _padded_after(image: Array, before: Triple, after: Triple, _after: Array) -> Array:
    return border.pad(image, before, after, "zero")


@fresh
def _spectrum_after(image: Array, tiling: spectral.Tiling, wisdom: Wisdom, _after: Array) -> Array:
    # What it waits for is not used: else a worker could make it in the forward pass, long before it is needed.
    return spectral.image_spectrum(image, tiling, wisdom)


def _fft_gradient(low: Lowering, edge: Edge, place: Place, d_values: Values) -> Key:
    tiling = low.tiling(edge)
    return low.graph.task(
        "fft-gradient",
        (edge.name, *place),
        low.priorities.gradient_spectrum[edge.target],
        spectral.gradient_spectrum,
        ref(d_values[place]),
        tiling,
        ref(low.wisdom),
        n_bytes=low.spectrum_bytes(edge.target, place, tiling),
    )


def _input_gradient(low: Lowering, edge: Edge, place: Place, arriving: Values) -> Key:
    """Add the tasks that convolve the gradients of all target blocks back to one array of the source."""
    graph, priority, (block, group) = low.graph, low.priorities.backward[edge.source], place
    algorithm = low.plan.convolutions[edge.name].backward
    gradients = [arriving[b, group] for b in range(low.n_blocks(edge.target))]
    kernels = [kernel_value(low, edge, block, b) for b in range(len(gradients))]
    function = INPUT_GRADIENTS[algorithm]
    more: tuple[object, ...] = ()
    n_bytes = low.n_bytes(edge.source, place)
    if (padding := low.padding_of(edge)) != direct.NO_PADDING:
        more, n_bytes = (padding,), low.n_bytes(low.net.incoming(edge.source)[0].source, place)
    if algorithm not in PLAIN:
        more = (low.tiling(edge), True)
        n_bytes = low.spectrum_bytes(edge.source, place, low.tiling(edge))
    if low.plan.granularity == "node":
        index = (edge.name, *place)
        total = graph.task(
            "backward-conv", index, priority, function, refs(gradients), refs(kernels), *more, n_bytes=n_bytes
        )
    else:
        terms = [
            graph.task(
                "backward-conv",
                (edge.name, b, *place),
                priority,
                function,
                refs([d]),
                refs([k]),
                *more,
                n_bytes=n_bytes,
            )
            for b, (d, k) in enumerate(zip(gradients, kernels, strict=True))
        ]
        total = graph.total("sum-gradient", (edge.name, *place), priority, terms)
    if algorithm in PLAIN:
        return total
    return graph.task(
        "ifft-gradient",
        (edge.name, *place),
        priority,
        spectral.gradient_image,
        ref(total),
        low.tiling(edge),
        ref(low.wisdom),
        n_bytes=low.n_bytes(edge.source, place),
    )


def _kernel_gradients(low: Lowering, back: Backward, edge: Edge, arriving: Values) -> None:
    """Add the tasks of the gradients of all kernel blocks; those that meet phases are put together from theirs."""
    pieces: dict[tuple[int, int], list[Key]] = {}
    for block_in in range(low.n_blocks(edge.source)):
        for block_out in range(low.n_blocks(edge.target)):
            learned = low.block_in(edge, block_in)[1], low.block_out(edge, block_out)[1]
            # In the order of phases, since these come before blocks.
            pieces.setdefault(learned, []).append(_kernel_gradient(low, edge, block_in, block_out, arriving))
    for (block_in, block_out), keys in pieces.items():
        key = keys[0]
        if isinstance(edge.op, PhasedConvolution):
            op, priority = edge.op, low.priorities.backward[edge.source]
            arguments = (refs(keys), op.phases, op.learned, op.direction)
            index = (edge.name, block_in, block_out)
            key = low.graph.task("kernel-phase-gradient", index, priority, phases.kernel_phase_gradient, *arguments)
            low.graph.n_bytes[key] = low.graph.n_bytes[keys[0]] // volume(op.kernel) * volume(op.learned)
        back.gradients["kernel", edge.name, block_in, block_out] = key


def _kernel_gradient(low: Lowering, edge: Edge, block_in: int, block_out: int, arriving: Values) -> Key:
    graph, priority = low.graph, low.priorities.backward[edge.source]
    algorithm, op = low.plan.convolutions[edge.name].gradient, edge.op
    assert isinstance(op, Convolution)
    n_bytes = 4 * volume(op.kernel) * low.plan.blocks[edge.source][block_in] * low.plan.blocks[edge.target][block_out]
    terms = []
    more: tuple[object, ...]
    shares = low.plan.convolutions[edge.name].shares
    for group, share in product(range(len(low.arrangements[edge.target].groups)), range(shares)):
        index = (edge.name, block_in, block_out, group) + ((share,) if shares > 1 else ())
        image, more = _image(low, edge, (block_in, group), arriving[0, group]), ()
        if algorithm not in PLAIN:
            tiling = low.tiling(edge)
            image, more = _image_spectrum(low, edge, (block_in, group), arriving[0, group]), (tiling,)
        if algorithm == "fft-stored":
            more = (*more, ref(low.wisdom))
        elif shares > 1:
            more = (*more, (share, shares))
        arguments = (ref(image), ref(arriving[block_out, group]), *more)
        terms.append(
            graph.task("conv-gradient", index, priority, KERNEL_GRADIENTS[algorithm], *arguments, n_bytes=n_bytes)
        )
        if algorithm == "fft-stored":
            whole = n_bytes // volume(op.kernel) * 2 * volume(low.tiling(edge).half)
            graph.extra_bytes[terms[-1]] = whole  # the gradient's own spectrum
    return graph.total("kernel-gradient", (edge.name, block_in, block_out), priority, terms)
