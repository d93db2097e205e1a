"""Plans that take less memory: what to give up first, and how far to go.

A step's memory is mostly spectra, above all those of images, which live from the forward pass to the kernel gradient.
So every convolution has a row of ways to compute it, each leaner and slower than the one before: spectra made again
instead of kept, passes done directly, other tiles. The ways of all convolutions are merged into one list of moves by
what a saved byte costs in time; moves are made until the plan fits, and those that turn out not to matter are undone.
If that is not enough, the same is done with groups and blocks cut finer.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from znn_dask.geometry import ceil_div, volume
from znn_dask.lower.blocks import shared_blocks
from znn_dask.lower.choose import filters_differ, layers_of
from znn_dask.lower.cost import candidates, predict
from znn_dask.lower.expand import expand
from znn_dask.lower.layers import Asked, Candidate, Layer, Times, Timing, choices, seconds_of
from znn_dask.lower.plan import ConvolutionPlan, Options, Plan
from znn_dask.net import MaxFilter, Network

Convolutions = dict[str, ConvolutionPlan]
Peak = Callable[[Plan], int]  # says how many bytes a plan takes
FINEST = 8  # channels of the narrowest blocks that are tried


class Way(NamedTuple):
    """One way to compute a convolution: its seconds, and roughly its bytes."""

    plan: ConvolutionPlan
    seconds: float
    n_bytes: float


class Heard:
    """A timing that remembers what it was told, so that nothing has to be measured for the sake of a leaner plan."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._told: list[tuple[Layer, dict[Candidate, Times]]] = []

    def __call__(self, asked: Asked) -> list[dict[Candidate, Times]]:
        told = self._timing(asked)
        self._told += [(layer, times) for (layer, _), times in zip(asked, told, strict=True) if times]
        return told

    def times(self, layer: Layer, proposed: Sequence[Candidate]) -> dict[Candidate, Times]:
        """Return the times of all candidates: what was told of such a layer, in the proportions of the counts."""
        (counted,) = predict([(layer, proposed)])
        alike = [(other, times) for other, times in self._told if _shape(other) == _shape(layer)]
        if not alike:
            return counted
        other, told = max(alike, key=lambda each: len(each[1]))
        (there,) = predict([(other, list(told))])
        least = min(told, key=lambda candidate: sum(told[candidate].values()))
        usual = sum(told[least].values()) / sum(there[least].values())
        found = {}
        for candidate, parts in counted.items():
            factors = {name: told[candidate][name] / there[candidate][name] for name in told.get(candidate, ())}
            found[candidate] = {name: seconds * factors.get(name, usual) for name, seconds in parts.items()}
        return found


def _shape(layer: Layer) -> tuple[object, ...]:
    """Return what does not change with groups and blocks."""
    widths = sum(layer.blocks_in), sum(layer.blocks_out)
    return layer.size, layer.kernel, layer.entries * layer.groups, widths, layer.passes, layer.granularity


def leaner(net: Network, plan: Plan, options: Options, heard: Heard, peak: Peak, limit: int) -> tuple[Plan, int]:
    """Return the plan if it keeps to a limit, else the quickest leaner one found, and its bytes.

    Parameters
    ----------
    net : Network
    plan : Plan
        What is fastest.
    options : Options
        What the user asked for, which stays.
    heard : Heard
        The timing that was asked when the plan was made.
    peak : callable
        Says how many bytes a plan takes.
    limit : int
        Bytes. If nothing keeps to it, the plan that takes least is returned.
    """
    net = expand(net)
    first = peak(plan)
    if first <= limit:
        return plan, first
    least, found = first, plan
    for finer in _structures(net, plan, options):
        convolutions, n_bytes = _Search(net, finer, options, heard, peak, limit).run()
        if n_bytes < least:
            least, found = n_bytes, msgspec.structs.replace(finer, convolutions=convolutions)
        if least <= limit:
            break
    return found, least


def _structures(net: Network, plan: Plan, options: Options) -> Iterator[Plan]:
    """Yield the plan, then with examples and parities in groups of their own, then also with narrower blocks."""
    yield plan
    groups = plan.groups_after
    if not filters_differ(net):
        groups = {e.name: volume(e.op.stride) for e in net.edges.values() if isinstance(e.op, MaxFilter)}
    split = msgspec.structs.replace(plan, examples_per_group=1, groups_after=groups)
    if split != plan:
        yield split
    if options.block == "auto":
        blocks = {name: tuple(_halved(widths)) for name, widths in plan.blocks.items()}
        if blocks != plan.blocks:
            yield msgspec.structs.replace(split, blocks=shared_blocks(net, blocks))


def _halved(widths: tuple[int, ...]) -> Iterator[int]:
    for width in widths:
        if width <= FINEST:
            yield width
        else:
            half = ceil_div(ceil_div(width, 2), FINEST) * FINEST
            yield from (half, width - half) if half < width else (width,)


