"""The functional builder: what it makes, how images meet, and complaints where something does not fit."""

import pytest

from znn_dask.errors import NetworkError, ParameterError
from znn_dask.net import (
    AveragePool,
    Convolution,
    Crop,
    Dropout,
    Edge,
    Identity,
    Init,
    MaxFilter,
    MaxPool,
    Network,
    Node,
    Normalisation,
    Padding,
    Softmax,
    Transfer,
    TransposedConvolution,
    Upsample,
)


def ops(net: Network) -> dict:
    return {edge.name: edge.op for edge in net.edges.values()}


def built(net, x, name="output") -> Network:
    net.output(x, name)
    return net.build()


def test_it_makes_what_letters_make():
    net = Network.builder(ndim=2)
    x = net.input()
    for _ in "ab":
        x = net.max_filter(net.relu(net.conv(x, 8)))
    assert built(net, x) == Network.parse("CTMCTM", width=8, kernel=3, ndim=2, out_channels=None)


def test_the_example_of_the_docstring():
    net = Network.builder()
    x = net.relu(net.conv(net.input("image"), 24, (1, 3, 3)))
    net.output(net.conv(x, 2, 1), "label")
    network = net.build()
    assert (network.inputs, network.outputs) == ({"image": 1}, {"label": 2})
    assert list(network.parameters) == ["conv1/kernel", "transfer1/bias", "conv2/kernel"]
    assert net.build() == network


CALLS = {
    "conv": (lambda net, x: net.conv(x, 4), Convolution((3, 3, 3))),
    "conv of all": (
        lambda net, x: net.conv(x, 4, (1, 2, 3), stride=2, padding="mirror", init="uniform(0.5)"),
        Convolution((1, 2, 3), Init("uniform", (-0.5, 0.5)), (2, 2, 2), Padding((0, 0, 1), (0, 1, 1), "mirror")),
    ),
    "conv padded": (lambda net, x: net.conv(x, 4, padding=1), Convolution((3, 3, 3), padding=Padding((1, 1, 1)))),
    "transposed_conv": (lambda net, x: net.transposed_conv(x, 4), TransposedConvolution((2, 2, 2), (2, 2, 2))),
    "transposed_conv of all": (
        lambda net, x: net.transposed_conv(x, 4, 3, stride=(1, 2, 2), crop=1, init="zero"),
        TransposedConvolution((3, 3, 3), (1, 2, 2), Padding((1, 1, 1)), Init("zero")),
    ),
    "transfer": (lambda net, x: net.transfer(x, "tanh(2, 3)", bias=False), Transfer("tanh", (2, 3), bias=False)),
    "transfer given": (lambda net, x: net.transfer(x, Transfer("elu")), Transfer("elu")),
    "bias": (lambda net, x: net.bias(x, init="constant(1)"), Transfer("linear", init=Init("constant", (1,)))),
    "linear": (lambda net, x: net.linear(x, 2, bias=False), Transfer("linear", (2, 0), bias=False)),
    "relu": (lambda net, x: net.relu(x), Transfer("relu")),
    "leaky_relu": (lambda net, x: net.leaky_relu(x, 0.2), Transfer("leaky_relu", (0.2,))),
    "elu": (lambda net, x: net.elu(x, 0.5, bias=False), Transfer("elu", (0.5,), bias=False)),
    "softplus": (lambda net, x: net.softplus(x), Transfer("softplus")),
    "tanh": (lambda net, x: net.tanh(x, 1.5), Transfer("tanh", (1.5, 1))),
    "logistic": (lambda net, x: net.logistic(x), Transfer("logistic")),
    "softsign": (lambda net, x: net.softsign(x), Transfer("softsign")),
    "max_filter": (lambda net, x: net.max_filter(x), MaxFilter((2, 2, 2), (2, 2, 2))),
    "max_filter strided": (lambda net, x: net.max_filter(x, stride=(1, 2, 2)), MaxFilter((2, 2, 2), (1, 2, 2))),
    "max_pool": (lambda net, x: net.max_pool(x, (1, 2, 2)), MaxPool((1, 2, 2))),
    "average_pool": (lambda net, x: net.average_pool(x), AveragePool((2, 2, 2))),
    "upsample": (lambda net, x: net.upsample(x, (1, 2, 2)), Upsample((1, 2, 2))),
    "upsample smooth": (lambda net, x: net.upsample(x, mode="trilinear"), Upsample((2, 2, 2), "trilinear")),
    "dropout": (lambda net, x: net.dropout(x, 0.25), Dropout(0.25)),
    "norm": (lambda net, x: net.norm(x), Normalisation("instance")),
    "norm of groups": (lambda net, x: net.norm(x, "group(2)"), Normalisation("group", 2)),
    "norm given": (lambda net, x: net.norm(x, Normalisation(epsilon=1)), Normalisation(epsilon=1)),
    "softmax": (lambda net, x: net.softmax(x), Softmax()),
    "identity": (lambda net, x: net.identity(x), Identity()),
    "crop": (lambda net, x: net.crop(x, 1), Crop((1, 1, 1))),
    "crop of ends": (lambda net, x: net.crop(x, (0, 1, 2), 1), Crop((0, 1, 2), (1, 1, 1))),
}


