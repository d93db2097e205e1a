"""The tuner: says how long the candidates of layers take, by measuring those that the cost model finds promising.

Tasks are measured one at a time in a thread of their own, whose transform plans and scratch memory end with it. Only
candidates within a factor of the cost model's best are measured, the most promising first, and one is given up as soon
as it is twice as slow as the best so far. Layers that take next to nothing are left to the cost model.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from znn_dask import config
from znn_dask.errors import ParameterError
from znn_dask.lower.cost import predict
from znn_dask.lower.layers import Asked, Candidate, Layer, Times, Timing, Work, best, works
from znn_dask.lower.plan import ConvolutionPlan
from znn_dask.ops.memory import trim_pool
from znn_dask.tune import measure
from znn_dask.tune.store import Measured, Store

WORTH_S = 1e-3  # predicted for a layer; below it nothing is measured
PROMISING = 2.5  # times the least predicted time
HOPELESS = 2.0  # times the least measured time
BUDGET_S = 20.0  # for all that one tuner measures
EXPLORING = 0.5  # of what is left of it, that one layer may take
PATIENCE_S = 1.0  # after which it is said that something is being measured

log = logging.getLogger("znn_dask.tune")
_measuring = threading.Lock()  # two that measure at once would slow each other down
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Record:
    """What was asked about a layer and found: the counted times, and the measured ones where there are any."""

    layer: Layer
    predicted: dict[Candidate, Times]
    measured: dict[Candidate, Measured]

    @property
    def times(self) -> dict[Candidate, Times]:
        """The measured times; the counted ones of a layer that is not worth measuring."""
        complete = {c: m.parts for c, m in self.measured.items() if m.complete}
        return complete if self.measured else self.predicted


class Tuner:
    """A `Timing` that measures what its store lacks.

    Parameters
    ----------
    store : Store, optional
    again : bool
        Whether to measure also what is in the store.
    budget_s : float
        Seconds of measuring at most; then the cost model says which candidates were the most promising.
    progress : callable(layer, done, total), optional
        Told before each layer.

    Attributes
    ----------
    records : list of Record
        Of every layer asked about, in the order of the questions.
    n_measured : int
        Tasks that were timed.
    """

    def __init__(
        self,
        store: Store | None = None,
        again: bool = False,
        budget_s: float = BUDGET_S,
        progress: Progress | None = None,
    ) -> None:
        self.records: list[Record] = []
        self.n_measured = 0
        self._store = store or Store()
        self._again, self._budget_s, self._progress = again, budget_s, progress
        self._known: dict[Layer, dict[Candidate, Measured]] = {}
        self._works: dict[Work, float] = {}
        self._spent_s = 0.0

    def __call__(self, asked: Asked) -> list[dict[Candidate, Times]]:
        counted = predict(asked)
        weights = [min(sum(times.values()) for times in each.values()) for each in counted]
        order = sorted(range(len(asked)), key=lambda i: (-weights[i], i))
        told: dict[int, Record] = {}
        with _measuring, ThreadPoolExecutor(1, thread_name_prefix="znn-dask-tune") as worker:
            for done, i in enumerate(order):
                if self._progress is not None:
                    self._progress(name_of(asked[i][0]), done, len(order))
                told[i] = self._layer(asked[i][0], asked[i][1], counted[i], worker)
        if self.n_measured:
            trim_pool()
        self.records += [told[i] for i in range(len(asked))]
        return [told[i].times for i in range(len(asked))]

    def _layer(
        self, layer: Layer, candidates: Sequence[Candidate], counted: dict[Candidate, Times], worker: ThreadPoolExecutor
    ) -> Record:
        totals = {candidate: sum(counted[candidate].values()) for candidate in candidates}
        least = min(totals.values())
        if least < WORTH_S:
            return Record(layer, counted, {})
        # Three or fewer are what a plan is made of: asked about to compare blocks, not to choose between them.
        settled = len(candidates) <= 3
        near = [c for c in candidates if settled or totals[c] <= PROMISING * least]
        one = msgspec.structs.replace(layer, groups=1)
        known = self._known.get(one)
        if known is None:
            known = self._known[one] = {} if self._again else self._store.read(one)
        missing = [c for c in near if c not in known]
        if missing:
            left_s = self._budget_s - self._spent_s
            until_s = self._spent_s + left_s * (1.0 if settled else EXPLORING)
            for candidate in sorted(missing, key=lambda c: (totals[c], candidates.index(c))):
                fastest = min((_total(m) for m in known.values() if m.complete), default=math.inf)
                limit_s = math.inf if settled else HOPELESS * fastest
                known[candidate] = self._candidate(one, candidate, limit_s, until_s, worker)
            self._store.write(one, known, _choice(one, known))
        return Record(layer, counted, {c: _all_groups(known[c], layer.groups) for c in near})

    def _candidate(
        self, layer: Layer, candidate: Candidate, limit_s: float, until_s: float, worker: ThreadPoolExecutor
    ) -> Measured:
        """Measure the tasks of one batch group, unless they take longer than the limit or too much time is spent."""
        parts: Times = {}
        for name, tasks in works(layer, candidate).items():
            parts[name] = 0.0
            for work in tasks:
                if self._spent_s > until_s:
                    return Measured(candidate, {}, False)
                parts[name] += self._task(work, limit_s, worker)
            if sum(parts.values()) > limit_s:
                return Measured(candidate, parts, False)
        return Measured(candidate, parts, True)

    def _task(self, work: Work, limit_s: float, worker: ThreadPoolExecutor) -> float:
        if work not in self._works:
            before, start = self._spent_s, time.perf_counter()
            self._works[work] = worker.submit(measure.seconds, work, limit_s).result()
            self._spent_s += time.perf_counter() - start
            self.n_measured += 1
            if before <= PATIENCE_S < self._spent_s:
                log.info("measuring which algorithms are fastest here; kept in %s", self._store.folder)
        return self._works[work]


def _total(measured: Measured) -> float:
    return sum(measured.parts.values())


def _choice(layer: Layer, known: Mapping[Candidate, Measured]) -> ConvolutionPlan | None:
    complete = {c: m.parts for c, m in known.items() if m.complete}
    return best(layer, complete)[0] if complete else None


def _all_groups(measured: Measured, groups: int) -> Measured:
    parts = {name: groups * value for name, value in measured.parts.items()}
    return Measured(measured.candidate, parts, measured.complete)


def name_of(layer: Layer) -> str:
    """Return a layer's shape in words."""
    size, kernel = ("x".join(map(str, triple)) for triple in (layer.size, layer.kernel))
    blocks = ("+".join(map(str, widths)) for widths in (layer.blocks_in, layer.blocks_out))
    return f"{size} by {kernel}, {' -> '.join(blocks)} maps, {layer.groups} x {layer.entries} fragments"


def timing(tune: bool | None = None) -> Timing:
    """Return how a new model is to time candidates: measured, or for False by the cost model.

    None is what the configuration says. Operations that run beside their reference are not timed.
    """
    if tune is not None and not isinstance(tune, bool):
        raise ParameterError(f"tune must be True, False or None, got {tune!r}")
    wanted = config.tune() if tune is None else tune
    return Tuner() if wanted and not config.validate() else predict