class _Search:
    """The ways of all convolutions of one structure, and the moves between them."""

    def __init__(self, net: Network, plan: Plan, options: Options, heard: Heard, peak: Peak, limit: int) -> None:
        self.plan, self.limit, self._peak = plan, limit, peak
        self.ways: dict[str, list[Way]] = {}
        for name, layer in layers_of(net, plan).items():
            if options.algorithm(name) != "fft-stored":
                proposed = candidates(layer, options.algorithm(name), options.fft_backend)
                self.ways[name] = _row(layer, plan.convolutions[name], heard.times(layer, proposed))

    def run(self) -> tuple[Convolutions, int]:
        """Return the convolutions after the fewest moves that keep to the limit, or else all moves; and the bytes."""
        moves = self._moves()
        low, high = 0, len(moves)
        at = self._after(moves[:high])
        n_bytes = self._bytes(at)
        if n_bytes > self.limit:
            return self._chosen(at), n_bytes
        # The peak falls with the moves, but for small exceptions that undoing does not mind.
        while low < high:
            middle = (low + high) // 2
            tried = self._after(moves[:middle])
            of_tried = self._bytes(tried)
            if of_tried <= self.limit:
                high, at, n_bytes = middle, tried, of_tried
            else:
                low = middle + 1
        for name in sorted(at, key=lambda name: -self._cost(name, at[name])):
            tried = at | {name: 0}
            of_tried = self._bytes(tried) if at[name] else n_bytes
            if of_tried <= self.limit:
                at, n_bytes = tried, of_tried
        return self._chosen(at), n_bytes

    def _moves(self) -> list[str]:
        """Return the convolutions to move to their next way, the cheapest saving first."""
        moves = []
        for place, (name, row) in enumerate(self.ways.items()):
            for one, other in pairwise(row):
                price = (other.seconds - one.seconds) / (one.n_bytes - other.n_bytes)
                moves.append((price, place, name))
        # Rows are convex: the prices of one convolution ascend.
        return [name for _, _, name in sorted(moves, key=lambda move: move[:2])]

    def _after(self, moves: list[str]) -> dict[str, int]:
        return {name: moves.count(name) for name in self.ways}

    def _cost(self, name: str, position: int) -> float:
        return self.ways[name][position].seconds - self.ways[name][0].seconds

    def _chosen(self, at: Mapping[str, int]) -> Convolutions:
        return self.plan.convolutions | {name: self.ways[name][position].plan for name, position in at.items()}

    def _bytes(self, at: Mapping[str, int]) -> int:
        return self._peak(msgspec.structs.replace(self.plan, convolutions=self._chosen(at)))


def _row(layer: Layer, chosen: ConvolutionPlan, times: Mapping[Candidate, Times]) -> list[Way]:
    """Return ways from the chosen one on, each leaner than the one before, the cheapest saving first."""
    begin = Way(chosen, seconds_of(layer, times, chosen), _bytes(layer, chosen))
    if math.isinf(begin.seconds):  # nothing like it is proposed for this structure
        begin = begin._replace(seconds=0.0)
    ways = [Way(plan, seconds_of(layer, times, plan), _bytes(layer, plan)) for plan in _plans(layer, times)]
    row = [begin]
    while True:
        last = row[-1]
        left = [way for way in ways if way.n_bytes < last.n_bytes and math.isfinite(way.seconds)]
        if not left:
            return row
        prices = [((way.seconds - last.seconds) / (last.n_bytes - way.n_bytes), way.n_bytes) for way in left]
        row.append(left[prices.index(min(prices))])


def _plans(layer: Layer, times: Mapping[Candidate, Times]) -> Iterator[ConvolutionPlan]:
    """Yield the combinations of algorithms, with spectra kept and not."""
    for plan in choices(layer, times):
        yield plan
        if plan.forward == plan.gradient == "fft":
            yield msgspec.structs.replace(plan, keep=False)


def _bytes(layer: Layer, plan: ConvolutionPlan) -> float:
    """Return roughly what a convolution adds to the peak: all spectra it keeps, and a share of those that pass."""
    if not plan.spectral:
        return 0.0
    counts = (ceil_div(n - k + 1, t - k + 1) for n, k, t in zip(layer.size, layer.kernel, plan.tile, strict=True))
    z, y, x = plan.tile
    one = 8.0 * z * y * (x // 2 + 1) * math.prod(counts) * layer.entries
    image, gradient = one * sum(layer.blocks_in), one * sum(layer.blocks_out)
    kept = layer.groups * image if plan.keep and plan.forward == plan.gradient == "fft" else 0.0
    passing = [image, image if plan.forward == "fft" else 0.0]
    if plan.gradient == "fft" or plan.backward == "fft":
        passing.append(gradient)
    return kept + sum(passing)
