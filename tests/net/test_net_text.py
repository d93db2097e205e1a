"""The text form: exact round trips, files as ZNN writes them, and complaints that name the line."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from net_strategies import Case, graphs, joined_graphs

from znn_dask.errors import DataError, NetworkError
from znn_dask.net import Convolution, Dropout, Edge, Identity, Init, MaxFilter, MaxPool, Network, Transfer, zoo
from znn_dask.net.graph import arrange
from znn_dask.net.text import read

ZNN_TEXT = """\
# a network as ZNN writes it
nodes input
type input
size 1

edges conv1
type conv
init xavier
size 1,4,4
stride 1,1,1   # a convolution does not step
# a comment alone does not end a block
input input
output n1

nodes n1
type transfer
function rectify_linear
size 48

edges pool1
type max_filter
size 1,2,2
stride 1,2,2
input n1
output p1

nodes p1
type sum
size 48

edges drop
type dropout
ratio 0.8
input p1
output d1

nodes d1
type sum
size 48

edges conv2
type conv
init gaussian
init_args 0,0.1
size 1,1,1
input d1
output output
nodes output
type transfer
function tanh
function_args 1.7159, 0.6666
init constant
init_args 0.5
size 2
"""


def test_a_text_of_znn():
    net = Network.from_text(ZNN_TEXT)
    assert net.ndim == 2
    assert list(net.nodes) == ["input", "conv1", "n1", "p1", "d1", "conv2", "output"]
    assert {edge.name: edge.op for edge in net.edges.values()} == {
        "conv1": Convolution((1, 4, 4), Init("xavier")),
        "n1": Transfer("relu"),
        "pool1": MaxFilter((1, 2, 2), (1, 2, 2)),
        "drop": Dropout(0.2),
        "conv2": Convolution((1, 1, 1), Init("gaussian", (0, 0.1))),
        "output": Transfer("tanh", (1.7159, 0.6666), init=Init("constant", (0.5,))),
    }
    assert list(net.parameters) == ["conv1/kernel", "n1/bias", "conv2/kernel", "output/bias"]
    assert net.field_of_view == (1, 5, 5)
    assert Network.from_text(net.to_text()) == net


def test_converging_edges_are_summed_before_the_bias():
    text = """
nodes a
type input
size 1

nodes b
type input
size 1

edges c1
type conv
size 3,3,3
input a
output n

edges c2
type conv
size 3,3,3
input b
output n

