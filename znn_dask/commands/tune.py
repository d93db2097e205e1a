"""``znn-dask tune``: what was measured to choose algorithms for a network, and the choice; sizes too."""

import math
import sys
from typing import Any

import click
from tqdm import tqdm

from znn_dask.commands.common import debug_option, workers_option
from znn_dask.commands.networks import find_network, network_options
from znn_dask.commands.sizes import optimizer_of
from znn_dask.commands.sizes import search_size as sizes_found
from znn_dask.lower import Options, Plan, make_plan
from znn_dask.lower.choose import layers_of
from znn_dask.lower.layers import NEEDS, Candidate, Layer, Times, seconds_of, works
from znn_dask.lower.plan import PASSES, PLAIN, ConvolutionPlan, as_table, describe
from znn_dask.model.samples import output_sizes
from znn_dask.net import Network
from znn_dask.train.resolve import sizes
from znn_dask.tune import Record, Tuner, name_of

BUDGET_S = 120.0  # of this command, which is called to measure


@click.command()
@network_options
@click.option("--output-size", help="Dense output of a step, k or z,y,x; or give --search-size.")
@click.option("--batch", type=click.IntRange(min=1), help="Examples of a step.  [default: 1; searched: 1, 2, 4]")
@click.option("--again", is_flag=True, help="Measure anew what was measured before.")
@click.option("--search-size", is_flag=True, help="Find the output size and batch with the most voxels a second.")
@click.option(
    "--memory", default="2 GiB", show_default=True, help="Searching: most that the arrays of a step may take."
)
@click.option("--volume", help="Searching: z,y,x of a volume, an epoch; no output is larger.")
@click.option("--tries", type=click.IntRange(min=1), default=4, show_default=True, help="Searching: sizes to measure.")
@workers_option
@click.option("--quiet", is_flag=True, help="No progress bar.")
@debug_option
def tune(
    net: str,
    output_size: str | None,
    batch: int | None,
    again: bool,
    search_size: bool,
    memory: str,
    volume: str | None,
    tries: int,
    workers: int | None,
    quiet: bool,
    **settings: Any,
) -> int:
    """Measure which algorithms compute NET fastest on this machine, print the figures and the plan.

    What is measured is kept in a folder, and serves `train` and every model of the same layers. NET is named
    as for `show`. Times are milliseconds of one core for all tasks of a step, as counted by the cost model and
    as measured; * marks what was chosen.

    With --search-size outputs and batches are searched instead: many are counted, the most promising measured,
    and the best is printed as a configuration has it. Of a configuration the optimiser counts, too.

    \b
    Example:
      znn-dask tune CTMCTMCTCT --width 40 --kernel 5 --output-size 12
      znn-dask tune vd2d --search-size --memory 2GiB --volume 20,512,512
    """
    if (output_size is None) != search_size:
        what = "'--output-size' or '--search-size', which finds one" if output_size is None else ""
        text = f"Missing option {what}." if what else "'--search-size' finds the output size: give no '--output-size'."
        raise click.UsageError(text, click.get_current_context())
    network, _ = find_network(net, settings)
    if output_size is None:
        text = sizes_found(network, memory, batch, volume, workers, tries, optimizer_of(net), quiet)
    else:
        text = measured_plan(network, output_size, batch or 1, again, quiet)
    click.echo(text)
    return 0


def measured_plan(network: Network, output_size: str, batch: int, again: bool, quiet: bool) -> str:
    """Measure what a size needs, and return the report."""
    shapes = output_sizes(network, sizes(output_size))
    with tqdm(desc="measuring", unit="layer", disable=quiet or not sys.stderr.isatty()) as bar:

        def progress(layer: str, done: int, total: int) -> None:
            bar.set_postfix_str(layer, refresh=False)
            bar.n, bar.total = done, total
            bar.refresh()

        tuner = Tuner(again=again, budget_s=BUDGET_S, progress=progress)
        plan = make_plan(network, shapes, batch, Options(), tuner)
    return report(network, plan, tuner)


def report(net: Network, plan: Plan, tuner: Tuner) -> str:
    """Return the candidates of every layer with their times, the plan, and the time of its convolutions."""
    lines, step_s = [], 0.0
    for name, layer in layers_of(net, plan).items():
        chosen = plan.convolutions[name]
        about = {record.layer: record for record in tuner.records if _same_shape(record.layer, layer)}
        explored = next(record for record in tuner.records if _same_shape(record.layer, layer))
        lines += [f"{name}: {name_of(explored.layer)}", _table(explored, chosen)]
        for record in about.values() if len(about) > 1 else ():
            total_s = _seconds(record, chosen)
            mark = "*" if record.layer == layer else ""
            lines.append(f"as chosen, blocks {_widths(record.layer)}: {1e3 * total_s:.2f}{mark}")
        step_s += _seconds(about[layer], chosen)
        lines.append("")
    lines += [describe(net, plan), f"convolutions of a step: {1e3 * step_s:.1f} ms of one core"]
    lines.append(f"{tuner.n_measured} tasks were measured" if tuner.n_measured else "nothing had to be measured")
    return "\n".join(lines)


def _seconds(record: Record, chosen: ConvolutionPlan) -> float:
    """Return the measured time of a choice; the counted one where there was no time to measure it."""
    measured = seconds_of(record.layer, record.times, chosen)
    return measured if math.isfinite(measured) else seconds_of(record.layer, record.predicted, chosen)


def _same_shape(one: Layer, other: Layer) -> bool:
    fields = ("size", "kernel", "entries", "groups", "passes")
    widths = [(sum(layer.blocks_in), sum(layer.blocks_out)) for layer in (one, other)]
    return widths[0] == widths[1] and all(getattr(one, field) == getattr(other, field) for field in fields)


def _widths(layer: Layer) -> str:
    return " -> ".join("+".join(map(str, blocks)) for blocks in (layer.blocks_in, layer.blocks_out))


def _table(record: Record, chosen: ConvolutionPlan) -> str:
    """Return a table of candidates and parts; each cell has the counted and the measured time."""
    parts = list(works(record.layer, Candidate("fft", record.layer.size)))
    rows = [["  counted, measured (ms)", *parts, "total"]]
    for candidate, counted in record.predicted.items():
        found = record.measured.get(candidate)
        times: Times = found.parts if found else {}
        cells = [_cell(counted.get(part), times.get(part), _is_part(candidate, part, chosen)) for part in parts]
        total = sum(times.values()) if found and found.complete else None
        cells.append(_cell(sum(counted.values()), total, False))
        if found and not found.complete:
            cells[-1] += " given up"
        rows.append([f"  {candidate}", *cells])
    return as_table(rows)


def _cell(counted: float | None, measured: float | None, chosen: bool) -> str:
    if counted is None:
        return "-"
    text = f"{1e3 * counted:.2f} " + ("-" if measured is None else f"{1e3 * measured:.2f}")
    return text + "*" * chosen


def _is_part(candidate: Candidate, part: str, chosen: ConvolutionPlan) -> bool:
    """Whether a candidate's part is among what a plan is made of."""
    if candidate.algorithm in PLAIN:
        return part in PASSES and getattr(chosen, part) == candidate.algorithm
    if (candidate.tile, candidate.backend) != (chosen.tile, chosen.backend):
        return False
    spectral = [name for name in PASSES if getattr(chosen, name) == "fft"]
    return part in spectral or any(part in NEEDS[name] for name in spectral)
