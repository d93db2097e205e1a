"""`Model` against PyTorch: same weights, same input; outputs, losses, all gradients, three steps of training.

The rule: relative to the largest value of each array, the error against PyTorch in float64 is at most the
larger of 1e-5 and three times the error of PyTorch's own float32. Every way of computing is tried: both
algorithms and the published one, both granularities, several block widths, batches; all losses and weights.
"""

import itertools
from functools import cache

import numpy as np
import pytest
import reference_network as plain

import znn_dask as znn
from znn_dask.net import Convolution, Edge, MaxFilter, Network, Transfer

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

pytestmark = pytest.mark.timeout(120)

CLASSES = 3
NETS = {
    "3d max-filter": (
        Network.parse("CTMCTMCT", width=5, kernel=[3, 2, (1, 2, 3)], out_channels=CLASSES),
        (2, 3, 5),
    ),
    "2d max-filter": (
        Network.parse("CTMCTMCTC", width=4, kernel=[4, 3, 3, 1], ndim=2, out_channels=CLASSES),
        (1, 7, 6),
    ),
    "max-pool": (
        Network.parse(
            "CTPCTPCT",
            width=5,
            kernel=[3, (1, 3, 2), 2],
            window=[2, (1, 2, 3)],
            out_channels=CLASSES,
            transfer="tanh",
        ),
        (2, 3, 2),
    ),
}
LOSSES = ("square", "logistic", "softmax")
MODES = list(itertools.product(("fft", "direct", "fft-stored"), ("node", "edge"), ("auto", 2)))
# What does not change the way of computing goes round, so that every way meets it in one net or another.
TURNS = list(itertools.product((1, 2), LOSSES, (False, True)))


@cache
def case(name, loss, weighted, batch, net=None, output_size=None):
    """Parameters, a sample, and PyTorch's answers to it in both precisions."""
    net, output_size = NETS.get(name, (net, output_size))
    # Nearer to a kink of a rectifier or a tie than rounding goes, two right answers would differ.
    for seed in range(20):
        rng = np.random.default_rng(seed)
        parameters = plain.random_parameters(net, rng)
        sample = plain.random_sample(net, output_size, loss, rng, batch, weighted)
        if plain.margin(net, parameters, sample[0]) > 5e-6:
            break
    else:
        raise AssertionError("no sample without a near tie")
    results = [
        plain.torch_run(torch, net, parameters, *sample, loss=loss, dtype=dtype) for dtype in ("float64", "float32")
    ]
    return parameters, sample, *results


def assert_parity(found, exact, single):
    """Check one array by the rule."""
    assert np.shape(found) == np.shape(exact)
    scale = np.abs(exact).max()
    error, allowed = (np.abs(np.asarray(other, float) - exact).max() / scale for other in (found, single))
    assert error <= max(1e-5, 3 * allowed)


def assert_all_parity(found, exact, single):
    assert list(found) == list(exact)
    for name, array in found.items():
        assert array.dtype == np.float32
        assert_parity(array, exact[name], single[name])


def given_to_model(sample, loss):
    """Targets and weights in the shapes of the public interface."""
    inputs, targets, weights = sample
    if weights is not None and loss == "softmax":
        weights = {name: weight[:, np.newaxis] for name, weight in weights.items()}
    return [
        None if part is None else (part if len(part) > 1 else next(iter(part.values())))
        for part in (inputs, targets, weights)
    ]


def as_dict(outputs, net):
    return outputs if isinstance(outputs, dict) else {next(iter(net.outputs)): outputs}


def check_model(net, output_size, answers, loss, **options):
    parameters, sample, exact, single = answers
    batch = next(iter(sample[0].values())).shape[0]
    with znn.Model(net, output_size, loss=loss, num_workers=2, batch=batch, **options) as model:
        model.load_parameters(parameters)
        x, target, weight = given_to_model(sample, loss)
        assert_all_parity(as_dict(model.forward(x), net), exact.outputs, single.outputs)
        value, gradients = model.gradients(x, target, weight)
    assert_parity(value, exact.loss, single.loss)
    assert_all_parity(gradients, exact.gradients, single.gradients)


@pytest.mark.parametrize(("convolution", "granularity", "block"), MODES)
@pytest.mark.parametrize("name", NETS)
def test_every_way_of_computing(name, convolution, granularity, block):
    net, output_size = NETS[name]
    turn = MODES.index((convolution, granularity, block)) + 5 * list(NETS).index(name)
    batch, loss, weighted = TURNS[turn % len(TURNS)]
    options = {"convolution": convolution, "granularity": granularity, "block": block}
    check_model(net, output_size, case(name, loss, weighted, batch), loss, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETS)
def test_every_loss_as_planned(name, loss, weighted):
    net, output_size = NETS[name]
    check_model(net, output_size, case(name, loss, weighted, 1), loss)


@pytest.mark.parametrize("fft_backend", ["pyfftw", "scipy"])
def test_every_transform(fft_backend):
    net, output_size = NETS["3d max-filter"]
    check_model(
        net,
        output_size,
        case("3d max-filter", "square", False, 1),
        "square",
        convolution="fft",
        fft_backend=fft_backend,
    )


@pytest.mark.parametrize("block", [1, 3, 4, 100])
@pytest.mark.parametrize("granularity", ["node", "edge"])
def test_every_block_width(granularity, block):
    net, output_size = NETS["3d max-filter"]
    answers = case("3d max-filter", "softmax", True, 2)
    check_model(net, output_size, answers, "softmax", granularity=granularity, block=block)


