"""What the network is: graph, layers, shapes, parameter names, text form. Pure data, no arrays."""

from znn_dask.net import zoo
from znn_dask.net.graph import Edge, Node
from znn_dask.net.initial import Init
from znn_dask.net.network import Network
from znn_dask.net.operations import (
    Convolution,
    Dropout,
    Normalisation,
    Op,
    Padding,
    PhasedConvolution,
    Softmax,
    Transfer,
    TransposedConvolution,
)
from znn_dask.net.parameters import Parameter
from znn_dask.net.sampling import AveragePool, Crop, Identity, MaxFilter, MaxPool, Merge, Pad, Split, Upsample
from znn_dask.net.table import Drawing

__all__ = [
    "AveragePool",
    "Convolution",
    "Crop",
    "Drawing",
    "Dropout",
    "Edge",
    "Identity",
    "Init",
    "MaxFilter",
    "MaxPool",
    "Merge",
    "Network",
    "Node",
    "Normalisation",
    "Op",
    "Pad",
    "Padding",
    "Parameter",
    "PhasedConvolution",
    "Softmax",
    "Split",
    "Transfer",
    "TransposedConvolution",
    "Upsample",
    "zoo",
]
