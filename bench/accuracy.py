"""Time to accuracy: the same network from the same weights on the same patches, ours and PyTorch's, in one run.

    python bench/accuracy.py --data isbi --image train-volume.tif --label train-labels.tif --updates 300 --json FILE
    python bench/accuracy.py --data fibsem --image train-image.h5:/stack --label train-gt.lzf.h5:/stack --updates 300
    python bench/accuracy.py --data phantom --updates 40        # made up, anywhere

Both sides take turns of ``--every`` updates. Samples are drawn before a turn, and the loss on held-out patches is taken
after it: neither counts as time. PyTorch runs in the fastest form of `Model.to_torch` (a short trial before), with as
many threads as our workers. Dropout has rate 0, and both use plain SGD with momentum. If the losses of the first
updates differ the run stops. The times are those at which each reaches PyTorch's final validation loss.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_cases import CASES, WANTED, Case, make_case
from accuracy_sides import Ours, Side, Theirs, fastest_form, forms_of
from measure import environment, write_json

import znn_dask as znn
from znn_dask.errors import ZnnError
from znn_dask.train.samples import Sample

FIRST, TOLERANCE = 5, 1e-3  # updates whose losses must agree, relatively; later on rounding grows
OURS, TORCH = "znn-dask", "PyTorch"


@dataclass
class Curve:
    """What was recorded of a side.

    Attributes
    ----------
    losses : list of float
        Of every update, before it.
    updates, seconds : list
        Made and spent at every validation.
    validation : list of list of float
        The loss of every held-out sample.
    """

    losses: list[float] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)

    @property
    def means(self) -> list[float]:
        return [statistics.fmean(losses) for losses in self.validation]

    def when(self, level: float) -> float | None:
        """Return the seconds after which the validation loss was first at a level, between two points by a line."""
        means = self.means
        for (loss, start), (after, end) in pairwise(zip(means, self.seconds, strict=True)):
            if after <= level:
                return start + (end - start) * (loss - level) / (loss - after) if loss > level else start
        return None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(CASES), required=True)
    parser.add_argument("--image", help="volume, as `train` takes it")
    parser.add_argument("--label", help="labels of it")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="updates of a turn, after which the loss is validated")
    parser.add_argument("--patches", type=int, default=8, help="held-out patches")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--pause", type=float, default=0.5, help="seconds before each turn: waiting threads fall asleep"
    )
    parser.add_argument("--form", help="of PyTorch, such as 'fragments channels-last'; default: the fastest")
    parser.add_argument("--compile", action="store_true", help="try torch.compile too, which takes minutes")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the configuration")
    parser.add_argument("--json", help="write the report here, and the picture beside it")
    args = parser.parse_args()
    if args.data != "phantom" and not (args.image and args.label):
        parser.error("--image and --label name the volume")
    if min(args.updates, args.every, args.patches, args.workers) < 1:
        parser.error("--updates, --every, --patches and --workers are at least 1")
    return args


def make_theirs(args: argparse.Namespace, case: Case) -> tuple[Theirs, dict[str, Any]]:
    """Return PyTorch's side in its fastest form, and what the trial found."""
    try:
        import torch
    except ImportError:
        sys.exit("PyTorch is absent: there is nothing to compare with. pip install 'znn-dask[torch]'")
    torch.set_num_threads(args.workers)
    module, training, optimizer = case.model.to_torch(), case.config.training, case.model.optimizer
    assert isinstance(optimizer, znn.SGD)  # in every case

    def make(form: str) -> Theirs:
        return Theirs(torch, case.net, module, form, str(training.loss), optimizer)

    forms = [args.form] if args.form else forms_of(case.net, args.compile)
    print("an update of PyTorch's forms:")
    form, seconds = fastest_form(make, forms, case.samples.sample(0))
    return make(form), {"form": form, "forms_s": seconds}


def race(sides: dict[str, Side], case: Case, args: argparse.Namespace) -> dict[str, Curve]:
    """Let the sides take turns, and return what was recorded."""
    curves = {name: Curve() for name in sides}
    spent = dict.fromkeys(sides, 0.0)
    for name, side in sides.items():
        _validate(curves[name], side, case, 0, 0.0)
    for first in range(0, args.updates, args.every):
        last = min(first + args.every, args.updates)
        samples = [case.samples.sample(number) for number in range(first, last)]
        for name, side in sides.items():
            time.sleep(args.pause)
            start = time.perf_counter()
            curves[name].losses += side.train(samples)
            spent[name] += time.perf_counter() - start
        if first == 0:
            check_first(curves)
        for name, side in sides.items():
            _validate(curves[name], side, case, last, spent[name])
        told = "   ".join(f"{name} {spent[name]:8.1f} s {curves[name].means[-1]:.5f}" for name in sides)
        print(f"{last:6d} updates   {told}", flush=True)
    return curves


def _validate(curve: Curve, side: Side, case: Case, updates: int, seconds: float) -> None:
    curve.updates.append(updates)
    curve.seconds.append(seconds)
    loss = str(case.config.training.loss)
    curve.validation.append([loss_of(loss, side.outputs(s.image), s) for s in case.held_out])


def loss_of(loss: str, output: np.ndarray, sample: Sample) -> float:
    """Return the loss of an output in double precision, the same for both sides."""
    target = np.asarray(sample.target)
    z, y, x = target.shape[-3:]
    values = output[..., :z, :y, :x].astype(np.float64)
    if loss == "softmax":
        total = np.logaddexp.reduce(values, axis=1, keepdims=True)
        each = total - np.take_along_axis(values, target.astype(np.int64), axis=1)
    else:
        each = np.logaddexp(0, values) - values * target
    return float((each if sample.weight is None else each * sample.weight).mean())


