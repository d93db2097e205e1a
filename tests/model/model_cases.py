"""Networks, models and samples that the tests of `Model` share."""

import numpy as np
import reference_network as plain

import znn_dask as znn
from znn_dask.net import Convolution, Edge, MaxFilter, Network, Transfer

NET = Network.parse("CTMCTC", width=4, kernel=[3, 2, 1], out_channels=3, transfer="tanh")
SIZE = (3, 4, 5)
FLAT = Network.parse("CTMCT", width=5, kernel=3, ndim=2, out_channels=2, transfer="tanh")
FLAT_SIZE = (1, 5, 6)
DROPPING = Network.parse("CTDCTDC", width=4, kernel=2, out_channels=2, dropout=0.5)
SEVERAL = Network(
    {"a": 1, "b": 2, "h": 4, "g": 4, "left": 2, "right": 3},
    [
        Edge("c1", "a", "h", Convolution((1, 3, 3))),
        Edge("c2", "b", "h", Convolution((1, 2, 2))),
        Edge("t", "h", "g", Transfer("tanh")),
        Edge("o1", "g", "left", Convolution((2, 1, 1))),
        Edge("o2", "g", "right", Convolution((2, 2, 2))),
    ],
)
SEVERAL_SIZE = {"left": (2, 4, 5), "right": (2, 3, 4)}
OPTIMIZER = znn.SGD(learning_rate=0.05, momentum=0.9, weight_decay=0.01)

WAYS = [
    {"convolution": "fft", "granularity": "edge", "block": 2},
    {"convolution": "fft-stored", "granularity": "edge", "block": 1},
    {"convolution": "direct", "granularity": "node", "block": 3},
    {},
]


def new_model(net=NET, size=SIZE, **options):
    """Return a model with two workers and momentum unless told otherwise."""
    return znn.Model(net, size, **{"optimizer": OPTIMIZER, "num_workers": 2, "seed": 3, **options})


def samples(net=NET, size=SIZE, count=4, batch=1, seed=0, loss="square"):
    """Return pairs of image and target, bare where there is one of each."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        inputs, targets, _ = plain.random_sample(net, size, loss, rng, batch)
        found.append(tuple(next(iter(part.values())) if len(part) == 1 else part for part in (inputs, targets)))
    return found


def copied(parameters):
    """Return what `same` compares with later."""
    return {name: array.copy() for name, array in parameters.items()}


def same(one, other):
    """Say whether two dicts hold bitwise the same arrays."""
    return list(one) == list(other) and all(one[name].tobytes() == other[name].tobytes() for name in one)


def max_filter_branches():
    """Return a net whose branches, filtered alike, meet before the output."""
    return Network(
        {"input": 1, "h": 3, "p": 3, "q": 3, "s": 3, "output": 2},
        [
            Edge("c1", "input", "h", Convolution((2, 2, 2))),
            Edge("m1", "h", "p", MaxFilter((2, 2, 2), (2, 2, 2))),
            Edge("c2", "p", "s", Convolution((1, 1, 1))),
            Edge("m2", "h", "q", MaxFilter((2, 2, 2), (2, 2, 2))),
            Edge("c3", "q", "s", Convolution((1, 1, 1))),
            Edge("c4", "s", "output", Convolution((1, 2, 2))),
        ],
    )
