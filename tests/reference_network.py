"""Whole networks computed twice in the plainest way: in numpy with the reference operations, and in PyTorch.

Both keep every image dense and dilate what comes after a max-filter, so neither knows anything of fragments,
blocks, rounded sizes or tasks: they are what `Model` is compared with. Arrays are public,
``(batch, channel, z, y, x)``, in dicts by the name of the input or output; classes and their weights are
``(batch, z, y, x)``. Where a network has several outputs the loss is the sum of theirs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from znn_dask.geometry import ONE, Triple, round_up
from znn_dask.net import Convolution, Dropout, Edge, MaxFilter, MaxPool, Network, Transfer
from znn_dask.ops import reference

Arrays = dict[str, np.ndarray]


@dataclass
class Result:
    """What a network gives for one sample: every array in the dtype it was computed in."""

    outputs: Arrays
    loss: float | None = None
    gradients: Arrays | None = None
    d_inputs: Arrays | None = None


def random_parameters(net: Network, rng: np.random.Generator, dtype=np.float32) -> Arrays:
    """Gaussian kernels that keep the scale of images, and biases that are not zero."""
    return {
        name: (rng.standard_normal(p.shape) * (np.sqrt(2 / p.fan_in) if len(p.shape) > 1 else 0.1)).astype(dtype)
        for name, p in net.parameters.items()
    }


def random_sample(
    net: Network,
    output_size: Triple,
    loss: str,
    rng: np.random.Generator,
    batch: int = 1,
    weighted: bool = False,
) -> tuple[Arrays, Arrays, Arrays | None]:
    """Draw inputs, targets that suit the loss, and weights or None."""
    sizes = net.node_sizes(output_size)
    inputs = {
        name: rng.standard_normal((batch, channels, *sizes[name])).astype(np.float32)
        for name, channels in net.inputs.items()
    }
    targets, weights = {}, {}
    for name, channels in net.outputs.items():
        if loss == "softmax":
            targets[name] = rng.integers(0, channels, (batch, *sizes[name]))
            weights[name] = rng.random((batch, *sizes[name]), dtype=np.float32)
        else:
            targets[name] = rng.random((batch, channels, *sizes[name]), dtype=np.float32)
            weights[name] = rng.random((batch, 1, *sizes[name]), dtype=np.float32)
    return inputs, targets, weights if weighted else None


# --- numpy ---


def run(
    net: Network,
    parameters: Arrays,
    inputs: Arrays,
    targets: Arrays | None = None,
    weights: Arrays | None = None,
    loss: str = "square",
    masks: Arrays | None = None,
    dtype=np.float64,
) -> Result:
    """Compute outputs and, given targets, the loss and all gradients with the reference operations.

    ``masks`` holds what each dropout edge keeps; edges without one pass everything, as in prediction.
    """
    parameters = {name: array.astype(dtype) for name, array in parameters.items()}
    values, states = forward(net, parameters, {n: a.astype(dtype) for n, a in inputs.items()}, masks or {})
    result = Result({name: reference.to_public(values[name]) for name in net.outputs})
    if targets is None:
        return result
    result.loss, d_values = 0.0, {}
    for name in net.outputs:
        target, weight = targets[name], None if weights is None else weights[name]
        value, d_values[name] = reference.LOSSES[loss](values[name], _inside(target), _inside(weight))
        result.loss += value
    result.gradients = {}
    for edge in reversed(net.edges.values()):
        d_source = _backward(net, edge, d_values[edge.target], values, states, parameters, result.gradients)
        before = d_values.get(edge.source)
        d_values[edge.source] = d_source if before is None else before + d_source
    result.d_inputs = {name: reference.to_public(d_values[name]) for name in net.inputs}
    return result


def forward(net: Network, parameters: Arrays, inputs: Arrays, masks: Arrays) -> tuple[Arrays, Arrays]:
    """Return the dense image of every node, and what each edge needs for its backward pass; both internal."""
    values = {name: reference.to_internal(array) for name, array in inputs.items()}
    states: Arrays = {}
    for edge in net.edges.values():
        image = _forward(net, edge, values[edge.source], parameters, states, masks)
        before = values.get(edge.target)
        values[edge.target] = image if before is None else before + image
    return values, states


def margin(net: Network, parameters: Arrays, inputs: Arrays) -> float:
    """Return how near the sample comes to a kink: of a rectifier, or two equal values in a window.

    Closer than float32 rounding, two correct programs may take different sides, and their gradients differ.
    """
    parameters = {name: array.astype(np.float64) for name, array in parameters.items()}
    values, _ = forward(net, parameters, {n: a.astype(np.float64) for n, a in inputs.items()}, {})
    found = [np.inf]
    for edge in net.edges.values():
        image, op = values[edge.source], edge.op
        if isinstance(op, Transfer) and op.function in ("relu", "leaky_relu", "elu"):
            found.append(np.abs(image + parameters.get(f"{edge.name}/bias", 0)).min())
        elif isinstance(op, MaxFilter | MaxPool):
            found.append(_gap(image, op, net.edge_sparsity(edge.name)))
    return float(min(found))


def _gap(image: np.ndarray, op: MaxFilter | MaxPool, sparsity: Triple) -> float:
    # Equal values out of a rectifier are no danger: whichever wins, the gradient ends at the rectifier.
    step = op.window if isinstance(op, MaxPool) else ONE
    shifted = []
    for offset in np.ndindex(*op.window):
        axes = zip(image.shape[1:4], offset, op.window, sparsity, step, strict=True)
        z, y, x = (slice(o * s, n - (w - 1 - o) * s, t) for n, o, w, s, t in axes)
        shifted.append(image[:, z, y, x])
    if len(shifted) < 2:
        return np.inf
    top = np.sort(np.stack(shifted), axis=0)[-2:]
    gaps = (top[1] - top[0])[top[1] != 0]
    return gaps.min() if gaps.size else np.inf


def _forward(
    net: Network, edge: Edge, image: np.ndarray, parameters: Arrays, states: Arrays, masks: Arrays
) -> np.ndarray:
    op, sparsity = edge.op, net.edge_sparsity(edge.name)
    if isinstance(op, Convolution):
        kernel = reference.kernel_to_internal(parameters[f"{edge.name}/kernel"])
        return _on_lattice(lambda part: reference.conv_forward(part, kernel), sparsity, op.kernel, image)
    if isinstance(op, Transfer):
        bias = parameters.get(f"{edge.name}/bias")
        states[edge.name] = reference.transfer_forward(image, bias, op.function, op.args)
        return states[edge.name]
    if isinstance(op, MaxFilter):
        both = [
            _on_lattice(lambda part, i=i: reference.max_filter(part, op.window, ONE)[i], sparsity, op.window, image)
            for i in (0, 1)
        ]
        states[edge.name] = both[1]
        return both[0]
    if isinstance(op, MaxPool):
        output, states[edge.name] = reference.max_pool(image, op.window)
        return output
    if edge.name not in masks:
        return image
    states[edge.name] = _inside(masks[edge.name])
    return reference.dropout(image, states[edge.name], op.rate)


def _backward(
    net: Network,
    edge: Edge,
    d_target: np.ndarray,
    values: Arrays,
    states: Arrays,
    parameters: Arrays,
    gradients: Arrays,
) -> np.ndarray:
    """Return the gradient at the source of an edge, and leave those of its parameters in ``gradients``."""
    op, sparsity, image = edge.op, net.edge_sparsity(edge.name), values[edge.source]
    if isinstance(op, Convolution):
        name = f"{edge.name}/kernel"
        kernel = reference.kernel_to_internal(parameters[name])
        d_padded = np.zeros((*image.shape[:4], d_target.shape[4]), d_target.dtype)
        d_padded[tuple(map(slice, d_target.shape))] = d_target
        # Padded by zeros to the image's lattice, both are fragments of one size; the crop drops only zeros.
        parts = [reference.split_fragments(_padded(array, sparsity), [sparsity]) for array in (image, d_padded)]
        z, y, x = (slice(0, n - k + 1) for n, k in zip(parts[0].shape[1:4], op.kernel, strict=True))
        d_valid = parts[1][:, z, y, x]
        gradients[name] = reference.kernel_to_public(reference.conv_kernel_gradient(parts[0], d_valid))
        d_image = reference.merge_fragments(reference.conv_input_gradient(d_valid, kernel), [sparsity])
        return d_image[tuple(map(slice, image.shape))]
    if isinstance(op, Transfer):
        d_image, d_bias = reference.transfer_backward(d_target, states[edge.name], op.function, op.args)
        if op.bias:
            gradients[f"{edge.name}/bias"] = d_bias
        return d_image
    if isinstance(op, MaxFilter):
        return _max_filter_backward(d_target, states[edge.name], op.window, sparsity, image)
    if isinstance(op, MaxPool):
        return reference.max_pool_backward(d_target, states[edge.name], op.window)
    mask = states.get(edge.name)
    return d_target if mask is None else reference.dropout(d_target, mask, op.rate)


def _max_filter_backward(
    d_target: np.ndarray, argmax: np.ndarray, window: Triple, sparsity: Triple, image: np.ndarray
) -> np.ndarray:
    d_image = np.zeros_like(image)
    size = d_target.shape[1:4]
    for index, offset in enumerate(np.ndindex(*window)):
        z, y, x = (slice(o * s, o * s + n) for o, s, n in zip(offset, sparsity, size, strict=True))
        d_image[:, z, y, x] += np.where(argmax == index, d_target, 0)
    return d_image


def _on_lattice(
    function: Callable[[np.ndarray], np.ndarray], sparsity: Triple, window: Triple, image: np.ndarray
) -> np.ndarray:
    """Apply an undilated operation on every sub-lattice; voxels that would see the padding are cropped."""
    axes = zip(image.shape[1:4], window, sparsity, strict=True)
    z, y, x = (slice(0, n - (w - 1) * s) for n, w, s in axes)
    parts = function(reference.split_fragments(_padded(image, sparsity), [sparsity]))
    return reference.merge_fragments(parts, [sparsity])[:, z, y, x]


def _padded(image: np.ndarray, multiple: Triple) -> np.ndarray:
    full = round_up(image.shape[1:4], multiple)
    added = [(0, f - n) for f, n in zip(full, image.shape[1:4], strict=True)]
    return np.pad(image, [(0, 0), *added, (0, 0)])


def _inside(array: np.ndarray | None) -> np.ndarray | None:
    """Turn (batch, [channel,] z, y, x) into (batch, z, y, x[, channel])."""
    return array if array is None or array.ndim == 4 else np.moveaxis(array, 1, -1)


# --- PyTorch ---


def torch_run(
    torch,
    net: Network,
    parameters: Arrays,
    inputs: Arrays,
    targets: Arrays | None = None,
    weights: Arrays | None = None,
    loss: str = "square",
    dtype: str = "float64",
) -> Result:
    """Compute outputs and, given targets, the loss and all gradients by PyTorch's autograd."""
    kind = getattr(torch, dtype)
    tensors = {name: torch.tensor(a, dtype=kind, requires_grad=True) for name, a in parameters.items()}
    leaves = {name: torch.tensor(a, dtype=kind, requires_grad=True) for name, a in inputs.items()}
    outputs = torch_forward(torch, net, tensors, leaves)
    result = Result({name: tensor.detach().numpy() for name, tensor in outputs.items()})
    if targets is not None:
        total = torch_loss(torch, outputs, targets, weights, loss)
        total.backward()
        result.loss = total.item()
        result.gradients = {name: tensor.grad.numpy() for name, tensor in tensors.items()}
        result.d_inputs = {name: tensor.grad.numpy() for name, tensor in leaves.items()}
    return result


