"""How much memory a model takes: its graphs are compiled and played, nothing is run."""

from znn_dask.lower import Plan, StepGraph, lower_forward, lower_step
from znn_dask.lower.memory import needs, parameter_bytes
from znn_dask.lower.step import StepOptions
from znn_dask.net import Network
from znn_dask.sched import simulate
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.policies import lifo


def peak_bytes(graph: StepGraph, num_workers: int = 1) -> int:
    """Return the most bytes of a graph's results alive at once; what it is given does not count."""
    tables = compile_tables(graph.dask, list(graph.outputs.values()), lifo, graph.priority)
    return simulate.peak_bytes(tables, needs(graph), num_workers)


def forward_bytes(net: Network, plan: Plan, num_workers: int = 1) -> int:
    """Return the peak of a plan's forward pass."""
    return peak_bytes(lower_forward(net, plan, "estimate"), num_workers)


def step_bytes(net: Network, plan: Plan, num_workers: int = 1) -> int:
    """Return the peak of a training step in the middle of many, with all that lives between steps.

    That is the parameters, their velocities and the gradients whose updates are pending; a step keeps them until it
    has succeeded, beside the new ones it makes.
    """
    # Neither loss nor optimiser make a difference.
    options = StepOptions("square", momentum=0.5, pending=True)
    return 3 * parameter_bytes(net, plan) + peak_bytes(lower_step(net, plan, options, "estimate"), num_workers)
