"""Networks of today's operations, each with the same in PyTorch's functional form."""

import torch
import torch.nn.functional as F  # noqa: N812

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


def _bias(y, bias):
    return y + bias.view(1, -1, 1, 1, 1)


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


def strides(x, p, training):
    y = torch.tanh(_bias(F.conv3d(x, p["conv1/kernel"], stride=2, padding=1), p["t1/bias"]))
    y = F.conv_transpose3d(y, p["up1/kernel"].transpose(0, 1), stride=2)[..., 1:, 1:]
    y = F.conv3d(F.pad(y, (2, 2, 1, 1, 1, 1), mode="reflect"), p["conv2/kernel"])
    return F.conv3d(y, p["conv3/kernel"], stride=(1, 3, 2), padding=(0, 1, 0))


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


def joined_torch(over, groups):
    def run(x, p, training):
        y = F.conv3d(x, p["conv1/kernel"], padding=1)
        if over == "batch":
            running = p["norm1/mean"].detach().clone(), p["norm1/variance"].detach().clone()
            y = F.batch_norm(y, *running, p["norm1/scale"], p["norm1/shift"], training=training)
        else:
            y = F.group_norm(y, 6 if over == "instance" else groups, p["norm1/scale"], p["norm1/shift"])
        t = F.elu(y)
        q = F.conv3d(F.pad(F.avg_pool3d(t, 2), (1,) * 6, mode="replicate"), p["conv2/kernel"])
        c = torch.cat([t, F.interpolate(q, scale_factor=2, mode="trilinear")], 1)
        m = torch.maximum(F.conv3d(c, p["conv3/kernel"]), F.conv3d(c, p["conv4/kernel"], padding=1))
        return F.softmax(F.conv3d(m, p["conv5/kernel"], padding=(0, 1, 1)), 1)

    return run


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


def dense(x, p, training):
    f = F.max_pool3d(F.conv3d(x, p["conv1/kernel"]), 2, stride=1)
    s = F.conv3d(f, p["conv2/kernel"], dilation=(1, 2, 2)) + f[..., 2:-2, 2:-2]
    g = F.softplus(_bias(F.instance_norm(s), p["t1/bias"]))
    left = F.conv3d(g, p["conv3/kernel"], dilation=(1, 2, 2), padding=(0, 2, 2))
    return left + F.conv3d(F.conv3d(g, p["conv4/kernel"]), p["conv5/kernel"])


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


def pooled(x, p, training):
    b = F.leaky_relu(_bias(F.conv3d(x, p["conv1/kernel"], padding=(0, 1, 1)), p["t1/bias"]))
    m = F.conv3d(F.max_pool3d(b, (1, 2, 2)), p["conv2/kernel"], padding=(0, 1, 1))
    weight = p["up1/kernel"].transpose(0, 1)
    u = F.conv_transpose3d(m, weight, stride=(1, 2, 2), padding=(0, 1, 1))
    return F.conv3d(torch.cat([u, b], 1), p["conv3/kernel"], stride=(1, 2, 2))


CASES = {
    "strides": (STRIDES, strides, (8, 4, 6)),
    "instance": (joined("instance", 1), joined_torch("instance", 1), (4, 6, 8)),
    "group": (joined("group", 3), joined_torch("group", 3), (4, 6, 8)),
    "batch": (joined("batch", 1), joined_torch("batch", 1), (4, 6, 8)),
    "dense": (DENSE, dense, (3, 6, 8)),
    "pooled": (POOLED, pooled, (1, 6, 8)),
}
