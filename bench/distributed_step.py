"""One training step on Dask's schedulers: the same graph on `znn.get`, on `dask.threaded` and on `distributed`.

`distributed` runs in this process (``Client(processes=False)``); nobody looks at its dashboard. Answers are compared
bitwise before anything is timed. Each graph is made before its turn; timed is from handing it over to having the loss
and all new parameters, by the clock and in time on a core (of all threads: other work on the machine hardly changes
that). `Model.step` is beside them: the same work, compiled once::

    python bench/distributed_step.py --width 40 --kernel 3 --json bench/results/distributed.json
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import dask
import dask.threaded
import distributed
import numpy as np
from dask.optimization import cull
from measure import environment, ratio, summary, write_json

import znn_dask as znn

LETTERS = "CTMCTMCTCT"
SIZE = (12, 12, 12)
GETS: dict[str, Callable[..., Any]] = {"znn.get": znn.get, "dask.threaded.get": dask.threaded.get}
ADDRESS = "127.0.0.1:0"  # any free port
COMPILED = "Model.step"


def model_of(given: argparse.Namespace) -> znn.Model:
    """Return the network that is asked for, with the plan of the cost model."""
    net = znn.Network.parse(LETTERS, width=given.width, kernel=given.kernel, window=2)
    plan = {"granularity": given.granularity, "block": given.block}
    return znn.Model(net, SIZE, num_workers=given.workers, tune=False, **plan)


def measure(given: argparse.Namespace, client: distributed.Client) -> dict[str, Any]:
    """Return the times of all contenders, taken in turns."""
    gets: dict[str, Callable[..., Any]] = {n: partial(get, num_workers=given.workers) for n, get in GETS.items()}
    gets["distributed"] = client.get
    with model_of(given) as model, model_of(given) as stepping:
        rng = np.random.default_rng(0)
        sample = tuple(rng.standard_normal((1, *size), np.float32) for size in (model.input_size, SIZE))
        answers = {name: model.graph("step", *sample).run(get) for name, get in gets.items()}
        check(answers, stepping, sample)
        graph = model.graph("step")
        n_tasks = len(cull(graph.dask, list(graph.outputs.values()))[0])
        times: dict[str, list[float]] = {name: [] for name in (COMPILED, *gets)}
        on_cores: dict[str, list[float]] = {name: [] for name in times}
        for turn in range(given.repetitions + 1):
            runs: dict[str, Callable[[], Any]] = {COMPILED: partial(stepping.step, *sample)}
            runs |= {name: partial(model.graph("step", *sample).run, get) for name, get in gets.items()}
            for name, run in runs.items():
                start = time.perf_counter(), time.process_time()
                run()
                end = time.perf_counter(), time.process_time()
                if turn:  # the first warms up
                    times[name].append(end[0] - start[0])
                    on_cores[name].append(end[1] - start[1])
    return {"n_tasks": n_tasks, "times_s": times, "on_cores_s": on_cores}


def check(answers: dict[str, dict[str, Any]], stepping: znn.Model, sample: tuple[Any, ...]) -> None:
    """Compare what the schedulers found with what a step of the model makes."""
    expected: dict[str, Any] = {"loss": stepping.step(*sample), **stepping.parameters}
    for name, found in answers.items():
        if any(not np.array_equal(found[key], value) for key, value in expected.items()):
            raise SystemExit(f"{name} found another answer than {COMPILED}")


def show(report: dict[str, Any]) -> None:
    """Print a line per contender: medians, ratios to the compiled step, what a task costs more than there."""
    n_tasks = report["n_tasks"]
    print(f"{n_tasks} tasks")
    for kind, title in (("times_s", "by the clock"), ("on_cores_s", "on cores")):
        base = report[kind][COMPILED]
        for name, seconds in report[kind].items():
            median = summary(seconds)["median_s"]
            more = 1e6 * statistics.median(a - b for a, b in zip(seconds, base, strict=True)) / n_tasks
            print(f"{title:13} {name:18} {1e3 * median:8.1f} ms  x {ratio(seconds, base):5.2f}  {more:+7.0f} us a task")


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=40)
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--granularity", default="auto", choices=("auto", "node", "edge"))
    parser.add_argument("--block", type=lambda text: text if text == "auto" else int(text), default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", help="write the report here")
    given = parser.parse_args()
    options = {"processes": False, "n_workers": 1, "threads_per_worker": given.workers}
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set({"temporary-directory": folder, "distributed.scheduler.worker-saturation": "inf"}),
        distributed.Client(**options, dashboard_address=ADDRESS) as client,
    ):
        report = measure(given, client)
    show(report)
    if given.json:
        asked = {name: value for name, value in vars(given).items() if name != "json"}
        write_json(given.json, {"environment": environment(given.workers), "asked": asked, **report})


if __name__ == "__main__":
    main()
