"""One training update, beside PyTorch on the same machine, in one run.

    python bench/step.py --net CTMCTMCTCT --width 40 --kernel 5 --output-size 12 --workers 2 --against torch

Loss and every gradient are compared before anything is timed. The report gives the ratio to each form of the peer
(median over alternating turns), and every repetition goes into the JSON file.
"""

import argparse
import importlib.util
import sys
from typing import Any

import numpy as np
from measure import alternate, environment, ratio, summary, write_json
from torch_peer import LAYOUTS, TorchNet

import znn_dask as znn

RATE, MOMENTUM = 1e-6, 0.9  # small, so that the parameters stay in range however long it runs
TOLERANCE = 1e-3  # of the largest value: both sides are float32 and sum in other orders


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="CTMCTMCTCT", help="letters, see znn_dask.Network.parse")
    parser.add_argument("--ndim", type=int, default=3, choices=(2, 3))
    parser.add_argument("--width", type=int, default=40, help="maps of every convolution but the last")
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--out-channels", type=int, help="maps of the last convolution; default: the width")
    parser.add_argument("--output-size", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--convolution", default="auto", choices=("auto", "fft", "direct", "fft-stored"))
    parser.add_argument("--against", choices=("torch",), help="the peer")
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS, help="forms of the peer")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", help="write the report here")
    return parser.parse_args()


def make(args: argparse.Namespace) -> tuple[znn.Model, np.ndarray, np.ndarray]:
    net = znn.Network.parse(
        args.net,
        width=args.width,
        kernel=args.kernel,
        window=args.window,
        ndim=args.ndim,
        in_channels=1,
        out_channels=args.out_channels or args.width,
    )
    model = znn.Model(
        net,
        output_size=args.output_size,
        optimizer=znn.SGD(RATE, MOMENTUM),
        num_workers=args.workers,
        convolution=args.convolution,
        batch=args.batch,
    )
    rng = np.random.default_rng(0)
    image = rng.standard_normal((args.batch, 1, *model.input_size), dtype=np.float32)
    target = rng.standard_normal((args.batch, args.out_channels or args.width, *model.output_size), dtype=np.float32)
    return model, image, target


def check(model: znn.Model, peer: TorchNet, image: np.ndarray, target: np.ndarray, layout: str) -> float:
    """Return the largest difference in loss and gradients, relative to the largest value; stop if it is too large."""
    loss, gradients = model.gradients(image, target)
    other, theirs = peer.gradients(image, target)
    errors = [abs(loss - other) / abs(other)]
    errors += [np.abs(gradients[n] - theirs[n]).max() / np.abs(theirs[n]).max() for n in gradients]
    if not max(errors) < TOLERANCE:
        sys.exit(f"the answers differ from PyTorch's ({layout}) by {max(errors):.3g}: nothing was timed")
    return float(max(errors))


def main() -> None:
    args = arguments()
    model, image, target = make(args)
    print(model.net, model.plan, sep="\n\n", end="\n\n")
    candidates: dict[str, Any] = {"znn-dask": lambda: model.step(image, target)}
    report: dict[str, Any] = {
        "arguments": vars(args),
        "environment": environment(args.workers),
        "differences": {},
    }
    if args.against == "torch" and importlib.util.find_spec("torch") is None:
        print("PyTorch is absent: pip install torch==2.13.0")
        report["peer"] = "absent"
    elif args.against == "torch":
        import torch

        torch.set_num_threads(args.workers)
        for layout in args.layouts:
            peer = TorchNet(torch, model.net, model.parameters, layout, RATE, MOMENTUM)
            report["differences"][layout] = check(model, peer, image, target, layout)
            print(f"equal to PyTorch ({layout}) within {report['differences'][layout]:.1e}")
            candidates[f"torch {layout}"] = lambda peer=peer: peer.step(image, target)
    times = alternate(candidates, args.repetitions)
    report["seconds"] = times
    report["summary"] = {name: summary(seconds) for name, seconds in times.items()}
    report["ratios"] = {name: ratio(s, times["znn-dask"]) for name, s in times.items() if name != "znn-dask"}
    for name, values in report["summary"].items():
        times_ours = f"{report['ratios'][name]:.2f} times ours" if name in report["ratios"] else ""
        print(f"{name:32} {values['median_s'] * 1e3:9.1f} ms  (min {values['min_s'] * 1e3:.1f}) {times_ours}")
    if report["ratios"]:
        best = min(report["ratios"], key=report["ratios"].get)
        report["best_peer"] = best
        print(f"best peer: {best}, {report['ratios'][best]:.2f} times our time")
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
