"""What the network is: graph, layers, shapes, parameter names, text form. Pure data, no arrays."""

from znn_dask.net import zoo
from znn_dask.net.graph import Edge, Node
from znn_dask.net.network import Network
from znn_dask.net.operations import (
    Convolution,
    Dropout,
    Init,
    MaxFilter,
    MaxPool,
    Op,
    Parameter,
    Transfer,
)
from znn_dask.net.table import Drawing

__all__ = [
    "Convolution",
    "Drawing",
    "Dropout",
    "Edge",
    "Init",
    "MaxFilter",
    "MaxPool",
    "Network",
    "Node",
    "Op",
    "Parameter",
    "Transfer",
    "zoo",
]