def torch_steps(
    torch,
    net: Network,
    parameters: Arrays,
    samples: list[tuple[Arrays, Arrays, Arrays | None]],
    loss: str,
    rates: list[float],
    momentum: float,
    weight_decay: float,
    dtype: str = "float64",
) -> tuple[list[float], Arrays]:
    """Train on the samples with torch.optim.SGD, each at its learning rate; return losses and parameters."""
    kind = getattr(torch, dtype)
    tensors = {name: torch.tensor(a, dtype=kind, requires_grad=True) for name, a in parameters.items()}
    optimizer = torch.optim.SGD(tensors.values(), lr=rates[0], momentum=momentum, weight_decay=weight_decay)
    losses = []
    for (inputs, targets, weights), rate in zip(samples, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        leaves = {name: torch.tensor(array, dtype=kind) for name, array in inputs.items()}
        total = torch_loss(torch, torch_forward(torch, net, tensors, leaves), targets, weights, loss)
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses, {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def torch_forward(torch, net: Network, parameters: Mapping, inputs: Mapping) -> dict:
    """Return the outputs as tensors; dropout passes everything."""
    values = dict(inputs)
    for edge in net.edges.values():
        image = _torch_edge(torch, edge, values[edge.source], parameters, net.edge_sparsity(edge.name))
        values[edge.target] = values[edge.target] + image if edge.target in values else image
    return {name: values[name] for name in net.outputs}


def torch_loss(torch, outputs: Mapping, targets: Arrays, weights: Arrays | None, loss: str):
    """Return the loss as a tensor: torch's own, with its reduction where there are no weights."""
    functional = torch.nn.functional
    functions = {
        "square": functional.mse_loss,
        "logistic": functional.binary_cross_entropy_with_logits,
        "softmax": functional.cross_entropy,
    }
    total = 0
    for name, output in outputs.items():
        target = torch.tensor(targets[name], dtype=torch.int64 if loss == "softmax" else output.dtype)
        if weights is None:
            total = total + functions[loss](output, target)
        else:
            weight = torch.tensor(weights[name], dtype=output.dtype)
            total = total + (weight * functions[loss](output, target, reduction="none")).mean()
    return total


def _torch_edge(torch, edge: Edge, image, parameters: Mapping, sparsity: Triple):
    functional, op = torch.nn.functional, edge.op
    if isinstance(op, Convolution):
        return functional.conv3d(image, parameters[f"{edge.name}/kernel"], dilation=sparsity)
    if isinstance(op, MaxFilter):
        return functional.max_pool3d(image, op.window, stride=1, dilation=sparsity)
    if isinstance(op, MaxPool):
        return functional.max_pool3d(image, op.window)
    if isinstance(op, Dropout):
        return image
    if op.bias:
        image = image + parameters[f"{edge.name}/bias"][:, None, None, None]
    functions = {
        "linear": lambda x, a, b: a * x + b,
        "relu": functional.relu,
        "tanh": lambda x, a, b: a * torch.tanh(b * x),
        "logistic": torch.sigmoid,
        "softsign": functional.softsign,
        "elu": functional.elu,
        "leaky_relu": functional.leaky_relu,
    }
    return functions[op.function](image, *op.args)
