"""The part of ``znn-dask tune`` that searches sizes: which output patch and minibatch give the most voxels a second."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dask.utils import format_bytes
from tqdm import tqdm

from znn_dask.errors import ParameterError
from znn_dask.geometry import Triple, as_triple, volume
from znn_dask.lower.plan import as_table
from znn_dask.model.memory import as_bytes
from znn_dask.model.optimizers import Optimizer
from znn_dask.model.sizes import BATCHES, Estimate, SizeSearch
from znn_dask.net import Network
from znn_dask.sched.scheduler import resolve_workers
from znn_dask.train.config_file import load_config
from znn_dask.train.resolve import make_optimizer, sizes

MOST_ROWS = 12


def search_size(
    net: Network,
    memory: str,
    batch: int | None,
    whole: str | None,
    workers: int | None,
    tries: int,
    optimizer: Optimizer | None = None,
    quiet: bool = False,
) -> str:
    """Search, and return the table and the choice in words.

    Raises
    ------
    MemoryLimitError, ParameterError, ShapeError
        If nothing fits, or an option has no valid value.
    """
    limit, size = as_bytes(memory), None if whole is None else as_triple(sizes(whole), net.ndim, "volume")
    assert limit is not None
    if size is not None and not net.is_dense:
        raise ParameterError("--volume needs a network with an output for every voxel: max-filters in place of pools")
    n_workers = resolve_workers(workers)
    with tqdm(bar_format="{desc}", disable=quiet or not sys.stderr.isatty(), leave=False) as line:
        batches = BATCHES if batch is None else (batch,)
        search = SizeSearch(net, limit, n_workers, batches, optimizer, size, line.set_description_str)
        found = search.measured(search.estimates(), tries)
    return report(found, limit, n_workers, size)


def optimizer_of(net: str) -> Optimizer | None:
    """Return the optimiser of a configuration; what else names a network has none."""
    return make_optimizer(load_config(net).training) if Path(net).suffix in (".yaml", ".yml") else None


def report(found: Sequence[Estimate], limit: int, n_workers: int, size: Triple | None) -> str:
    """Return the rows, the best first, and what to write into a configuration.

    Parameters
    ----------
    found : sequence of Estimate
        The choice first.
    size : (z, y, x), optional
        Of the volume that is an epoch.
    """
    best, head = found[0], ["", "output size", "batch", "counted ms", "measured ms", "Mvoxel/s", "peak"]
    rows = [[*head, *(["an epoch"] if size else [])]]
    for each in found[:MOST_ROWS]:
        row = ["*" if each is best else "", "x".join(map(str, each.output_size)), str(each.batch)]
        row += [f"{1e3 * each.seconds:.1f}", "-" if each.measured_s is None else f"{1e3 * each.measured_s:.1f}"]
        about = "~" if each.measured_s is None else ""
        row += [f"{about}{each.rate / 1e6:.4g}", format_bytes(each.peak_bytes)]
        rows.append([*row, *([about + _epoch(each, size)] if size else [])])
    lines = [as_table(rows), ""]
    if len(found) > MOST_ROWS:
        lines[1:1] = [f"and {len(found) - MOST_ROWS} more that were counted to be slower"]
    z, y, x = best.output_size
    lines.append(
        f"{z}x{y}x{x} with batch {best.batch} gives the most output voxels a second of what was tried with "
        f"{n_workers} worker{'s' * (n_workers > 1)} and at most {format_bytes(limit)}, the samples not counted"
    )
    if size:
        count = best.epoch_updates(size)
        lines.append(
            f"an epoch of {'x'.join(map(str, size))} voxels is {count} update{'s' * (count > 1)}: {_epoch(best, size)}"
        )
    lines += ["in a configuration:", f"  training: {{output_size: [{z}, {y}, {x}], batch: {best.batch}}}"]
    lines.append(f"or after `znn-dask train CONFIG.yaml`: training.output_size={z},{y},{x} training.batch={best.batch}")
    return "\n".join(lines)


def _epoch(each: Estimate, size: Triple) -> str:
    """Return the time of as many voxels as a volume has."""
    seconds = volume(size) / each.rate
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.2f} s"
