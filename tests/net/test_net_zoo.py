"""The published networks: weights, biases and fields of view as published, and round trips."""

import ast
import inspect
import pickle
from collections import Counter

import pytest

from znn_dask.errors import NetworkError, ShapeError
from znn_dask.net import Init, Network, Transfer, zoo

PUBLISHED = {
    "n4": (218_896, 394, (1, 95, 95), 2),
    "n4_affinity": (219_096, 395, (1, 95, 95), 3),
    "vd2d": (230_152, 562, (1, 109, 109), 2),
    "vd2d_tanh": (230_152, 562, (1, 109, 109), 2),
    "vd2d3d": (295_976, 510, (5, 85, 85), 2),
    "srini2d": (21_070, 52, (1, 37, 37), 2),
    "zinet": (1_454_352, 169, (37, 37, 37), 1),
    "net40p": (820_000, 203, (80, 80, 80), 3),
    "hd3d": (189_552, 172, (13, 111, 111), 4),
}


# Field of view of ZNNi's, and maps and voxels of kernels by which width 80 gives its weights.
ZNNI = {
    "n337": (85, 80 * 8 + 80 * 80 * 27 * 5 + 80 * 3 * 27, 80 * 6 + 3),
    "n537": (163, 80 * 64 + 80 * 80 * 125 * 5 + 80 * 3 * 125, 80 * 6 + 3),
    "n726": (117, 80 * 216 + 80 * 80 * 343 * 4 + 80 * 3 * 343, 80 * 5 + 3),
    "n926": (155, 80 * 512 + 80 * 80 * 729 * 4 + 80 * 3 * 729, 80 * 5 + 3),
}
BENCHMARKS = {
    "bench3d": Network.parse("CTMCTMCTCT", width=40, out_channels=None),
    "bench2d": Network.parse("CTMCTMCTCTCTCT", width=40, kernel=11, ndim=2, out_channels=None),
    "bench_pool": Network.parse("CTPCTPCTCT", width=40, out_channels=None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_published(name):
    net = getattr(zoo, name)()
    weights, biases, field_of_view, n_out = PUBLISHED[name]
    assert sum(p.size for p in net.parameters.values() if p.name.endswith("/kernel")) == weights
    assert sum(p.size for p in net.parameters.values() if p.name.endswith("/bias")) == biases
    assert net.n_parameters == weights + biases
    assert net.field_of_view == field_of_view
    assert net.outputs == {"output": n_out}
    assert Network.from_text(net.to_text()) == net


def test_every_network_of_the_zoo_is_checked():
    assert set(zoo.names()) == {*PUBLISHED, *ZNNI, *BENCHMARKS, "unet3d", "rsunet"}
    assert set(zoo.__all__) == {*zoo.names(), "names", "network"}
    assert all(zoo.network(name) == getattr(zoo, name)() for name in ("n4", "unet3d"))
    with pytest.raises(NetworkError, match=r"the zoo has no network 'unet'\. Did you mean 'unet3d'\? It has bench2d"):
        zoo.network("unet")


def test_the_two_inputs_of_vd2d3d():
    net = zoo.vd2d3d()
    assert net.inputs == {"input": 1, "input-r": 1}
    assert [edge.name for edge in net.incoming("merged")] == ["conv1c", "conv1c-r"]
    assert net.input_size(1) == {"input": (5, 85, 85), "input-r": (5, 85, 85)}


def test_the_tanh_of_vd2d_stands_before_every_filter():
    net = zoo.vd2d_tanh()
    before = [net.incoming(edge.source)[0] for edge in net.edges.values() if edge.op.kind == "max_filter"]
    assert [edge.op for edge in before] == [Transfer("tanh", (1.7159, 0.6666))] * 4
    convolutions = [net.incoming(edge.source)[0].op.init for edge in before]
    assert convolutions == [Init("xavier")] * 4
    inits = [edge.op.init for edge in net.edges.values() if edge.op.kind == "convolution"]
    assert inits.count(Init("uniform", (-0.05, 0.05))) == 7


@pytest.mark.parametrize("name", ZNNI)
def test_networks_of_znni(name):
    net = getattr(zoo, name)()
    view, weights, biases = ZNNI[name]
    assert net.field_of_view == (view,) * 3
    assert net.n_parameters == weights + biases
    assert net.outputs == {"output": 3}
    counts = Counter(edge.op.kind for edge in net.edges.values())
    kernels = [edge.op.kernel[0] for edge in net.edges.values() if edge.op.kind == "convolution"]
    # n537: kernels of 5, 3 pools, 7 convolutions.
    assert name == f"n{max(kernels)}{counts['max_filter']}{counts['convolution']}"
    assert getattr(zoo, name)(width=4, out_channels=1).nodes["conv2"].channels == 4


@pytest.mark.parametrize("name", BENCHMARKS)
def test_networks_of_the_benchmarks(name):
    assert getattr(zoo, name)() == BENCHMARKS[name]
    small = getattr(zoo, name)(width=3, kernel=5, out_channels=1)
    assert small.nodes["conv2"].channels == 3
    assert small.outputs == {"output": 1}
    assert small.edges["conv1"].op.kernel[1:] == (5, 5)


def test_unet3d():
    net = zoo.unet3d()
    down = 27 * (1 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    up = 8 * (64 * 32 + 32 * 16) + 27 * (64 * 32 + 32 * 32 + 32 * 16 + 16 * 16)
    biases = 2 * (16 + 32 + 64 + 32 + 16) + 1
    assert net.n_parameters == down + up + 16 + biases
    assert net.input_size(64) == (64, 64, 64)
    assert net.node_sizes(64)["conv5"] == (16, 16, 16)
    assert [edge.op.kind for edge in net.incoming("concat1")] == ["identity", "identity"]
    assert [edge.source for edge in net.incoming("concat1")] == ["transfer4", "transposed_conv1"]
    with pytest.raises(ShapeError, match=r"output 'output' cannot have \(63, 63, 63\) .* fit along z: 60 and 64"):
        net.node_sizes(63)


def test_a_unet_of_other_means():
    net = zoo.unet3d(2, 3, (4, 8), "group(2)", kernel=(1, 3, 3), window=(1, 2, 2), transfer="elu", padding="valid")
    kinds = Counter(edge.op.kind for edge in net.edges.values())
    assert kinds == {
        "convolution": 7,
        "normalisation": 6,
        "transfer": 7,
        "max_pool": 1,
        "transposed_convolution": 1,
        "crop": 1,
        "identity": 1,
    }
    assert (net.inputs, net.outputs) == ({"input": 2}, {"output": 3})
    assert [edge.op.bias for edge in net.edges.values() if edge.op.kind == "transfer"] == [False] * 6 + [True]
    # The U-Net of 2015 loses 184 voxels in five levels; two levels of it lose 16.
    assert net.input_size((1, 4, 4)) == (1, 20, 20)


def test_rsunet():
    net = zoo.rsunet()
    assert net.input_size((16, 64, 64)) == (16, 64, 64)
    widths = [28, 36, 48, 64, 80]
    embeddings = 25 * (28 + 28 * 28)
    down = sum(27 * (a * b + 2 * b * b) for a, b in zip([28, *widths], widths, strict=False))
    up = sum(a * b + 27 * 3 * b * b for a, b in zip(widths[1:], widths, strict=False))
    norms = 2 * (2 * 28 + 3 * sum(widths) + 4 * sum(widths[:-1]))
    assert net.n_parameters == embeddings + down + up + norms + 28 + 1
    sums = [node.name for node in net.nodes.values() if len(net.incoming(node.name)) == 2]
    assert len(sums) == 5 + 4 + 4
    assert net.node_sizes((16, 64, 64))["max_pool4"] == (16, 4, 4)
    assert {edge.op.over for edge in net.edges.values() if edge.op.kind == "normalisation"} == {"batch"}


def body_lines(make) -> int:
    """The lines of a function after its docstring."""
    (function,) = ast.parse(inspect.getsource(make)).body
    return function.end_lineno - function.body[0].end_lineno


@pytest.mark.parametrize("name", zoo.names())
def test_each_is_short(name):
    assert 1 <= body_lines(getattr(zoo, name)) <= 15


@pytest.mark.parametrize("name", zoo.names())
def test_it_prints_and_draws(name):
    net = getattr(zoo, name)()
    assert str(net)
    assert net.graphviz().source
    assert pickle.loads(pickle.dumps(net)) == net
