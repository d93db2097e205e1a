"""U-Nets: an image is made smaller and larger again, and what it was at every size is brought back by skips.

They fit outputs of some sizes only, with "same" padding multiples of the product of their windows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from znn_dask.net.functional import Builder, Padded
from znn_dask.net.letters import Size
from znn_dask.net.network import Network
from znn_dask.net.operations import Normalisation, Transfer
from znn_dask.net.wiring import Maps


def unet3d(
    in_channels: int = 1,
    out_channels: int = 1,
    widths: Sequence[int] = (16, 32, 64),
    norm: str | Normalisation | None = None,
    *,
    kernel: Size = 3,
    window: Size = 2,
    padding: Padded = "same",
    transfer: str | Transfer = "relu",
) -> Network:
    """Return a 3D U-Net, after Cicek et al. 2016: linear maps out, two convolutions at every level, max-pools.

    Transposed convolutions lead up, to the skips' maps and then theirs. With ``padding="valid"`` skips are cropped.
    """
    net = Network.builder(padding=padding)
    x, skips = net.input("input", in_channels), []
    for level, width in enumerate(widths):
        x = net.max_pool(x, window) if level else x
        for _ in "ab":
            x = net.conv(x, width, kernel, norm=norm, transfer=transfer)
        skips.append(x)
    for width, skip in reversed(list(zip(widths, skips[:-1], strict=False))):
        x = net.concat([skip, net.transposed_conv(x, width, window)], crop=True)
        for _ in "ab":
            x = net.conv(x, width, kernel, norm=norm, transfer=transfer)
    net.output(net.bias(net.conv(x, out_channels, 1)))
    return net.build()


def rsunet(
    in_channels: int = 1,
    out_channels: int = 1,
    widths: Sequence[int] = (28, 36, 48, 64, 80),
    norm: str | Normalisation | None = "batch",
    *,
    kernel: Size = 3,
    window: Size = (1, 2, 2),
    embedding: Size = (1, 5, 5),
    mode: str = "trilinear",
    transfer: str | Transfer = "elu",
) -> Network:
    """Return the residual symmetric U-Net of Lee et al. 2017, for sections that are thicker than their voxels wide.

    A level is three convolutions, the first of which is added to the last; linear maps out. The way up is an upsampling
    and a convolution of 1, summed with the skip. Its first and last layers are of 1x5x5, as its pools 1x2x2.
    """
    net = Network.builder(padding="same")
    after: dict[str, Any] = {"norm": norm, "transfer": transfer}
    x, skips = net.conv(net.input("input", in_channels), widths[0], embedding, **after), []
    for level, width in enumerate(widths):
        x = _residual(net, net.max_pool(x, window) if level else x, width, kernel, after)
        skips.append(x)
    for width, skip in reversed(list(zip(widths, skips[:-1], strict=False))):
        x = net.activate(skip + net.conv(net.upsample(x, window, mode), width, 1), **after)
        x = _residual(net, x, width, kernel, after)
    x = net.conv(x, widths[0], embedding, **after)
    net.output(net.bias(net.conv(x, out_channels, 1)))
    return net.build()


def _residual(net: Builder, x: Maps, width: int, kernel: Size, after: Mapping[str, Any]) -> Maps:
    first = net.conv(x, width, kernel, **after)
    second = net.conv(first, width, kernel, **after)
    return net.activate(first + net.conv(second, width, kernel), **after)
