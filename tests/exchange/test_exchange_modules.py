"""Modules that people have, read into a network and back; what is refused, and in which words."""

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import torch.nn.functional as F  # noqa: E402, N812
from exchange_strategies import networks  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from parity import by_name, random_parameters, random_sample  # noqa: E402
from torch import nn  # noqa: E402

import znn_dask as znn  # noqa: E402
from znn_dask.exchange import read_module, to_module  # noqa: E402
from znn_dask.net import Edge, MaxFilter, Network, Transfer  # noqa: E402

pytestmark = pytest.mark.timeout(200)


class UNet2d(nn.Module):
    """As many write one: blocks, in-place functions, biases, bilinear upsampling, padding to the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.two = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), nn.LeakyReLU(0.2))
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.drop = nn.Dropout(0.2)
        self.last = nn.Conv2d(7, 2, 1)

    def forward(self, x):
        skip = self.one(x)
        y = self.up(self.two(self.pool(skip)))
        rows, columns = skip.size(2) - y.size(2), skip.size(3) - y.size(3)
        y = F.pad(y, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return torch.sigmoid(self.last(self.drop(torch.cat([skip, y], dim=1))))


class Residual3d(nn.Module):
    """Residuals with cropped skips, strides, transposed convolutions, norms, functional forms, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, bias=False)
        self.second = nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1), stride=(1, 2, 2))
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.group = nn.GroupNorm(2, 4)
        self.up = nn.ConvTranspose3d(4, 4, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), output_padding=(0, 1, 1))
        self.head = nn.Conv3d(4, 3, 1)
        self.scale = nn.Parameter(torch.randn(4, 1, 1, 1))

    def forward(self, image):
        x = F.elu(self.first(image))
        y = F.softplus(self.norm(self.second(x)), beta=2)
        y = self.up(y) + x
        y += F.softsign(self.group(x))
        y = torch.maximum(y, 0.5 - x / 4) + self.scale
        y = y[:, :, 1:, 1:-1, 1:-1] - F.avg_pool3d(y, 1)[:, :, 1:, 1:-1, 1:-1] * 0.3
        return {"classes": F.softmax(self.head(y), dim=1), "features": torch.tanh(1.5 * y) * 2}


class Bare(nn.Module):
    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *images):
        return self.function(self, *images)


def stirred(module):
    """Return a module whose weights and running averages are not those it begins with."""
    with torch.no_grad():
        for name, values in module.state_dict().items():
            if values.is_floating_point():
                values.copy_(torch.rand_like(values) + 0.5 if "var" in name else torch.randn_like(values) * 0.4)
    return module


def agree(module, *images) -> znn.exchange.Found:
    """Read a module, and compare the network with it."""
    found = read_module(module, images)
    again = to_module(found.net, found.parameters).double()
    wide = [image.double() for image in images]
    with torch.no_grad():
        expected = copy.deepcopy(module).eval().double()(*wide)
        outputs = again(*wide)
    expected = list(expected.values()) if isinstance(expected, dict) else [expected]
    for one, other in zip(outputs.values() if isinstance(outputs, dict) else [outputs], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    return found


def test_a_unet_of_two_axes():
    torch.manual_seed(0)
    module = stirred(UNet2d()).train()
    found = agree(module, torch.randn(1, 2, 8, 12))
    assert module.training
    assert module.one.training
    assert found.net.ndim == 2
    assert found.origins["one.0/kernel"] == "one.0.weight"
    assert found.origins["one.1/variance"] == "one.1.running_var"
    assert found.net.edges["two.0_bias"].op == Transfer("leaky_relu", (0.2,))
    assert found.output_size == {"output": (1, 8, 12)}
    with znn.from_torch(module, np.zeros((1, 2, 8, 12), np.float32), num_workers=1, tune=False) as model:
        image = torch.randn(2, 8, 12)
        with torch.no_grad():
            expected = module.eval()(image[None])[0]
        np.testing.assert_allclose(model.forward(image[:, None].numpy())[:, 0], expected.numpy(), rtol=1e-4, atol=1e-5)
        assert list(model.to_torch().state_dict())[:2] == ["one.0.weight", "one.0_bias.bias"]


def test_residuals_of_three_axes():
    torch.manual_seed(1)
    module = stirred(Residual3d())
    found = agree(module, torch.randn(1, 1, 5, 8, 10))
    assert list(found.net.outputs) == ["classes", "features"]
    assert found.net.inputs == {"image": 1}
    with znn.from_torch(module, torch.zeros(1, 1, 5, 8, 10), num_workers=1, tune=False) as model:
        image = torch.randn(1, 1, 5, 8, 10)
        with torch.no_grad():
            expected = module.eval()(image)
        for name, values in model.forward(image.numpy()).items():
            np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-4, atol=2e-5)


