"""Networks of today's operations: strides, padding, transposed convolutions, joins, norms."""

from znn_dask.net import (
    AveragePool,
    Convolution,
    Crop,
    Edge,
    Identity,
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

STRIDES = Network(
    [Node("input", 2), Node("a", 5), Node("b", 5), Node("c", 4), Node("d", 3), Node("e", 3)],
    [
        Edge("conv1", "input", "a", Convolution(3, stride=2, padding="same")),
        Edge("t1", "a", "b", Transfer("tanh")),
        Edge("up1", "b", "c", TransposedConvolution((2, 3, 3), 2, crop=Padding((0, 1, 1), (0, 0, 0)))),
        Edge("conv2", "c", "d", Convolution((3, 3, 5), padding="mirror")),
        Edge("conv3", "d", "e", Convolution((1, 3, 2), stride=(1, 3, 2), padding=(0, 1, 0))),
    ],
)


def joined(over, groups):
    nodes = [Node("input", 1), *(Node(name, 6) for name in ("a", "n", "t", "p")), Node("q", 7), Node("u", 7)]
    nodes += [Node("cat", 13, "concat"), Node("e", 4), Node("f", 4), Node("m", 4, "max"), Node("o", 3), Node("s", 3)]
    edges = [
        Edge("conv1", "input", "a", Convolution(3, padding="same")),
        Edge("norm1", "a", "n", Normalisation(over, groups)),
        Edge("t1", "n", "t", Transfer("elu", bias=False)),
        Edge("pool", "t", "p", AveragePool(2)),
        Edge("conv2", "p", "q", Convolution(3, padding="replicate")),
        Edge("up", "q", "u", Upsample(2, "trilinear")),
        Edge("i1", "t", "cat", Identity()),
        Edge("i2", "u", "cat", Identity()),
        Edge("conv3", "cat", "e", Convolution(1)),
        Edge("conv4", "cat", "f", Convolution(3, padding="same")),
        Edge("j1", "e", "m", Identity()),
        Edge("j2", "f", "m", Identity()),
        Edge("conv5", "m", "o", Convolution((1, 3, 3), padding=(0, 1, 1))),
        Edge("softmax1", "o", "s", Softmax()),
    ]
    return Network(nodes, edges)


# A valid residual module, its skip cropped, after a max-filter: fragments are cropped and padded one by one.
DENSE = Network(
    [Node("input", 1), *(Node(name, 5) for name in ("a", "f", "b", "s", "g", "n")), Node("output", 2)],
    [
        Edge("conv1", "input", "a", Convolution(2)),
        Edge("filter1", "a", "f", MaxFilter(2, (1, 2, 2))),
        Edge("conv2", "f", "s", Convolution((1, 3, 3))),
        Edge("crop1", "f", "s", Crop((0, 2, 2))),
        Edge("norm1", "s", "n", Normalisation("instance", affine=False)),
        Edge("t1", "n", "g", Transfer("softplus")),
        Edge("conv3", "g", "output", Convolution((2, 3, 3), padding=(0, 1, 1))),
        Edge("conv4", "g", "b", Convolution(1)),
        Edge("conv5", "b", "output", Convolution((2, 1, 1))),
    ],
)


POOLED = Network(
    [Node("input", 1), *(Node(name, 4) for name in ("a", "b", "p", "u", "m")), Node("cat", 8, "concat"), Node("o", 2)],
    [
        Edge("conv1", "input", "a", Convolution((1, 3, 3), padding="same")),
        Edge("t1", "a", "b", Transfer("leaky_relu")),
        Edge("pool1", "b", "p", MaxPool((1, 2, 2))),
        Edge("conv2", "p", "m", Convolution((1, 3, 3), padding="same")),
        Edge("up1", "m", "u", TransposedConvolution((1, 4, 4), (1, 2, 2), crop=Padding((0, 1, 1)))),
        Edge("left", "u", "cat", Identity()),
        Edge("right", "b", "cat", Identity()),
        Edge("conv3", "cat", "o", Convolution((1, 2, 2), stride=(1, 2, 2))),
    ],
    ndim=2,
)


# What learns leads straight into maps side by side.
LEADING = Network(
    [Node("input", 1), *(Node(name, n) for name, n in (("a", 3), ("b", 5), ("c", 2))), Node("cat", 10, "concat")],
    [
        Edge("conv1", "input", "a", Convolution(2)),
        Edge("conv2", "input", "b", Convolution(2)),
        Edge("conv3", "input", "c", Convolution((2, 1, 1), stride=1)),
        Edge("t1", "a", "cat", Transfer("tanh")),
        Edge("norm1", "b", "cat", Normalisation("instance")),
        Edge("crop1", "c", "cat", Crop((0, 0, 0), (0, 1, 1))),
    ],
)

# Networks and sizes of outputs.
CASES = {
    "strides": (STRIDES, (8, 4, 6)),
    "instance": (joined("instance", 1), (4, 6, 8)),
    "group": (joined("group", 3), (4, 6, 8)),
    "batch": (joined("batch", 1), (4, 6, 8)),
    "dense": (DENSE, (3, 6, 8)),
    "pooled": (POOLED, (1, 6, 8)),
    "leading": (LEADING, (3, 4, 5)),
}
