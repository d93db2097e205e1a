"""``znn-dask simulate``: how fast a network would be trained on more workers than there are."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from znn_dask.commands.common import debug_option
from znn_dask.commands.networks import find_network, network_options
from znn_dask.errors import ParameterError
from znn_dask.geometry import Triple
from znn_dask.io.atomic import replacing
from znn_dask.lower import Options, lower_step, make_plan
from znn_dask.lower.counts import counted_bytes, counted_seconds
from znn_dask.lower.step import StepOptions
from znn_dask.model import SGD, Model
from znn_dask.model.compiled import fresh_token
from znn_dask.model.model import Size
from znn_dask.model.samples import output_sizes
from znn_dask.net import Network
from znn_dask.ops.update import SgdRule
from znn_dask.sched import Program, Scheduler, Trace
from znn_dask.sched.contention import Memory
from znn_dask.sched.dispatch import DISPATCHES
from znn_dask.sched.speedup import COUNTS, simulate
from znn_dask.train.resolve import sizes

GB = 1e9


@click.command(name="simulate")
@network_options
@click.option("--output-size", required=True, help="Dense output of a step, k or z,y,x.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Examples of a step.")
@click.option(
    "--granularity",
    type=click.Choice(["auto", "node", "edge"]),
    default="auto",
    show_default=True,
    help="A task for every block of maps, or for every pair of blocks that a convolution joins.",
)
@click.option("--block", default="auto", show_default=True, help="Channels of a block.")
@click.option(
    "--workers", default=",".join(map(str, COUNTS)), show_default=True, help="Counts of workers, separated by commas."
)
@click.option(
    "--dispatch",
    type=click.Choice(list(DISPATCHES)),
    multiple=True,
    help="What running a task costs; may be given several times.  [default: all]",
)
@click.option("--bandwidth", type=float, help="GB/s that memory gives to all workers.  [default: it never binds]")
@click.option("--core-bandwidth", type=float, help="GB/s that one core can draw.  [default: all of it]")
@click.option("--updates", type=click.IntRange(min=1), default=3, show_default=True, help="To measure.")
@click.option("--counts", is_flag=True, help="Measure nothing: go by the cost model, which is rough.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture here, PNG.")
@debug_option
def simulate_command(
    net: str,
    output_size: str,
    batch: int,
    granularity: str,
    block: str,
    workers: str,
    dispatch: tuple[str, ...],
    bandwidth: float | None,
    core_bandwidth: float | None,
    updates: int,
    counts: bool,
    plot: Path | None,
    **settings: Any,
) -> int:
    """Measure a few updates of NET with one worker here, and print how fast many workers would be.

    Played are the same tasks in the same order with the time each took, what dispatch costs, and, with --bandwidth,
    memory that all workers share. NET is named as for `show`. The machine should have nothing else to do.

    \b
    Example:
      znn-dask simulate CTMCTMCTCT --width 40 --kernel 5 --output-size 12 --workers 1,2,30,60,120
    """
    network, _ = find_network(net, settings)
    n_workers = [number(text, "--workers") for text in workers.split(",")]
    channels = block if block == "auto" else number(block, "--block")
    total, alone = (None if rate is None else rate * GB for rate in (bandwidth, core_bandwidth))
    Memory.of(total, alone)
    options = Options(granularity=granularity, block=channels)
    played = counted if counts else measured
    source, known = played(network, output_sizes(network, sizes(output_size)), batch, options, updates)
    chosen = dispatch or tuple(DISPATCHES)
    found = simulate(source, n_workers, dispatch=chosen, bandwidth=total, core_bandwidth=alone, **known)
    click.echo(found)
    if plot is not None:
        with replacing(plot) as temporary:
            found.plot(temporary)
    return 0


def number(text: str, option: str) -> int:
    """Return a count that an option gives; raises a ParameterError if it is none."""
    if not text.strip().isdecimal() or not int(text):
        raise ParameterError(f"{option} takes whole numbers from 1, got {text!r}")
    return int(text)


Played = tuple[Trace | Program, dict[str, dict[Hashable, float]]]


def counted(net: Network, output_size: Mapping[str, Triple], batch: int, options: Options, _: int) -> Played:
    """Return the program of an update, and the seconds and bytes of its tasks by the cost model."""
    plan = make_plan(net, output_size, batch, options)
    graph = lower_step(net, plan, StepOptions("square", SgdRule(0.9), pending=True), fresh_token())
    with Scheduler(num_workers=1) as scheduler:
        program = scheduler.compile(graph.dask, list(graph.outputs.values()), priority=graph.priority)
    return program, {"seconds": counted_seconds(net, plan, graph), "n_bytes": counted_bytes(graph)}


def measured(net: Network, output_size: Mapping[str, Triple], batch: int, options: Options, n_updates: int) -> Played:
    """Return the trace of some updates in the middle of training, on random samples."""
    random = np.random.default_rng(0)

    def some(channels: Mapping[str, int], size: Size) -> dict[str, npt.NDArray[np.float32]]:
        of = size if isinstance(size, dict) else dict.fromkeys(channels, size)
        return {name: random.standard_normal((batch, n, *of[name]), np.float32) for name, n in channels.items()}

    with Model(
        net,
        output_size,
        # So small a rate that parameters stay where they are, whatever is learned from noise.
        optimizer=SGD(learning_rate=1e-6, momentum=0.9),
        num_workers=1,
        batch=batch,
        granularity=options.granularity,
        block=options.block,
    ) as model:
        images, targets = some(net.inputs, model.input_size), some(net.outputs, model.output_size)
        # The first update leaves something pending, the second compiles the graph that goes on.
        for _ in range(2):
            model.step(images, targets)
        with Trace() as trace:
            for _ in range(n_updates):
                model.step(images, targets)
    return trace, {}