def test_algorithms_may_differ_between_edges():
    net, output_size = NETS["3d max-filter"]
    chosen = {"conv1": "direct", "conv2": "fft", "conv3": "fft-stored"}
    check_model(net, output_size, case("3d max-filter", "logistic", True, 1), "logistic", convolution=chosen)


def test_weights_of_the_softmax_loss_may_have_the_shape_of_the_classes():
    net, output_size = NETS["3d max-filter"]
    parameters, (inputs, targets, weights), exact, _ = case("3d max-filter", "softmax", True, 2)
    with znn.Model(net, output_size, loss="softmax", num_workers=2, batch=2) as model:
        model.load_parameters(parameters)
        loss, _ = model.gradients(inputs["input"], targets["output"], weights["output"])
        assert loss == pytest.approx(exact.loss, rel=1e-5)
        one, _ = model.gradients(inputs["input"][0], targets["output"][0], weights["output"][0])
        other, _ = model.gradients(inputs["input"][1], targets["output"][1], weights["output"][1])
        assert (one + other) / 2 == pytest.approx(exact.loss, rel=1e-5)


# --- networks that are no chain ---

GRAPHS = {
    "several inputs and outputs": (
        Network(
            {"one": 1, "two": 2, "a": 3, "b": 3, "sum": 3, "first": 3, "second": 3},
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
    "a skip beside a transfer": (
        Network(
            {"input": 1, "a": 4, "b": 4, "output": 3},
            [
                Edge("c1", "input", "a", Convolution((2, 3, 3))),
                Edge("t1", "a", "b", Transfer("tanh")),
                Edge("t2", "a", "b", Transfer("linear", (0.5, 0.1), bias=False)),
                Edge("c2", "b", "output", Convolution((1, 2, 2))),
                Edge("c3", "a", "output", Convolution((1, 2, 2))),
            ],
        ),
        (2, 3, 4),
    ),
    "nothing is learned at first": (
        Network(
            {"input": 2, "a": 2, "b": 2, "output": 3},
            [
                Edge("t1", "input", "a", Transfer("tanh", bias=False)),
                Edge("m1", "a", "b", MaxFilter((1, 2, 2), (1, 2, 2))),
                Edge("c1", "b", "output", Convolution((2, 2, 2))),
            ],
        ),
        (2, 3, 3),
    ),
}


@pytest.mark.parametrize("block", ["auto", 2])
@pytest.mark.parametrize("convolution", ["fft", "direct"])
@pytest.mark.parametrize("name", GRAPHS)
def test_networks_that_are_no_chain(name, convolution, block):
    net, output_size = GRAPHS[name]
    answers = case(name, "softmax", True, 2, net, output_size)
    check_model(net, output_size, answers, "softmax", convolution=convolution, block=block)


def test_fragments_that_meet_in_different_orders_are_refused():
    net = Network(
        {"input": 1, "a": 2, "y": 2, "x": 2, "b": 2, "output": 3},
        [
            Edge("c1", "input", "a", Convolution((1, 2, 2))),
            Edge("my", "a", "y", MaxFilter((1, 2, 1), (1, 2, 1))),
            Edge("mx", "a", "x", MaxFilter((1, 1, 2), (1, 1, 2))),
            Edge("myx", "y", "b", MaxFilter((1, 1, 2), (1, 1, 2))),
            Edge("mxy", "x", "b", MaxFilter((1, 2, 1), (1, 2, 1))),
            Edge("c2", "b", "output", Convolution((2, 2, 2))),
        ],
    )
    with pytest.raises(znn.NetworkError, match="'mxy' brings the fragments of node 'b' in another order"):
        check_model(net, (2, 3, 3), case("orders", "square", False, 1, net, (2, 3, 3)), "square")


TRANSFERS = [
    "linear(1.5,-0.5)",
    "relu",
    "tanh(1.7,0.6)",
    "logistic",
    "softsign",
    "elu(0.5)",
    "leaky_relu(0.1)",
]


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_every_transfer(transfer):
    net = Network.parse("CTMCTC", width=4, kernel=2, out_channels=2, transfer=transfer)
    answers = case(transfer, "square", False, 1, net, (2, 3, 4))
    check_model(net, (2, 3, 4), answers, "square")


# --- training ---


@pytest.mark.parametrize("convolution", ["fft", "direct", "fft-stored"])
@pytest.mark.parametrize("name", NETS)
def test_three_steps_with_momentum_and_decay(name, convolution):
    net, output_size = NETS[name]
    loss, momentum, decay, rates = "square", 0.9, 0.05, [0.02, 0.02, 0.005]
    rng = np.random.default_rng(3)
    parameters = plain.random_parameters(net, rng)
    samples = [plain.random_sample(net, output_size, loss, rng, weighted=True) for _ in rates]
    exact, single = (
        plain.torch_steps(torch, net, parameters, samples, loss, rates, momentum, decay, dtype)
        for dtype in ("float64", "float32")
    )
    optimizer = znn.SGD(learning_rate=rates[0], momentum=momentum, weight_decay=decay)
    losses = []
    with znn.Model(net, output_size, loss=loss, optimizer=optimizer, num_workers=2, convolution=convolution) as model:
        model.load_parameters(parameters)
        for sample, rate in zip(samples, rates, strict=True):
            model.learning_rate = rate
            losses.append(model.step(*given_to_model(sample, loss)))
        found = model.parameters
    for mine, *theirs in zip(losses, exact[0], single[0], strict=True):
        assert_parity(mine, *theirs)
    assert_all_parity(found, exact[1], single[1])
    moved = max(np.abs(found[key] - parameters[key]).max() for key in found)
    assert moved > 1e-3, "so little happened that nothing was tested"
