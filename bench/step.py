"""One training update, beside PyTorch on the same machine, in one run.

    python bench/step.py --preset k5-w40 --against torch --workers 2 --speedup
    python bench/step.py --preset all --against torch --speedup    # every network of presets.py, into bench/results/
    python bench/step.py --net CTMCTMCTCT --width 8 --kernel 5 --against torch

Loss and every gradient of every form are compared before anything is timed. Each form of PyTorch is first tried in a
process of its own, with a time limit; those within reach of the best then alternate with ours, with "fft-stored" (ZNN
as published) and with ours on one worker. The report gives the ratios (medians over turns) and the floor of `floor.py`.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import presets
from floor import floor
from measure import alternate, environment, once, ratio, summary, write_json
from peers import NO_TIME, TOLERANCE, affordable, difference, try_all, write_sample
from presets import MOMENTUM, PRESETS, RATE, Setting
from torch_peer import TorchNet

import znn_dask as znn

RESULTS = Path(__file__).resolve().parent / "results"
OURS, STORED, ALONE = "znn-dask", "znn-dask fft-stored", "znn-dask, 1 worker"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=(*PRESETS, "all"), help="a network by name; the options below change it")
    presets.add_arguments(parser)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--convolution", default="auto", choices=("auto", "fft", "direct", "winograd", "fft-stored"))
    parser.add_argument("--against", choices=("torch",), help="the peer")
    parser.add_argument("--speedup", action="store_true", help="also time ours with one worker")
    parser.add_argument("--no-stored", action="store_true", help='leave out our "fft-stored"')
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds before each repetition")
    parser.add_argument(
        "--form-timeout", type=float, default=90, help="seconds to try a form of PyTorch; 30 more to compile"
    )
    parser.add_argument("--budget", type=float, default=600, help="seconds for one network, roughly")
    parser.add_argument("--json", help="write the report here")
    return parser.parse_args()


def check(name: str, answer: Any, reference: Any) -> float:
    """Return the largest difference in loss and gradients to a reference; stop if it is too large."""
    (loss, gradients), (other, theirs) = answer, reference
    error = float(max(abs(loss - other) / abs(other), difference(gradients, theirs)))
    if not error < TOLERANCE:
        sys.exit(
            f"the answers of {name} differ by {error:.3g}: nothing was timed. Where a maximum is decided by rounding, "
            "gradients may differ; with another sample (--seed) they must not"
        )
    return error


def try_torch(
    args: argparse.Namespace, net: znn.Network, sample: tuple[Any, ...], budget_s: float
) -> tuple[dict[str, Any], Any]:
    """Return what came of every form of PyTorch, and the module; nothing and None where it is absent."""
    if args.against != "torch":
        return {}, None
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is absent: pip install torch==2.13.0")
        return {}, None
    import torch

    torch.set_num_threads(args.workers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.npz"
        layers = presets.layers(net)
        write_sample(path, layers, *sample)
        return try_all(layers, path, args.workers, args.form_timeout, budget_s), torch


def measure(args: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Return the report of one network."""
    start = time.monotonic()
    net = presets.network(setting)
    model = presets.model(setting, args.workers, args.convolution, net)
    report: dict[str, Any] = {"setting": asdict(setting), "plan": str(model.plan), "construction_s": _since(start)}
    print(net, model.plan, sep="\n\n", end="\n\n")
    image, target = presets.sample(setting, model)
    answer = model.gradients(image, target)
    parameters = model.parameters
    candidates: dict[str, Callable[[], Any]] = {OURS: presets.update_of(model, image, target)}
    differences = {}
    extra = {STORED: (args.workers, "fft-stored")} if not args.no_stored else {}
    extra |= {ALONE: (1, args.convolution)} if args.speedup and args.workers > 1 else {}
    for name, (workers, convolution) in extra.items():
        other = presets.model(setting, workers, convolution, net)
        other.load_parameters(parameters)
        differences[name] = check(name, other.gradients(image, target), answer)
        candidates[name] = presets.update_of(other, image, target)
    others = [min(once(run), once(run)) for run in candidates.values()]
    spent = _since(start) + sum(others) * (args.repetitions + 1)
    tried, torch = try_torch(args, net, (image, target, parameters, *answer), 0.7 * (args.budget - spent))
    kept, dropped = affordable(tried, others, args.repetitions, args.budget - _since(start))
    for form in kept:
        peer = TorchNet(torch, presets.layers(net), parameters, form, RATE, MOMENTUM)
        differences[f"torch {form}"] = check(f"torch {form}", peer.gradients(image, target), answer)
        candidates[f"torch {form}"] = partial(peer.step, image, target)
    notes = {form: t.note for form, t in tried.items() if t.note} | dropped
    report |= {"differences": differences, "tried": {form: asdict(t) for form, t in tried.items()}, "left_out": notes}
    report["floor"] = floor(model, args.workers)
    report |= compare(alternate(candidates, args.repetitions, warmup=1, pause_s=args.pause), setting, notes)
    report["wall_s"] = _since(start)
    return report