nodes n
type transfer
function linear
size 4
"""
    net = Network.from_text(text)
    assert [edge.name for edge in net.incoming("n.sum")] == ["c1", "c2"]
    assert [edge.name for edge in net.incoming("n")] == ["n"]
    assert net.edges["n"].op == Transfer("linear")
    assert Network.from_text(net.to_text()) == net


def test_the_dummy_edge_is_the_identity():
    text = "nodes a\ntype input\nsize 1\n\nedges e\ntype dummy\ninput a\noutput b\n\nnodes b\ntype sum\nsize 1\n"
    net = Network.from_text(text)
    assert net.edges["e"].op == Identity()
    assert net.n_parameters == 0
    assert Network.from_text(net.to_text()) == net


def test_a_chain_is_written_in_the_words_of_znn():
    text = Network.parse("CTDC", width=3, kernel=2, dropout=0.2, transfer="logistic").to_text()
    assert "nodes transfer1\ntype transfer\nfunction logistics\ninit zero\nsize 3\n" in text
    assert "edges conv1\ntype conv\ninit he\nsize 2,2,2\nstride 1,1,1\ninput input\noutput transfer1\n" in text
    assert "ratio 0.8\n" in text
    assert "network" not in text


CONV, RELU = Convolution((3, 3, 3)), Transfer("relu")


@pytest.mark.parametrize(
    "edges",
    [
        # Two branches side by side: a node and its transfer are not neighbours in the order.
        [
            ("c1", "a", "c1", CONV),
            ("c2", "a", "c2", CONV),
            ("t1", "c1", "t1", RELU),
            ("t2", "c2", "t2", RELU),
        ],
        # The sum before the bias is read by another edge too.
        [("c1", "a", "c1", CONV), ("t1", "c1", "t1", RELU), ("c2", "c1", "b", CONV)],
        # Transfers in a row, from an input on, and two that meet.
        [("t1", "a", "t1", RELU), ("t2", "t1", "t2", RELU), ("t3", "t2", "b", RELU), ("t4", "t2", "b", RELU)],
        [("c1", "a", "c1", CONV), ("t1", "c1", "t1", RELU), ("t2", "t1", "t2", RELU)],
        [("c1", "a", "b.sum", CONV), ("c2", "a", "b.sum", CONV), ("other", "b.sum", "b", RELU)],
    ],
)
def test_round_trip_where_a_node_block_cannot_say_it_all(edges):
    names = dict.fromkeys(end for _, source, target, _ in edges for end in (source, target))
    net = Network(dict.fromkeys(names, 1), [Edge(*edge) for edge in edges])
    assert Network.from_text(net.to_text()) == net


def test_names_that_are_made_up_avoid_those_that_are_there():
    text = ZNN_TEXT.replace("edges conv1", "edges n1").replace("edges pool1", "edges output")
    net = Network.from_text(text)
    assert {edge.name: (edge.source, edge.target) for edge in net.edges.values()} == {
        "n1": ("input", "n1.sum"),
        "n1.transfer": ("n1.sum", "n1"),
        "output": ("n1", "p1"),
        "drop": ("p1", "d1"),
        "conv2": ("d1", "conv2"),
        "output.transfer": ("conv2", "output"),
    }
    assert Network.from_text(net.to_text()) == net


@given(graphs())
def test_round_trip(case: Case):
    assert Network.from_text(case.net.to_text()) == case.net


@given(joined_graphs())
def test_round_trip_of_any_operation_and_join(net: Network):
    text = net.to_text()
    assert Network.from_text(text) == net
    assert Network.from_text(text).to_text() == text


@given(st.floats(0, 1, exclude_max=True))
def test_a_dropout_rate_survives_as_the_share_kept(rate):
    net = Network({"a": 1, "b": 1}, [Edge("d", "a", "b", Dropout(rate))])
    assert Network.from_text(net.to_text()).edges["d"].op.rate == rate


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kernel", [1, (1, 3, 3), (3, 3, 3)])
def test_ndim_survives(ndim, kernel):
    net = Network.parse("CT", kernel=kernel, ndim=ndim)
    assert Network.from_text(net.to_text()) == net
    assert ("network" in net.to_text()) == (ndim != (2 if kernel == (1, 3, 3) else 3))


def test_files(tmp_path):
    path = tmp_path / "vd2d.znn"
    zoo.vd2d().save(path)
    assert Network.load(str(path)) == zoo.vd2d()
    with pytest.raises(DataError, match=r"cannot read the network file .*none\.znn': No such file"):
        Network.load(tmp_path / "none.znn")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="it is not text"):
        Network.load(path)
    path.write_text(ZNN_TEXT.replace("xavier", "xaver"))
    with pytest.raises(NetworkError, match=r"vd2d\.znn: line 6: .*unknown initialiser 'xaver'"):
        Network.load(path)


def test_training_options_are_left_out_with_a_warning():
    text = ZNN_TEXT.replace("init xavier", "init xavier\neta 0.01\nfft 1").replace(
        "size 48", "size 48\nmomentum 0.9", 1
    )
    with pytest.warns(UserWarning, match=r"were left out: eta, momentum, fft\. Give them to the optimiser"):
        net = Network.from_text(text)
    assert net == Network.from_text(ZNN_TEXT)


def test_options_that_say_no_are_no_matter():
    text = ZNN_TEXT.replace("type sum\nsize 48", "type sum\nsize 48\ndense 0", 1)
    assert Network.from_text(text) == Network.from_text(ZNN_TEXT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "init xavier",
            "inti xavier",
            r"line 8: unknown key 'inti' in edges 'conv1'\. Did you mean 'init'\? Known: typ",
        ),
        ("stride 1,2,2", "strid 1,2,2", r"line 23: unknown key 'strid' .* Did you mean 'stride'\?"),
        (
            "type conv",
            "type convolve",
            r"line 7: unknown type 'convolve' .* Did you mean 'conv'\? Known: conv, max_f",
        ),
        (
            "type sum",
            "type summ",
            r"line 28: unknown type 'summ' of nodes 'p1'\. Did you mean 'sum'\? Known: input,",
        ),
        ("type dropout\nratio 0.8", "type crop", r"line 31: edges 'drop' needs the key 'offset'.* 'offset 0,1,1'"),
        (
            "size 1,4,4",
            "size 1,4",
            "line 9: size of edges 'conv1' must be a size z,y,x of three whole .*got '1,4'",
        ),
        ("size 1,4,4", "size 0,4,4", "line 6: edges 'conv1': kernel must be at least 1"),
        ("size 1,4,4", "size 1,4,4\nsize 1,4,4", "line 10: key 'size' of edges 'conv1' is at line 9 already"),
        ("size 1,4,4\n", "", "line 6: edges 'conv1' needs the key 'size'"),
        ("size 1,4,4", "size", "line 9: key 'size' of edges 'conv1' needs a value"),
        ("stride 1,1,1", "stride 2,2,2", "line 10: stride of conv 'conv1' must be 1,1,1, got 2,2,2"),
        ("rectify_linear", "rectify", "line 15: nodes 'n1': unknown transfer function 'rectify'"),
        ("1.7159, 0.6666", "1.7159", "'tanh' takes 2 arguments, got 1"),
        (
            "1.7159, 0.6666",
            "1.7159,x",
            "line 51: function_args of nodes 'output' must be numbers, got '1.7159,x'",
        ),
        ("init gaussian\n", "", "line 43: 'init_args' needs an 'init' beside it"),
        (
            "ratio 0.8",
            "ratio 0",
            "line 33: ratio of dropout 'drop' is the share that is kept, above 0 and at most 1",
        ),
        ("ratio 0.8", "ratio nan", "line 33: ratio of dropout"),
        ("size 48", "size many", "line 18: size of nodes 'n1' must be a whole number, got 'many'"),
        ("size 48", "size 0", "line 15: nodes 'n1': node 'n1' needs a number of maps of at least 1"),
        ("type input", "type sum", "line 2: node 'input' is not of type input and no edge leads to it"),
        ("type sum", "type input", "line 27: node 'p1' is of type input, but edge 'pool1' leads to it"),
        ("nodes p1", "nodes n1", "line 27: nodes 'n1' is at line 15 already"),
        ("nodes p1", "nodes", "line 27: 'nodes' needs a name after it"),
        ("nodes p1", "network p1", "line 27: 'network' takes no name"),
        ("nodes p1", "", "line 28: expected 'nodes NAME' or 'edges NAME', got 'type sum'"),
        ("type sum", "type sum\ndense 1", "line 29: 'dense' of nodes 'p1' is not supported"),
        ("init xavier", "filters weights.bin", "line 8: 'filters' of edges 'conv1' is not supported"),
        ("output p1", "output p2", "line 25: output of edges 'pool1' is node 'p2', which does not exist"),
        (
            "input p1",
            "input p9",
            "line 34: input of edges 'drop' is node 'p9', which does not exist. Did you",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(old, new, message):
    assert old in ZNN_TEXT
    with pytest.raises(NetworkError, match=message):
        Network.from_text(ZNN_TEXT.replace(old, new, 1))


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_an_empty_text_is_refused(text):
    with pytest.raises(NetworkError, match="no block 'nodes NAME' or 'edges NAME'"):
        Network.from_text(text)


def test_a_pool_steps_by_its_window_only():
    text = ZNN_TEXT.replace("type max_filter", "type max_pool", 1)
    assert Network.from_text(text).edges["pool1"].op == MaxPool((1, 2, 2))
    with pytest.raises(NetworkError, match="line 23: stride of max_pool 'pool1' must be 1,2,2, got 1,1,1"):
        Network.from_text(text.replace("stride 1,2,2", "stride 1,1,1"))


words = st.sampled_from([*sorted(set(ZNN_TEXT.split())), "0", "-1", "x", "1e999", "nan", "#", "network", "2"])


@given(st.lists(st.tuples(st.integers(0, len(ZNN_TEXT.split())), words), max_size=3), st.booleans())
def test_any_damage_is_either_a_network_or_a_clear_complaint(changes, drop):
    pieces = ZNN_TEXT.replace("\n", " \n ").split(" ")
    for place, word in changes:
        pieces[place] = "" if drop else word
    # Any other exception than a NetworkError fails the test.
    with contextlib.suppress(NetworkError):
        assert Network.from_text(" ".join(pieces)).n_parameters > 0


FILES = {
    "unknown type": (
        "type conv\ninit xavier",
        "type convolve",
        7,
        "unknown type 'convolve'",
        "Known: conv, max_filter",
    ),
    "unknown key": ("init xavier", "inti xavier", 8, "unknown key 'inti'", "Did you mean 'init'?"),
    "missing input": ("input n1\n", "", 20, "edges 'pool1' needs the key 'input'", "Add a line such as 'input NODE'"),
    "missing size": ("size 1,4,4\n", "", 6, "edges 'conv1' needs the key 'size'", "Add a line such as 'size 1,3,3'"),
    "size mismatch": ("size 48", "size 47", 20, "node 'n1' has 47 and node 'p1' has 48", "give both nodes the same"),
    "cycle": ("input n1", "input d1", 27, "the network has a cycle", "take one of these edges away"),
    "dangling edge": ("output p1", "output p2", 25, "node 'p2', which does not exist", "Did you mean 'p1'?"),
    "duplicate name": ("nodes p1", "nodes n1", 27, "nodes 'n1' is at line 15 already", "Give one of them another name"),
    "duplicate key": ("size 48", "size 48\nsize 48", 19, "key 'size' of nodes 'n1' is at line 18", "Keep one of them"),
    "bad number": ("size 48", "size many", 18, "must be a whole number, got 'many'", "size of nodes 'n1'"),
    "bad size": ("size 1,4,4", "size 1,x,4", 9, "got '1,x,4'", "must be a size z,y,x of three whole numbers"),
    "no block": ("nodes p1", "", 28, "got 'type sum'", "expected 'nodes NAME' or 'edges NAME'"),
    "foreign key": ("type sum", "type sum\ndense 1", 29, "'dense' of nodes 'p1' is not supported", "take it out if"),
    "no input": ("type input", "type sum", 2, "no edge leads to it", "Make it an input"),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_mistake_names_file_line_and_remedy(tmp_path, kind):
    old, new, line, what, remedy = FILES[kind]
    assert old in ZNN_TEXT
    path = tmp_path / "mistaken.znn"
    path.write_text(ZNN_TEXT.replace(old, new, 1))
    with pytest.raises(NetworkError) as caught:
        Network.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: line {line}: "), message
    assert what in message
    assert remedy in message
    assert "\n" not in message


def test_branches_that_do_not_fit_name_the_line():
    text = ZNN_TEXT.replace("output d1\n", "output p2\n", 1) + (
        "\nnodes p2\ntype sum\nsize 48\n"
        "\nedges one\ntype max_filter\nsize 1,2,2\nstride 1,1,1\ninput p2\noutput d1\n"
        "\nedges two\ntype max_filter\nsize 1,2,2\nstride 1,2,2\ninput p2\noutput d1\n"
    )
    with pytest.raises(
        NetworkError, match=r"^line 67: edges 'one' and 'two' converge .* Give both paths the same strides"
    ):
        Network.from_text(text)
    with pytest.raises(
        NetworkError, match=r"^line \d+: paths from node 'p2' to 'output' .* Give both paths the same field"
    ):
        Network.from_text(
            text.replace("stride 1,2,2\ninput p2", "stride 1,1,1\ninput p2").replace(
                "size 1,2,2\nstride 1,1,1\ninput p2", "size 1,3,3\nstride 1,1,1\ninput p2", 1
            )
        )


def test_large_texts_are_read_in_proportion_to_their_size():
    lines = ["nodes n0\ntype input\nsize 1\n"]
    for n in range(4000):
        lines += [
            f"edges e{n}\ntype dropout\nratio 0.5\ninput n{n}\noutput n{n + 1}\n",
            f"nodes n{n + 1}\ntype sum\nsize 1\n",
        ]
    reading = read("\n".join(lines))
    assert len(arrange(reading.nodes, reading.edges).nodes) == 4001
