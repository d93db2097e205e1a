"""Networks, and a lowered graph filled with values: what the tests of `lower` share."""

from collections import Counter

import numpy as np
from dask.utils import key_split
from todays_networks import CASES

from znn_dask.lower import Options, make_plan
from znn_dask.lower.expand import expand
from znn_dask.lower.parameters import initial_parameters, to_blocks
from znn_dask.lower.step import StepOptions, lower_step
from znn_dask.net import Convolution, Edge, MaxFilter, Network, Transfer
from znn_dask.ops.fft import ESTIMATE

TOKEN = "0000beef"

BRANCHES = Network(
    {"a": 1, "b": 2, "h": 4, "ht": 4, "u": 3, "s": 4, "st": 4, "left": 2, "right": 3},
    [
        Edge("c1", "a", "h", Convolution((1, 3, 3))),
        Edge("c2", "b", "h", Convolution((1, 2, 2))),
        Edge("t1", "h", "ht", Transfer("tanh")),
        Edge("c3", "ht", "s", Convolution((1, 2, 2))),
        Edge("c4", "ht", "u", Convolution((1, 1, 2))),
        Edge("c5", "u", "s", Convolution((1, 2, 1))),
        Edge("t2", "s", "st", Transfer("tanh")),
        Edge("o1", "st", "left", Convolution((1, 1, 1))),
        Edge("o2", "st", "right", Convolution((1, 2, 2))),
    ],
)

# Streams that were filtered before and after a convolution meet again.
MEETING = Network(
    {"input": 2, "h": 3, "early": 3, "p": 3, "q": 3, "sum": 3, "output": 2},
    [
        Edge("c1", "input", "h", Convolution((1, 2, 2))),
        Edge("m1", "h", "early", MaxFilter((1, 2, 3), (1, 2, 2))),
        Edge("c2", "early", "sum", Convolution((1, 1, 1))),
        Edge("c3", "h", "p", Convolution((1, 1, 1))),
        Edge("m2", "p", "q", MaxFilter((1, 2, 3), (1, 2, 2))),
        Edge("c4", "q", "sum", Convolution((1, 1, 1))),
        Edge("c5", "sum", "output", Convolution((1, 2, 2))),
    ],
)

NETS = {
    "chain": (
        Network.parse("CTMDCTMCT", width=4, kernel=[3, 2, 2], out_channels=2, transfer="tanh", dropout=0.25),
        {"output": (2, 3, 5)},
    ),
    "2d strides": (
        Network.parse(
            "CTMCTMCT", width=5, kernel=3, window=[3, 2], stride=[2, 3], ndim=2, out_channels=2, transfer="tanh"
        ),
        {"output": (1, 5, 7)},
    ),
    "uneven strides": (
        Network.parse(
            "CTMCT", width=3, kernel=2, window=[(1, 2, 3)], stride=[(2, 1, 2)], out_channels=2, transfer="tanh"
        ),
        {"output": (3, 2, 3)},
    ),
    "max-pool": (
        Network.parse("CTPCTPC", width=4, kernel=2, window=[2, (1, 3, 2)], out_channels=2, transfer="tanh"),
        {"output": (2, 1, 2)},
    ),
    "branches": (BRANCHES, {"left": (2, 4, 5), "right": (2, 3, 4)}),
    "meeting": (MEETING, {"output": (2, 3, 5)}),
    **{
        name: (expand(net), dict.fromkeys(net.outputs, size))
        for name, (net, size) in CASES.items()
        if name != "instance"
    },
}

MODES = [
    {"convolution": "fft", "granularity": "node"},
    {"convolution": "fft", "granularity": "edge", "block": 2},
    {"convolution": "fft-stored", "granularity": "edge", "block": 1},
    {"convolution": "fft-stored", "granularity": "node", "block": 3},
    {"convolution": "direct", "granularity": "edge", "block": 2},
    {"convolution": "direct", "granularity": "node", "block": 1},
    {},
]


def plan_of(name, batch=1, **options):
    """Return a network of NETS and a plan for it."""
    net, sizes = NETS[name]
    return net, make_plan(net, sizes, batch, Options(**options))


def step_of(name, batch=1, step=None, token=TOKEN, order="locality", **options):
    """Return a network, its plan and the graph of a step."""
    net, plan = plan_of(name, batch, **options)
    return net, plan, lower_step(net, plan, step or StepOptions("square"), token, order)


def counts(graph):
    """Return how many tasks there are of each kind."""
    return Counter(key_split(key) for key in graph.dask)


def of_kind(graph, *kinds):
    """Return the keys of some kinds."""
    return [key for key in graph.dask if key_split(key) in kinds]


def ancestors(graph, key):
    """Return all keys that a key is computed from."""
    found, todo = set(), [key]
    while todo:
        for dependency in getattr(graph.dask.get(todo.pop()), "dependencies", ()):
            if dependency not in found:
                found.add(dependency)
                todo.append(dependency)
    return found


def given(net, plan, graph, seed=0):
    """Return a value for every input of a graph, by key."""
    rng = np.random.default_rng(seed)
    sizes = net.node_sizes(plan.output_size)
    blocks = to_blocks(net, plan, initial_parameters(net, seed))
    values = {}
    for name, key in graph.inputs.items():
        match name:
            case "wisdom":
                values[key] = ESTIMATE
            case "step":
                values[key] = 3
            case "pending-rate" | "learning-rate":
                values[key] = 0.1
            case ("input" | "target" | "weight" as kind, node):
                channels = 1 if kind == "weight" else net.nodes[node].channels
                values[key] = rng.random((plan.batch, channels, *sizes[node]), np.float32)
            case ("velocity" | "pending", block):
                values[key] = rng.standard_normal(blocks[block].shape).astype(np.float32)
            case _:
                values[key] = blocks[name]
    return values


def run_all(graph, values):
    """Run every task one after the other by priority, ties newest first; return all results by key, and the order."""
    results, order = dict(values), []
    waiting = {key: set(task.dependencies) - results.keys() for key, task in graph.dask.items()}
    ready = [key for key in reversed(graph.dask) if not waiting[key]]
    while ready:
        key = max(reversed(ready), key=lambda k: graph.priority[k])
        ready.remove(key)
        task = graph.dask[key]
        results[key] = task({name: results[name] for name in task.dependencies})
        order.append(key)
        for other, missing in waiting.items():
            if key in missing:
                missing.discard(key)
                if not missing:
                    ready.append(other)
    return results, order
