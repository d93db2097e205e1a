"""What becomes of images that converge on a node: their sum, their maps side by side, or the largest.

Maps side by side cost nothing: the blocks of the node are those of the images, one after the other.
"""

from collections.abc import Mapping
from itertools import accumulate

from znn_dask.lower.builder import ref, refs
from znn_dask.lower.lowering import Lowering, Values
from znn_dask.ops import maxout


def forward(low: Lowering, name: str) -> Values:
    """Return what a node holds, from the contributions of its edges."""
    incoming = low.net.incoming(name)
    terms = [low.contributions[name][edge.name] for edge in incoming]
    join = low.net.nodes[name].join
    if join == "concat":
        firsts = _firsts(low, name)
        return {
            (firsts[edge.name] + block, group): key
            for edge, term in zip(incoming, terms, strict=True)
            for (block, group), key in term.items()
        }
    if join == "max" and len(terms) > 1:
        return _largest(low, name, terms)
    priority = low.priorities.forward[name]
    return {
        place: low.graph.total("node-sum", (name, *place), priority, [term[place] for term in terms])
        for place in low.places(name)
    }


def backward(low: Lowering, name: str, d_values: Values) -> Mapping[str, Values]:
    """Return the gradient of every edge's contribution to a node, by the edge."""
    incoming = low.net.incoming(name)
    join = low.net.nodes[name].join
    if join == "concat":
        firsts = _firsts(low, name)
        return {
            edge.name: {
                (block, group): d_values[firsts[edge.name] + block, group] for block, group in low.edge_places(edge)
            }
            for edge in incoming
        }
    if join == "max" and len(incoming) > 1:
        return _largest_backward(low, name, d_values)
    return {edge.name: d_values for edge in incoming}


def _firsts(low: Lowering, name: str) -> dict[str, int]:
    """Return the first block of every edge that leads to a node of maps side by side."""
    incoming = low.net.incoming(name)
    counts = [low.n_blocks(edge.source) for edge in incoming]
    return {edge.name: first for edge, first in zip(incoming, accumulate([0, *counts]), strict=False)}


def _largest(low: Lowering, name: str, terms: list[Values]) -> Values:
    values = {}
    for place in low.places(name):
        index = (name, *place)
        keys = refs([term[place] for term in terms])
        whole = low.graph.task("maxout", index, low.priorities.forward[name], maxout.largest, keys)
        values[place] = low.graph.part("largest", index, whole, 0)
        low.largest[name, place] = low.graph.part("which-largest", index, whole, 1)
        low.graph.n_bytes[values[place]] = low.n_bytes(name, place)
        low.graph.n_bytes[low.largest[name, place]] = low.n_bytes(name, place) // 4
    return values


def _largest_backward(low: Lowering, name: str, d_values: Values) -> Mapping[str, Values]:
    incoming = low.net.incoming(name)
    found: dict[str, Values] = {edge.name: {} for edge in incoming}
    for place, d_value in d_values.items():
        arguments = ref(d_value), ref(low.largest[name, place]), len(incoming)
        index, priority = (name, *place), low.priorities.backward[name]
        whole = low.graph.task("backward-maxout", index, priority, maxout.largest_backward, *arguments)
        for position, edge in enumerate(incoming):
            key = low.graph.part("maxout-gradient", (name, edge.name, *place), whole, position)
            low.graph.n_bytes[key] = low.n_bytes(name, place)
            found[edge.name][place] = key
    return found