@settings(max_examples=20)
@given(networks())
def test_there_and_back_is_the_identity(case):
    net, size = case
    rng = np.random.default_rng(1)
    parameters, (images, _) = random_parameters(net, rng), random_sample(net, size, rng)
    module = to_module(net, parameters, ndim=3)
    tensors = tuple(torch.tensor(image) for image in images.values())
    found = read_module(module, tensors)
    assert found.net == net
    assert set(found.output_size.values()) == {size}
    assert same(found.parameters, parameters)
    if any("arange" in getattr(layer, "code", "") for layer in module.modules()):
        return  # borders of a dilated image, which only we know
    # Within another module it is read from what it computes.
    found = read_module(
        nn.Sequential(module) if len(net.outputs) == 1 else Bare(lambda m, x: m.own(x), own=module), tensors
    )
    assert sorted(name.removeprefix("0.").removeprefix("own.") for name in found.parameters) == sorted(parameters)
    again = to_module(found.net, found.parameters, ndim=3)
    with torch.no_grad():
        before, after = (list(by_name(n, m(*tensors)).values()) for n, m in ((net, module), (found.net, again)))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def same(one, other):
    """Return whether two dicts hold the same arrays, bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], values) for name, values in other.items())


def test_a_module_that_was_changed_is_read_anew():
    net = Network.parse("CTC", width=2, kernel=2)
    module = to_module(net, random_parameters(net, np.random.default_rng(0)))
    module.transfer1 = nn.Sequential(nn.Sigmoid(), nn.Dropout(0.25))
    found = read_module(module, torch.zeros(1, 1, 4, 4, 4))
    assert [edge.op.kind for edge in found.net.edges.values()] == ["convolution", "transfer", "dropout", "convolution"]


@pytest.mark.parametrize(
    "net",
    [
        Network.parse("CTMCTMCT", width=2, kernel=2, ndim=2, transfer=["tanh(1.7,0.6)", "forward_logistic", "linear"]),
        Network.parse("CTMCDTC", width=3, kernel=[(1, 2, 2), (2, 2, 2), 1], window=2, stride=(1, 2, 2)),
        znn.zoo.rsunet(widths=(2, 3)),
        znn.zoo.unet3d(widths=(2, 3), padding="valid", norm="group"),
    ],
    ids=["2d", "stride", "rsunet", "unet3d"],
)
def test_networks_of_ours_come_back_with_their_edges(net):
    rng = np.random.default_rng(2)
    parameters = random_parameters(net, rng)
    for size in range(1, 9):
        try:
            (images, _) = random_sample(net, (1 if net.ndim == 2 else size, size, size), rng)
            break
        except znn.ShapeError:
            continue
    module = to_module(net, parameters)
    found = read_module(module, tuple(torch.tensor(i[:, :, 0] if module.ndim == 2 else i) for i in images.values()))
    kept, ops = (
        sorted((kind, name if f"{name}/{WHAT.get(kind)}" in each.parameters else "") for name, kind in kinds(each))
        for each in (net, found.net)
    )
    assert ops == kept
    filters = [[e.op for e in each.edges.values() if isinstance(e.op, MaxFilter)] for each in (net, found.net)]
    assert filters[0] == filters[1]
    assert found.net.sparsity == net.sparsity
    assert found.net.field_of_view == net.field_of_view


WHAT = {"convolution": "kernel", "transposed_convolution": "kernel", "transfer": "bias", "normalisation": "scale"}


def kinds(net):
    """Return names and kinds of the edges that do something."""
    return [(name, edge.op.kind) for name, edge in net.edges.items() if edge.op.kind != "identity"]


def test_modules_need_nothing_of_ours():
    net = Network.parse("CTMCT", width=2, transfer=["softplus", "forward_logistic"])
    module = to_module(net, random_parameters(net, np.random.default_rng(0)))
    x = torch.randn(1, 1, 8, 8, 9)
    data = pickle.dumps(module)
    assert b"znn_dask" not in data
    for other in (pickle.loads(data), copy.deepcopy(module)):
        assert torch.equal(other(x), module(x))
    assert list(module.state_dict()) == ["conv1.weight", "transfer1.bias", "conv2.weight", "transfer2.bias"]
    assert isinstance(module.conv1, nn.Conv3d)
    assert "self.max_filter1(transfer1)" in module.code


def test_names_that_modules_cannot_have():
    nodes = {"in-put": 1, "a": 1, "b": 1, "c": 1}
    edges = [("forward", "in-put", "a"), ("forward.bias", "a", "b"), ("train", "b", "c")]
    net = Network(nodes, [Edge(*edge, Transfer("tanh")) for edge in edges])
    parameters = random_parameters(net, np.random.default_rng(0))
    module = to_module(net, parameters)
    assert sorted(module.state_dict()) == ["forward_.bias", "forward_bias.bias", "train_.bias"]
    module(torch.zeros(1, 1, 2, 2, 2))


def conv2(x):
    return nn.Conv2d(1, 2, 3, **x)


IMAGE = torch.zeros(1, 1, 6, 6)
REFUSED = [
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU()), r"module '1' \(GELU\) uses 'gelu', which is not known"),
    (lambda: nn.Sequential(nn.Dropout2d(0.5)), "Dropout2d and Dropout3d drop whole maps"),
    (lambda: nn.Sequential(conv2({"dilation": 2})), "'0' has a dilation of 2 along y, but the image there has 1"),
    (lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, groups=2)), "groups=2; only 1 is known"),
    (lambda: nn.MaxPool2d(3, 2), "window .* and stride .* differ"),
    (lambda: nn.MaxPool2d(4), r"does not divide the image of \(1, 6, 6\)"),
    (lambda: nn.Upsample(scale_factor=1.5), "only whole factors are known"),
    (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "align_corners=True; only False"),
    (lambda: nn.Softmax(dim=2), "along dim=2; only 1, the maps"),
    (lambda: nn.BatchNorm2d(1, track_running_stats=False), "keeps no running averages"),
    (lambda: nn.Flatten(), "'flatten', which is not known. Known: Conv2d"),
    (lambda: nn.ZeroPad2d(1), "F.pad stands before it|cannot be expressed: an F.pad"),
    (lambda: Bare(lambda m, x: x * x), "only products of an image with a number are known"),
    (lambda: Bare(lambda m, x: x[:, :, ::2]), "takes every 2th voxel"),
    (lambda: Bare(lambda m, x: m.c(m.c(x)), c=nn.Conv2d(1, 1, 3)), "weight 'c.weight' is used twice, by 'c/kernel'"),
    (lambda: Bare(lambda m, x: x[:, :, 1:].relu_() + 1), "changes in place"),
    (lambda: Bare(lambda m, x: x if x.sum() > 0 else -x), "torch.export cannot record the module"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_what_is_not_known_is_refused_by_name(make, words):
    with pytest.raises(znn.ZnnError, match=words) as caught:
        read_module(make(), IMAGE)
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_refused():
    with pytest.raises(znn.ParameterError, match=r"must be a torch\.nn\.Module, got str"):
        znn.from_torch("module", IMAGE)
    with pytest.raises(znn.NetworkError, match="those of the example have 3 axes"):
        read_module(nn.ReLU(), torch.zeros(1, 4, 4))
    net = Network.parse("C", kernel=2)
    parameters = random_parameters(net, np.random.default_rng(0))
    with pytest.raises(znn.NetworkError, match="needs ndim=3"):
        to_module(net, parameters, ndim=2)


def test_one_image_for_several_outputs():
    found = read_module(Bare(lambda m, x: (x, m.c(x)), c=nn.Conv2d(1, 2, 1)), IMAGE)
    assert list(found.output_size.values()) == [(1, 6, 6)] * 2
    assert sorted(found.net.outputs) == ["output0", "output1"]
