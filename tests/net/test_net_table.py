"""What a network prints and draws."""

import shutil

import pytest

from znn_dask.net import Edge, MaxFilter, Network, Transfer, zoo

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
