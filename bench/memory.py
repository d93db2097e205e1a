"""Peak memory of a process that trains, and page faults of its steps, beside PyTorch's.

    python bench/memory.py --json bench/results/memory.json

Every figure is of a fresh process: what it holds after import alone; the most it ever held once it has made some
updates; the minor page faults of each of the steps after that. Ours runs once before it is measured, so that what the
autotuner keeps on disk is there. PyTorch runs in the form that was the fastest: `bench/step.py --preset all` says which
in ``results/``; else each form is tried first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import presets
from measure import environment, write_json
from peers import CHILD, try_all, write_sample
from presets import PRESETS
from rss import train

RESULTS = Path(__file__).resolve().parent / "results"
WANTED = {"k3-w40": 1.0, "k5-w40": 1.5, "k7-w40": 1.5}  # at most so many times PyTorch's memory
MOST_FAULTS = 100  # of one of our steps
IMPORT = "import resource, sys; import {}; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def ours(preset: str, workers: int, updates: int, steps: int, limit_s: int) -> None:
    """Train in this process and print what it took."""
    setting = PRESETS[preset]
    model = presets.model(setting, workers)
    image, target = presets.sample(setting, model)

    def step() -> None:
        model.step(image, target)
        model.flush()

    print(json.dumps(train(step, updates, steps, limit_s)))


def output(command: list[str]) -> str:
    """Return the last line that a process prints; its messages are shown if it fails."""
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def after_import(module: str) -> float:
    """Return the MiB that a process holds at most to import a module."""
    unit = 1 if sys.platform == "darwin" else 1024
    return int(output(["-c", IMPORT.format(module)])) * unit / 2**20


def best_form(preset: str, sample: Path, layers: list[dict[str, Any]], workers: int, limit_s: float) -> str:
    """Return PyTorch's fastest form: of the recorded benchmark if there is one, else after trying each."""
    recorded = RESULTS / f"step-{preset}.json"
    if recorded.exists() and (best := json.loads(recorded.read_text()).get("best_peer")):
        return str(best).removeprefix("torch ")
    print(f"{preset}: trying the forms of PyTorch")
    tried = try_all(layers, sample, workers, limit_s, 4 * limit_s)
    able = {form: t.seconds for form, t in tried.items() if t.seconds is not None}
    if not able:
        raise SystemExit("no form of PyTorch runs")
    return min(able, key=lambda form: able[form])


def measure(args: argparse.Namespace, preset: str) -> dict[str, Any]:
    """Return the figures of one network."""
    numbers = [str(args.updates), str(args.steps), str(args.limit)]
    own = [__file__, "--child", preset, "--workers", str(args.workers)]
    own += ["--updates", numbers[0], "--steps", numbers[1], "--limit", numbers[2]]
    output([*own[:-6], "--updates", "1", "--steps", "0", "--limit", "0"])
    report: dict[str, Any] = {"ours": json.loads(output(own))}
    if args.no_torch:
        return report
    setting = PRESETS[preset]
    layers, model = presets.layers(presets.network(setting)), presets.model(setting, args.workers)
    image, target = presets.sample(setting, model)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.npz"
        write_sample(sample, layers, image, target, model.parameters, *model.gradients(image, target))
        form = args.form or best_form(preset, sample, layers, args.workers, args.form_timeout)
        command = [str(CHILD), "memory", str(sample), form, str(args.workers), *numbers]
        report["torch"] = {"form": form, **json.loads(output(command))}
    report["ratio"] = report["ours"]["peak_mib"] / report["torch"]["peak_mib"]
    return report


def verdict(value: float, most: float) -> str:
    return "ok" if value <= most else "above"


def show(preset: str, report: dict[str, Any]) -> None:
    """Print the figures of one network."""
    own, peer = report["ours"], report.get("torch")
    report["faults_verdict"] = verdict(own["faults_per_step"], MOST_FAULTS)
    print(
        f"{preset}: ours {own['peak_mib']:.0f} MiB, {own['faults_per_step']:.1f} minor faults a step over "
        f"{own['steps']} steps ({report['faults_verdict']})"
    )
    if peer:
        wanted = WANTED.get(preset)
        report["memory_verdict"] = verdict(report["ratio"], wanted) if wanted else ""
        wish = f" (at most {wanted} wanted: {report['memory_verdict']})" if wanted else ""
        print(
            f"  PyTorch, {peer['form']}: {peer['peak_mib']:.0f} MiB, {peer['faults_per_step']:.0f} faults a step; "
            f"ours is {report['ratio']:.2f} times its memory{wish}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(WANTED), choices=PRESETS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--updates", type=int, default=5, help="before the peak is read")
    parser.add_argument("--steps", type=int, default=50, help="whose page faults are counted")
    parser.add_argument("--limit", type=int, default=30, help="seconds for those steps; at least 5 are made")
    parser.add_argument("--form", help="of PyTorch, instead of the fastest")
    parser.add_argument("--form-timeout", type=float, default=30)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--child", choices=PRESETS, help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write the report here")
    args = parser.parse_args()
    if args.child:
        ours(args.child, args.workers, args.updates, args.steps, args.limit)
        return
    modules = ["znn_dask"] if args.no_torch else ["znn_dask", "torch"]
    held = {module: after_import(module) for module in modules}
    print("after import alone: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in held.items()))
    report: dict[str, Any] = {"environment": environment(args.workers), "import_mib": held, "networks": {}}
    for preset in args.presets:
        found = report["networks"][preset] = measure(args, preset)
        show(preset, found)
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
