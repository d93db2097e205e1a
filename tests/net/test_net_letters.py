"""Networks from letters: names, one value or one for each letter, and clear words when the count is off."""

import pytest

from znn_dask.errors import NetworkError, ParameterError
from znn_dask.net import Convolution, Dropout, Init, MaxFilter, MaxPool, Network, Transfer


def ops(net: Network, kind: type) -> list:
    return [edge.op for edge in net.edges.values() if isinstance(edge.op, kind)]


def test_edges_are_numbered_by_kind_and_nodes_named_after_them():
    net = Network.parse("CTMCTPDC", width=3, kernel=2, window=2, stride=1)
    names = ["conv1", "transfer1", "max_filter1", "conv2", "transfer2", "max_pool1", "dropout1", "conv3"]
    assert list(net.edges) == names
    assert list(net.nodes) == ["input", *names[:-1], "output"]
    assert net.inputs == {"input": 1}
    assert net.outputs == {"output": 1}
    assert [edge.target for edge in net.outgoing("conv2")] == ["transfer2"]


def test_defaults():
    net = Network.parse("CTMDC", width=4)
    assert net.parameters["conv1/kernel"].shape == (4, 1, 3, 3, 3)
    assert [edge.op for edge in net.edges.values()] == [
        Convolution((3, 3, 3), Init("he")),
        Transfer("relu", bias=True, init=Init("zero")),
        MaxFilter((2, 2, 2), (2, 2, 2)),
        Dropout(0.5),
        Convolution((3, 3, 3), Init("he")),
    ]
    assert net.ndim == 3


@pytest.mark.parametrize(
    ("width", "out_channels", "expected"),
    [
        (4, 1, [4, 4, 1]),
        (4, None, [4, 4, 4]),
        ([4, 5], 2, [4, 5, 2]),
        ([4, 5, 6], None, [4, 5, 6]),
        ([4, 5, 6], 2, [4, 5, 2]),
        ((4, 5), 2, [4, 5, 2]),
    ],
)
def test_width_is_of_every_convolution_but_the_last(width, out_channels, expected):
    net = Network.parse("CCC", width=width, out_channels=out_channels, in_channels=7)
    assert [net.nodes[edge.target].channels for edge in net.edges.values()] == expected
    assert net.inputs == {"input": 7}


def test_one_convolution_needs_no_width():
    assert Network.parse("CT", out_channels=3).outputs == {"output": 3}
    with pytest.raises(NetworkError, match="width, the number of maps of a convolution, is needed for 'CC'"):
        Network.parse("CC")


def test_no_convolution_keeps_the_maps():
    assert Network.parse("MT", in_channels=2, out_channels=None).outputs == {"output": 2}
    with pytest.raises(NetworkError, match=r"'MT' has no convolution, so out_channels must be in_channels \(2\)"):
        Network.parse("MT", in_channels=2, out_channels=3)


@pytest.mark.parametrize(
    ("kernel", "ndim", "expected"),
    [
        (3, 3, [(3, 3, 3)] * 3),
        (3, 2, [(1, 3, 3)] * 3),
        ((1, 3, 5), 3, [(1, 3, 5)] * 3),
        ((3, 5), 2, [(1, 3, 5)] * 3),
        ([1, 3, 5], 3, [(1, 1, 1), (3, 3, 3), (5, 5, 5)]),
        ([(1, 3, 5), 2, [4, 4, 1]], 3, [(1, 3, 5), (2, 2, 2), (4, 4, 1)]),
        ([3, (3, 5), (2, 2, 2)], 2, [(1, 3, 3), (1, 3, 5), (2, 2, 2)]),
    ],
)
def test_a_tuple_is_one_size_and_a_list_one_for_each_letter(kernel, ndim, expected):
    net = Network.parse("CCC", width=2, kernel=kernel, ndim=ndim)
    assert [op.kernel for op in ops(net, Convolution)] == expected


