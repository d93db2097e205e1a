"""Slabs: images cut along z, so that several tasks share what would be one.

A network that pads, as U-Nets do, keeps its images aligned: what a slab of the output needs is the same slab of every
image, but for the voxels that padding adds. So every image is kept in as many slabs, each in a batch group of its own,
and `Pad` takes what lies beyond a slab from its neighbours. All else works slab by slab.
"""

from collections.abc import Mapping

from znn_dask.geometry import Triple
from znn_dask.net import Convolution, Crop, Dropout, MaxFilter, Network, Pad, Upsample

MOST = 4
THINNEST = 4  # voxels of a slab along z, of the smallest image


def sizes_in_slabs(net: Network, sizes: Mapping[str, Triple], slabs: int) -> dict[str, Triple]:
    """Return the size of a slab of every node's fragments; a padded one is as much larger as its image would be.

    Parameters
    ----------
    net : Network
        With dense convolutions only.
    sizes : mapping of node to (z, y, x)
        Of whole fragments.
    slabs : int
    """
    found = {name: (z // slabs, y, x) for name, (z, y, x) in sizes.items()}
    for edge in net.edges.values():
        if isinstance(edge.op, Pad) and slabs > 1:
            _, y, x = found[edge.target]
            found[edge.target] = found[edge.source][0] + edge.op.total[0], y, x
    return found


def can_be_cut(net: Network, sizes: Mapping[str, Triple], slabs: int) -> bool:
    """Return whether the images of a network can be kept in slabs."""
    if slabs == 1:
        return True
    padded = {edge.target for edge in net.edges.values() if isinstance(edge.op, Pad) and edge.op.total[0]}
    for edge in net.edges.values():
        op, source = edge.op, edge.source
        if isinstance(op, Convolution):
            pad = net.incoming(source)[0].op if source in padded else None
            if op.kernel[0] - 1 != (pad.total[0] if isinstance(pad, Pad) else 0):
                return False
        elif source in padded or not _works_by_slabs(op, sizes[source][0] // slabs):
            return False
    whole = [name for name in net.nodes if name not in padded]
    return all(len(net.incoming(name)) == 1 for name in padded) and all(
        sizes[name][0] % slabs == 0 and sizes[name][0] // slabs >= THINNEST for name in whole
    )


def _works_by_slabs(op: object, n: int) -> bool:
    """Return whether an operation on an image gives the same slab by slab of n voxels."""
    match op:
        case Pad():
            return not op.total[0] or (op.mode == "zero" and max(op.before[0], op.after[0]) <= n)
        case Crop():
            return not op.total[0]
        case Upsample():
            return op.mode == "nearest" or op.factor[0] == 1
        case MaxFilter():
            return op.window[0] == op.stride[0] == 1
        case Dropout():
            return False  # its random numbers go by the place in a fragment
    return True


def choose_slabs(net: Network, sizes: Mapping[str, Triple], wanted: int) -> int:
    """Return into how many slabs images should be cut: a power of two, not more than wanted."""
    slabs = 1
    while 2 * slabs <= min(wanted, MOST) and can_be_cut(net, sizes, 2 * slabs):
        slabs *= 2
    return slabs