@pytest.mark.parametrize("kind", CALLS)
def test_every_method(kind):
    call, op = CALLS[kind]
    net = Network.builder()
    network = built(net, call(net, net.input("image", 2)))
    (edge,) = network.edges.values()
    assert edge.op == op
    assert (edge.source, edge.target) == ("image", "output")
    assert edge.name.endswith("1")


def test_after_a_normalisation_there_is_no_bias():
    net = Network.builder(padding="same", init="xavier")
    x = net.conv(net.input(), 4, norm="batch", transfer="elu")
    network = built(net, net.transposed_conv(x, 2, transfer="relu"))
    assert list(network.edges) == ["conv1", "norm1", "transfer1", "transposed_conv1", "transfer2"]
    assert (network.edges["transfer1"].op.bias, network.edges["transfer2"].op.bias) == (False, True)
    assert network.edges["conv1"].op == Convolution((3, 3, 3), Init("xavier"), padding="same")
    assert network.edges["transposed_conv1"].op.init == Init("xavier")


def test_sections():
    net = Network.builder(ndim=2, padding=1)
    x = net.crop(net.conv(net.input(), 2), 1)
    x = net.crop(net.conv(net.max_pool(x), 2, 3, padding=(1, 2)), (0, 1), (2, 3))
    network = built(net, net.transposed_conv(x, 2, (2, 3), crop=0))
    assert [op.padding.before for op in ops(network).values() if op.kind == "convolution"] == [(0, 1, 1), (0, 1, 2)]
    assert [(op.before, op.after) for op in ops(network).values() if op.kind == "crop"] == [
        ((0, 1, 1), (0, 1, 1)),
        ((0, 0, 1), (0, 2, 3)),
    ]
    assert network.edges["transposed_conv1"].op.kernel == (1, 2, 3)
    assert network.ndim == 2


def test_images_that_meet():
    net = Network.builder(padding="same")
    a = net.conv(net.input("image"), 4)
    b, c = net.relu(a), net.conv(a, 4)
    total = net.add([b, c], name="total")
    largest = net.maxout([total, a])
    together = net.concat([largest, a, net.conv(a, 3), total])
    network = built(net, together)
    # What a join alone reads leads there itself; the others, and convolutions to a concatenation, by an identity.
    assert [edge.name for edge in network.incoming("total")] == ["transfer1", "conv2"]
    assert network.nodes["total"] == Node("total", 4)
    assert {edge.source for edge in network.incoming("maxout1")} == {"total", "conv1"}
    assert {edge.op.kind for edge in network.incoming("maxout1")} == {"identity"}
    assert [edge.source for edge in network.incoming("output")] == ["maxout1", "conv1", "conv3", "total"]
    assert network.outputs == {"output": 15}
    assert network.nodes["output"].join == "concat"


def test_a_sum_is_written_with_a_plus():
    net = Network.builder(padding="same")
    x = net.conv(net.input(), 4)
    network = built(net, x + net.conv(x, 4))
    assert [edge.op.kind for edge in network.incoming("output")] == ["convolution", "identity"][::-1]


