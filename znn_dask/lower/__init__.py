"""From a network to a Dask graph: net + ops -> tasks. The only place that knows both worlds."""

from znn_dask.lower.arrange import arrange
from znn_dask.lower.builder import DEFAULT_ORDER, ORDERS
from znn_dask.lower.choose import make_plan
from znn_dask.lower.plan import Options, Plan
from znn_dask.lower.step import StepGraph, lower_forward, lower_step

__all__ = [
    "DEFAULT_ORDER",
    "ORDERS",
    "Options",
    "Plan",
    "StepGraph",
    "arrange",
    "lower_forward",
    "lower_step",
    "make_plan",
]