def test_windows_go_to_filters_and_pools_in_their_order():
    net = Network.parse("PMPM", window=[2, 3, 4, 5], stride=[1, 6])
    assert [op.window[0] for op in ops(net, MaxPool)] == [2, 4]
    assert [(op.window[0], op.stride[0]) for op in ops(net, MaxFilter)] == [(3, 1), (5, 6)]


def test_transfers_rates_and_initialisers_one_for_each_letter():
    own = Transfer("elu", bias=False)
    net = Network.parse(
        "CTDCTDCT",
        width=2,
        transfer=["relu", " tanh(1.7159, 0.6666)", own],
        dropout=[0.25, 0.75],
        init=["zero", "uniform(0.05)", Init("gaussian", (0, 2))],
    )
    assert ops(net, Transfer) == [Transfer("relu"), Transfer("tanh", (1.7159, 0.6666)), own]
    assert ops(net, Dropout) == [Dropout(0.25), Dropout(0.75)]
    assert [op.init for op in ops(net, Convolution)] == [
        Init("zero"),
        Init("uniform", (-0.05, 0.05)),
        Init("gaussian", (0, 2)),
    ]


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ("CXT", {}, r"unknown letter 'X' at place 2 of 'CXT'\. Known: C \(convolution\), T \(transfer\),"),
        ("Ct", {}, r"unknown letter 't' at place 2 of 'Ct'\. Did you mean 'T'\?"),
        ("", {}, "layers must be letters such as 'CTMCT', got ''"),
        (None, {}, "layers must be letters such as 'CTMCT', got None"),
        ("C", {"ndim": 4}, "ndim must be 2 or 3, got 4"),
        (
            "CCCC",
            {"width": 2, "kernel": [3, 3]},
            r"kernel has 2 values, but 'CCCC' has 4 of the letter C \(conv",
        ),
        (
            "CCCC",
            {"width": 2, "kernel": [1, 3, 3]},
            "or one for each. One size in z, y, x is written as a tuple",
        ),
        (
            "CMP",
            {"window": [2, 2, 2]},
            r"window has 3 values, but 'CMP' has 2 of the letter M or P \(max-filter or",
        ),
        ("CM", {"stride": [2, 2]}, "stride has 2 values, but 'CM' has 1 of the letter M"),
        (
            "CTCT",
            {"width": 2, "transfer": ["relu"]},
            "transfer has 1 values, but 'CTCT' has 2 of the letter T",
        ),
        ("CCC", {"width": [1, 2, 3, 4]}, "width has 4 values, but 'CCC' has 3 of the letter C"),
        ("CCC", {"width": [1], "out_channels": None}, "width has 1 values"),
        ("CD", {"dropout": [0.1, 0.2]}, "dropout has 2 values, but 'CD' has 1 of the letter D"),
        ("CT", {"init": ["he", "he"]}, "init has 2 values, but 'CT' has 1 of the letter C"),
    ],
)
def test_what_does_not_fit_the_letters_is_refused(layers, options, message):
    with pytest.raises(NetworkError, match=message):
        Network.parse(layers, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 0}, "kernel must be at least 1 along every axis"),
        ({"kernel": "333"}, "kernel must be one value or a list with one for each letter C, got '333'"),
        ({"kernel": [2.5, 3]}, "kernel must be an int or .*, got 2.5"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"width": 2.5}, "width must be a whole number of maps, got 2.5"),
        ({"transfer": "tanh(a)"}, r"transfer needs numbers in its brackets, got 'tanh\(a\)'"),
        ({"transfer": "tanh(1"}, r"transfer must look like 'name' or 'name\(1, 2\)'"),
        ({"transfer": "sigmoid"}, "unknown transfer function 'sigmoid'"),
        ({"init": "hee"}, r"unknown initialiser 'hee'\. Did you mean 'he'\?"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        Network.parse("CTC", **({"width": 2} | options))
