"""How an update scales with workers: speedup, efficiency and idle share, by width, granularity and policy.

    python bench/scaling.py                                            # the paper's 3D net on this machine
    python bench/scaling.py --preset k5-w40 --widths 20 40 --workers 1 2 4 8 16
    python bench/scaling.py --ndim 2 --kernel 11 --granularity edge --block 8 --policies locality fifo

Every count of workers runs the same plan; loss and gradients are compared bit for bit before anything is timed. Counts
take turns, an update with its flush at a time, and speedups are medians over turns of one worker's time over theirs.
Idle share, longest path and the share of reads from the same worker come from traced updates after that. The longest
path bounds every speedup; so does memory: "two at once" is what as many processes of one worker each reach together,
which no scheduler of ours touches. "in a line" are updates of `Model.steps`, of which one begins while the one before
ends.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import presets
from measure import alternate, environment, ratio, summary, write_json
from presets import MOMENTUM, PRESETS, RATE, Setting

import znn_dask as znn
from znn_dask.cpus import available_cpus

TRACED = 3  # updates
LINE = 4  # updates of Model.steps that are timed together


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, help="a network by name; the options below change it")
    presets.add_arguments(parser)
    parser.add_argument("--widths", type=int, nargs="+", help="several widths, one after the other")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=_counts(available_cpus()), help="1 is always measured"
    )
    parser.add_argument("--granularity", default="auto", choices=("auto", "node", "edge"))
    parser.add_argument("--block", type=_block, default="auto", help="channels of a block")
    parser.add_argument("--policies", nargs="+", default=["locality"])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds before each update")
    parser.add_argument("--no-processes", action="store_true", help="leave out processes of one worker each")
    parser.add_argument("--json", help="write the report here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _counts(most: int) -> list[int]:
    return sorted({1, most, *(n for n in (2, 4, 8, 16, 32, 64, 128) if n < most)})


def _block(text: str) -> int | str:
    return text if text == "auto" else int(text)


def model_of(args: argparse.Namespace, setting: Setting, workers: int, policy: str) -> znn.Model:
    """Return a model; the same parameters and the same plan for every count of workers."""
    return znn.Model(
        presets.network(setting),
        output_size=setting.output_size,
        optimizer=znn.SGD(RATE, MOMENTUM),
        num_workers=workers,
        granularity=args.granularity,
        block=args.block,
        policy=policy,
        batch=setting.batch,
    )


def measure(args: argparse.Namespace, setting: Setting, policy: str) -> dict[str, Any]:
    """Return the report of one network under one policy."""
    counts = sorted({1, *args.workers})
    models = {n: model_of(args, setting, n, policy) for n in counts}
    image, target = presets.sample(setting, models[1])
    loss, gradients = models[1].gradients(image, target)
    for n, model in models.items():
        other, theirs = model.gradients(image, target)
        if other != loss or any((theirs[name] != gradients[name]).any() for name in gradients):
            sys.exit(f"{n} workers compute other gradients than one: nothing was timed")
    runs = {str(n): presets.update_of(model, image, target) for n, model in models.items()}
    times = alternate(runs, args.repetitions, pause_s=args.pause)
    lines = {str(n): line_of(model, image, target) for n, model in models.items()}
    in_line = alternate(lines, args.repetitions, pause_s=args.pause)
    report: dict[str, Any] = {
        "setting": asdict(setting),
        "policy": policy,
        "plan": str(models[1].plan),
        "seconds": times,
        "seconds_of_lines": in_line,
    }
    report["workers"] = {
        n: summary(times[n]) | {"speedup": (faster := ratio(times["1"], times[n])), "efficiency": faster / int(n)}
        for n in runs
    }
    for n, run in runs.items():
        report["workers"][n] |= traced(run)
        report["workers"][n]["line_s"] = statistics.median(in_line[n]) / LINE
        report["workers"][n]["line_speedup"] = ratio(in_line["1"], in_line[n])
    if not args.no_processes:
        for n in counts[1:]:
            report["workers"][str(n)]["processes"] = processes(args, setting, policy, n)
    return report


def line_of(model: znn.Model, image: Any, target: Any) -> Callable[[], None]:
    """Return what makes some updates with no barrier between them."""

    def run() -> None:
        for _ in model.steps([(image, target)] * LINE):
            pass
        model.flush()

    return run


def traced(run: Callable[[], None]) -> dict[str, float]:
    """Return the figures of some traced updates."""
    with znn.Trace() as trace:
        for _ in range(TRACED):
            run()
    told = trace.summary()
    return {
        "idle_share": told.idle_share,
        "tasks": told.n_tasks / TRACED,
        "busy_s": told.busy_s / TRACED,
        "path_s": told.path_s / TRACED,
        "same_worker": told.same_worker,
    }


def processes(args: argparse.Namespace, setting: Setting, policy: str, n: int) -> float:
    """Return how many times one process's updates per second as many processes make, each of one worker."""
    told = json.dumps(
        {"setting": vars(setting), "policy": policy, "granularity": args.granularity, "block": args.block}
    )
    command = [sys.executable, __file__, "--child", told]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(n)]
    try:
        for child in children:
            _ask(child)
        rates = []
        for _ in range(args.repetitions):
            alone = _ask(children[0], tell=True)
            for child in children:
                _tell(child)
            together = [_ask(child) for child in children]
            rates.append(sum(alone / each for each in together))
        return statistics.median(rates)
    finally:
        for child in children:
            child.kill()
            child.wait()


def _tell(child: Any) -> None:
    child.stdin.write("\n")
    child.stdin.flush()


def _ask(child: Any, tell: bool = False) -> float:
    if tell:
        _tell(child)
    return float(child.stdout.readline())


def serve(told: str) -> None:
    """Make updates whenever a line comes, and print how long one took."""
    args = argparse.Namespace(**json.loads(told))
    setting = Setting(**args.setting)
    model = model_of(args, setting, 1, args.policy)
    run = presets.update_of(model, *presets.sample(setting, model))
    run()
    print(0.0, flush=True)
    for _ in sys.stdin:
        print(float(np.median(alternate({"update": run}, 3, warmup=0)["update"])), flush=True)


def show(report: dict[str, Any]) -> None:
    """Print a report as a table."""
    setting = report["setting"]
    print(f"\n{setting['net']} kernel {setting['kernel']} width {setting['width']}, policy {report['policy']}")
    print("workers     median   speedup  efficiency   idle  same worker  longest path     in a line  processes")
    for n, told in report["workers"].items():
        others = f"{told['processes']:10.2f}" if "processes" in told else ""
        print(
            f"{n:>7} {told['median_s'] * 1e3:8.1f} ms {told['speedup']:8.2f} {told['efficiency']:10.0%} "
            f"{told['idle_share']:7.1%} {told['same_worker']:11.0%} {told['path_s'] * 1e3:10.1f} ms "
            f"{told['line_s'] * 1e3:7.1f} {told['line_speedup']:5.2f} {others}",
            flush=True,
        )


def main() -> None:
    args = arguments()
    if args.child:
        return serve(args.child)
    setting = presets.chosen(args, PRESETS[args.preset] if args.preset else Setting())
    reports = []
    for width in args.widths or [setting.width]:
        for policy in args.policies:
            reports.append(measure(args, replace(setting, width=width, wanted=None), policy))
            show(reports[-1])
    if args.json:
        write_json(args.json, {"environment": environment(max(args.workers)), "reports": reports})
    return None


if __name__ == "__main__":
    main()
