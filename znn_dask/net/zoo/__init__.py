"""Networks ready to be used: what was published with ZNN and ZNNi, U-Nets of today, and those of the benchmarks.

Each is a function that returns a `Network`; `names` lists them and `network` makes one by name. The tests check
parameters and fields of view.
"""

from collections.abc import Callable, Mapping
from typing import Any

from znn_dask.errors import NetworkError, nearest
from znn_dask.net.network import Network
from znn_dask.net.zoo.benchmarks import bench2d, bench3d, bench_pool
from znn_dask.net.zoo.unets import rsunet, unet3d
from znn_dask.net.zoo.znn import hd3d, n4, n4_affinity, net40p, srini2d, vd2d, vd2d3d, vd2d_tanh, zinet
from znn_dask.net.zoo.znni import n337, n537, n726, n926

_PUBLISHED = (n4, n4_affinity, vd2d, vd2d_tanh, vd2d3d, srini2d, zinet, net40p, hd3d, n337, n537, n726, n926)
_MADE: Mapping[str, Callable[..., Network]] = {
    make.__name__: make for make in (*_PUBLISHED, unet3d, rsunet, bench2d, bench3d, bench_pool)
}

__all__ = [
    "bench2d",
    "bench3d",
    "bench_pool",
    "hd3d",
    "n4",
    "n4_affinity",
    "n337",
    "n537",
    "n726",
    "n926",
    "names",
    "net40p",
    "network",
    "rsunet",
    "srini2d",
    "unet3d",
    "vd2d",
    "vd2d3d",
    "vd2d_tanh",
    "zinet",
]


def names() -> list[str]:
    """Return the names of the networks."""
    return sorted(_MADE)


def network(name: str, **options: Any) -> Network:
    """Return a network by name.

    Raises
    ------
    NetworkError
        If there is none of that name.
    """
    if name not in _MADE:
        raise NetworkError(f"the zoo has no network {name!r}.{nearest(name, names())} It has {', '.join(names())}")
    return _MADE[name](**options)
