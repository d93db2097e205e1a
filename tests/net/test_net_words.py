"""The words of the text form for the operations and joins of today, and of ZNN's crop, maxout and dummy."""

import pytest

from znn_dask.errors import NetworkError, ParameterError
from znn_dask.net import (
    AveragePool,
    Convolution,
    Crop,
    Edge,
    Identity,
    MaxPool,
    Network,
    Node,
    Normalisation,
    Pad,
    Padding,
    Softmax,
    Transfer,
    TransposedConvolution,
    Upsample,
)

TEXT = """\
nodes image
type input
size 1

edges down
type conv
size 3,3,3
step 1,2,2
padding 1,1,1
padding_after 1,0,0
mode mirror
input image
output a

nodes a
type sum
size 4

edges normal
type norm
over group
groups 2
epsilon 0.001
affine 0
input a
output b

nodes b
type sum
size 4

edges pool
type average_pool
size 1,2,2
input b
output c

nodes c
type sum
size 4

edges up
type transposed_conv
size 2,4,4
step 1,2,2
crop 0,1,1
crop_after 1,1,1
input c
output d

nodes d
type sum
size 4

edges wide
type upsample
factor 1,2,2
mode trilinear
input c
output e

nodes e
type sum
size 4

edges skip
type dummy
input d
output f

edges cropped
type crop
offset 0,0,0
input e
output f

nodes f
type concat
size 8
order skip cropped

edges one
type maxout
input f
output g

edges two
type softmax
input f
output g

nodes g
type maxout
size 8
"""
OPS = {
    "down": Convolution((3, 3, 3), stride=(1, 2, 2), padding=Padding((1, 1, 1), (1, 0, 0), "mirror")),
    "normal": Normalisation("group", 2, 0.001, affine=False),
    "pool": AveragePool((1, 2, 2)),
    "up": TransposedConvolution((2, 4, 4), (1, 2, 2), Padding((0, 1, 1), (1, 1, 1))),
    "wide": Upsample((1, 2, 2), "trilinear"),
    "skip": Identity(),
    "cropped": Crop((0, 0, 0)),
    "one": Identity(),
    "two": Softmax(),
}


def test_every_word():
    net = Network.from_text(TEXT)
    assert {edge.name: edge.op for edge in net.edges.values()} == OPS
    assert net.nodes["f"] == Node("f", 8, "concat", ("skip", "cropped"))
    assert net.nodes["g"].join == "max"
    assert Network.from_text(net.to_text()) == net
    written, read = (set(text.splitlines()) for text in (net.to_text(), TEXT))
    # What it does not say and means anyway: where a gaussian of He starts, and ZNN's stride.
    assert written ^ read == {"init he", "stride 1,1,1"}


def test_same_padding_is_a_word():
    text = TEXT.replace("padding 1,1,1\npadding_after 1,0,0", "padding same")
    assert Network.from_text(text).edges["down"].op.padding == Padding((1, 1, 1), (1, 1, 1), "mirror")
    text = text.replace("size 3,3,3", "size 2,3,3").replace("mode mirror\n", "")
    assert Network.from_text(text).edges["down"].op.padding == Padding((0, 1, 1), (1, 1, 1))


def test_without_an_order_it_is_that_of_the_blocks():
    assert Network.from_text(TEXT.replace("order skip cropped\n", "")).nodes["f"].order == ("skip", "cropped")
    turned = Network.from_text(TEXT.replace("order skip cropped", "order cropped skip"))
    assert [edge.name for edge in turned.incoming("f")] == ["cropped", "skip"]
    assert Network.from_text(turned.to_text()) == turned != Network.from_text(TEXT)


def test_a_dummy_may_lead_to_a_maxout():
    assert Network.from_text(TEXT.replace("type maxout\ninput", "type dummy\ninput")) == Network.from_text(TEXT)


@pytest.mark.parametrize("join", ["sum", "max", "concat"])
def test_a_join_before_a_transfer_is_kept(join):
    maps = 2 if join == "concat" else 1
    nodes = [Node("a", 1), Node("b.sum", maps, join), Node("b", maps)]
    edges = [Edge("one", "a", "b.sum", Identity()), Edge("two", "a", "b.sum", Transfer("relu"))]
    net = Network(nodes, [*edges, Edge("b", "b.sum", "b", Transfer("relu"))])
    assert Network.from_text(net.to_text()) == net


def test_a_join_of_one_edge_is_none():
    nodes = [Node("a", 1), Node("b", 1, "max"), Node("c", 2, "concat", ("what",))]
    net = Network(nodes, [Edge("e", "a", "b", Identity()), Edge("f", "b", "c", Convolution((1, 1, 1)))])
    assert [node.join for node in net.nodes.values()] == ["sum"] * 3
    assert net == Network({"a": 1, "b": 1, "c": 2}, net.edges.values())


