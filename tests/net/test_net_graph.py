"""Networks as graphs: order, names, what is refused, parameters, and that they are values."""

import pickle

import pytest
from hypothesis import given
from net_strategies import Case, graphs, joined_graphs

from znn_dask.errors import NetworkError, ParameterError
from znn_dask.net import (
    Convolution,
    Dropout,
    Edge,
    Init,
    MaxFilter,
    MaxPool,
    Network,
    Node,
    Parameter,
    Transfer,
)

CONV = Convolution((3, 3, 3))


def network(*edges: tuple, **channels: int) -> Network:
    return Network(channels, [Edge(*edge) for edge in edges])


@given(graphs())
def test_order_is_topological(case: Case):
    net = case.net
    place = {name: index for index, name in enumerate(net.nodes)}
    sources = [place[edge.source] for edge in net.edges.values()]
    assert all(place[edge.source] < place[edge.target] for edge in net.edges.values())
    assert sources == sorted(sources)
    assert set(net.inputs) == {name for name in net.nodes if not net.incoming(name)}
    assert set(net.outputs) == {name for name in net.nodes if not net.outgoing(name)}


@given(graphs())
def test_networks_are_values(case: Case):
    net = case.net
    same = Network(net.nodes.values(), net.edges.values(), net.ndim)
    assert same == net
    assert hash(same) == hash(net)
    assert pickle.loads(pickle.dumps(net)) == net
    _ = net.field_of_view, same.n_parameters, net.parameters
    assert pickle.dumps(net) == pickle.dumps(pickle.loads(pickle.dumps(net)))
    assert net != Network(net.nodes.values(), net.edges.values(), 5 - net.ndim)


@given(joined_graphs())
def test_networks_of_any_operation_are_values(net: Network):
    assert Network(net.nodes.values(), net.edges.values(), net.ndim) == net
    assert pickle.loads(pickle.dumps(net)) == net
    sizes = net.table().splitlines()[-1]
    assert sizes.startswith("field of view")
    assert net.graphviz().source.count("->") == len(net.edges)


def test_what_is_given_out_does_not_lead_back_in():
    net = Network.parse("CT", kernel=3)
    net.nodes.clear()
    net.edges.clear()
    net.parameters.clear()
    assert list(net.nodes) == ["input", "conv1", "output"]
    with pytest.raises(AttributeError):
        net.ndim = 2
    with pytest.raises(AttributeError):
        net.edges["conv1"].op.kernel = (1, 1, 1)


def test_an_order_that_fits_stays_and_another_is_put_right():
    edges = [("e1", "a", "b", CONV), ("e2", "b", "c", CONV), ("e3", "a", "d", CONV)]
    forward = network(*edges, a=1, b=1, c=1, d=1)
    assert list(forward.nodes) == ["a", "b", "c", "d"]
    assert list(forward.edges) == ["e1", "e3", "e2"]
    assert list(network(*edges, c=1, b=1, a=1, d=1).nodes) == ["a", "b", "c", "d"]


def test_neighbours_and_ends():
    net = network(("e1", "x", "s", CONV), ("e2", "y", "s", CONV), ("e3", "x", "s", CONV), x=1, y=2, s=3)
    assert [edge.name for edge in net.incoming("s")] == ["e1", "e3", "e2"]
    assert [edge.name for edge in net.outgoing("x")] == ["e1", "e3"]
    assert net.inputs == {"x": 1, "y": 2}
    assert net.outputs == {"s": 3}
    with pytest.raises(NetworkError, match=r"there is no node 'z'.* Known: x, y, s"):
        net.incoming("z")
    with pytest.raises(NetworkError, match=r"there is no edge 'e4'\. Did you mean"):
        net.edge_sparsity("e4")


@pytest.mark.parametrize(
    ("edges", "channels", "message"),
    [
        ([], {"a": 1}, "needs at least one edge"),
        ([("e", "a", "b", CONV)], {"a": 1, "b": 1, "c": 1}, "node 'c' has no edge"),
        (
            [("e", "a", "bb", CONV)],
            {"a": 1, "b": 1},
            r"edge 'e' names node 'bb', .* Did you mean 'b'\? Nodes: a, b",
        ),
        ([("e", "a", "b", CONV)] * 2, {"a": 1, "b": 1}, "two edges are named 'e'"),
        ([("e", "a", "a", CONV)], {"a": 1}, "has a cycle: a -> a"),
        (
            [("e", "a", "b", Transfer())],
            {"a": 1, "b": 2},
            r"'e' \(transfer\) keeps .* 'a' has 1 and node 'b' has 2",
        ),
        ([("e", "a", "b", "conv")], {"a": 1, "b": 1}, "edge 'e' needs an operation such as Convolution"),
        ([("e/f", "a", "b", CONV)], {"a": 1, "b": 1}, "edge 'e/f' needs a name .* without spaces"),
        ([("e", "a", "b", CONV)], {"a": 0, "b": 1}, "node 'a' needs a number of maps of at least 1, got 0"),
        ([("e", "a", "b", CONV)], {"a": True, "b": 1}, "node 'a' needs a number of maps"),
        ([("e", "", "b", CONV)], {"": 1, "b": 1}, "node '' needs a name"),
    ],
)
def test_what_cannot_be_a_network_is_refused(edges, channels, message):
    with pytest.raises(NetworkError, match=message):
        network(*edges, **channels)


