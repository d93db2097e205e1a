"""How far updates would scale on a machine with many cores, simulated; and whether the simulator can be believed.

    python bench/simulated.py --validate                             # one worker's trace predicts two workers
    python bench/simulated.py --json bench/results/simulated.json --picture bench/results/simulated.png

Updates of the paper's 3D net are traced on one worker and played on 1 to 240, at the granularity that the plan
chooses, at finer ones that a user of many cores would ask for, and with the tasks that are still long cut into
pieces, which no plan does yet. The memory that the workers share is that of a
server, two sockets of DDR5, unless it is given.

``--validate`` traces six networks on one worker, predicts other counts, and times these, in turns of several updates
one after the other. Predictions are with the memory of this machine, as its copies measure it, and without. What a
virtual machine's neighbours steal makes its cores unequal: "at once" is what as many models of one worker each
reach together, and where that is far from their number, run it again when the machine is quiet.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import limits
import presets
from measure import alternate, environment, once, ratio, summary, write_json
from pieces import cut
from presets import MOMENTUM, PRESETS, RATE, Setting

import znn_dask as znn
from znn_dask.cpus import available_cpus
from znn_dask.lower import Options, make_plan
from znn_dask.lower.parameters import initial_parameters
from znn_dask.model.core import Core
from znn_dask.model.losses import targets_of
from znn_dask.model.samples import output_sizes, read_sample
from znn_dask.sched.costs import costs_of
from znn_dask.sched.simulation import Simulation
from znn_dask.tune import timing

VALIDATED = ("k3-w40", "k5-w40", "k7-w40", "k3-w16", "2d-k11-w40", "pool-k3")
WITHIN = 0.1
TURN_S = 0.15  # of updates in a row, about; what a pause costs is spread over them
REPORTED = (replace(PRESETS["k5-w80"], wanted=None), Setting(kernel=5, width=120))
PIECES = 8000  # of equal length that the work of an update would make, where long tasks are cut
# The plan as it is, and what a user of many cores would ask for: narrower blocks, an edge a task, more tasks to a node.
FORMS: dict[str, Options] = {
    "auto": Options(),
    "edge, block 16": Options(granularity="edge", block=16),
    "edge, block 8": Options(granularity="edge", block=8),
    "120 tasks a node": Options(tasks=120),
}
IN_PIECES = ("auto", "120 tasks a node")  # forms whose tasks are cut, too: a change of plan that is only simulated
COUNTS = (1, 2, 8, 30, 60, 90, 120, 240)
# Two sockets of eight channels of DDR5-4800 could give 614 GB/s, and copies reach three quarters of that.
BANDWIDTH = 460e9
CORE_BANDWIDTH = 12e9
WANTED = {60: 54.0, 120: 90.0}  # speedups with native dispatch


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validate", action="store_true", help="compare predictions with times measured here")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=VALIDATED, help="to validate with")
    parser.add_argument("--workers", type=int, nargs="+", help="counts; to validate with, default 2 to all CPUs")
    parser.add_argument("--repetitions", type=int, default=7, help="turns of a validation")
    parser.add_argument("--updates", type=int, default=3, help="traced")
    parser.add_argument("--widths", type=int, nargs="+", help="of the net with kernel 5, instead of 80 and 120")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--pieces", type=int, default=PIECES, help="a piece is at most that part of the work")
    parser.add_argument("--bandwidth", type=float, default=BANDWIDTH, help="bytes a second of all cores")
    parser.add_argument("--core-bandwidth", type=float, default=CORE_BANDWIDTH, help="bytes a second of one")
    parser.add_argument("--json", help="write the report here")
    parser.add_argument("--picture", help="draw the best form of the last width here")
    return parser.parse_args()


def core_of(setting: Setting, workers: int, options: Options) -> Core:
    """Return a model's machinery with a plan of these options, tuned as a model's."""
    net = presets.network(setting)
    sizes = output_sizes(net, setting.output_size)
    plan = make_plan(net, sizes, setting.batch, options, timing())
    core = Core(net, plan, options, "square", znn.SGD(RATE, MOMENTUM), 0, workers, "locality")
    core.start(initial_parameters(net, 0))
    return core


def step_of(setting: Setting, core: Core) -> Callable[[], Any]:
    """Return a call that makes an update in the middle of many: the one before is applied in its graph."""
    (input_size,), (output_size,) = core.input_sizes.values(), core.plan.output_size.values()
    image, target = presets.sample_of(setting, input_size, output_size)
    inputs, outputs = (core.net.inputs, core.input_sizes), (core.net.outputs, core.plan.output_size)
    sample = read_sample(image, target, None, inputs, outputs, targets_of(core.loss, core.net))
    step = partial(core.step, sample)
    step()
    step()
    return step


def traced(step: Callable[[], Any], n_updates: int) -> znn.Trace:
    with znn.Trace() as trace:
        for _ in range(n_updates):
            step()
    return trace


# --- validation ---


def validate(setting: Setting, counts: Sequence[int], repetitions: int) -> dict[str, Any]:
    """Return predicted and measured seconds of an update for every count of workers."""
    cores = {n: core_of(setting, n, Options()) for n in counts}
    others = [core_of(setting, 1, Options()) for _ in range(max(counts))]
    steps = {n: step_of(setting, core) for n, core in cores.items()}
    alone = [step_of(setting, core) for core in others]
    trace = znn.Trace()
    in_a_row = max(1, round(TURN_S / once(steps[1])))

    def several(step: Callable[[], Any]) -> None:
        for _ in range(in_a_row):
            step()

    def trace_one() -> None:
        with trace:
            several(steps[1])

    # All take turns, so that a slow minute slows all.
    runs: dict[str, Callable[[], Any]] = {str(n): partial(several, step) for n, step in steps.items()}
    runs |= {f"{n} at once": partial(_at_once, [partial(several, step) for step in alone[:n]]) for n in counts[1:]}
    taken = alternate({**runs, "traced": trace_one}, repetitions, warmup=1, pause_s=0.05)
    times = {name: [seconds / in_a_row for seconds in each] for name, each in taken.items()}
    here = limits.copy_bytes_per_s(max(counts)), limits.copy_bytes_per_s(1)
    found = {
        "plain": znn.simulate(trace, counts, dispatch="gil"),
        "contention": znn.simulate(trace, counts, dispatch="gil", bandwidth=here[0], core_bandwidth=min(here)),
    }
    for core in (*cores.values(), *others):
        core.scheduler.close()
    report: dict[str, Any] = {"setting": asdict(setting), "copy_bytes_per_s": here, "seconds": times, "workers": {}}
    for n in counts:
        compared = {name: _compared(simulation, n, times) for name, simulation in found.items()}
        report["workers"][str(n)] = summary(times[str(n)]) | {"speedup": ratio(times["1"], times[str(n)])} | compared
        if n > 1:
            report["workers"][str(n)]["at_once"] = n * ratio(times["1"], times[f"{n} at once"])
    return report


def _at_once(steps: Sequence[Callable[[], Any]]) -> None:
    """Make an update with each of some models of one worker, all at once."""
    left = list(steps)
    limits.together(lambda: left.pop()(), len(steps))


def _compared(simulation: Simulation, n: int, times: dict[str, list[float]]) -> dict[str, float]:
    row = next(row for row in simulation.curves[0].rows if row.n_workers == n)
    share = row.makespan_s / statistics.median(times[str(n)])
    return {"predicted_s": row.makespan_s, "over_measured": share, "speedup": row.speedup}


def show_validation(name: str, report: dict[str, Any]) -> None:
    """Print predicted beside measured times; "at once" is what as many models of one worker reach together."""
    for n, told in report["workers"].items():
        plain, contended = told["plain"], told["contention"]
        within = "within" if abs(contended["over_measured"] - 1) <= WITHIN else "beyond"
        told_s = f"{told['median_s'] * 1e3:8.1f} ms ({told['min_s'] * 1e3:.1f} to {told['max_s'] * 1e3:.1f})"
        others = f", {told['at_once']:.2f} at once" if "at_once" in told else ""
        print(
            f"{name:12} {n:>3} workers: {told_s}, predicted {contended['predicted_s'] * 1e3:.1f}: "
            f"{contended['over_measured']:.3f} of it ({within} {WITHIN:.0%}); without contention for memory "
            f"{plain['over_measured']:.3f}; speedup {told['speedup']:.2f}{others}, "
            f"predicted {contended['speedup']:.2f}",
            flush=True,
        )


# --- report ---


def simulated(setting: Setting, form: str, args: argparse.Namespace) -> Iterator[tuple[str, str, Simulation]]:
    """Yield the name of a form, its plan, and what many workers would reach, with contention."""
    core = core_of(setting, 1, FORMS[form])
    trace = traced(step_of(setting, core), args.updates)
    core.scheduler.close()
    plan, rates = str(core.report()), {"bandwidth": args.bandwidth, "core_bandwidth": args.core_bandwidth}
    counts = args.workers or COUNTS
    yield form, plan, znn.simulate(trace, counts, **rates)
    if form in IN_PIECES:
        costs = costs_of(trace.runs)
        longest_s = sum(costs.seconds[task] for task in costs.once) / args.pieces
        program, seconds, n_bytes = cut(costs, longest_s)
        found = znn.simulate(program, counts, seconds=seconds, n_bytes=n_bytes, **rates)
        yield f"{form}, in pieces of {longest_s * 1e3:.2g} ms", plan, found


def figures(found: Simulation) -> dict[str, Any]:
    """Return a simulation in plain numbers."""
    told: dict[str, Any] = {"tasks": found.n_tasks, "seconds": found.seconds, "bytes": found.n_bytes}
    for curve in found.curves:
        told[curve.dispatch.name] = {
            "dispatch": asdict(curve.dispatch),
            "work_s": curve.work_s,
            "path_s": curve.path_s,
            "rows": [
                asdict(row)
                | {"speedup": row.speedup, "guaranteed": curve.guaranteed(row.n_workers)}
                | {"at_most": curve.at_most(row.n_workers)}
                for row in curve.rows
            ],
        }
    return told


def verdict(found: Simulation, plain: Simulation) -> str:
    """Return whether native dispatch reaches what is wanted, and what that is beside one worker of the first form."""
    curve, first = found.curve("native"), plain.curve("native")
    rows = {row.n_workers: row for row in curve.rows}
    told = [
        f"{n} workers: {rows[n].speedup:.1f} of {least:g} wanted ({rows[n].binds} bind), "
        f"{first.work_s / rows[n].makespan_s:.1f} times one worker of the first form"
        for n, least in WANTED.items()
        if n in rows
    ]
    return "native dispatch, " + "; ".join(told)


def main() -> None:
    args = arguments()
    if args.validate:
        counts = sorted({1, *(args.workers or range(2, available_cpus() + 1))})
        report: dict[str, Any] = {"environment": environment(max(counts)), "validation": {}}
        for name in args.presets:
            report["validation"][name] = validate(PRESETS[name], counts, args.repetitions)
            show_validation(name, report["validation"][name])
    else:
        settings = [replace(REPORTED[0], width=width) for width in args.widths] if args.widths else REPORTED
        report = {"environment": environment(1), "networks": []}
        best: Simulation | None = None
        for setting in settings:
            forms, best, plain = {}, None, None
            for form in args.forms:
                for name, plan, found in simulated(setting, form, args):
                    plain = plain or found
                    forms[name] = {"plan": plan, **figures(found), "verdict": verdict(found, plain)}
                    title = f"{setting.net} kernel {setting.kernel} width {setting.width}, {name}"
                    print(f"\n{title}\n{found}\n{forms[name]['verdict']}", flush=True)
                    best = found if best is None or reached(found) > reached(best) else best
            report["networks"].append({"setting": asdict(setting), "forms": forms})
        if args.picture and best is not None:
            best.plot(args.picture)
    if args.json:
        write_json(args.json, report)


def reached(found: Simulation) -> float:
    """Return the best speedup with native dispatch."""
    return max(row.speedup for row in found.curve("native").rows)


if __name__ == "__main__":
    main()