def test_a_crop_of_a_transposed_convolution_has_no_mode():
    ops = [TransposedConvolution((3, 3, 3), (2, 2, 2), Padding((1, 0, 0), mode=mode)) for mode in ("zero", "mirror")]
    assert ops[0] == ops[1]


def test_what_programs_alone_make_has_no_word():
    net = Network({"a": 1, "b": 1}, [Edge("e", "a", "b", Pad((1, 1, 1), (1, 1, 1)))])
    with pytest.raises(NetworkError, match=r"edge 'e' is a pad, which the text form has no word for.*Known: Convol"):
        net.to_text()


def test_numbers_of_a_normalisation_are_numbers():
    assert Normalisation(epsilon=1, momentum=1, affine=1) == Normalisation(epsilon=1.0, momentum=1.0)
    with pytest.raises(ParameterError, match="epsilon must be a number, got 'small'"):
        Normalisation(epsilon="small")


MISTAKES = {
    "concat of other maps": ("size 8\norder", "size 7\norder", 77, "has 7 maps, but its edges bring 8", "Give it 8"),
    "order of other edges": ("skip cropped", "skip", 77, "in the order skip, but the edges", "Name each of these once"),
    "order of a sum": ("type concat\nsize 8\norder", "type sum\nsize 4\norder", 80, "unknown key 'order'", "Known: ty"),
    "maxout to a sum": ("type dummy", "type maxout", 67, "leads to node 'f' of type concat", "or the edge a dummy"),
    "stride of a convolution": ("step 1,2,2", "stride 1,2,2", 8, "must be 1,1,1, got 1,2,2", "has the key 'step'"),
    "bad step": ("step 1,2,2", "step 1,2", 8, "got '1,2'", "a size z,y,x of three whole numbers"),
    "step of nothing": ("step 1,2,2", "step 0,2,2", 5, "stride must be at least 1", "edges 'down'"),
    "unknown mode": ("mode mirror", "mode wrap", 5, "got 'wrap'", "must be one of zero, mirror, replicate"),
    "mode without padding": ("padding 1,1,1\npadding_after 1,0,0\n", "", 9, "'mode' needs a", "such as 'padding same'"),
    "padding after same": ("padding 1,1,1", "padding same", 10, "padding_after of conv 'down'", "says both"),
    "negative padding": ("padding 1,1,1", "padding -1,1,1", 5, "got (-1, 1, 1)", "padding must be at least 0"),
    "no norm": ("over group\n", "", 19, "edges 'normal' needs the key 'over'", "such as 'over instance'"),
    "unknown norm": ("over group", "over layer", 19, "got 'layer'", "one of batch, instance, group"),
    "groups of batch": ("over group", "over batch", 19, "got 2 for 'batch'", "only a normalisation over 'group'"),
    "groups that do not divide": ("groups 2", "groups 3", 19, "4 maps in 3 groups", "must divide them"),
    "no epsilon": ("epsilon 0.001", "epsilon 0", 19, "got 0.0", "must be above 0"),
    "bad epsilon": ("epsilon 0.001", "epsilon low", 23, "got 'low'", "must be a number"),
    "gap between strides": ("size 2,4,4", "size 2,1,4", 42, "got (2, 1, 4)", "a kernel of at least its stride"),
    "no factor": ("factor 1,2,2\n", "", 55, "edges 'wide' needs the key 'factor'", "such as 'factor 1,2,2'"),
    "unknown interpolation": ("mode trilinear", "mode cubic", 55, "got 'cubic'", "one of nearest, trilinear"),
    "no offset": ("offset 0,0,0\n", "", 71, "edges 'cropped' needs the key 'offset'", "such as 'offset 0,1,1'"),
    "crop of one path": (
        "offset 0,0,0",
        "offset 0,1,1",
        55,
        "converge with different sizes",
        "pad, or crop the larger",
    ),
    "maps that differ": (
        "type maxout\nsize 8",
        "type maxout\nsize 4",
        82,
        "keeps the number of maps",
        "give both nodes",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_every_mistake_names_file_line_and_remedy(tmp_path, kind):
    old, new, line, what, remedy = MISTAKES[kind]
    assert old in TEXT
    path = tmp_path / "mistaken.znn"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(NetworkError) as caught:
        Network.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: line {line}: "), message
    assert what in message, message
    assert remedy in message, message


def test_a_pool_of_either_kind_steps_by_its_window():
    text = TEXT.replace("type average_pool\nsize 1,2,2", "type max_pool\nsize 1,2,2\nstride 1,2,2")
    assert Network.from_text(text).edges["pool"].op == MaxPool((1, 2, 2))
    text = TEXT.replace("type average_pool\nsize 1,2,2", "type average_pool\nsize 1,2,2\nstride 1,1,1")
    with pytest.raises(NetworkError, match="line 35: stride of average_pool 'pool' must be 1,2,2, got 1,1,1"):
        Network.from_text(text)
