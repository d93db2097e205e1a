"""Every network of the zoo, narrow, with the size of an output."""

from dataclasses import replace

from znn_dask.net import Dropout, Edge, Network, zoo


def narrow(net: Network, width: int) -> Network:
    """Return a network with at most so many maps inside, or as many as come out, that drops nothing."""
    width = max(width, *net.outputs.values(), 1)
    ends = {*net.inputs, *net.outputs}
    nodes = [
        node if node.name in ends else replace(node, channels=min(width, node.channels)) for node in net.graph.nodes
    ]
    return Network(nodes, [undropped(edge) for edge in net.edges.values()], net.ndim)


def undropped(edge: Edge) -> Edge:
    """Return an edge whose dropout drops nothing: PyTorch draws other numbers."""
    return replace(edge, op=Dropout(0.0)) if isinstance(edge.op, Dropout) else edge


SMALL = {
    "bench2d": (lambda: zoo.bench2d(2, kernel=5, out_channels=2), (1, 2, 3)),
    "bench3d": (lambda: zoo.bench3d(3, out_channels=2), (1, 2, 3)),
    "bench_pool": (lambda: zoo.bench_pool(3, out_channels=2), (1, 2, 3)),
    "n4": (lambda: narrow(zoo.n4(), 2), (1, 2, 1)),
    "n4_affinity": (lambda: narrow(zoo.n4_affinity(), 2), (1, 1, 2)),
    "srini2d": (lambda: narrow(zoo.srini2d(), 3), (1, 5, 4)),
    "vd2d": (lambda: narrow(zoo.vd2d(), 2), (1, 1, 2)),
    "vd2d_tanh": (lambda: narrow(zoo.vd2d_tanh(), 2), (1, 2, 1)),
    "vd2d3d": (lambda: narrow(zoo.vd2d3d(), 2), (1, 1, 2)),
    "zinet": (lambda: narrow(zoo.zinet(), 1), (1, 1, 2)),
    "unet3d": (lambda: zoo.unet3d(widths=(2, 3, 4)), (4, 8, 4)),
    "unet3d valid": (lambda: zoo.unet3d(widths=(2, 3), padding="valid", norm="group"), (2, 4, 2)),
    "rsunet": (lambda: zoo.rsunet(widths=(2, 3, 4), out_channels=3), (3, 8, 12)),
    "rsunet nearest": (lambda: zoo.rsunet(widths=(2, 3), norm="instance", mode="nearest"), (3, 8, 6)),
}
LARGE = {
    "hd3d": (lambda: narrow(zoo.hd3d(), 1), (1, 1, 2)),
    "n337": (lambda: zoo.n337(width=1), (1, 1, 1)),
    "n537": (lambda: zoo.n537(width=1), (1, 1, 1)),
    "n726": (lambda: zoo.n726(width=1), (1, 1, 1)),
    "n926": (lambda: zoo.n926(width=1), (1, 1, 1)),
    "net40p": (lambda: narrow(zoo.net40p(), 1), (1, 1, 1)),
}
