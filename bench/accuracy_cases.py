"""What `accuracy.py` trains: networks, volumes and losses, as configurations of `znn-dask train`.

Dropout has rate 0: its random numbers would differ between the two sides. Both use plain SGD with momentum.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import znn_dask as znn
from znn_dask.net import Dropout
from znn_dask.train.config import Config
from znn_dask.train.config_file import make_config
from znn_dask.train.phantom import make_phantom
from znn_dask.train.resolve import check_net, make_network, make_optimizer, output_size
from znn_dask.train.samples import Sample, Samples
from znn_dask.train.session import fixed_samples, open_volumes, training_samples

CASES: dict[str, dict[str, Any]] = {
    # VD2D: 2 classes, sections 0 to 19 are learnt from and 20 to 23 held out.
    "isbi": {
        "network": {"zoo": "vd2d"},
        "training": {"output_size": [1, 96, 96], "loss": "softmax", "learning_rate": 0.0005, "momentum": 0.9},
        "data": {
            "threshold": 128,
            "preprocess": "section",
            "train": [{"z": [0, 20]}],
            "test": [{"z": [20, 24]}],
        },
    },
    # As examples/fibsem.yaml, but with larger patches, and as many held-out sections as these have.
    "fibsem": {
        "network": {
            "letters": "CTMCTCTCT",
            "width": 24,
            "kernel": 5,
            "transfer": ["leaky_relu(0.1)", "leaky_relu(0.1)", "leaky_relu(0.1)", "linear"],
            "init": ["he", "he", "he", "gaussian(0, 0.001)"],
        },
        "training": {"output_size": [16, 64, 64], "loss": "logistic", "learning_rate": 0.001, "momentum": 0.9},
        "data": {"target": "boundary", "train": [{"z": [0, 34]}], "test": [{"z": [34, 50], "reach": "volume"}]},
    },
    # Made up and small, to try the script anywhere.
    "phantom": {
        "network": {"letters": "CTMCTC", "width": 8, "init": ["he", "he", "gaussian(0, 0.01)"]},
        "training": {"output_size": 12, "loss": "logistic", "learning_rate": 0.003, "momentum": 0.9},
        "data": {"train": [{"z": [0, 28]}], "test": [{"z": [28, 40]}]},
    },
}
LOSSES = ("softmax", "logistic")
WANTED = {"isbi": 2.0, "fibsem": 4.0}  # times PyTorch's time


@dataclass(frozen=True)
class Case:
    """A network with its model, the samples of every update, and those on which the loss is validated."""

    config: Config
    net: znn.Network
    model: znn.Model
    samples: Samples
    held_out: list[Sample]


def make_case(name: str, image: str | None, label: str | None, workers: int, overrides: Sequence[str]) -> Case:
    """Return a case on the volumes that are named; the phantom makes its own."""
    if name == "phantom":
        image, label = _phantom()
    files = [f"data.image={image}", f"data.label={label}", f"compute.workers={workers}"]
    config = make_config(CASES[name], [*files, *overrides])
    training, optimizer = config.training, make_optimizer(config.training)
    if optimizer != znn.SGD(training.learning_rate, training.momentum) or training.loss not in LOSSES:
        raise SystemExit(f"compared are plain SGD with momentum and the losses {' and '.join(LOSSES)}")
    net = without_dropout(make_network(config.network))
    check_net(config, net)
    size = output_size(config, net)
    train, test = open_volumes(config, net)
    held_out = fixed_samples(config, test, net, size, "test")
    shapes = {np.shape(sample.target)[-3:] for sample in held_out}
    if shapes != {size}:
        raise SystemExit(f"the held-out region holds no patch of {size} voxels (z, y, x)")
    model = znn.Model(
        net,
        size,
        loss=training.loss,
        optimizer=optimizer,
        seed=training.seed,
        num_workers=workers,
        batch=training.batch,
    )
    return Case(config, net, model, training_samples(config, net, train, size), held_out)


def without_dropout(net: znn.Network) -> znn.Network:
    """Return a network whose dropout drops nothing."""
    edges = [
        dataclasses.replace(edge, op=Dropout(0.0)) if isinstance(edge.op, Dropout) else edge
        for edge in net.edges.values()
    ]
    return znn.Network(net.nodes.values(), edges, net.ndim)


def _phantom() -> tuple[str, str]:
    folder = Path(tempfile.mkdtemp(prefix="znn-dask-accuracy-"))
    tissue = make_phantom((40, 80, 80), seed=0)
    paths = folder / "image.npy", folder / "boundary.npy"
    np.save(paths[0], tissue.image)
    np.save(paths[1], tissue.boundary)
    return str(paths[0]), str(paths[1])
