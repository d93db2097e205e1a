"""The two plain ways of computing a whole network agree, so either may judge `Model`."""

import numpy as np
import pytest
import reference_network as plain

from znn_dask.net import Convolution, Edge, MaxFilter, Network, Transfer

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

NETS = {
    "3d max-filter": (Network.parse("CTMCTMCTCT", width=3, kernel=2), (2, 3, 5)),
    "2d max-filter": (Network.parse("CTMCTMCT", width=3, kernel=3, ndim=2, out_channels=3), (1, 5, 4)),
    "max-pool": (Network.parse("CTPCTPCT", width=3, kernel=(1, 2, 3), out_channels=3), (2, 2, 3)),
    "stride is not the window": (Network.parse("CMTMC", width=2, window=3, stride=[(1, 2, 3), 2]), (3, 5, 4)),
    "every transfer": (
        Network.parse(
            "CTCTCTCTCTCT",
            width=2,
            kernel=1,
            transfer=["linear(2,1)", "tanh(1.7,0.6)", "logistic", "softsign", "elu(0.5)", "leaky_relu(0.1)"],
        ),
        (2, 3, 4),
    ),
    "graph": (
        Network(
            {"one": 1, "two": 2, "a": 3, "b": 3, "sum": 2, "first": 2, "second": 3},
            [
                Edge("c1", "one", "a", Convolution((1, 3, 3))),
                Edge("c2", "two", "a", Convolution((1, 3, 3))),
                Edge("m", "a", "b", MaxFilter((1, 2, 2), (1, 2, 2))),
                Edge("c3", "b", "sum", Convolution((2, 2, 2))),
                Edge("c4", "b", "sum", Convolution((2, 2, 2))),
                Edge("t", "sum", "first", Transfer("tanh")),
                Edge("c5", "sum", "second", Convolution((1, 1, 1))),
            ],
        ),
        (2, 3, 3),
    ),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["square", "logistic", "softmax"])
@pytest.mark.parametrize("name", NETS)
def test_numpy_and_torch_agree_in_float64(name, loss, weighted):
    net, output_size = NETS[name]
    rng = np.random.default_rng(0)
    parameters = plain.random_parameters(net, rng)
    sample = plain.random_sample(net, output_size, loss, rng, batch=2, weighted=weighted)
    ours = plain.run(net, parameters, *sample, loss=loss)
    theirs = plain.torch_run(torch, net, parameters, *sample, loss=loss)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
    assert ours.gradients.keys() == theirs.gradients.keys() == net.parameters.keys()
    for mine, other in [
        (ours.outputs, theirs.outputs),
        (ours.gradients, theirs.gradients),
        (ours.d_inputs, theirs.d_inputs),
    ]:
        for key, array in other.items():
            np.testing.assert_allclose(mine[key], array, rtol=1e-9, atol=1e-13)


def test_margin_finds_the_nearest_kink():
    net = Network.parse("CTM", width=1, kernel=1, window=(1, 1, 2))
    parameters = {"conv1/kernel": np.ones((1, 1, 1, 1, 1)), "transfer1/bias": np.zeros(1)}
    at = lambda *values: plain.margin(net, parameters, {"input": np.array(values).reshape(1, 1, 1, 1, -1)})  # noqa: E731
    assert at(1.0, 2.0, 4.0) == 1.0
    assert at(-0.5, 2.0, 4.0) == 0.5
    assert at(-3.0, -2.0, -4.0) == 2.0, "ties among rectified voxels do not count"


def test_dropout_masks_are_applied_forward_and_backward():
    net = Network.parse("CTDC", width=2, kernel=1, dropout=0.25)
    rng = np.random.default_rng(1)
    parameters = plain.random_parameters(net, rng)
    inputs, targets, _ = plain.random_sample(net, (2, 2, 3), "square", rng)
    mask = rng.random((1, 2, 2, 2, 3)) < 0.75
    kept = plain.run(net, parameters, inputs, targets, masks={"dropout1": mask})
    assert kept.loss != plain.run(net, parameters, inputs, targets).loss
    for name, gradient in kept.gradients.items():
        h, at = 1e-6, {key: array.astype(np.float64) for key, array in parameters.items()}
        direction = rng.standard_normal(gradient.shape)
        sides = [
            plain.run(net, at | {name: at[name] + s * direction}, inputs, targets, masks={"dropout1": mask}).loss
            for s in (h, -h)
        ]
        assert (sides[0] - sides[1]) / (2 * h) == pytest.approx(np.vdot(gradient, direction), rel=1e-5, abs=1e-9)
