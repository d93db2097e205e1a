"""A model as a file: parameters, what the optimiser keeps and everything that shapes how it goes on."""

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
from znn_dask.model.losses import Losses, as_losses
from znn_dask.model.optimizers import Optimizer, from_plain, rate_factors
from znn_dask.net import Network
from znn_dask.ops.update import SLOTS

Array = npt.NDArray[np.float32]
FORMAT = "znn-dask model 2"
_FOLDERS = dict(zip(SLOTS, ("velocities/", "moments/", "squares/"), strict=True))
_SUMS = "gradients/"


class Description(msgspec.Struct, frozen=True):
    """What makes a model besides its arrays."""

    network: str
    plan: Plan
    options: Options
    optimizer: dict[str, Any]
    loss: Losses
    seed: int
    step_count: int
    policy: str
    wisdom: bytes
    update_count: int = 0
    parts: int = 0


class Stored(msgspec.Struct, frozen=True):
    """A model read from a file: its description, and all arrays and text by their names there."""

    description: Description
    net: Network
    optimizer: Optimizer
    tensors: dict[str, Any]
    metadata: dict[str, str]

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters by name."""
        return _under(self.tensors, "parameters/")

    @property
    def slots(self) -> dict[str, dict[str, Any]]:
        """What the optimiser keeps of the gradients before, by slot and the parameter's name."""
        return {slot: _under(self.tensors, _FOLDERS[slot]) for slot in self.optimizer.rule.slots}

    @property
    def sums(self) -> dict[str, Any]:
        """The sums of gradients that were too few for an update."""
        return _under(self.tensors, _SUMS)


def write_model(
    path: str | Path,
    description: Description,
    parameters: dict[str, Array],
    slots: dict[str, dict[str, Array]],
    sums: dict[str, Array],
    more: dict[str, str],
    more_tensors: dict[str, Any],
) -> None:
    """Write a model; ``path`` holds either the old file or the complete new one at any time."""
    tensors = more_tensors | {f"parameters/{name}": values for name, values in parameters.items()}
    for slot, arrays in slots.items():
        tensors |= {f"{_FOLDERS[slot]}{name}": values for name, values in arrays.items()}
    tensors |= {f"{_SUMS}{name}": values for name, values in sums.items()}
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
        net, optimizer = Network.from_text(description.network), from_plain(description.optimizer)
    except (KeyError, msgspec.MsgspecError, ZnnError) as error:
        raise CheckpointError(f"{path} is damaged or of another version: {error}") from error
    return Stored(description, net, optimizer, tensors, metadata)


def check_stored(stored: Stored, plan: Plan) -> None:
    """Raise a ParameterError unless what was read fits together, with a plan that may be another."""
    check_parameters(stored.net, stored.parameters)
    for values in stored.slots.values():
        check_parameters(stored.net, values, learned=True)
    if stored.description.parts:
        check_parameters(stored.net, stored.sums)
    check_plan(stored.net, plan)
    as_losses(stored.description.loss, stored.net)
    rate_factors(stored.optimizer, stored.net)


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
