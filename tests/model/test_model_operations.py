"""Strides, padding, transposed convolutions, joins and norms in a `Model`, against PyTorch in both precisions."""

from functools import cache

import numpy as np
import pytest

import znn_dask as znn

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import torch_networks  # noqa: E402
from todays_networks import CASES  # noqa: E402

pytestmark = pytest.mark.timeout(240)
WAYS = [
    {},
    {"convolution": "fft", "granularity": "edge", "block": 2},
    {"convolution": "direct", "block": 3},
    {"convolution": "fft-stored", "block": 2},
]
BATCH = 2


def random_parameters(net, rng):
    found = {}
    for name, parameter in net.parameters.items():
        kind = name.rpartition("/")[2]
        values = rng.standard_normal(parameter.shape) * (parameter.fan_in**-0.5 if kind == "kernel" else 0.3)
        if kind in ("scale", "variance"):
            values = np.abs(1 + values)
        found[name] = values.astype(np.float32)
    return found


@cache
def case(name):
    """Parameters, a sample, and what PyTorch makes of it in float64 and float32: output, loss and gradients."""
    net, size = CASES[name]
    run = torch_networks.CASES[name]
    rng = np.random.default_rng(5)
    parameters = random_parameters(net, rng)
    sizes = net.node_sizes(size)
    x, target = (
        rng.standard_normal((BATCH, channels, *sizes[node])).astype(np.float32)
        for node, channels in (*net.inputs.items(), *net.outputs.items())
    )
    return parameters, x, target, [answer(run, parameters, x, target, kind) for kind in (torch.float64, torch.float32)]


def answer(run, parameters, x, target, kind):
    given = {name: torch.tensor(values, dtype=kind, requires_grad=True) for name, values in parameters.items()}
    image = torch.tensor(x, dtype=kind)
    y = run(image, given, True)
    loss = torch.nn.functional.mse_loss(y, torch.tensor(target, dtype=kind))
    loss.backward()
    with torch.no_grad():
        output = run(image, given, False).numpy()
    return {"output": output, "loss": np.array(loss.item())} | {
        name: value.grad.numpy() for name, value in given.items() if value.grad is not None
    }


def error(found, right):
    return np.linalg.norm(found - right) / np.linalg.norm(right)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_as_pytorch(name, way):
    net, size = CASES[name]
    parameters, x, target, (exact, single) = case(name)
    with znn.Model(net, size, num_workers=2, batch=BATCH, tune=False, **way) as model:
        model.load_parameters(parameters)
        loss, gradients = model.gradients(x, target)
        found = {"output": model.forward(x), "loss": np.array(loss)} | gradients
    assert found.keys() == exact.keys()
    for what, values in found.items():
        assert values.shape == exact[what].shape
        assert error(values, exact[what]) <= max(1e-5, 3 * error(single[what], exact[what])), what


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_for_any_number_of_workers(name):
    net, size = CASES[name]
    parameters, x, target, _ = case(name)
    answers = []
    for num_workers in (1, 2, 4, 8):
        with znn.Model(net, size, num_workers=num_workers, batch=BATCH, tune=False, block=2) as model:
            model.load_parameters(parameters)
            losses = list(model.steps([(x, target)] * 3))
            answers.append([*losses, *(values.tobytes() for values in model.parameters.values())])
    assert all(other == answers[0] for other in answers[1:])


def test_running_averages_are_those_of_pytorch():
    net, size = CASES["batch"]
    parameters, x, target, _ = case("batch")
    with znn.Model(net, size, num_workers=2, batch=BATCH, tune=False, optimizer=znn.SGD(0.0)) as model:
        model.load_parameters(parameters)
        for _ in range(2):
            model.step(x, target)
        found = model.parameters
        assert "norm1/mean" not in model.gradients(x, target)[1]
    y = torch.nn.functional.conv3d(torch.tensor(x), torch.tensor(parameters["conv1/kernel"]), padding=1)
    mean, variance = torch.tensor(parameters["norm1/mean"]), torch.tensor(parameters["norm1/variance"])
    for _ in range(2):
        torch.nn.functional.batch_norm(y, mean, variance, training=True)
    np.testing.assert_allclose(found["norm1/mean"], mean.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["norm1/variance"], variance.numpy(), rtol=1e-4)
    assert not np.allclose(found["norm1/mean"], parameters["norm1/mean"])


@pytest.mark.parametrize("name", CASES)
def test_saved_and_loaded(name, tmp_path):
    net, size = CASES[name]
    _, x, target, _ = case(name)
    with znn.Model(net, size, num_workers=2, batch=BATCH, tune=False) as model:
        model.step(x, target)
        model.save(tmp_path / "model.safetensors")
        with znn.Model.load(tmp_path / "model.safetensors", num_workers=2) as other:
            assert other.net == net
            assert other.step(x, target) == model.step(x, target)


def test_an_output_that_padding_makes_impossible_is_refused():
    net = CASES["dense"][0]
    with pytest.raises(znn.ShapeError, match="multiples of the sparsity"):
        znn.Model(net, (3, 5, 8), tune=False)
