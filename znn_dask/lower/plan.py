"""The plan: every choice about how a network is computed, made before anything runs.

A plan can be printed, saved with a model and compared. Results are bitwise the same for one plan whatever the
scheduler, policy or number of workers; so a plan does not depend on any of these, only on how many CPUs there are.
`choose` makes it.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from znn_dask.cpus import available_cpus
from znn_dask.errors import ParameterError, ShapeError, nearest
from znn_dask.geometry import ONE, Triple, ceil_div, divide
from znn_dask.lower import bands, slabs
from znn_dask.lower.blocks import shared_blocks
from znn_dask.lower.expand import expand
from znn_dask.net import Convolution, MaxFilter, Network, Normalisation, Op, Upsample
from znn_dask.net.parameters import parameters_of
from znn_dask.net.shapes import pads
from znn_dask.ops import winograd
from znn_dask.ops.fft import EFFORTS, library, resolve_backend

ALGORITHMS = ("fft", "direct", "winograd", "fft-stored")
PLAIN = ("direct", "winograd")  # those whose tasks read images, not spectra
PASSES = ("forward", "backward", "gradient")
GRANULARITIES = ("node", "edge")
SUMS = ("tree", "arrival")
TASKS_PER_CPU = 2
FEWEST_TASKS = 4


def tasks_here() -> int:
    """Return the blocks times groups that a node should have on this machine, so that all its CPUs have work.

    More would cost: each block reads all its input, and each group transforms all kernels.
    """
    return max(FEWEST_TASKS, TASKS_PER_CPU * available_cpus())


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user may ask of a plan; "auto" leaves the choice to measurements or the cost model."""

    convolution: str | dict[str, str] = "auto"
    granularity: str = "auto"
    block: int | str = "auto"
    fft_backend: str = "auto"
    fft_effort: str = "estimate"
    sum: str = "tree"
    memory: int | None = None  # bytes that a step may take
    tasks: int = msgspec.field(default_factory=tasks_here)  # blocks times groups that a node should have

    def algorithm(self, edge: str) -> str:
        """Return what is asked of a convolution edge."""
        if isinstance(self.convolution, Mapping):
            return self.convolution.get(edge, "auto")
        return self.convolution


class ConvolutionPlan(msgspec.Struct, frozen=True):
    """How one convolution edge is computed.

    Attributes
    ----------
    forward, backward, gradient : "direct" | "winograd" | "fft" | "fft-stored"
        Algorithm of the output, of the input gradient, of the kernel gradient. "fft-stored" is for all or none.
    tile : (z, y, x)
        Size of the transforms, which the spectral passes share; (1, 1, 1) where there are none.
    backend : str
        Of the transforms; empty where there are none.
    keep : bool
        Whether spectra of images that forward made are kept for the kernel gradient; else they are made again.
    shares : int
        Tasks that share the gradient of every kernel block in a batch group.
    """

    forward: str
    backward: str
    gradient: str
    tile: Triple = ONE
    backend: str = ""
    keep: bool = True
    shares: int = 1

    @property
    def algorithm(self) -> str:
        """Algorithm of the forward pass."""
        return self.forward

    @property
    def algorithms(self) -> tuple[str, str, str]:
        """Algorithms of the passes, in the order of `PASSES`."""
        return self.forward, self.backward, self.gradient

    @property
    def spectral(self) -> bool:
        """Whether any pass uses transforms."""
        return any(name not in PLAIN for name in self.algorithms)