def _since(start: float) -> float:
    return time.monotonic() - start


def compare(times: dict[str, list[float]], setting: Setting, notes: dict[str, str]) -> dict[str, Any]:
    """Return medians, ratios to ours, the best form of PyTorch and whether that is what is wanted."""
    report: dict[str, Any] = {"seconds": times, "summary": {name: summary(s) for name, s in times.items()}}
    ratios = report["ratios"] = {name: ratio(s, times[OURS]) for name, s in times.items() if name != OURS}
    peers = [name for name in ratios if name.startswith("torch")]
    if peers:
        best = report["best_peer"] = min(peers, key=ratios.__getitem__)
        report["times_best_peer"] = ratios[best]
        if setting.wanted is not None:
            report["verdict"] = "ok" if ratios[best] >= setting.wanted else "below"
        if any(NO_TIME in note for note in notes.values()):
            report["verdict"] = "incomplete: forms were not tried"
    if ALONE in ratios:
        report["speedup"] = ratios[ALONE]
    return report


def show(report: dict[str, Any]) -> None:
    """Print a report as a table."""
    for name, values in report["summary"].items():
        to_ours = f"{report['ratios'][name]:.2f} times ours" if name in report["ratios"] else ""
        print(f"{name:44} {values['median_s'] * 1e3:9.1f} ms  (min {values['min_s'] * 1e3:.1f}) {to_ours}")
    for form, note in report["left_out"].items():
        print(f"{'torch ' + form:44} {note}")
    about = report["floor"]
    ours = report["summary"][OURS]["median_s"]
    print(
        f"floor of the plan: {about['seconds'] * 1e3:.1f} ms; ours takes {ours / about['seconds']:.2f} times that "
        f"({about['arithmetic_s'] * 1e3:.1f} ms for {sum(about['gflop'].values()):.1f} GFLOP at "
        f"{about['peak_gflop_per_s']:.0f} GFLOP/s, {about['bytes_s'] * 1e3:.1f} ms for {about['gbytes']:.2f} GB at "
        f"{about['copy_gb_per_s']:.1f} GB/s)"
    )
    if "speedup" in report:
        print(f"all workers are {report['speedup']:.2f} times as fast as one")
    if "best_peer" in report:
        wanted = report["setting"]["wanted"]
        wish = f" ({wanted} wanted: {report['verdict']})" if wanted is not None else ""
        print(f"best peer: {report['best_peer']}, {report['times_best_peer']:.2f} times our time{wish}")


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Return reports as a table in Markdown; times are medians in milliseconds."""
    head = ("network", "ours", "best of PyTorch", "form", "ratio", "wanted", "", "fft-stored", "speed-up", "over floor")
    rows = [head, ("---",) * len(head)]
    for name, report in reports.items():
        medians = {key: values["median_s"] for key, values in report["summary"].items()}
        best = report.get("best_peer", "")
        wanted = report["setting"]["wanted"]
        rows.append(
            (
                name,
                f"{medians[OURS] * 1e3:.1f}",
                f"{medians[best] * 1e3:.1f}" if best else "-",
                best.removeprefix("torch "),
                f"{report['times_best_peer']:.2f}" if best else "-",
                f"{wanted}" if wanted is not None else "-",
                report.get("verdict", ""),
                f"{medians[STORED] * 1e3:.1f}" if STORED in medians else "-",
                f"{report['speedup']:.2f}" if "speedup" in report else "-",
                f"{medians[OURS] / report['floor']['seconds']:.2f}",
            )
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write_table(names: list[str]) -> None:
    """Write the table of the presets' reports that there are."""
    paths = {name: RESULTS / f"step-{name}.json" for name in names}
    reports = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    workers = {report["environment"]["workers"] for report in reports.values()}
    cpus = {report["environment"]["cpu"] for report in reports.values()}
    text = f"One update, medians in milliseconds; {', '.join(cpus)}, {', '.join(map(str, workers))} workers.\n\n"
    (RESULTS / "step.md").write_text(text + table(reports))


def main() -> None:
    args = arguments()
    names = list(PRESETS) if args.preset == "all" else [args.preset]
    for name in names:
        setting = presets.chosen(args, PRESETS.get(name, Setting()))
        if args.preset == "all":
            print(f"==== {name}", flush=True)
        report = {"arguments": vars(args), "environment": environment(args.workers), **measure(args, setting)}
        show(report)
        path = RESULTS / f"step-{name}.json" if args.preset == "all" else args.json
        if path:
            write_json(path, report)
    if args.preset == "all":
        write_table(names)


if __name__ == "__main__":
    main()
