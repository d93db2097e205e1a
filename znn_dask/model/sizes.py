"""Which output patch and minibatch give the most voxels a second within a memory limit.

The plan's own estimate says it first: the cost model's time of all tasks over the workers, and the predicted peak of an
update. The candidates it finds best are then measured, as `Model.steps` runs them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, repeat
from typing import Any

import msgspec
import numpy as np
from dask.utils import format_bytes

from znn_dask.errors import MemoryLimitError, ShapeError
from znn_dask.geometry import Triple, ceil_div, volume
from znn_dask.lower import DEFAULT_ORDER, Options, make_plan
from znn_dask.lower.counts import counted_seconds
from znn_dask.lower.memory import parameter_bytes
from znn_dask.model.memory import kept_arrays, peak_bytes, pending_step
from znn_dask.model.model import Model
from znn_dask.model.optimizers import SGD, Optimizer
from znn_dask.model.samples import output_sizes
from znn_dask.net import Network
from znn_dask.ops.update import AdamRule, SgdRule

LADDER = 2**0.5  # from one size to the next, along every axis
LEAST_VIEW = 0.25  # of the field of view that the first size has
MOST_RUNGS = 24  # of the ladder
BISECTIONS = 2  # between the last size that fits and the next one
BATCHES = (1, 2, 4)
BATCHED = 2  # sizes that are estimated with every larger batch
WARM_UP, MOST_UPDATES, ENOUGH_S = 2, 9, 3.0
RATE = 1e-9  # parameters stay where they are, whatever is learned from noise

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Estimate:
    """A patch and minibatch, and what an update with them takes.

    Attributes
    ----------
    output_size : (z, y, x)
    batch : int
    seconds : float
        Of an update, by the cost model.
    peak_bytes : int
        Predicted; of a candidate that was measured, by the plan that was.
    measured_s : float or None
        The median time of an update, where it was measured.
    """

    output_size: Triple
    batch: int
    seconds: float
    peak_bytes: int
    measured_s: float | None = None

    @property
    def voxels(self) -> int:
        """Output voxels of an update."""
        return volume(self.output_size) * self.batch

    @property
    def best_s(self) -> float:
        """The measured time, or else the estimated one."""
        return self.seconds if self.measured_s is None else self.measured_s

    @property
    def rate(self) -> float:
        """Output voxels a second."""
        return self.voxels / self.best_s

    def epoch_updates(self, size: Triple) -> int:
        """Return how many updates have as many output voxels as a volume."""
        return ceil_div(volume(size), self.voxels)


def fitting_size(net: Network, most: Triple) -> Triple | None:
    """Return the largest output, not above ``most`` along any axis, of which nothing is computed in vain.

    That is a size that can be and is a multiple of the sparsity: other dense outputs are computed rounded up, and where
    a network pads there are none. None if there is no such size.
    """
    size = most
    while True:
        try:
            fits = net.output_within(size)
        except ShapeError:
            return None
        z, y, x = (n - n % s for n, s in zip(fits, net.sparsity, strict=True))
        if min(z, y, x) < 1:
            return None
        if (z, y, x) == size:
            return size
        size = z, y, x


def estimate(net: Network, size: Triple, batch: int, num_workers: int, rule: SgdRule | AdamRule) -> Estimate:
    """Return what an update would take, by the fastest plan of the cost model; nothing is run."""
    plan = make_plan(net, output_sizes(net, size), batch, Options())
    graph = pending_step(net, plan, DEFAULT_ORDER, rule)
    peak = kept_arrays(rule) * parameter_bytes(net, plan) + peak_bytes(graph, num_workers)
    return Estimate(size, batch, sum(counted_seconds(net, plan, graph).values()) / num_workers, peak)


class SizeSearch:
    """Looks for the output patch and minibatch with the most voxels a second.

    Parameters
    ----------
    net : Network
    limit : int
        Most bytes that the arrays of an update may take, as predicted.
    num_workers : int
    batches : sequence of int
        Minibatches to look at.
    optimizer : Optimizer, optional
        Whose arrays count; SGD with momentum unless given.
    within : (z, y, x), optional
        Most that an output may be, such as the size of a volume.
    tell : callable(text), optional
        Told what comes next.
    """

    def __init__(
        self,
        net: Network,
        limit: int,
        num_workers: int,
        batches: Sequence[int] = BATCHES,
        optimizer: Optimizer | None = None,
        within: Triple | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.net, self.limit, self.num_workers = net, limit, num_workers
        self.batches = tuple(sorted(set(batches)))
        self.optimizer = msgspec.structs.replace(optimizer or SGD(), learning_rate=RATE)
        self.within, self.tell = within, tell or (lambda _: None)
        self._known: dict[tuple[Triple, int], Estimate] = {}

    def estimates(self) -> list[Estimate]:
        """Return what was estimated and fits, the most voxels a second first.

        Raises
        ------
        MemoryLimitError
            If not even the smallest size fits.
        ShapeError
            If the network has no output within the bounds.
        """
        for aspect in self._aspects():
            self._climb(aspect)
        least = min(self._known.values(), key=lambda e: e.peak_bytes, default=None)
        if least is None:
            bound = "" if self.within is None else f" of at most {self.within} voxels (z, y, x)"
            raise ShapeError(f"no output{bound} was found that this network can have; give a larger volume")
        if least.peak_bytes > self.limit:
            size = "x".join(map(str, least.output_size))
            raise MemoryLimitError(
                f"memory of {format_bytes(self.limit)} is too little for any output that was looked at: {size} with "
                f"batch {least.batch} needs {format_bytes(least.peak_bytes)} ({least.peak_bytes} bytes). Give as much, "
                "or a smaller network"
            )
        single = self._fitting()
        for batch in self.batches[1:]:
            # Of an update with batch 1 nearly all memory counts as many times.
            room = [found for found in single if found.peak_bytes * batch <= self.limit * self.batches[0]]
            for found in room[:BATCHED]:
                self._estimate(found.output_size, batch)
        return self._fitting()

    def measured(self, found: Sequence[Estimate], tries: int) -> list[Estimate]:
        """Return all with the first few measured, the measured ones first and the fastest of them at the top.

        A candidate whose measured algorithms need more than the limit is left out, and the next takes its turn.
        """
        done: list[Estimate] = []
        left = list(found)
        while left and len(done) < tries:
            each = measure(self.net, left.pop(0), self.num_workers, self.optimizer, self.limit, self.tell)
            done += [each] if each.measured_s is not None else []
        return sorted(done, key=lambda e: -e.rate) + left

    def _aspects(self) -> list[tuple[float, float, float]]:
        """Return the shapes to look at: a cube, and the proportions of the field of view."""
        z, y, x = self.net.field_of_view
        flat = self.net.ndim == 2
        widest = max(z, y, x)
        found = [(0.0 if flat else 1.0, 1.0, 1.0), (0.0 if flat else z / widest, y / widest, x / widest)]
        return list(dict.fromkeys(found))

    def _climb(self, aspect: tuple[float, float, float]) -> None:
        """Estimate sizes of a shape from small to large until one does not fit, and some between the last two."""
        start = max(LEAST_VIEW * max(self.net.field_of_view), 4.0)
        low, high = 0.0, 0.0
        size: Triple | None = None
        for rung in self._rungs(start):
            before, size = size, self._size(rung, aspect)
            if size is None:
                continue
            if size == before and self.within is not None and rung > max(self.within):
                break  # no larger one is allowed
            if self._estimate(size, self.batches[0]).peak_bytes > self.limit:
                high = rung
                break
            low = rung
        if high and not low:
            self._descend(start / LADDER, aspect)
        for _ in range(BISECTIONS if low and high else 0):
            middle = (low + high) / 2
            size = self._size(middle, aspect)
            fits = size is not None and self._estimate(size, self.batches[0]).peak_bytes <= self.limit
            low, high = (middle, high) if fits else (low, middle)

    def _descend(self, rung: float, aspect: tuple[float, float, float]) -> None:
        """Estimate smaller and smaller sizes until one fits."""
        while rung >= 1:
            size = self._size(rung, aspect)
            if size is not None and self._estimate(size, self.batches[0]).peak_bytes <= self.limit:
                return
            rung /= LADDER

    def _rungs(self, start: float) -> Iterator[float]:
        for number in count():
            if number == MOST_RUNGS:
                return
            yield start * LADDER**number

    def _size(self, length: float, aspect: tuple[float, float, float]) -> Triple | None:
        """Return the size near a length and shape that fits."""
        want = [max(s, round(length * part)) for part, s in zip(aspect, self.net.sparsity, strict=True)]
        if self.net.ndim == 2:
            want[0] = 1
        if self.within is not None:
            want = [min(pair) for pair in zip(want, self.within, strict=True)]
        return fitting_size(self.net, (want[0], want[1], want[2]))

    def _estimate(self, size: Triple, batch: int) -> Estimate:
        if (size, batch) not in self._known:
            self.tell(f"estimating {'x'.join(map(str, size))}, batch {batch}")
            rule = self.optimizer.rule
            self._known[size, batch] = estimate(self.net, size, batch, self.num_workers, rule)
        return self._known[size, batch]

    def _fitting(self) -> list[Estimate]:
        fits = [e for e in self._known.values() if e.peak_bytes <= self.limit]
        return sorted(fits, key=lambda e: (-e.rate, e.peak_bytes))


def measure(
    net: Network, found: Estimate, num_workers: int, optimizer: Optimizer, limit: int, tell: Tell = lambda _: None
) -> Estimate:
    """Return an estimate with the time of an update, measured on noise; without if its plan is over the limit."""
    size, batch = found.output_size, found.batch
    tell(f"measuring {'x'.join(map(str, size))}, batch {batch}")
    with Model(net, output_sizes(net, size), optimizer=optimizer, num_workers=num_workers, batch=batch) as model:
        peak = model.plan.peak_bytes
        if peak > limit:
            return replace(found, peak_bytes=peak)
        x, target = _noise(net, model.input_size, batch), _noise(net, model.output_size, batch, outputs=True)
        times, spent = [], 0.0
        before = time.perf_counter()
        for number, _ in enumerate(model.steps(repeat((x, target), WARM_UP + MOST_UPDATES))):
            now = time.perf_counter()
            times.append(now - before)
            before, spent = now, spent + times[-1]
            if number >= WARM_UP and spent > ENOUGH_S:
                break
    return replace(found, peak_bytes=peak, measured_s=statistics.median(times[WARM_UP:]))


def _noise(net: Network, sizes: Any, batch: int, outputs: bool = False) -> dict[str, Any]:
    random, channels = np.random.default_rng(0), net.outputs if outputs else net.inputs
    size_of = sizes if isinstance(sizes, dict) else dict.fromkeys(channels, sizes)
    return {name: random.standard_normal((batch, n, *size_of[name]), np.float32) for name, n in channels.items()}
