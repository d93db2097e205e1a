"""Models to files and back: our own, which go on bitwise as they would have, and those that ZNN trained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from znn_dask.errors import CheckpointError, OutputExistsError, ParameterError
from znn_dask.io.znn_hdf5 import ENDINGS, ZnnFile, is_hdf5, pack, read_znn, unpack, write_znn
from znn_dask.lower import Options
from znn_dask.model.core import Core
from znn_dask.model.losses import Losses, as_losses
from znn_dask.model.memory import planned
from znn_dask.model.optimizers import SGD, to_plain
from znn_dask.model.samples import output_sizes
from znn_dask.model.storage import Description, Stored, check_stored, read_model, write_model
from znn_dask.model.znn_file import check_origin, compose, interpret, still_true
from znn_dask.ops import fft
from znn_dask.sched.scheduler import resolve_workers
from znn_dask.tune import timing

# Output of a network that comes without one: what ZNN's jobs had in 2D, and as many voxels in 3D.
_SIZES = {2: (1, 100, 100), 3: (20, 20, 20)}
_ORIGIN = "znn"  # what a model keeps of the ZNN file that it came from: tensors under it, and metadata


def save(core: Core, path: str | Path, metadata: Mapping[str, str] | None, overwrite: bool) -> None:
    """Write a model: to ``.h5`` in the form of ZNN, else in ours.

    Raises
    ------
    OutputExistsError
        If the file exists and may not be replaced.
    ParameterError
        If metadata are to go where there is no place for them.
    """
    if not overwrite and Path(path).exists():
        raise OutputExistsError(f"{path} exists; give overwrite=True to replace it")
    core.flush()
    state, optimizer = core.state, core.optimizer_now
    parameters, slots = core.public(state.parameters), {n: core.public(b) for n, b in state.slots.items()}
    if Path(path).suffix.lower() in ENDINGS:
        if metadata:
            raise ParameterError(
                f"ZNN's files have no place for metadata; save {path} as .safetensors, or without them"
            )
        if not isinstance(optimizer, SGD):
            raise ParameterError(
                f"ZNN's files know no optimiser but SGD, and this is {type(optimizer).__name__}; "
                f"save {path} as .safetensors"
            )
        write_znn(path, compose(core.net, parameters, slots["velocity"], optimizer, core.origin))
        return
    description = Description(
        network=core.net.to_text(),
        plan=core.plan,
        options=core.options,
        optimizer=to_plain(optimizer),
        loss=core.loss,
        seed=core.seed,
        step_count=core.state.step_count,
        policy=core.scheduler.policy,
        wisdom=core.wisdom.single,
        update_count=state.update_count,
        parts=state.parts,
    )
    more, tensors = dict(metadata or {}), dict[str, Any]()
    if core.origin is not None:
        arrays, strings = pack(still_true(core.origin, slots.get("velocity", {})))
        tensors = {f"{_ORIGIN}/{name}": values for name, values in arrays.items()}
        more[_ORIGIN] = json.dumps(strings)
    sums = core.public(state.pending or {})
    write_model(path, description, parameters, slots, sums, more, tensors)


def load(path: str | Path, output_size: Any = None, num_workers: int | None = None, loss: Losses | None = None) -> Core:
    """Read a model of ours or of ZNN's; see `Model.load`."""
    num_workers = resolve_workers(num_workers)
    if is_hdf5(path) or Path(path).suffix.lower() in ENDINGS:
        return _load_znn(path, output_size, num_workers, loss)
    stored = read_model(path)
    about, net = stored.description, stored.net
    plan = about.plan
    try:
        # Before anything is planned or measured: what does not fit together may also be of any size.
        check_stored(stored, plan)
        if output_size is not None and output_sizes(net, output_size) != plan.output_size:
            plan = planned(net, output_sizes(net, output_size), plan.batch, about.options, timing(), num_workers)
        losses = as_losses(loss or about.loss, net)
        common = about.options, losses, stored.optimizer, about.seed, num_workers, about.policy
        core = Core(net, plan, *common, fft.Wisdom(plan.fft_effort, about.wisdom))
    except ParameterError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    core.start(stored.parameters, stored.slots, about.step_count)
    core.resume(about.update_count, about.parts, stored.sums)
    core.origin = _origin(stored, path)
    return core


def restored(core: Core, path: str | Path) -> Core:
    """Read a model in the place of another of the same network; see `Model.restore`."""
    new = load(path, num_workers=core.scheduler.num_workers)
    if new.net != core.net:
        new.scheduler.close()
        raise CheckpointError(
            f"{path} holds another network: it has {new.net.n_parameters:,} parameters and field of view "
            f"{new.net.field_of_view}, this model's has {core.net.n_parameters:,} and {core.net.field_of_view}"
        )
    core.scheduler.close()
    return new


def _load_znn(path: str | Path, output_size: Any, num_workers: int, loss: Losses | None) -> Core:
    found = interpret(read_znn(path), path)
    net, options = found.net, Options()
    # Without a size it will predict, and plans for that are made by the counts: nothing is measured.
    size, measure = (_SIZES[net.ndim], timing(False)) if output_size is None else (output_size, timing())
    plan = planned(net, output_sizes(net, size), 1, options, measure, num_workers)
    losses = as_losses(loss or found.loss, net)
    core = Core(net, plan, options, losses, found.optimizer, 0, num_workers, "locality")
    core.start(found.parameters, {"velocity": found.velocities}, found.step_count)
    core.origin = found.origin
    return core


def _origin(stored: Stored, path: str | Path) -> ZnnFile | None:
    """Return the file of ZNN that a model came from, as far as it still counts."""
    if _ORIGIN not in stored.metadata:
        return None
    arrays = {n.removeprefix(f"{_ORIGIN}/"): v for n, v in stored.tensors.items() if n.startswith(f"{_ORIGIN}/")}
    try:
        strings = json.loads(stored.metadata[_ORIGIN])
        origin = unpack(arrays, {str(name): str(value) for name, value in strings.items()})
        check_origin(origin, stored.net)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: what it keeps of ZNN's file cannot be read ({error})") from error
    return origin
