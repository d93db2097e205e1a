"""How much memory a model takes: its graphs are compiled and played, nothing is run. And plans that keep to a limit."""

from collections.abc import Mapping

from dask.utils import format_bytes, parse_bytes

from znn_dask.errors import MemoryLimitError, ParameterError
from znn_dask.geometry import Triple
from znn_dask.lower import DEFAULT_ORDER, Options, Plan, StepGraph, lower_forward, lower_step, make_plan
from znn_dask.lower.layers import Timing
from znn_dask.lower.leaner import Heard, leaner
from znn_dask.lower.memory import needs, parameter_bytes
from znn_dask.lower.step import StepOptions
from znn_dask.model.compiled import order_for, ordering
from znn_dask.net import Network
from znn_dask.ops.update import PLAIN, AdamRule, Rule, SgdRule
from znn_dask.sched import simulate
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.policies import policy_named


def peak_bytes(graph: StepGraph, num_workers: int = 1, policy: str = DEFAULT_ORDER) -> int:
    """Return the most bytes of a graph's results alive at once under a policy; what it is given does not count."""
    priority, seconds = ordering(graph, policy)
    keys = list(graph.outputs.values())
    tables = compile_tables(graph.dask, keys, policy_named(policy), priority, seconds=seconds)
    return simulate.peak_bytes(tables, needs(graph), num_workers)


def forward_bytes(net: Network, plan: Plan, num_workers: int = 1, policy: str = DEFAULT_ORDER) -> int:
    """Return the peak of a plan's forward pass."""
    return peak_bytes(lower_forward(net, plan, "estimate", order_for(policy)), num_workers, policy)


def kept_arrays(rule: Rule) -> int:
    """Return how many arrays per parameter live between steps: itself, its pending gradient and the rule's slots."""
    return 2 + len(rule.slots)


def step_bytes(
    net: Network, plan: Plan, num_workers: int = 1, policy: str = DEFAULT_ORDER, rule: SgdRule | AdamRule = PLAIN
) -> int:
    """Return the peak of a training step in the middle of many, with all that lives between steps.

    That is the parameters, what the optimiser keeps (velocities) and the gradients whose updates are pending; a step
    keeps them until it has succeeded, beside the new ones it makes.
    """
    graph = pending_step(net, plan, policy, rule)
    return kept_arrays(rule) * parameter_bytes(net, plan) + peak_bytes(graph, num_workers, policy)


def pending_step(net: Network, plan: Plan, policy: str, rule: SgdRule | AdamRule) -> StepGraph:
    """Return the graph of a training step in the middle of many, to be looked at and not run."""
    # The loss makes no difference.
    return lower_step(net, plan, StepOptions("square", rule, pending=True), "estimate", order_for(policy))


def as_bytes(memory: object) -> int | None:
    """Return a limit in bytes, None for none.

    Raises
    ------
    ParameterError
        Unless it is a number of bytes or a text that says one.
    """
    if memory is None:
        return None
    # A unit alone would be one of it.
    sound = any(map(str.isdigit, memory)) if isinstance(memory, str) else type(memory) is int
    try:
        n_bytes = int(parse_bytes(memory)) if sound else 0
    except ValueError:
        n_bytes = 0
    if n_bytes <= 0:
        raise ParameterError(f"memory must be bytes above 0, a text like '2 GiB' or '500 MB', or None, got {memory!r}")
    return n_bytes


def planned(
    net: Network,
    output_size: Mapping[str, Triple],
    batch: int,
    options: Options,
    timing: Timing,
    num_workers: int,
    policy: str = DEFAULT_ORDER,
    rule: SgdRule | AdamRule = PLAIN,
) -> Plan:
    """Return the fastest plan, or the fastest found whose step keeps to the memory of the options.

    Raises
    ------
    MemoryLimitError
        If none was found.
    ParameterError
        For an unknown policy, before anything is measured.
    """
    policy_named(policy)
    heard, limit = Heard(timing), options.memory
    plan = make_plan(net, output_size, batch, options, heard)
    if limit is None:
        return plan

    def bytes_of(other: Plan) -> int:
        return step_bytes(net, other, num_workers, policy, rule)

    plan, least = leaner(net, plan, options, heard, bytes_of, limit)
    if least > limit:
        sizes = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in output_size.items())
        raise MemoryLimitError(
            f"memory of {format_bytes(limit)} is too little for a step of output_size {sizes}, batch {batch} and "
            f"{num_workers} workers: {format_bytes(least)} ({least} bytes) is the least that was found. "
            f"Give memory={least} or more, or a smaller output_size, a smaller batch or fewer workers"
        )
    return plan