@pytest.mark.parametrize("how", ["concat", "add", "maxout"])
def test_the_larger_is_cropped_to_the_smaller(how):
    net = Network.builder()
    a = net.conv(net.input(), 2)
    b = net.conv(net.conv(a, 2, (2, 4, 1)), 2, (1, 1, 3))
    network = built(net, getattr(net, how)([a, b], crop=True))
    assert [op for op in ops(network).values() if op.kind == "crop"] == [Crop((0, 1, 1), (1, 2, 1))]
    assert network.output_size(8) == (5, 3, 4)


def test_each_axis_is_cropped_by_itself():
    net = Network.builder()
    x = net.input()
    network = built(net, net.add([net.conv(x, 2, (1, 1, 5)), net.conv(x, 2, (1, 3, 1)), net.conv(x, 2, 1)], crop=True))
    crops = [op.total for op in ops(network).values() if op.kind == "crop"]
    assert crops == [(0, 2, 0), (0, 0, 4), (0, 2, 4)]


def test_crops_keep_to_the_lattice():
    net = Network.builder()
    x = net.max_filter(net.input(), 2)
    network = built(net, net.concat([x, net.max_filter(x, 4, stride=1)], crop=True))
    assert network.edges["crop1"].op == Crop((2, 2, 2), (4, 4, 4))


def test_an_image_is_cropped_to_another():
    net = Network.builder()
    x = net.input()
    small = net.conv(x, 1, 4)
    network = built(net, net.crop_to(x, small, name="cut") + small)
    assert network.edges["cut"].op == Crop((1, 1, 1), (2, 2, 2))
    again = Network.builder()
    x = again.input()
    assert again.crop_to(x, x) is x


def test_several_inputs_and_outputs():
    net = Network.builder()
    both = net.conv(net.input("a", 2), 3) + net.conv(net.input("b"), 3)
    net.output(both, "first")
    net.output(net.conv(both, 1), "second")
    net.output(net.input("c"), "third")
    network = net.build()
    assert network.inputs == {"a": 2, "b": 1, "c": 1}
    assert list(network.outputs.items()) == [("first", 3), ("second", 1), ("third", 1)]
    # What is read further, or is an input, is led to its output by an identity.
    assert [network.incoming(name)[0].op.kind for name in network.outputs] == ["identity", "convolution", "identity"]
    assert network.input_size({"first": (3, 3, 3), "second": (1, 1, 1), "third": (1, 1, 1)})["a"] == (5, 5, 5)


def test_one_image_may_be_two_outputs():
    net = Network.builder()
    x = net.conv(net.input(), 2)
    net.output(x, "one")
    net.output(x, "two")
    assert net.build().outputs == {"one": 2, "two": 2}


def test_names():
    net = Network.builder()
    x = net.conv(net.input("conv1"), 1, name="first")
    x = net.relu(net.conv(x, 1), name="conv3")
    network = built(net, net.conv(x, 1), "conv4")
    assert list(network.edges) == ["first", "conv2", "conv3", "conv4"]
    assert list(network.nodes) == ["conv1", "first", "conv2", "conv3", "conv4"]


def test_what_is_built_is_a_network_that_is_written():
    net = Network.builder()
    x = net.input()
    network = built(net, net.concat([net.conv(x, 2, 1), net.softmax(x), x]))
    assert Network.from_text(network.to_text()) == network
    assert isinstance(network.edges["softmax1"], Edge)


def two(net):
    x = net.input()
    return x, net.conv(x, 2), net.max_filter(x)


