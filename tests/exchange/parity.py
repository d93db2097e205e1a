"""A `Model` beside the module of PyTorch that the same network gives: outputs, loss and all gradients."""

import numpy as np
import torch

import znn_dask as znn
from znn_dask.exchange import to_module
from znn_dask.exchange.modules import module_names
from znn_dask.exchange.state import from_layer, key_of
from znn_dask.net import MaxFilter, MaxPool, Network, Transfer

NEAR = 2e-6  # nearer to a kink than that, two right answers in float32 may differ
SAMPLES = 4  # of PyTorch's own error, which in arrays of a few numbers is a matter of luck
NOTHING = 1e-9  # a gradient that small beside the largest is zero but for rounding


def random_parameters(net: Network, rng) -> dict:
    """Return weights that keep the scale of images, biases that are not zero, norms around one."""
    found = {}
    for name, parameter in net.parameters.items():
        kind = name.rpartition("/")[2]
        values = rng.standard_normal(parameter.shape) * (parameter.fan_in**-0.5 if kind == "kernel" else 0.3)
        found[name] = (np.abs(1 + values) if kind in ("scale", "variance") else values).astype(np.float32)
    return found


def random_sample(net: Network, size, rng, batch: int = 1) -> tuple[dict, dict]:
    """Return images and targets by name."""
    sizes = net.node_sizes(size)
    return tuple(
        {name: rng.standard_normal((batch, n, *sizes[name])).astype(np.float32) for name, n in side.items()}
        for side in (net.inputs, net.outputs)
    )


def by_name(net: Network, outputs) -> dict:
    """Return what a module returned as a dict."""
    return outputs if isinstance(outputs, dict) else {next(iter(net.outputs)): outputs}


def answer(net: Network, parameters, images, targets, dtype) -> dict:
    """Return outputs, loss and gradients of PyTorch, as arrays."""
    module = to_module(net, parameters, ndim=3).to(dtype)
    inputs = [torch.tensor(image, dtype=dtype) for image in images.values()]
    with torch.no_grad():
        found = {f"output {name}": y.numpy() for name, y in by_name(net, module(*inputs)).items()}
    module.train()
    for each in module.modules():
        if isinstance(each, torch.nn.Dropout):
            each.eval()
    outputs = by_name(net, module(*inputs))
    loss = sum(torch.nn.functional.mse_loss(y, torch.tensor(targets[n], dtype=dtype)) for n, y in outputs.items())
    loss.backward()
    found["loss"] = np.array(loss.item())
    names, gradients = module_names(net), dict(module.named_parameters())
    for name, parameter in net.parameters.items():
        if parameter.learned:
            tensor = gradients[key_of(name, names)].grad
            edge = net.edges[name.rpartition("/")[0]]
            # As a layer's array, but in its own precision.
            found[name] = from_layer(edge, tensor.numpy()) if dtype == torch.float32 else _wide(edge, tensor.numpy())
    return found


def _wide(edge, values):
    places = from_layer(edge, np.arange(values.size, dtype=np.float32).reshape(values.shape))
    assert values.size < 2**24
    return values.reshape(-1)[places.astype(np.int64)]


def margin(net: Network, parameters, images) -> float:
    """Return how near a sample comes to a kink of a rectifier, or to two equal values that are compared."""
    module, names, found = to_module(net, parameters, ndim=3).double(), module_names(net), [np.inf]
    seen: dict = {}

    def keep(edge):
        def hook(layer, inputs, output):
            seen.setdefault(edge.target, []).append(output)
            found.append(_kink(net, edge, inputs[0], parameters))

        return hook

    for edge in net.edges.values():
        module.get_submodule(names[edge.name]).register_forward_hook(keep(edge))
    with torch.no_grad():
        for training in (False, True):
            seen.clear()
            module.train(training)
            for each in module.modules():
                if isinstance(each, torch.nn.Dropout):
                    each.eval()
            module(*[torch.tensor(image, dtype=torch.float64) for image in images.values()])
            for node in net.nodes.values():
                if node.join == "max":
                    one, other = torch.stack(seen[node.name]).topk(2, 0).values
                    found.append(_gap(one, other))
    return min(found)


