"""The networks of `todays_networks` in PyTorch's functional form."""

import torch
import torch.nn.functional as F  # noqa: N812


def _bias(y, bias):
    return y + bias.view(1, -1, 1, 1, 1)


def strides(x, p, training):
    y = torch.tanh(_bias(F.conv3d(x, p["conv1/kernel"], stride=2, padding=1), p["t1/bias"]))
    y = F.conv_transpose3d(y, p["up1/kernel"].transpose(0, 1), stride=2)[..., 1:, 1:]
    y = F.conv3d(F.pad(y, (2, 2, 1, 1, 1, 1), mode="reflect"), p["conv2/kernel"])
    return F.conv3d(y, p["conv3/kernel"], stride=(1, 3, 2), padding=(0, 1, 0))


def joined(over, groups):
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


def dense(x, p, training):
    f = F.max_pool3d(F.conv3d(x, p["conv1/kernel"]), 2, stride=1)
    s = F.conv3d(f, p["conv2/kernel"], dilation=(1, 2, 2)) + f[..., 2:-2, 2:-2]
    g = F.softplus(_bias(F.instance_norm(s), p["t1/bias"]))
    left = F.conv3d(g, p["conv3/kernel"], dilation=(1, 2, 2), padding=(0, 2, 2))
    return left + F.conv3d(F.conv3d(g, p["conv4/kernel"]), p["conv5/kernel"])


def pooled(x, p, training):
    b = F.leaky_relu(_bias(F.conv3d(x, p["conv1/kernel"], padding=(0, 1, 1)), p["t1/bias"]))
    m = F.conv3d(F.max_pool3d(b, (1, 2, 2)), p["conv2/kernel"], padding=(0, 1, 1))
    weight = p["up1/kernel"].transpose(0, 1)
    u = F.conv_transpose3d(m, weight, stride=(1, 2, 2), padding=(0, 1, 1))
    return F.conv3d(torch.cat([u, b], 1), p["conv3/kernel"], stride=(1, 2, 2))


def leading(x, p, training):
    a = torch.tanh(_bias(F.conv3d(x, p["conv1/kernel"]), p["t1/bias"]))
    b = F.group_norm(F.conv3d(x, p["conv2/kernel"]), 5, p["norm1/scale"], p["norm1/shift"])
    return torch.cat([a, b, F.conv3d(x, p["conv3/kernel"])[..., :-1, :-1]], 1)


CASES = {
    "strides": strides,
    "instance": joined("instance", 1),
    "group": joined("group", 3),
    "batch": joined("batch", 1),
    "dense": dense,
    "pooled": pooled,
    "leading": leading,
}
