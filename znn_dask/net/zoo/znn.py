"""Networks that were published with ZNN.

N4 after Ciresan et al. 2012; VD2D and VD2D3D after Lee et al. 2015 ("Recursive training of 2D-3D
convolutional networks for neuronal boundary detection").
"""

from znn_dask.geometry import Triple
from znn_dask.net.functional import Builder
from znn_dask.net.network import Network
from znn_dask.net.wiring import Maps

_SCALED_TANH = "tanh(1.7159, 0.6666)"


def n4() -> Network:
    """Return N4: 1 map in, 2 linear maps out (cell and boundary, for a softmax), field of view 1x95x95."""
    return _n4(2, "linear")


def n4_affinity() -> Network:
    """Return N4 with 3 maps out, the affinities along x, y and z, each passed through a logistic function.

    The gradient passes the function unchanged, which suits the cross-entropy of its output.
    """
    return _n4(3, "forward_logistic")


def vd2d() -> Network:
    """Return VD2D, "very deep 2D": 1 map in, 2 linear maps out, field of view 1x109x109."""
    return _vd2d(["relu"] * 10 + ["linear"], ["msra"] * 11)


def vd2d_tanh() -> Network:
    """Return VD2D with a scaled tanh before every max-filter."""
    before_filter = (2, 4, 6, 8)
    transfers = [_SCALED_TANH if place in before_filter else "relu" for place in range(10)]
    inits = ["xavier" if place in before_filter else "uniform(0.05)" for place in range(11)]
    return _vd2d([*transfers, "linear"], inits)


def srini2d() -> Network:
    """Return Srini2D: six convolutions of 1x7x7, 1 map in, 2 linear maps out, field of view 1x37x37."""
    return Network.parse(
        "CT" * 6,
        width=10,
        kernel=7,
        ndim=2,
        out_channels=2,
        transfer=["relu"] * 5 + ["linear"],
        init="uniform",
    )


def zinet() -> Network:
    """Return ZiNet: six 3D convolutions of 7x7x7 and one of 1, 1 map in and out, field of view 37x37x37."""
    return Network.parse("CT" * 7, width=[16, 24, 32, 32, 32, 32], kernel=[7] * 6 + [1], init="uniform")


def net40p() -> Network:
    """Return a 3D network of width 40 with two max-filters, 1 map in, 3 out, field of view 80x80x80."""
    return Network.parse("CTMCTMCTCTCTCT", width=40, kernel=5, window=2, out_channels=3, init="uniform")


def hd3d() -> Network:
    """Return HD3D: 2D filters first, then 3D ones; 1 map in, 4 out, field of view 13x111x111."""
    return Network.parse(
        "CTMCTMCTMCTMCTCT",
        width=[12, 24, 36, 48, 48],
        kernel=[(1, 6, 6), (1, 4, 4), 4, (2, 4, 4), (2, 4, 4), 1],
        window=[(1, 2, 2), (1, 2, 2), 2, 2],
        out_channels=4,
        init="uniform",
    )


def vd2d3d() -> Network:
    """Return VD2D3D: 2D filters first, then 3D ones; 2 linear maps out, field of view 5x85x85.

    It reads the image as ``input`` and a map of the boundaries, such as VD2D gives, as ``input-r``; the two
    paths are summed after their third convolution.
    """
    net = Network.builder(init="msra")
    images = {"": net.input("input"), "-r": net.input("input-r")}
    paths = [_pair(net, x, 24, (1, 3, 3), "1", suffix) for suffix, x in images.items()]
    paths = [net.conv(x, 24, (1, 2, 2), name=f"conv1c{s}") for s, x in zip(images, paths, strict=True)]
    x = net.relu(net.add(paths, name="merged"), name="transfer1c")
    x = _pair(net, net.max_filter(x, (1, 2, 2)), 36, (1, 3, 3), "2")
    x = _pair(net, net.max_filter(x, (1, 2, 2)), 48, (1, 3, 3), "3")
    x = _pair(net, net.max_filter(x, 2, stride=(1, 2, 2)), 60, (2, 3, 3), "4")
    x = net.relu(net.conv(x, 100, (2, 3, 3), name="conv5"), name="transfer5")
    x = net.conv(net.dropout(x, 0.5), 2, 1, name="conv6")
    net.output(net.bias(x, name="transfer6"))
    return net.build()


def _n4(out_channels: int, last: str) -> Network:
    return Network.parse(
        "CTMCTMCTMCTMCTCT",
        width=[48, 48, 48, 48, 200],
        kernel=[4, 5, 4, 4, 3, 1],
        window=2,
        ndim=2,
        out_channels=out_channels,
        transfer=["relu"] * 5 + [last],
        init="xavier",
    )


def _vd2d(transfers: list[str], inits: list[str]) -> Network:
    return Network.parse(
        "CTCTCTM" + "CTCTM" * 3 + "CTDCT",
        width=[24, 24, 24, 36, 36, 48, 48, 60, 60, 200],
        kernel=[3, 3, 2, 3, 3, 3, 3, 3, 3, 3, 1],
        window=2,
        ndim=2,
        out_channels=2,
        transfer=transfers,
        dropout=0.5,
        init=inits,
    )


def _pair(net: Builder, x: Maps, width: int, kernel: Triple, number: str, suffix: str = "") -> Maps:
    for letter in "ab":
        x = net.conv(x, width, kernel, name=f"conv{number}{letter}{suffix}")
        x = net.relu(x, name=f"transfer{number}{letter}{suffix}")
    return x