def first_difference(curves: dict[str, Curve]) -> float:
    """Return how far the losses of the first updates differ, relatively."""
    pairs = zip(curves[OURS].losses[:FIRST], curves[TORCH].losses[:FIRST], strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)


def check_first(curves: dict[str, Curve]) -> None:
    """Stop if the first updates differ by more than rounding."""
    worst = first_difference(curves)
    print(f"losses of the first {min(FIRST, len(curves[OURS].losses))} updates agree within {worst:.1e}")
    if not worst < TOLERANCE:
        found = ", ".join(f"{a:.6f} {b:.6f}" for a, b in zip(*(c.losses[:FIRST] for c in curves.values()), strict=True))
        sys.exit(f"the two sides do not train the same network: {found}")


def verdict(curves: dict[str, Curve], wanted: float | None) -> dict[str, Any]:
    """Return how the curves compare, and who was where when."""
    ours, theirs = curves[OURS], curves[TORCH]
    # Noise is what another choice of held-out patches would change.
    noise = [statistics.stdev(v) / len(v) ** 0.5 if len(v) > 1 else 0.0 for v in theirs.validation]
    apart = [abs(a - b) for a, b in zip(ours.means, theirs.means, strict=True)]
    level = theirs.means[-1]
    times = {OURS: ours.when(level), TORCH: theirs.when(level)}
    by_noise = times[OURS] is None and apart[-1] <= noise[-1]
    if by_noise:
        times[OURS] = ours.seconds[-1]
    mine_s, reached_s = times[OURS], times[TORCH]
    ratio = reached_s / mine_s if mine_s and reached_s else None
    turns = zip(pairwise(ours.seconds), pairwise(theirs.seconds), strict=True)
    return {
        "first_updates_relative": first_difference(curves),
        "validation_apart": apart,
        "validation_noise": noise,
        "agree": all(a <= n for a, n in zip(apart[1:], noise[1:], strict=True)),
        "level": level,
        "seconds_to_level": times,
        "reached_within_noise_only": by_noise,
        "ratio": ratio,
        "ratio_per_update": statistics.median((d - c) / (b - a) for (a, b), (c, d) in turns),
        "wanted": wanted,
    }


def say(found: dict[str, Any]) -> None:
    """Print a verdict."""
    apart, noise = found["validation_apart"], found["validation_noise"]
    worst = max(range(len(apart)), key=apart.__getitem__)
    words = "they agree within noise" if found["agree"] else "they do NOT agree within noise"
    print(f"validation losses differ by {apart[worst]:.2e} at most (standard error there {noise[worst]:.2e}): {words}")
    times = found["seconds_to_level"]
    told = ", ".join(f"{name} {'never' if s is None else f'{s:.1f} s'}" for name, s in times.items())
    print(f"validation loss {found['level']:.5f} was reached by: {told}")
    if found["reached_within_noise_only"]:
        print("ours ended above it, by less than noise: the time is that of its end")
    if found["ratio"] is not None:
        wish = "" if found["wanted"] is None else f" (wanted: {found['wanted']:.0f})"
        print(f"PyTorch's time over ours: {found['ratio']:.2f}{wish}; of an update {found['ratio_per_update']:.2f}")


def draw(curves: dict[str, Curve], found: dict[str, Any], path: Path) -> None:
    """Draw losses by update and by time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for colour, (name, curve) in zip(("tab:blue", "tab:orange"), curves.items(), strict=True):
        left.plot(range(1, len(curve.losses) + 1), curve.losses, color=colour, alpha=0.3, linewidth=0.8)
        style = "-" if name == OURS else "--"
        left.plot(curve.updates, curve.means, style, color=colour, marker=".", label=name)
        right.plot(curve.seconds, curve.means, style, color=colour, marker=".", label=name)
        if found["seconds_to_level"][name] is not None:
            right.axvline(found["seconds_to_level"][name], color=colour, linewidth=0.8)
    right.axhline(found["level"], color="gray", linewidth=0.8)
    left.set(xlabel="updates", ylabel="loss (pale: of updates; points: held out)")
    right.set(xlabel="seconds of training")
    left.legend()
    if found["ratio"] is not None:
        right.set_title(f"PyTorch's time over ours: {found['ratio']:.2f}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    overrides: Sequence[str] = [f"log.test_patches={args.patches}", *args.set]
    case = make_case(args.data, args.image, args.label, args.workers, overrides)
    prepare_s = time.perf_counter() - start
    print(case.net.table(case.model.output_size), case.model.plan, sep="\n\n", end="\n\n")
    theirs, tried = make_theirs(args, case)
    print(f"PyTorch's form: {tried['form']}; dropout has rate 0 on both sides", flush=True)
    curves = race({OURS: Ours(case.model), TORCH: theirs}, case, args)
    found = verdict(curves, WANTED.get(args.data))
    say(found)
    if args.json:
        path = Path(args.json)
        report = {"data": args.data, "overrides": list(args.set), "updates": args.updates, "every": args.every}
        report |= {"dropout": 0.0, "plan": str(case.model.plan), "prepare_s": prepare_s, "torch": tried, **found}
        report["curves"] = {name: vars(curve) for name, curve in curves.items()}
        write_json(path, {**report, "environment": environment(args.workers)})
        draw(curves, found, path.with_suffix(".png"))
    case.model.close()


if __name__ == "__main__":
    try:
        main(arguments())
    except ZnnError as error:
        sys.exit(f"accuracy.py: {error}")
