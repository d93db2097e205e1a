"""The compiled graphs of a model, made when they are first needed and kept."""

import itertools
import threading
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import msgspec

from znn_dask.geometry import Triple
from znn_dask.lower import DEFAULT_ORDER, ORDERS, Plan, StepGraph, arrange, lower_forward, lower_step
from znn_dask.lower.builder import Key
from znn_dask.lower.expand import expand
from znn_dask.lower.memory import needs
from znn_dask.lower.step import StepOptions
from znn_dask.net import Network
from znn_dask.ops import fft
from znn_dask.ops.layout import Arrangement
from znn_dask.sched import Chain, Program, Scheduler

MOST_PROGRAMS = 16
_tokens = itertools.count()
_token_lock = threading.Lock()


def fresh_token() -> str:
    """Return a token that no graph of this process has had: eight hexadecimal digits, as Dask's key_split expects."""
    with _token_lock:
        return f"{next(_tokens):08x}"


def order_for(policy: str) -> str:
    """Return the order of a network's nodes that goes with a policy of the scheduler."""
    return policy if policy in ORDERS else DEFAULT_ORDER


def ordering(graph: StepGraph, policy: str) -> tuple[dict[Key, int] | None, dict[Key, float] | None]:
    """Return the priorities and the seconds with which a graph is to be compiled.

    A network has priorities of its own for the policies that are orders of its nodes. The others see tasks only, and
    the critical path is in seconds.
    """
    if policy in ORDERS:
        return graph.priority, None
    if policy == "critical-path":
        return None, {key: need.seconds for key, need in needs(graph).items()}
    return None, None


@dataclass(frozen=True)
class Compiled:
    """A graph ready to run: values by name in, values by name out."""

    program: Program
    inputs: dict[Any, Hashable]
    names: tuple[Any, ...]
    keys: tuple[Hashable, ...]

    def run(self, values: Mapping[Any, Any]) -> dict[Any, Any]:
        """Run with a value for every input (more are ignored)."""
        return self.named(self.program.run(self.given(values)))

    def given(self, values: Mapping[Any, Any], without: Container[Any] = ()) -> dict[Hashable, Any]:
        """Return the value for every input (more are ignored) by its key; those of some names are left out."""
        return {key: values[name] for name, key in self.inputs.items() if name not in without}

    def named(self, results: Sequence[Any]) -> dict[Any, Any]:
        """Return the results of a run by name."""
        return dict(zip(self.names, results, strict=True))

    def chain(self, links: Mapping[Any, Any]) -> Chain:
        """Return runs fed by the one before: links go from inputs to results, by name; other inputs are ignored."""
        keys = dict(zip(self.names, self.keys, strict=True))
        return self.program.chain({key: keys[links[name]] for name, key in self.inputs.items() if name in links})


class Programs:
    """The compiled graphs of one network on one scheduler."""

    def __init__(self, net: Network, scheduler: Scheduler) -> None:
        self._net = net
        self._scheduler = scheduler
        self._order = order_for(scheduler.policy)
        self._known: dict[Hashable, Compiled] = {}
        self._lock = threading.Lock()  # owns `_known`

    def forward(self, plan: Plan) -> Compiled:
        """Return the forward pass of a plan."""
        return self._get(
            ("forward", plan.to_json()), lambda: lower_forward(self._net, plan, fresh_token(), self._order)
        )

    def step(self, plan: Plan, options: StepOptions) -> Compiled:
        """Return the step of a plan."""
        return self._get(
            (plan.to_json(), options), lambda: lower_step(self._net, plan, options, fresh_token(), self._order)
        )

    def _get(self, name: Hashable, lower: Any) -> Compiled:
        with self._lock:
            if name not in self._known:
                # Volumes of many sizes would otherwise leave a graph each.
                while len(self._known) >= MOST_PROGRAMS:
                    del self._known[next(iter(self._known))]
                self._known[name] = self._compile(lower())
            return self._known[name]

    def _compile(self, graph: StepGraph) -> Compiled:
        keys = list(graph.outputs.values())
        priority, seconds = ordering(graph, self._scheduler.policy)
        program = self._scheduler.compile(graph.dask, keys, priority, seconds)
        # What only a culled task reads is no input of the program.
        needed = set(program.inputs)
        inputs = {name: key for name, key in graph.inputs.items() if key in needed}
        return Compiled(program, inputs, tuple(graph.outputs), tuple(keys))


def for_batch(plan: Plan, batch: int) -> Plan:
    """Return the plan for another number of examples: the same blocks, tiles and splits."""
    if plan.batch == batch:
        return plan
    return msgspec.structs.replace(plan, batch=batch, examples_per_group=min(batch, plan.examples_per_group))


def learn_transforms(net: Network, plan: Plan, known: fft.Wisdom | None = None) -> fft.Wisdom:
    """Let FFTW measure every transform of a plan if it is to, before any thread needs it; return what it learned."""
    arrangements = arrange(net, plan)
    edges = expand(net).edges
    tiles: dict[tuple[Triple, int], None] = {}
    for name, chosen in plan.convolutions.items():
        if chosen.backend != "pyfftw":
            continue
        edge = edges[name]
        counts = {_lanes(arrangements[node]) for node in (edge.source, edge.target)}
        if chosen.algorithm == "fft-stored":
            pairs = product(plan.blocks[edge.source], plan.blocks[edge.target])
            counts.add(frozenset(n_in * n_out for n_in, n_out in pairs))
        for n_lanes in frozenset.union(*counts):
            tiles[chosen.tile, fft.lanes_for(chosen.tile, n_lanes)] = None
    return fft.learn("pyfftw" if tiles else "scipy", plan.fft_effort, tiles, known)


def _lanes(arrangement: Arrangement) -> frozenset[int]:
    """Return how many values per voxel an entry has in the arrays of a node."""
    return frozenset(stop - first for first, stop in arrangement.blocks)
