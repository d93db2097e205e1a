"""A model as a file: parameters, velocities and everything that shapes how it goes on."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from znn_dask.errors import CheckpointError, ZnnError
from znn_dask.io.checkpoint import read_checkpoint, write_checkpoint
from znn_dask.lower import Options, Plan
from znn_dask.lower.parameters import check_parameters
from znn_dask.lower.plan import check_plan
from znn_dask.model.state import SGD
from znn_dask.net import Network
from znn_dask.ops.loss import check_loss

Array = npt.NDArray[np.float32]
FORMAT = "znn-dask model 2"


class Description(msgspec.Struct, frozen=True):
    """What makes a model besides its arrays."""

    network: str
    plan: Plan
    options: Options
    optimizer: SGD
    loss: str
    seed: int
    step_count: int
    policy: str
    wisdom: bytes


class Stored(msgspec.Struct, frozen=True):
    """A model read from a file: its description, and all arrays and text by their names there."""

    description: Description
    net: Network
    tensors: dict[str, Any]
    metadata: dict[str, str]

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters by name."""
        return _under(self.tensors, "parameters/")

    @property
    def velocities(self) -> dict[str, Any]:
        """What SGD keeps of the gradients before, by the parameter's name."""
        return _under(self.tensors, "velocities/")


def write_model(
    path: str | Path,
    description: Description,
    parameters: dict[str, Array],
    velocities: dict[str, Array],
    more: dict[str, str],
    more_tensors: dict[str, Any],
) -> None:
    """Write a model; ``path`` holds either the old file or the complete new one at any time."""
    tensors = more_tensors | {f"parameters/{name}": values for name, values in parameters.items()}
    tensors |= {f"velocities/{name}": values for name, values in velocities.items()}
    metadata = {**more, "format": FORMAT, "model": msgspec.json.encode(description).decode()}
    write_checkpoint(path, tensors, metadata)


def read_model(path: str | Path) -> Stored:
    """Read what `write_model` wrote.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or no model of ours.
    """
    tensors, metadata = read_checkpoint(path)
    if metadata.get("format") != FORMAT:
        found = metadata.get("format", "no format")
        raise CheckpointError(f"{path} is no model of znn-dask: it says {found!r}, expected {FORMAT!r}")
    try:
        description = msgspec.json.decode(metadata["model"], type=Description)
        net = Network.from_text(description.network)
    except (KeyError, msgspec.MsgspecError, ZnnError) as error:
        raise CheckpointError(f"{path} is damaged or of another version: {error}") from error
    return Stored(description, net, tensors, metadata)


def check_stored(stored: Stored, plan: Plan) -> None:
    """Raise a ParameterError unless what was read fits together, with a plan that may be another."""
    check_parameters(stored.net, stored.parameters)
    check_parameters(stored.net, stored.velocities)
    check_plan(stored.net, plan)
    check_loss(stored.description.loss)


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
