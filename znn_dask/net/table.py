"""What a network looks like: a table for people, and a drawing in Graphviz's language."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from znn_dask.geometry import ONE, Triple
from znn_dask.net.graph import Edge, Graph
from znn_dask.net.operations import Dropout, Op, Transfer
from znn_dask.net.parameters import parameters_of
from znn_dask.net.sampling import MaxFilter
from znn_dask.net.shapes import window_of

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
    """Return one line for every input and edge; ``sizes`` are those of the nodes, None where none fits."""
    rows = [HEADER]
    for name in graph.inputs:
        rows.append((name, "input", "", "", str(graph.channels[name]), "", _node_size(name, sizes)))
    is_chain = all(len(edges) <= 1 for by in (graph.incoming, graph.outgoing) for edges in by.values())
    for edge in graph.edges:
        n_in, n_out = graph.channels[edge.source], graph.channels[edge.target]
        count = sum(p.size for p in parameters_of(edge.name, edge.op, n_in, n_out))
        row = (
            edge.name if is_chain else f"{edge.name}: {edge.source} -> {edge.target}",
            _kind(edge.op),
            _kernel(edge.op),
            _size(sparsity[edge.source]),
            str(n_in) if n_in == n_out else f"{n_in} -> {n_out}",
            f"{count:,}" if count else "",
            _node_size(edge.target, sizes),
        )
        rows.append(row)
    return _aligned(rows)


def drawing(graph: Graph, sizes: Mapping[str, Triple] | None) -> Drawing:
    """Return the graph in Graphviz's language."""
    lines = [
        "digraph network {",
        "  rankdir=TB;",
        '  node [shape=box, style=rounded, fontname="sans-serif"];',
    ]
    lines.append('  edge [fontname="sans-serif", fontsize=10];')
    for name, channels in graph.channels.items():
        size = "" if sizes is None else f"\\n{channels} x {_size(sizes[name])}"
        lines.append(f"  {_quoted(name)} [label={_quoted(name, size)}];")
    for edge in graph.edges:
        lines.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.name, _label(edge))}];")
    return Drawing("\n".join([*lines, "}", ""]))


def _label(edge: Edge) -> str:
    kernel = _kernel(edge.op)
    return f"\\n{_kind(edge.op)}" + (f" {kernel}" if kernel else "")


def _kind(op: Op) -> str:
    if isinstance(op, Transfer):
        args = f"({', '.join(f'{value:g}' for value in op.args)})" if op.args else ""
        return f"{op.kind} {op.function}{args}{'' if op.bias else ', no bias'}"
    return f"{op.kind} {op.rate:g}" if isinstance(op, Dropout) else op.kind


def _kernel(op: Op) -> str:
    window = window_of(op)
    if isinstance(op, Transfer | Dropout):
        return ""
    if isinstance(op, MaxFilter) and op.stride != op.window:
        return f"{_size(window)} stride {_size(op.stride)}"
    return _size(window)


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
