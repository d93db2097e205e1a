"""The networks that ZNN's paper measures (Zlateski, Lee and Seung 2015), of any width and kernel; ReLU throughout."""

from znn_dask.net.network import Network


def bench3d(width: int = 40, kernel: int = 3, window: int = 2, out_channels: int | None = None) -> Network:
    """Return CTMCTMCTCT in 3D, with as many maps out as the width unless given."""
    return Network.parse("CTMCTMCTCT", width=width, kernel=kernel, window=window, out_channels=out_channels)


def bench2d(width: int = 40, kernel: int = 11, window: int = 2, out_channels: int | None = None) -> Network:
    """Return CTMCTMCTCTCTCT in 2D, with as many maps out as the width unless given."""
    return Network.parse("CTMCTMCTCTCTCT", width=width, kernel=kernel, window=window, ndim=2, out_channels=out_channels)


def bench_pool(width: int = 40, kernel: int = 3, window: int = 2, out_channels: int | None = None) -> Network:
    """Return CTPCTPCTCT in 3D: as `bench3d`, but with pools, whose output is not dense."""
    return Network.parse("CTPCTPCTCT", width=width, kernel=kernel, window=window, out_channels=out_channels)
