"""The published networks: weights, biases and fields of view as published, and round trips."""

import pytest

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
    made = {name for name, value in vars(zoo).items() if callable(value) and value.__module__ == zoo.__name__}
    assert {name for name in made if not name.startswith("_")} == set(PUBLISHED)


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
