"""The networks of ZNNi (Zlateski, Lee and Seung 2016, "ZNNi: maximizing the inference throughput of 3D ConvNets").

A name counts what it is made of: n537 has kernels of 5, 3 pools and 7 convolutions; the first kernel is one smaller.
There the pools were computed for every offset; max-filters say the same. Width 80, 3 maps out; ReLU throughout.
"""

from znn_dask.net.network import Network


def n337(width: int = 80, out_channels: int = 3) -> Network:
    """Return n337: kernels 2 and 3, field of view 85x85x85."""
    return _chain("CTMCTMCTM" + "CT" * 4, 3, width, out_channels)


def n537(width: int = 80, out_channels: int = 3) -> Network:
    """Return n537: kernels 4 and 5, field of view 163x163x163."""
    return _chain("CTMCTMCTM" + "CT" * 4, 5, width, out_channels)


def n726(width: int = 80, out_channels: int = 3) -> Network:
    """Return n726: kernels 6 and 7, field of view 117x117x117."""
    return _chain("CTMCTM" + "CT" * 4, 7, width, out_channels)


def n926(width: int = 80, out_channels: int = 3) -> Network:
    """Return n926: kernels 8 and 9, field of view 155x155x155."""
    return _chain("CTMCTM" + "CT" * 4, 9, width, out_channels)


def _chain(layers: str, kernel: int, width: int, out_channels: int) -> Network:
    kernels = [kernel - 1] + [kernel] * (layers.count("C") - 1)
    return Network.parse(layers, width=width, kernel=kernels, window=2, out_channels=out_channels)
