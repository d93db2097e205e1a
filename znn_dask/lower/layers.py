"""A convolution layer as the plan would run it: its candidates, the tasks each makes, and which is best.

A candidate is the direct algorithm, or transforms of one tile by one backend. Its time is told by parts, because what
passes share is made once: the spectra of images serve forward and kernel gradient, those of output gradients input and
kernel gradient. `best` then picks an algorithm per pass.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple, TypeAlias

import msgspec

from znn_dask.geometry import ONE, Triple
from znn_dask.lower.plan import PASSES, ConvolutionPlan

IMAGE_SPECTRUM, GRADIENT_SPECTRUM = "image-spectrum", "gradient-spectrum"
# The spectra that a pass needs if it is spectral.
NEEDS = {
    "forward": (IMAGE_SPECTRUM,),
    "backward": (GRADIENT_SPECTRUM,),
    "gradient": (IMAGE_SPECTRUM, GRADIENT_SPECTRUM),
}
UNKNOWN = float("inf")  # seconds of what was not timed


class Layer(msgspec.Struct, frozen=True):
    """One convolution edge: all that its time depends on.

    Attributes
    ----------
    size, kernel : (z, y, x)
        Of a fragment of the source, and of the kernel.
    entries, groups : int
        Fragments in a batch group, and the number of groups.
    blocks_in, blocks_out : tuple of int
        Widths of the channel blocks.
    passes : tuple of str
        Those of `PASSES` that are wanted.
    granularity : "node" | "edge"
    """

    size: Triple
    kernel: Triple
    entries: int
    groups: int
    blocks_in: tuple[int, ...]
    blocks_out: tuple[int, ...]
    passes: tuple[str, ...] = PASSES
    granularity: str = "node"


class Candidate(msgspec.Struct, frozen=True):
    """A way to compute a layer: "direct", or "fft" by tiles (z, y, x) and a backend of `ops.fft`."""

    algorithm: str
    tile: Triple = ONE
    backend: str = ""

    def __str__(self) -> str:
        if self.algorithm == "direct":
            return "direct"
        return f"{self.algorithm} {'x'.join(map(str, self.tile))} {self.backend}"


DIRECT = Candidate("direct")


class Work(NamedTuple):
    """One task: an operation of `ops` and the shapes it is called with.

    Attributes
    ----------
    operation : str
        "direct-forward", "direct-backward", "direct-gradient", "image-spectrum", "gradient-spectrum", "product",
        "product-backward", "output-image", "gradient-image" or "spectral-gradient".
    size, kernel, tile : (z, y, x)
    backend : str
        Of the transform; empty where there is none.
    entries : int
    read : tuple of int
        Widths of the blocks it sums over; for gradients and transforms the one it reads.
    made : int
        Width of what it makes.
    """

    operation: str
    size: Triple
    kernel: Triple
    tile: Triple
    backend: str
    entries: int
    read: tuple[int, ...]
    made: int


Times: TypeAlias = dict[str, float]  # seconds of all tasks of a part, by part
Asked: TypeAlias = Sequence[tuple[Layer, Sequence[Candidate]]]
# Says how long the candidates of some layers take. Those it leaves out are not to be chosen; all, if it cannot say.
Timing: TypeAlias = Callable[[Asked], list[dict[Candidate, Times]]]


def works(layer: Layer, candidate: Candidate) -> dict[str, list[Work]]:
    """Return the tasks of every part in one batch group."""
    tile, backend = candidate.tile, candidate.backend
    blocks_in, blocks_out = layer.blocks_in, layer.blocks_out

    def work(operation: str, read: tuple[int, ...], made: int, transform: str = "") -> Work:
        return Work(operation, layer.size, layer.kernel, tile, transform, layer.entries, read, made)

    def sums(operation: str, read: tuple[int, ...], made: tuple[int, ...]) -> list[Work]:
        terms = [read] if layer.granularity == "node" else [(width,) for width in read]
        return [work(operation, term, width) for width in made for term in terms]

    def transforms(operation: str, widths: tuple[int, ...]) -> list[Work]:
        return [work(operation, (width,), width, backend) for width in widths]

    def pairs(operation: str) -> list[Work]:
        return [work(operation, (i,), o) for i, o in product(blocks_in, blocks_out)]

    if candidate.algorithm == "direct":
        parts = {
            "forward": sums("direct-forward", blocks_in, blocks_out),
            "backward": sums("direct-backward", blocks_out, blocks_in),
            "gradient": pairs("direct-gradient"),
        }
        return {name: parts[name] for name in layer.passes}
    parts = {
        IMAGE_SPECTRUM: transforms("image-spectrum", blocks_in),
        "forward": sums("product", blocks_in, blocks_out) + transforms("output-image", blocks_out),
        GRADIENT_SPECTRUM: transforms("gradient-spectrum", blocks_out),
        "backward": sums("product-backward", blocks_out, blocks_in) + transforms("gradient-image", blocks_in),
        "gradient": pairs("spectral-gradient"),
    }
    wanted = {part for name in layer.passes for part in (name, *NEEDS[name])}
    return {name: tasks for name, tasks in parts.items() if name in wanted}


def seconds_of(layer: Layer, times: Mapping[Candidate, Times], plan: ConvolutionPlan) -> float:
    """Return the time of a layer by a plan; infinite if it was not told."""
    direct = times.get(DIRECT, {})
    spectral = times.get(Candidate("fft", plan.tile, plan.backend), {})
    shared: set[str] = set()
    total = 0.0
    for name in layer.passes:
        if getattr(plan, name) == "direct":
            total += direct.get(name, UNKNOWN)
        else:
            total += spectral.get(name, UNKNOWN)
            shared.update(NEEDS[name])
    if not plan.keep and plan.forward == plan.gradient == "fft":
        total += spectral.get(IMAGE_SPECTRUM, UNKNOWN)
    return total + sum(spectral.get(part, UNKNOWN) for part in sorted(shared))


def used(layer: Layer, plan: ConvolutionPlan) -> list[Candidate]:
    """Return the candidates that a plan is made of."""
    algorithms = {getattr(plan, name) for name in layer.passes}
    spectral = Candidate("fft", plan.tile, plan.backend)
    return [DIRECT] * ("direct" in algorithms) + [spectral] * ("fft" in algorithms)


def best(layer: Layer, times: Mapping[Candidate, Times]) -> tuple[ConvolutionPlan, float]:
    """Return the fastest choice of algorithms for the passes, and its seconds; the first told among equals.

    A pass that is not wanted is given the algorithm of the forward pass.
    """
    choices: list[ConvolutionPlan] = []
    for candidate in times:
        if candidate == DIRECT:
            choices.append(ConvolutionPlan("direct", "direct", "direct"))
            continue
        algorithms = ("fft", "direct") if DIRECT in times else ("fft",)
        for kinds in product(algorithms, repeat=len(layer.passes)):
            if "fft" in kinds:
                chosen = dict(zip(layer.passes, kinds, strict=True))
                each = [chosen.get(name, kinds[0]) for name in PASSES]
                choices.append(ConvolutionPlan(each[0], each[1], each[2], candidate.tile, candidate.backend))
    costs = [seconds_of(layer, times, choice) for choice in choices]
    least = min(costs)
    return choices[costs.index(least)], least
