"""A convolution layer as the plan would run it: its candidates, the tasks each makes, and which is best.

A candidate is an algorithm that reads images as they are, or transforms of one tile by one backend. Its time is told
by parts, because what passes share is made once: the spectra of images serve forward and kernel gradient, those of
output gradients input and kernel gradient. `best` then picks an algorithm per pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple, TypeAlias

import msgspec

from znn_dask.geometry import ONE, Triple
from znn_dask.lower.plan import PASSES, PLAIN, ConvolutionPlan

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
    """A way to compute a layer: "direct", "winograd", or "fft" by tiles (z, y, x) and a backend of `ops.fft`."""

    algorithm: str
    tile: Triple = ONE
    backend: str = ""

    def __str__(self) -> str:
        if self.algorithm in PLAIN:
            return self.algorithm
        return f"{self.algorithm} {'x'.join(map(str, self.tile))} {self.backend}"


DIRECT, WINOGRAD = (Candidate(name) for name in PLAIN)


class Work(NamedTuple):
    """One task: an operation of `ops` and the shapes it is called with.

    Attributes
    ----------
    operation : str
        "direct-forward", "direct-backward", "direct-gradient", the same of "winograd", "image-spectrum",
        "gradient-spectrum", "product", "product-backward", "output-image", "gradient-image" or "spectral-gradient".
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

    if (name := candidate.algorithm) in PLAIN:
        parts = {
            "forward": sums(f"{name}-forward", blocks_in, blocks_out),
            "backward": sums(f"{name}-backward", blocks_out, blocks_in),
            "gradient": pairs(f"{name}-gradient"),
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


def candidate_of(plan: ConvolutionPlan, name: str) -> Candidate:
    """Return the candidate that a plan takes for a pass."""
    algorithm = getattr(plan, name)
    return Candidate(algorithm) if algorithm in PLAIN else Candidate("fft", plan.tile, plan.backend)


def seconds_of(layer: Layer, times: Mapping[Candidate, Times], plan: ConvolutionPlan) -> float:
    """Return the time of a layer by a plan; infinite if it was not told."""
    spectral = times.get(Candidate("fft", plan.tile, plan.backend), {})
    shared: set[str] = set()
    total = 0.0
    for name in layer.passes:
        total += times.get(candidate_of(plan, name), {}).get(name, UNKNOWN)
        if getattr(plan, name) not in PLAIN:
            shared.update(NEEDS[name])
    if not plan.keep and plan.forward == plan.gradient == "fft":
        total += spectral.get(IMAGE_SPECTRUM, UNKNOWN)
    return total + sum(spectral.get(part, UNKNOWN) for part in sorted(shared))


def used(layer: Layer, plan: ConvolutionPlan) -> list[Candidate]:
    """Return the candidates that a plan is made of."""
    return list(dict.fromkeys(candidate_of(plan, name) for name in layer.passes))


def choices(layer: Layer, times: Mapping[Candidate, Times]) -> Iterator[ConvolutionPlan]:
    """Yield the combinations of algorithms that may be the fastest: the passes of one share nothing unless spectral.

    A pass that is not wanted is given the algorithm of the forward pass.
    """
    plain = {candidate.algorithm: told for candidate, told in times.items() if candidate.algorithm in PLAIN}
    quickest = {name: min(plain, key=lambda each: plain[each].get(name, UNKNOWN)) for name in layer.passes if plain}
    for candidate in dict.fromkeys(c if c.algorithm not in PLAIN else DIRECT for c in times):
        ways = [("fft", quickest[name]) if plain else ("fft",) for name in layer.passes]
        if candidate == DIRECT:
            ways = [(quickest[name],) for name in layer.passes]
        for kinds in product(*ways):
            if candidate == DIRECT or "fft" in kinds:
                chosen = dict(zip(layer.passes, kinds, strict=True))
                forward, backward, gradient = (chosen.get(name, kinds[0]) for name in PASSES)
                yield ConvolutionPlan(forward, backward, gradient, candidate.tile, candidate.backend)


def best(layer: Layer, times: Mapping[Candidate, Times]) -> tuple[ConvolutionPlan, float]:
    """Return the fastest choice of algorithms for the passes, and its seconds; the first told among equals."""
    plans = list(choices(layer, times))
    costs = [seconds_of(layer, times, plan) for plan in plans]
    least = min(costs)
    return plans[costs.index(least)], least
