"""Padded, strided and transposed convolutions in terms of dense ones; blocks that fit together."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from znn_dask.geometry import volume
from znn_dask.lower.blocks import shared_blocks
from znn_dask.lower.expand import expand
from znn_dask.net import (
    Convolution,
    Edge,
    Identity,
    Merge,
    Network,
    Node,
    Padding,
    PhasedConvolution,
    Split,
    Transfer,
    TransposedConvolution,
    Upsample,
    zoo,
)

axes = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
small = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
amounts = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))


def single(op, n_in=2, n_out=3):
    return Network({"a": n_in, "b": n_out}, [Edge("conv1", "a", "b", op)])


@settings(deadline=None)
@given(kernel=axes, stride=small, before=amounts, after=amounts, size=axes)
def test_a_strided_convolution_has_the_size_that_pytorch_says(kernel, stride, before, after, size):
    net = single(Convolution(kernel, stride=stride, padding=Padding(before, after)))
    needed = tuple(s * m + c for s, m, c in zip(stride, size, net.edges["conv1"].op.rest, strict=True))
    if min(needed) < 1:
        return
    assert net.input_size(size) == needed
    said = tuple((n + b + a - k) // s + 1 for n, b, a, k, s in zip(needed, before, after, kernel, stride, strict=True))
    assert said == size
    whole = expand(net)
    assert whole.input_size(size) == needed
    assert whole.parameters == net.parameters
    assert expand(whole) == whole


@settings(deadline=None)
@given(kernel=axes, stride=small, size=axes)
def test_a_transposed_convolution_has_the_size_that_pytorch_says(kernel, stride, size):
    kernel = tuple(max(k, s) for k, s in zip(kernel, stride, strict=True))
    net = single(TransposedConvolution(kernel, stride))
    said = tuple(s * (n - 1) + k for s, n, k in zip(stride, size, kernel, strict=True))
    assert net.output_size(size) == expand(net).output_size(size) == said


def test_networks_of_valid_convolutions_stay_as_they_are():
    net = zoo.n4()
    assert expand(net) is net


def test_phases_read_no_voxel_twice():
    net = expand(single(Convolution(3, stride=2, padding="same")))
    phased = net.edges["conv1"].op
    assert isinstance(phased, PhasedConvolution)
    assert phased.kernel == (2, 2, 2)
    assert net.nodes[net.edges["conv1"].source].channels == 2 * volume((2, 2, 2))


def test_maps_side_by_side_have_the_blocks_of_their_images():
    nodes = [Node("a", 40), Node("b", 24), Node("c", 64, "concat"), Node("d", 64), Node("e", 8)]
    edges = [
        Edge("i", "a", "c", Identity()),
        Edge("j", "b", "c", Upsample((1, 1, 1))),
        Edge("t", "c", "d", Transfer()),
        Edge("k", "d", "e", Convolution(1)),
    ]
    net = Network(nodes, edges)
    blocks = shared_blocks(net, {"a": (24, 16), "b": (24,), "c": (64,), "d": (32, 32), "e": (8,)})
    assert blocks == {"a": (24, 16), "b": (24,), "c": (24, 16, 24), "d": (24, 16, 24), "e": (8,)}
    assert shared_blocks(net, blocks) == blocks


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_phases_have_the_blocks_of_their_image(width):
    net = expand(
        Network(
            [Node("a", 5), Node("b", 6), Node("c", 7)],
            [
                Edge("down", "a", "b", Convolution(2, stride=2)),
                Edge("up", "b", "c", TransposedConvolution(2, 2)),
            ],
        )
    )
    widths = {
        name: tuple(min(width, node.channels - i) for i in range(0, node.channels, width))
        for name, node in net.nodes.items()
    }
    blocks = shared_blocks(net, widths)
    for edge in net.edges.values():
        if isinstance(edge.op, Split):
            assert blocks[edge.target] == blocks[edge.source] * 8
        if isinstance(edge.op, Merge):
            assert blocks[edge.source] == blocks[edge.target] * 8
    assert all(blocks[name] == widths[name] for name in "abc")


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(1, 4))
def test_blocks_of_meeting_streams_fit_in_the_end(channels, width):
    """Sources of several concatenations that share images and pass transfers on the way."""
    nodes = [Node("in", 1), *(Node(f"s{i}", n) for i, n in enumerate(channels))]
    edges = [Edge(f"c{i}", "in", f"s{i}", Convolution(1)) for i in range(len(channels))]
    for i, (n, m) in enumerate(pairwise(channels)):
        nodes += [Node(f"j{i}", n + m, "concat"), Node(f"t{i}", n + m)]
        edges += [Edge(f"l{i}", f"s{i}", f"j{i}", Identity()), Edge(f"r{i}", f"s{i + 1}", f"j{i}", Identity())]
        edges.append(Edge(f"f{i}", f"j{i}", f"t{i}", Transfer()))
    net = Network(nodes, edges)
    asked = {
        name: tuple(min(width, node.channels - i) for i in range(0, node.channels, width))
        for name, node in net.nodes.items()
    }
    blocks = shared_blocks(net, asked)
    for i in range(len(channels) - 1):
        assert blocks[f"j{i}"] == blocks[f"s{i}"] + blocks[f"s{i + 1}"] == blocks[f"t{i}"]
    assert shared_blocks(net, blocks) == blocks
