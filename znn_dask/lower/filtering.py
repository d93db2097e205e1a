"""Max-filters and max-pools as tasks, forward and backward; the bands of an image come together behind them."""

from znn_dask.geometry import Triple, volume
from znn_dask.lower.bands import Band, axis_of, bands_of, joining
from znn_dask.lower.builder import Key, ref, refs
from znn_dask.lower.lowering import Lowering, Place, Values
from znn_dask.net import Edge, MaxFilter, MaxPool
from znn_dask.ops import bands
from znn_dask.ops import filter as filters


def forward(low: Lowering, edge: Edge) -> Values:
    """Add the tasks of a filter; return what it gives to its target."""
    pieces = _bands_at(low, edge)
    rows = pieces[0].rows if pieces else None
    found: Values = {}
    for place in low.places(edge.source):
        found |= _parts(low, edge, _filter(low, edge, place), place, rows)
    return _joined(low, edge, found, pieces) if pieces else found


def backward(low: Lowering, edge: Edge, d_values: Values) -> Values:
    """Add the tasks of a filter's backward pass; return the gradient of its source."""
    pieces = _bands_at(low, edge)
    return {
        (block, group): _backward(low, edge, d_values, (block, group), pieces[group % len(pieces)] if pieces else None)
        for block, group in low.places(edge.source)
    }


def _bands_at(low: Lowering, edge: Edge) -> list[Band]:
    """Return the bands that come together at a filter, if any do."""
    count = joining(low.net, low.plan.bands).get(edge.name, 1)
    return bands_of(_rows(low, edge)[1], count) if count > 1 else []


def _rows(low: Lowering, edge: Edge) -> tuple[int, int]:
    """Return the axis that is cut into rows, and how many a fragment behind the filter has."""
    size = low.arrangements[edge.target].size
    axis = axis_of(size)
    return axis, size[axis]


def _n_parts(low: Lowering, edge: Edge) -> int:
    return low.plan.groups_after.get(edge.name, 1)


def _filter(low: Lowering, edge: Edge, place: Place) -> Key:
    graph, op, source = low.graph, edge.op, ref(low.values[edge.source][place])
    priority, index = low.priorities.forward[edge.target], (edge.name, *place)
    if isinstance(op, MaxPool):
        return graph.task("max-pool", index, priority, filters.max_pool, source, op.window)
    assert isinstance(op, MaxFilter)
    n_parts = _n_parts(low, edge)
    return graph.task("max-filter", index, priority, filters.max_filter, source, op.window, op.stride, n_parts)


def _parts(low: Lowering, edge: Edge, whole: Key, place: Place, rows: int | None) -> Values:
    """Take apart the images and argmax of a filter, or those of a band of so many rows."""
    assert isinstance(edge.op, MaxFilter | MaxPool)
    graph, n_parts, (block, group) = low.graph, _n_parts(low, edge), place
    stride: Triple = edge.op.stride if isinstance(edge.op, MaxFilter) else (1, 1, 1)
    n_rows, source = _rows(low, edge)[1], low.arrangements[edge.source]
    first, stop = source.blocks[block]
    n_values = volume(low.arrangements[edge.target].size) // n_rows * (rows or n_rows)
    n_values *= len(source.groups[group]) * volume(stride) // n_parts * (stop - first)
    values, argmax = {}, []
    for part in range(n_parts):
        index = block, group * n_parts + part
        values[index] = graph.part("filtered", (edge.name, *index), whole, part)
        argmax.append(graph.part("argmax", (edge.name, *index), whole, n_parts + part))
        graph.n_bytes[values[index]] = 4 * n_values
        graph.n_bytes[argmax[-1]] = n_values * filters.index_bytes(edge.op.window)
    low.argmax[edge.name, block, group] = argmax
    return values


def _joined(low: Lowering, edge: Edge, values: Values, pieces: list[Band]) -> Values:
    """Add the tasks that put bands together."""
    n_parts, axis, firsts = _n_parts(low, edge), _rows(low, edge)[0], tuple(band.first for band in pieces)
    priority = low.priorities.forward[edge.target] + 1  # what is complete goes before what is filtered next
    found = {}
    for block, group in low.edge_places(edge):
        examples, part = divmod(group, n_parts)
        keys = [values[block, (examples * len(pieces) + band) * n_parts + part] for band in range(len(pieces))]
        index, n_bytes = (edge.name, block, group), low.edge_bytes(edge, (block, group))
        found[block, group] = low.graph.task(
            "join-bands", index, priority, bands.join, refs(keys), firsts, axis, n_bytes=n_bytes
        )
    return found


def _backward(low: Lowering, edge: Edge, d_values: Values, place: Place, band: Band | None) -> Key:
    graph, op, priority = low.graph, edge.op, low.priorities.backward[edge.source]
    block, group = place
    argmax, size = low.argmax[edge.name, block, group], low.arrangements[edge.source].size
    examples = group // low.plan.bands if band else group
    gradients = [d_values[block, examples * len(argmax) + part] for part in range(len(argmax))]
    index, n_bytes, way = (edge.name, block, group), low.n_bytes(edge.source, place), bands if band else filters
    cut = (tuple(band), _rows(low, edge)[0]) if band else ()
    if isinstance(op, MaxPool):
        pooled = ref(gradients[0]), ref(argmax[0]), op.window, size, *cut
        key = graph.task("backward-max-pool", index, priority, way.max_pool_backward, *pooled, n_bytes=n_bytes)
    else:
        assert isinstance(op, MaxFilter)
        arguments = refs(gradients), refs(argmax), op.window, op.stride, size, *cut
        key = graph.task("backward-max-filter", index, priority, way.max_filter_backward, *arguments, n_bytes=n_bytes)
    if band:  # the gradients of its rows
        graph.extra_bytes[key] = 4 * sum(graph.n_bytes[k] for k in argmax) // filters.index_bytes(op.window)
    return key
