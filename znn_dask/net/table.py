"""What a network looks like: a table for people, and a drawing in Graphviz's language."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from znn_dask.geometry import ONE, Triple
from znn_dask.net.graph import Edge, Graph, maps_after
from znn_dask.net.operations import (
    NO_PADDING,
    Convolution,
    Dropout,
    Normalisation,
    Op,
    Padding,
    Transfer,
    TransposedConvolution,
)
from znn_dask.net.parameters import parameters_of
from znn_dask.net.sampling import AveragePool, Crop, MaxFilter, MaxPool, Upsample
from znn_dask.net.words import NODE_TYPES

HEADER = ("edge", "kind", "kernel", "sparsity", "maps", "parameters", "size (z, y, x)")


@dataclass(frozen=True)
class Drawing:
    """A drawing in Graphviz's language; notebooks show it where the program ``dot`` is installed.

    Attributes
    ----------
    source : str
    """

    source: str

    def __str__(self) -> str:
        return self.source

    def _repr_svg_(self) -> str | None:
        dot = shutil.which("dot")
        if dot is None:
            return None
        done = subprocess.run([dot, "-Tsvg"], input=self.source, capture_output=True, text=True, check=True)
        return done.stdout


def table(graph: Graph, sparsity: Mapping[str, Triple], sizes: Mapping[str, Triple] | None) -> str:
    """Return one line for every input, edge and join; ``sizes`` are those of the nodes, None where none fits."""
    rows = [HEADER]
    for name in graph.inputs:
        rows.append((name, "input", "", "", str(graph.channels[name]), "", _node_size(name, sizes)))
    is_chain = all(len(edges) <= 1 for by in (graph.incoming, graph.outgoing) for edges in by.values())
    joins = {node.name: NODE_TYPES[node.join] for node in graph.nodes}
    last = {edge.target: edge.name for edge in graph.edges}
    for edge in graph.edges:
        n_in, n_out = graph.channels[edge.source], graph.channels[edge.target]
        count = sum(p.size for p in parameters_of(edge.name, edge.op, n_in, n_out) if p.learned)
        n_made = maps_after(edge.op, n_in) or n_out
        row = (
            edge.name if is_chain else f"{edge.name}: {edge.source} -> {edge.target}",
            _kind(edge.op),
            _kernel(edge.op),
            _size(sparsity[edge.source]),
            str(n_in) if n_in == n_made else f"{n_in} -> {n_made}",
            f"{count:,}" if count else "",
            _node_size(edge.target, sizes),
        )
        rows.append(row)
        before = graph.incoming[edge.target]
        if len(before) > 1 and last[edge.target] == edge.name:
            what = f"{joins[edge.target]} of {', '.join(one.name for one in before)}"
            size = _node_size(edge.target, sizes)
            rows.append((edge.target, what, "", _size(sparsity[edge.target]), str(n_out), "", size))
    return _aligned(rows)


def drawing(graph: Graph, sizes: Mapping[str, Triple] | None) -> Drawing:
    """Return the graph in Graphviz's language."""
    lines = [
        "digraph network {",
        "  rankdir=TB;",
        '  node [shape=box, style=rounded, fontname="sans-serif"];',
    ]
    lines.append('  edge [fontname="sans-serif", fontsize=10];')
    for node in graph.nodes:
        join = f"\\n{NODE_TYPES[node.join]}" if len(graph.incoming[node.name]) > 1 else ""
        size = "" if sizes is None else f"\\n{node.channels} x {_size(sizes[node.name])}"
        lines.append(f"  {_quoted(node.name)} [label={_quoted(node.name, join + size)}];")
    for edge in graph.edges:
        lines.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.name, _label(edge))}];")
    return Drawing("\n".join([*lines, "}", ""]))


def _label(edge: Edge) -> str:
    kernel = _kernel(edge.op)
    return f"\\n{_kind(edge.op)}" + (f" {kernel}" if kernel else "")


def _kind(op: Op) -> str:
    match op:
        case Transfer():
            args = f"({', '.join(f'{value:g}' for value in op.args)})" if op.args else ""
            return f"{op.kind} {op.function}{args}{'' if op.bias else ', no bias'}"
        case Dropout():
            return f"{op.kind} {op.rate:g}"
        case Normalisation():
            groups = f"({op.groups})" if op.over == "group" else ""
            return f"{op.kind} {op.over}{groups}{'' if op.affine else ', not scaled'}"
        case Upsample():
            return f"{op.kind} {op.mode}"
    return op.kind


def _kernel(op: Op) -> str:
    """Return the window of an operation, then stride and padding where they are not the usual."""
    match op:
        case Convolution():
            return f"{_size(op.kernel)}{_stride(op.stride)}{_padding(op)}"
        case TransposedConvolution():
            assert op.crop.after is not None
            crop = f" crop {_ends(op.crop.before, op.crop.after)}" if any(op.crop.total) else ""
            return f"{_size(op.kernel)}{_stride(op.stride)}{crop}"
        case MaxFilter():
            return _size(op.window) + (f" stride {_size(op.stride)}" if op.stride != op.window else "")
        case MaxPool() | AveragePool():
            return _size(op.window)
        case Upsample():
            return _size(op.factor)
        case Crop():
            assert op.after is not None
            return _ends(op.before, op.after)
    return ""


def _stride(stride: Triple) -> str:
    return "" if stride == ONE else f" stride {_size(stride)}"


def _padding(op: Convolution) -> str:
    padding = op.padding
    if padding == NO_PADDING:
        return ""
    assert padding.after is not None
    mode = "" if padding.mode == "zero" else f" {padding.mode}"
    is_same = padding == Padding.same(op.kernel, padding.mode)
    return f" same{mode}" if is_same else f" pad {_ends(padding.before, padding.after)}{mode}"


def _ends(before: Triple, after: Triple) -> str:
    first, last = ("x".join(str(v) for v in size) for size in (before, after))
    return first if first == last else f"{first}, {last}"


def _size(size: Triple) -> str:
    return "1" if size == ONE else "x".join(str(v) for v in size)


def _node_size(name: str, sizes: Mapping[str, Triple] | None) -> str:
    return "-" if sizes is None else "x".join(str(v) for v in sizes[name])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    right = HEADER.index("parameters")
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column == right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _quoted(text: str, more: str = "") -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}{more}"'
