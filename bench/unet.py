"""One training update of a U-Net, beside the same network in PyTorch, in one run.

    python bench/unet.py                          # zoo.unet3d, 16-32-64 maps, a patch of 64^3
    python bench/unet.py --norm instance --compile
    python bench/unet.py --net rsunet --size 18,160,160

The peer is `Model.to_torch` of the same model: contiguous and channels-last, with ``--compile`` each under
`torch.compile` too. Loss, and the norm of all gradients, are compared before anything is timed. Turns alternate.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import alternate, environment, ratio, summary, write_json

import znn_dask as znn

RATE, MOMENTUM = 1e-5, 0.9
OURS, TOLERANCE = "znn-dask", 1e-3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="unet3d", help="of the zoo")
    parser.add_argument("--size", default="64,64,64", help="z,y,x of the output")
    parser.add_argument("--norm", help="batch, instance or group")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also under torch.compile, which takes minutes")
    parser.add_argument("--speedup", action="store_true", help="also ours with one worker")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds before each repetition")
    parser.add_argument("--json", help="write the report here")
    return parser.parse_args()


def model_of(args: argparse.Namespace, net: znn.Network, size: tuple[int, ...], workers: int) -> znn.Model:
    """Return the model that is measured."""
    return znn.Model(net, size, optimizer=znn.SGD(RATE, MOMENTUM), num_workers=workers)


def update_of(model: znn.Model, x: Any, target: Any) -> Callable[[], None]:
    """Return one whole update."""

    def update() -> None:
        model.step(x, target)
        model.flush()

    return update


def torch_forms(
    args: argparse.Namespace, model: znn.Model, x: Any, target: Any
) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """Return an update of every form of PyTorch, and how far its answers are from ours."""
    import torch

    torch.set_num_threads(args.workers)
    loss, gradients = model.gradients(x, target)
    forms: dict[str, Callable[[], None]] = {}
    errors = {}
    for name, memory in (("contiguous", torch.contiguous_format), ("channels-last", torch.channels_last_3d)):
        for compiled in (False, True) if args.compile else (False,):
            module = model.to_torch().train().to(memory_format=memory)
            image = torch.tensor(x)[None].to(memory_format=memory)
            goal = torch.tensor(target)[None]
            run = torch.compile(module) if compiled else module
            optimizer = torch.optim.SGD(module.parameters(), RATE, MOMENTUM)

            def update(run: Any = run, optimizer: Any = optimizer, image: Any = image, goal: Any = goal) -> Any:
                optimizer.zero_grad()
                value = torch.nn.functional.mse_loss(run(image), goal)
                value.backward()
                optimizer.step()
                return value

            form = f"torch {name}{' compiled' if compiled else ''}"
            value = torch.nn.functional.mse_loss(run(image), goal)
            value.backward()
            norm = float(np.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in module.parameters())))
            ours = float(np.sqrt(sum(float((d.astype(np.float64) ** 2).sum()) for d in gradients.values())))
            errors[form] = max(abs(value.item() - loss) / abs(loss), abs(norm - ours) / ours)
            if not errors[form] < TOLERANCE:
                sys.exit(f"the answers of {form} differ by {errors[form]:.3g}: nothing was timed")
            forms[form] = update
    return forms, errors


def main() -> None:
    args = arguments()
    z, y, x = (int(n) for n in args.size.split(","))
    options = {"norm": args.norm} if args.norm else {}
    net = getattr(znn.zoo, args.net)(**options)
    model = model_of(args, net, (z, y, x), args.workers)
    print(net.table((z, y, x)), model.plan, sep="\n\n", end="\n\n")
    rng = np.random.default_rng(0)
    image, target = (
        rng.standard_normal((channels, z, y, x)).astype(np.float32)
        for channels in (*net.inputs.values(), *net.outputs.values())
    )
    candidates = {OURS: update_of(model, image, target)}
    forms, errors = torch_forms(args, model, image, target)
    candidates |= forms
    if args.speedup:
        candidates["znn-dask, 1 worker"] = update_of(model_of(args, net, (z, y, x), 1), image, target)
    times = alternate(candidates, args.repetitions, warmup=1, pause_s=args.pause)
    ratios = {name: ratio(seconds, times[OURS]) for name, seconds in times.items() if name != OURS}
    for name, seconds in times.items():
        note = f"{ratios[name]:.2f} times ours" if name in ratios else ""
        print(f"{name:32} {summary(seconds)['median_s'] * 1e3:9.1f} ms  {note}")
    best = min((name for name in ratios if name.startswith("torch")), key=ratios.__getitem__)
    print(f"best peer: {best}, {ratios[best]:.2f} times our time")
    if args.json:
        report = {"net": args.net, "size": [z, y, x], "norm": args.norm, "plan": str(model.plan), "differences": errors}
        report |= {"seconds": times, "ratios": ratios, "environment": environment(args.workers)}
        write_json(args.json, report)


if __name__ == "__main__":
    main()