def _kink(net, edge, x, parameters) -> float:
    op = edge.op
    if isinstance(op, Transfer) and op.function in ("relu", "leaky_relu", "elu"):
        bias = parameters.get(f"{edge.name}/bias", np.zeros(1))
        return float((x + torch.tensor(bias, dtype=x.dtype).view(-1, 1, 1, 1)).abs().min())
    if not isinstance(op, MaxFilter | MaxPool):
        return np.inf
    step, sparsity = (op.window, (1, 1, 1)) if isinstance(op, MaxPool) else ((1, 1, 1), net.edge_sparsity(edge.name))
    parts = []
    for offset in np.ndindex(*op.window):
        axes = zip(x.shape[2:], offset, op.window, sparsity, step, strict=True)
        parts.append(x[(..., *(slice(o * s, n - (w - 1 - o) * s, t) for n, o, w, s, t in axes))])
    if len(parts) < 2:
        return np.inf
    one, other = torch.stack(parts).topk(2, 0).values
    return _gap(one, other)


def _gap(one, other) -> float:
    # Values that are just equal come from one voxel, or out of a rectifier at which the gradient ends.
    gaps = (one - other)[one != other]
    return float(gaps.min()) if gaps.numel() else np.inf


def nudged(parameters, images, rng, n: int) -> tuple[dict, dict]:
    """Return parameters and images; but for the first time, their values moved to a neighbour in float32."""
    if n == 0:
        return parameters, images
    return tuple(
        {
            name: np.nextafter(values, rng.choice(np.float32([-np.inf, np.inf]), values.shape)).astype(np.float32)
            for name, values in arrays.items()
        }
        for arrays in (parameters, images)
    )


def assert_parity(net: Network, size, seed: int = 0, batch: int = 1, near: float = NEAR, **options) -> None:
    """Compare everything by the rule: errors at most 1e-5 of the largest value, or three times PyTorch's own.

    In large images values always lie nearer to a kink than ``near``; PyTorch in float32 then meets the same there.
    """
    for attempt in range(20):
        rng = np.random.default_rng([seed, attempt])
        parameters, (images, targets) = random_parameters(net, rng), random_sample(net, size, rng, batch)
        if near and margin(net, parameters, images) <= near:
            continue
        exact = answer(net, parameters, images, targets, torch.float64)
        if all(np.any(exact[f"output {name}"]) for name in net.outputs):
            break
    else:
        raise AssertionError("no sample without a near tie, or rectifiers that leave nothing")
    singles = [answer(net, *nudged(parameters, images, rng, n), targets, torch.float32) for n in range(SAMPLES)]
    options = {"num_workers": 2, "tune": False, "batch": batch} | options
    with znn.Model(net, size, **options) as model:
        model.load_parameters(parameters)
        x, target = (each if len(each) > 1 else next(iter(each.values())) for each in (images, targets))
        outputs = by_name(net, model.forward(x))
        loss, gradients = model.gradients(x, target)
    found = {f"output {name}": y for name, y in outputs.items()} | {"loss": np.array(loss)} | gradients
    assert found.keys() == exact.keys()
    largest = max([np.abs(exact[name]).max() for name in gradients], default=0)
    for name, values in found.items():
        assert values.shape == exact[name].shape, name
        scale = np.abs(exact[name]).max()
        if name in gradients and scale <= NOTHING * largest:  # also 0, behind rectifiers that leave nothing
            assert np.abs(values).max() <= 1e-5 * largest, name
            continue
        error, *theirs = (
            np.abs(each.astype(np.float64) - exact[name]).max() / scale
            for each in (values, *(single[name] for single in singles))
        )
        assert error <= max(1e-5, 3 * max(theirs)), (name, error, theirs)