class Plan(msgspec.Struct, frozen=True):
    """Every choice for one network, output size and batch.

    Attributes
    ----------
    output_size : dict of output to (z, y, x)
    batch : int
    convolutions : dict of edge to ConvolutionPlan
    blocks : dict of node to the widths of its channel blocks
    examples_per_group : int
        Examples in a batch group of the inputs.
    groups_after : dict of max-filter edge to int
        Into how many groups it splits each of its source's.
    granularity, sum, fft_effort : str
    slabs : int
        Into how many slabs along z every image is cut, see `slabs`; each is in groups of its own.
    bands : int
        Into how many bands images before the first filter are cut, see `bands`; each is in groups of its own.
    """

    output_size: dict[str, Triple]
    batch: int
    convolutions: dict[str, ConvolutionPlan]
    blocks: dict[str, tuple[int, ...]]
    examples_per_group: int
    groups_after: dict[str, int]
    granularity: str
    sum: str
    fft_effort: str
    slabs: int = 1
    bands: int = 1

    def to_json(self) -> str:
        """Return the plan as text."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def from_json(text: str | bytes) -> "Plan":
        """Read a plan from text; raises msgspec.ValidationError if it is none."""
        return msgspec.json.decode(text, type=Plan)


def rounded_output(net: Network, output_size: Mapping[str, Triple]) -> dict[str, Triple]:
    """Return the output sizes raised to multiples of their sparsities, so that all fragments are of one size.

    All outputs grow by the same number of voxels, or else they would need nodes of different sizes.

    Raises
    ------
    ShapeError
        If sizes would have to be raised, but what lies beyond an image's end matters in this network.
    """
    grown = {name: list(size) for name, size in output_size.items()}
    for axis in range(3):
        steps = {name: net.sparsity_of(name)[axis] for name in output_size}
        for more in range(math.lcm(*steps.values())):
            if all((size[axis] + more) % steps[name] == 0 for name, size in output_size.items()):
                for size in grown.values():
                    size[axis] += more
                break
    rounded = {name: (size[0], size[1], size[2]) for name, size in grown.items()}
    if rounded != dict(output_size) and any(_sees_all(edge.op) for edge in net.edges.values()):
        raise ShapeError(
            f"an output of {_sizes(output_size)} is not possible in a network that pads or normalises images: sizes "
            f"must be multiples of the sparsity {net.sparsity} (z, y, x). Give {_sizes(rounded)}"
        )
    return rounded


def _sees_all(op: Op) -> bool:
    """Return whether an operation computes some voxels of an image from where it ends, or from all of it."""
    return pads(op) or isinstance(op, Normalisation | Upsample)


def _sizes(sizes: Mapping[str, Triple]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in sizes.items())


def check_options(net: Network, batch: int, options: Options) -> None:
    """Raise a ParameterError unless options and batch are possible for a network."""
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ParameterError(f"batch must be an int of at least 1, got {batch!r}")
    edges = [e.name for e in net.edges.values() if isinstance(e.op, Convolution)]
    chosen = options.convolution
    named = chosen if isinstance(chosen, Mapping) else {}
    for name in named:
        if name not in edges:
            raise ParameterError(
                f"convolution names {name!r}, which is no convolution of this network: {', '.join(edges)}."
                f"{nearest(name, edges)}"
            )
    for value in named.values() if isinstance(chosen, Mapping) else (chosen,):
        _one_of("convolution", value, ("auto", *ALGORITHMS))
    for name, value in named.items():
        op = net.edges[name].op
        if value == "winograd" and isinstance(op, Convolution) and not winograd.fits(op.kernel):
            raise ParameterError(
                f"convolution of {name!r} cannot be 'winograd': its kernel is {op.kernel} (z, y, x), and that needs as "
                f"many taps along y as along x, {winograd.FEWEST_TAPS} to {winograd.MOST_TAPS}. Use 'auto' or 'direct'"
            )
    _one_of("granularity", options.granularity, ("auto", *GRANULARITIES))
    _one_of("sum", options.sum, SUMS)
    _one_of("fft_effort", options.fft_effort, EFFORTS)
    resolve_backend(options.fft_backend)
    block = options.block
    if block != "auto" and (isinstance(block, bool) or not isinstance(block, int) or block < 1):
        raise ParameterError(f"block must be 'auto' or a number of channels of at least 1, got {block!r}")
    if isinstance(options.tasks, bool) or not isinstance(options.tasks, int) or options.tasks < 1:
        raise ParameterError(f"tasks must be an int of at least 1, got {options.tasks!r}")


def _one_of(name: str, value: object, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ParameterError(f"{name} must be one of {', '.join(valid)}, got {value!r}")


def learning_nodes(net: Network) -> set[str]:
    """Return the nodes whose value depends on a parameter: only their gradients are needed."""
    learning: set[str] = set()
    for edge in net.edges.values():
        if any(parameter.learned for parameter in parameters_of(edge.name, edge.op, 1, 1)) or edge.source in learning:
            learning.add(edge.target)
    return learning


def check_plan(net: Network, plan: Plan) -> None:
    """Raise a ParameterError unless a plan, read from a file perhaps, is one of this network."""
    net = expand(net)
    convolutions = {e.name for e in net.edges.values() if isinstance(e.op, Convolution)}
    filters = {e.name for e in net.edges.values() if isinstance(e.op, MaxFilter)}
    channels = {name: node.channels for name, node in net.nodes.items()}
    fits = (
        set(plan.output_size) == set(net.outputs)
        and set(plan.convolutions) == convolutions
        and set(plan.groups_after) == filters
        and {name: sum(widths) for name, widths in plan.blocks.items()} == channels
        and min(min(widths) for widths in plan.blocks.values()) > 0
        and shared_blocks(net, plan.blocks) == plan.blocks
        and all(_is_possible(net, name, chosen) for name, chosen in plan.convolutions.items())
        and min(plan.batch, plan.examples_per_group, plan.slabs, plan.bands, *plan.groups_after.values(), 1) > 0
        and slabs.can_be_cut(net, fragment_sizes(net, plan.output_size), plan.slabs)
        and bands.can_be_cut(net, fragment_sizes(net, plan.output_size), plan.bands)
        and 1 in (plan.slabs, plan.bands)
    )
    if not fits:
        raise ParameterError("its plan is not one of its network")
    _one_of("granularity", plan.granularity, GRANULARITIES)
    _one_of("sum", plan.sum, SUMS)
    _one_of("fft_effort", plan.fft_effort, EFFORTS)
    for chosen in plan.convolutions.values():
        if chosen.spectral:
            resolve_backend(chosen.backend)


def fragment_sizes(net: Network, output_size: Mapping[str, Triple]) -> dict[str, Triple]:
    """Return the size of a whole fragment of every node."""
    dense = net.node_sizes(rounded_output(net, output_size))
    return {name: divide(size, net.sparsity_of(name)) for name, size in dense.items()}


def _is_possible(net: Network, edge: str, chosen: ConvolutionPlan) -> bool:
    op = net.edges[edge].op
    assert isinstance(op, Convolution)
    if not set(chosen.algorithms) <= set(ALGORITHMS) or chosen.shares < 1:
        return False
    if not chosen.spectral:
        return True
    holds = all(t >= k for t, k in zip(chosen.tile, op.kernel, strict=True))
    stored = [name == "fft-stored" for name in chosen.algorithms]
    if any(stored) and chosen.shares > 1:
        return False
    able = chosen.backend not in ("", "auto") and library(chosen.backend, chosen.tile) == chosen.backend
    return holds and all(stored) == any(stored) and able


def describe(net: Network, plan: Plan, memory: str = "") -> str:
    """Return the plan as a table; ``memory`` says what it takes."""
    net = expand(net)
    rows: list[tuple[str, ...]] = [("edge", "kind", *PASSES, "tile", "transform", "blocks in", "blocks out", "groups")]
    n_groups = {name: ceil_div(plan.batch, plan.examples_per_group) * plan.slabs * plan.bands for name in net.inputs}
    joined = bands.joining(net, plan.bands)
    learning = learning_nodes(net)
    for edge in net.edges.values():
        n_groups[edge.target] = n_groups[edge.source] * plan.groups_after.get(edge.name, 1) // joined.get(edge.name, 1)
        rows.append(
            (
                edge.name,
                edge.op.kind,
                *_how(plan.convolutions.get(edge.name), edge.source in learning),
                "+".join(map(str, plan.blocks[edge.source])),
                "+".join(map(str, plan.blocks[edge.target])),
                f"{n_groups[edge.source]} -> {n_groups[edge.target]}",
            )
        )
    lines = [as_table(rows)]
    pieces = f"; {plan.slabs} slabs" if plan.slabs > 1 else f"; {plan.bands} bands" if plan.bands > 1 else ""
    lines.append(
        f"output {_sizes(plan.output_size)}; batch {plan.batch}{pieces}; granularity {plan.granularity}; "
        f"sum {plan.sum}; transforms {plan.fft_effort}d"
    )
    return "\n".join([*lines, memory] if memory else lines)


def _how(chosen: ConvolutionPlan | None, backward: bool) -> tuple[str, ...]:
    """Return the cells of the passes, the tile and the transform."""
    if chosen is None:
        return ("-",) * 5
    tile = "x".join(map(str, chosen.tile)) if chosen.spectral else "-"
    gradient = chosen.gradient if chosen.keep else f"{chosen.gradient}, anew"
    return (chosen.forward, chosen.backward if backward else "-", gradient, tile, chosen.backend or "-")


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines with aligned columns."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
