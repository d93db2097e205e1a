"""What a network prints and draws."""

import shutil

import pytest

from znn_dask.net import Edge, MaxFilter, Network, Normalisation, Padding, Transfer, zoo

TABLE = """\
input (1 map) -> output (2 maps)
edge         kind                  kernel              sparsity  maps    parameters  size (z, y, x)
input        input                                               1                   7x8x8
conv1        convolution           3x3x3               1         1 -> 8         216  5x6x6
transfer1    transfer tanh(1.5, 1)                     1         8                8  5x6x6
max_filter1  max_filter            1x2x2 stride 2x2x2  1         8                   5x5x5
dropout1     dropout 0.25                              2x2x2     8                   5x5x5
conv2        convolution           3x3x3               2x2x2     8 -> 2         432  1x1x1
field of view 7x8x8, sparsity of the output 2x2x2, 648 weights + 8 biases = 656 parameters"""


def net() -> Network:
    return Network.parse(
        "CTMDC", width=8, out_channels=2, window=(1, 2, 2), stride=2, transfer="tanh(1.5, 1)", dropout=0.25
    )


def test_the_table():
    found = str(net()).splitlines()
    assert [line.split() for line in found] == [line.split() for line in TABLE.splitlines()]
    assert len({line.index(word) for line, word in zip(found[1:8], ("size", "7x8x8", "5x6x6"), strict=False)}) == 1


def test_the_table_for_a_size():
    assert "9x10x10" in net().table(3)
    assert "9x10x10" in net().graphviz(3).source


def test_a_table_of_a_graph_says_from_where_to_where():
    text = str(zoo.vd2d3d())
    assert "conv1c-r: transfer1b-r -> merged" in text
    assert "input (1 map), input-r (1 map) -> output (2 maps)" in text


def test_sizes_that_cannot_all_be_shown_are_left_out():
    # Both outputs share two inputs, but with different offsets: no sizes fit.
    edges = [
        Edge("a", "x", "p", MaxFilter((1, 1, 1), (1, 1, 1))),
        Edge("b", "y", "p", MaxFilter((1, 1, 1), (1, 1, 1))),
        Edge("c", "x", "q", MaxFilter((1, 1, 2), (1, 1, 1))),
        Edge("d", "y", "q", MaxFilter((1, 1, 3), (1, 1, 1))),
    ]
    lines = str(Network(dict.fromkeys("xypq", 1), edges)).splitlines()
    assert all(line.endswith(" -") for line in lines[2:-1])


MODERN = """\
image (1 map) -> output (6 maps)
edge kind kernel sparsity maps parameters size (z, y, x)
image input 1 2x4x4
conv1: image -> conv1 convolution 3x3x3 stride 2x2x2 same mirror 1 1 -> 4 108 1x2x2
norm1: conv1 -> norm1 normalisation batch 1 4 8 1x2x2
transposed_conv1: norm1 -> transposed_conv1 transposed_convolution 3x3x3 stride 2x2x2 crop 0x0x0, 1x1x1 1 4 432 2x4x4
upsample1: norm1 -> upsample1 upsample trilinear 2x2x2 1 4 2x4x4
conv2: transposed_conv1 -> conv2 convolution 3x3x3 pad 1x0x0 1 4 432 2x2x2
transfer1: conv2 -> transfer1 transfer relu 1 4 4 2x2x2
norm2: transfer1 -> norm2 normalisation group(2), not scaled 1 4 2x2x2
identity1: transfer1 -> maxout1 identity 1 4 2x2x2
softmax1: norm2 -> output softmax 1 4 2x2x2
crop1: upsample1 -> maxout1 crop 0x1x1 1 4 2x2x2
maxout1 maxout of identity1, crop1 1 4 2x2x2
conv3: maxout1 -> conv3 convolution 1 1 4 -> 2 8 2x2x2
identity2: conv3 -> output identity 1 2 2x2x2
output concat of identity2, softmax1 1 6 2x2x2"""


def modern() -> Network:
    net = Network.builder()
    x = net.norm(net.conv(net.input("image"), 4, stride=2, padding="mirror"), "batch")
    up = net.transposed_conv(x, 4, 3, stride=2, crop=Padding((0, 0, 0), (1, 1, 1)))
    a = net.relu(net.conv(up, 4, padding=(1, 0, 0)))
    b = net.softmax(net.norm(a, Normalisation("group", 2, affine=False)))
    largest = net.maxout([a, net.crop(net.upsample(x, mode="trilinear"), (0, 1, 1))])
    net.output(net.concat([net.conv(largest, 2, 1), b]))
    return net.build()


def test_the_table_of_what_networks_are_made_of_today():
    found = str(modern()).splitlines()[:-1]
    assert [" ".join(line.split()) for line in found] == MODERN.splitlines()
    summary = str(modern()).splitlines()[-1]
    assert "980 weights + 12 biases and scales = 992 parameters" in summary


def test_joins_are_drawn():
    source = modern().graphviz().source
    assert r'"maxout1" [label="maxout1\nmaxout\n4 x 2x2x2"];' in source
    assert r'"output" [label="output\nconcat\n6 x 2x2x2"];' in source
    assert r'"conv1" [label="conv1\n4 x 1x2x2"];' in source
    assert r'[label="conv1\nconvolution 3x3x3 stride 2x2x2 same mirror"];' in source
    assert r'"merged" [label="merged\nsum\n24 x' in zoo.vd2d3d().graphviz().source


def test_notebooks_show_the_table():
    net = Network({"a<b": 1, "c": 1}, [Edge("t", "a<b", "c", Transfer())])
    assert net._repr_html_() == f"<pre>{str(net).replace('>', '&gt;').replace('<', '&lt;')}</pre>"


def test_repr_is_short():
    assert repr(net()) == "<Network: 5 edges, field of view 7x8x8, 656 parameters>"


def test_the_drawing():
    drawing = Network({'a"b': 1, "c": 1}, [Edge("t", 'a"b', "c", Transfer("relu", bias=False))]).graphviz()
    assert str(drawing) == drawing.source
    assert r'"a\"b" -> "c" [label="t\ntransfer relu, no bias"];' in drawing.source
    assert r'"c" [label="c\n1 x 1"];' in drawing.source


def test_the_drawing_shows_itself_where_graphviz_is(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert net().graphviz()._repr_svg_() is None


def test_the_drawing_is_made_by_dot(monkeypatch, tmp_path):
    dot = tmp_path / "dot"
    dot.write_text('#!/bin/sh\necho "<svg $1>"; cat\n')
    dot.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(dot))
    drawing = net().graphviz()
    assert drawing._repr_svg_() == f"<svg -Tsvg>\n{drawing.source}"


@pytest.mark.parametrize("name", ["conv1", "transfer1", "max_filter1", "dropout1"])
def test_every_edge_is_drawn(name):
    assert f'[label="{name}\\n' in net().graphviz().source