MISTAKES = {
    "no image": (lambda net: net.conv("image", 4), "an image of the builder is needed, such as net.input"),
    "another builder": (lambda net: net.relu(Network.builder().input("x")), "'x' belongs to another builder"),
    "no output": (lambda net: (net.input(), net.build()), r"has no output; name one with net\.output\(x\)"),
    "idle": (lambda net: (net.conv(net.input(), 1), built(net, net.input("b"))), "'conv1' leads nowhere: use it"),
    "name twice": (lambda net: net.conv(net.input("a"), 1, name="a"), "there is 'a' already; give the conv another"),
    "output twice": (lambda net: [net.output(net.input("a"), "b") for _ in "ab"], "there is 'a' already"),
    "label twice": (lambda net: [net.output(x, "b") for x in [net.input()] * 2], "'b' already; give the output anot"),
    "output of its own name": (
        lambda net: (lambda x: (net.output(x, "conv1"), built(net, net.relu(x))))(net.conv(net.input(), 1)),
        "'conv1' is an input or is read further, so its output needs another name",
    ),
    "one part": (lambda net: net.add([net.input()]), r"a sum needs at least two images, got 1; give a list such as"),
    "other maps": (lambda net: net.add(two(net)[:2]), r"'input' has 1 maps and 'conv1' has 2, .* net\.conv\(x, 1, 1\)"),
    "other sizes": (lambda net: net.concat(two(net)[:2]), r"first has \(2, 2, 2\) voxels .* more .* with crop=True"),
    "other lattices": (lambda net: net.concat(two(net)[::2]), r"different sparsity, \(1, 1, 1\) and \(2, 2, 2\)"),
    "other scale": (
        lambda net: (lambda x: net.concat([x, net.max_pool(x)], crop=True))(net.input()),
        r"first has \(2, 2, 2\) times as many voxels .* Pool or upsample",
    ),
    "other inputs": (
        lambda net: net.concat([net.input("a"), net.input("b")], crop=True),
        r"come from different inputs, a and b, .* Crop with net\.crop",
    ),
    "crop of the smaller": (lambda net: net.crop_to(two(net)[0], net.relu(net.input("b"))), "different inputs"),
    "crop to the larger": (
        lambda net: (lambda x: net.crop_to(net.conv(x, 1), x))(net.input()),
        r"'conv1' cannot be cropped to 'input': it has \(-2, -2, -2\) voxels",
    ),
    "off the lattice": (
        lambda net: (lambda x: net.concat([x, net.crop_to(net.upsample(net.max_pool(x)), x)], crop=True))(
            net.conv(net.max_filter(net.input()), 1)
        ),
        r"edge 'max_pool1' is a max-pool after max-filters with a total stride of \(2, 2, 2\)",
    ),
    "no width": (lambda net: net.conv(net.input(), 0), "node 'conv1' needs a number of maps of at least 1, got 0"),
    "ndim": (lambda net: Network.builder(ndim=4), "ndim must be 2 or 3, got 4"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_what_does_not_fit_is_said_where_it_is(kind):
    call, message = MISTAKES[kind]
    with pytest.raises(NetworkError, match=message):
        call(Network.builder())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: net.conv(x, 4, "3"), "kernel must be an int or"),
        (lambda net, x: net.conv(x, 4, padding="full"), "padding must be 'valid', 'same', 'mirror' or a number"),
        (lambda net, x: net.conv(x, 4, padding=-1), "padding must be at least 0"),
        (lambda net, x: net.transfer(x, "rely"), r"unknown transfer function 'rely'\. Did you mean 'relu'"),
        (lambda net, x: net.norm(x, "layer"), "must be over one of batch, instance, group, got 'layer'"),
        (lambda net, x: net.norm(x, "batch(2)"), r"norm must be 'batch', 'instance' or 'group\(8\)' with a number"),
        (lambda net, x: net.norm(x, "group(1.5)"), "groups of a normalisation must be an int of at least 1, got 1.5"),
        (lambda net, x: net.upsample(x, mode="cubic"), "mode of an upsampling must be one of nearest, trilinear"),
        (lambda net, x: net.dropout(x, 1), "dropout rate must be at least 0 and below 1"),
        (lambda net, x: net.transposed_conv(x, 1, 1, stride=2), "needs a kernel of at least its stride"),
    ],
)
def test_values_outside_their_range(call, message):
    net = Network.builder()
    with pytest.raises(ParameterError, match=message):
        call(net, net.input())


def test_an_output_may_meet_another_image():
    net = Network.builder()
    x, y = (net.conv(net.input(name), 2) for name in "xy")
    net.output(x, "one")
    net.output(x + y, "both")
    network = net.build()
    assert list(network.outputs) == ["one", "both"]
    assert [(edge.name, edge.source) for edge in network.incoming("both")] == [("identity1", "conv1"), ("conv2", "y")]