def test_a_cycle_is_shown():
    edges = [("e1", "in", "a", CONV), ("e2", "a", "b", CONV), ("e3", "b", "c", CONV), ("e4", "c", "a", CONV)]
    with pytest.raises(NetworkError, match=r"has a cycle: a -> b -> c -> a\."):
        Network(dict.fromkeys(["in", "a", "b", "c"], 1), [Edge(*edge) for edge in edges])


def test_nodes_of_one_name_and_another_ndim_are_refused():
    with pytest.raises(NetworkError, match="two nodes are named 'a'"):
        Network([Node("a", 1), Node("a", 1)], [Edge("e", "a", "a", CONV)])
    with pytest.raises(NetworkError, match="ndim must be 2 or 3, got 1"):
        Network({"a": 1, "b": 1}, [Edge("e", "a", "b", CONV)], ndim=1)


def test_parameters_of_the_authors_networks_by_hand():
    net = Network.parse("CTMCTMCTCT", width=40, kernel=3, window=2, out_channels=40)
    assert net.n_parameters == 40 * 27 + 3 * 40 * 40 * 27 + 4 * 40
    assert list(net.parameters) == [
        f"{edge}{n}/{kind}" for n in (1, 2, 3, 4) for edge, kind in (("conv", "kernel"), ("transfer", "bias"))
    ]
    net = Network.parse("CTMCTMCTCTCTCT", width=40, kernel=11, window=2, ndim=2, out_channels=3)
    assert net.n_parameters == 40 * 121 + 4 * 40 * 40 * 121 + 40 * 3 * 121 + 5 * 40 + 3


def test_what_a_parameter_says():
    net = Network.parse("CT", in_channels=2, out_channels=5, kernel=(1, 3, 4), init="xavier")
    kernel, bias = net.parameters.values()
    assert kernel == Parameter("conv1/kernel", (5, 2, 1, 3, 4), fan_in=24, fan_out=60, init=Init("xavier"))
    assert bias == Parameter("transfer1/bias", (5,), fan_in=1, fan_out=1, init=Init("zero"))
    assert (kernel.size, bias.size) == (120, 5)


def test_a_transfer_without_bias_has_no_parameter():
    edge = ("t", "a", "b", Transfer("tanh", bias=False, init=Init("gaussian")))
    net = network(edge, a=3, b=3)
    assert net.parameters == {}
    assert net.edges["t"].op == Transfer("tanh", bias=False)


def test_kinds():
    ops = [CONV, Transfer(), MaxFilter((2, 2, 2), (1, 1, 1)), MaxPool((2, 2, 2)), Dropout()]
    assert [op.kind for op in ops] == ["convolution", "transfer", "max_filter", "max_pool", "dropout"]


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (Init("uniform"), Init("uniform", (-0.1, 0.1))),
        (Init("uniform", (0.5,)), Init("uniform", (-0.5, 0.5))),
        (Init("gaussian"), Init("gaussian", (0, 0.01))),
        (Init("bernoulli"), Init("bernoulli", (0.5,))),
        (Init(), Init("he", ())),
        (Transfer("rectify_linear"), Transfer("relu")),
        (Transfer("logistics"), Transfer("logistic")),
        (Transfer("soft_sign"), Transfer("softsign")),
        (Transfer("forward_logistics"), Transfer("forward_logistic")),
        (Transfer("linear"), Transfer("linear", (1, 0))),
        (Transfer("tanh"), Transfer("tanh", [1.0, 1.0])),
        (Transfer("elu"), Transfer("elu", (1,))),
        (Transfer("leaky_relu"), Transfer("leaky_relu", (0.01,))),
        (Convolution([3, 3, 3]), Convolution((3, 3, 3))),
    ],
)
def test_equal_meaning_is_equal_value(given, same):
    assert given == same
    assert hash(given) == hash(same)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Init("zeros"), r"unknown initialiser 'zeros'\. Did you mean 'zero'\? Known: he, zero,"),
        (lambda: Init("constant"), r"'constant' takes 1 arguments, got 0"),
        (lambda: Init("he", (1,)), "'he' takes 0 arguments"),
        (lambda: Init("uniform", (1, 0)), "needs lo <= hi, got 1, 0"),
        (lambda: Init("gaussian", (0, -1)), "standard deviation of 0 or more, got -1"),
        (lambda: Init("bernoulli", (2,)), r"probability in \[0, 1\], got 2"),
        (lambda: Init("constant", (float("nan"),)), "must be finite"),
        (lambda: Init("constant", ("x",)), "must be a number, got 'x'"),
        (lambda: Transfer("rleu"), r"unknown transfer function 'rleu'\. Did you mean 'relu'\?"),
        (lambda: Transfer("tanh", (1,)), "'tanh' takes 2 arguments, got 1"),
        (lambda: Transfer("tanh", (0, 1)), "an a other than 0"),
        (lambda: Transfer("leaky_relu", (-0.1,)), "argument of 0 or more, got -0.1"),
        (lambda: Dropout(1.0), "at least 0 and below 1, got 1"),
        (lambda: Dropout(-0.1), "at least 0 and below 1, got -0.1"),
        (lambda: Convolution((0, 1, 1)), r"kernel must be at least 1 .* got \(0, 1, 1\)"),
        (lambda: MaxPool((1, 1)), "window must be an int or three ints"),
        (lambda: MaxFilter((1, 1, 1), (0, 1, 1)), "stride must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ParameterError, match=message):
        make()
