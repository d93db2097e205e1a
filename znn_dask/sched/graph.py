"""Read any form of Dask graph: which nodes the requested keys need, in one form.

Accepts dictionaries with legacy tuples, `dask.task_spec` nodes, HighLevelGraphs, expressions, and requests
nested in lists as every Dask ``get`` takes them. The order of the result is the order of the graph, so that
compiling the same graph twice gives the same tables whatever Python's hash seed.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeAlias

from dask._task_spec import convert_legacy_graph
from dask.task_spec import GraphNode
from dask.utils import ensure_dict

Key: TypeAlias = Hashable
Nodes: TypeAlias = dict[Key, GraphNode]


def read(dsk: Any) -> Nodes:
    """Return a graph as a dictionary of GraphNodes, whatever it came as."""
    if not isinstance(dsk, Mapping):
        dsk = dsk.__dask_graph__()
    nodes: Nodes = convert_legacy_graph(ensure_dict(dsk))
    return nodes


def cull(nodes: Nodes, keys: Any) -> Nodes:
    """Return the nodes that the requested keys need, in the order of the graph.

    Raises
    ------
    KeyError
        If a requested key is not in the graph, as with every Dask ``get``.
    """
    work = list(flatten(keys))
    for key in work:
        if key not in nodes:
            raise KeyError(key)
    needed: set[Key] = set()
    while work:
        key = work.pop()
        if key not in needed and key in nodes:
            needed.add(key)
            work.extend(nodes[key].dependencies)
    if len(needed) == len(nodes):
        return nodes
    return {key: node for key, node in nodes.items() if key in needed}


def flatten(keys: Any) -> Iterator[Key]:
    """Yield the requested keys; only lists nest, tuples are keys."""
    if isinstance(keys, list):
        for part in keys:
            yield from flatten(part)
    else:
        yield keys


def nested(keys: Any, value: Callable[[Key], Any]) -> Any:
    """Return the values in the form of the request, each list as a tuple, as every Dask ``get`` does."""
    if isinstance(keys, list):
        return tuple(nested(part, value) for part in keys)
    return value(keys)
