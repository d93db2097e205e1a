"""What augmentation adds to a step: all kinds on, beside one sample that is used again and again.

    python bench/augmentation.py --json bench/results/augmentation.json

Samples are provided on a thread of their own while the workers compute. The runs take turns; "given" are augmented
samples that were made before, so that what other data costs is told apart. A made-up tissue of bytes is the volume.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import accuracy_cases
import numpy as np
from measure import environment, ratio, summary, write_json

import znn_dask as znn
from znn_dask.model.losses import as_losses
from znn_dask.train import augment as kinds
from znn_dask.train.config_file import make_config
from znn_dask.train.loop import as_step
from znn_dask.train.phantom import make_phantom
from znn_dask.train.preprocess import Prepared
from znn_dask.train.resolve import make_network
from znn_dask.train.samples import Samples
from znn_dask.train.targets import Labels, TargetSpec
from znn_dask.train.volumes import Volume

WANTED = 1.05  # times a step with a fixed sample
TIMES = ("times_fixed", "cpu_times_fixed")
# By a case of `accuracy_cases.py` and the output voxels.
CASES = {
    "vd2d": ("isbi", (1, 96, 96)),
    "fibsem": ("fibsem", (16, 64, 64)),
    "fibsem-16": ("fibsem", (16, 16, 16)),
    "fibsem-32": ("fibsem", (32, 32, 32)),
    "fibsem-48": ("fibsem", (16, 48, 48)),
}
SHAPES = {True: (8, 512, 512), False: (64, 256, 256)}  # of the tissue, by whether it is seen section by section


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", default=list(CASES), choices=list(CASES), help="network and output voxels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one run of a turn, about")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", help="write the report here")
    return parser.parse_args()


def everything(flat: bool) -> list[kinds.Augmentation]:
    """Return all augmentations, each of them applied to every patch."""
    more: dict[str, dict[str, Any]] = {
        "elastic": {"amplitude_z": 0.0 if flat else 1.0},
        "rotate": {"tilt": 0.0 if flat else 10.0, "zoom": 0.1},
    }
    made: dict[str, Any] = kinds.KINDS
    return [kind(probability=1, **more.get(name, {})) for name, kind in made.items()]


def samples_of(net: znn.Network, size: tuple[int, int, int]) -> Samples:
    """Return augmented samples of a made-up tissue."""
    flat = size[0] == 1
    tissue = make_phantom(SHAPES[flat], seed=0)
    image = np.clip(tissue.image * 128, 0, 255).astype(np.uint8)
    z, y, x = ((0, n) for n in image.shape)
    whole = z, y, x
    labels = Labels(tissue.ids, TargetSpec("boundary", in_plane=flat))
    volume = Volume(Prepared(image[np.newaxis], "section" if flat else "volume"), labels, whole, whole, "tissue")
    return Samples([volume], net.field_of_view, size, flip="zyx", transpose=True, augment=everything(flat))


def measure(args: argparse.Namespace, case: str) -> dict[str, Any]:
    """Return the report of one case."""
    name, size = CASES[case]
    config = make_config(accuracy_cases.CASES[name])
    net = make_network(config.network)
    loss = as_losses(config.training.loss, net)
    samples = samples_of(net, size)

    def sample(number: int) -> tuple[Any, ...]:
        return as_step(samples.sample(number), loss)

    fixed = sample(0)
    with znn.Model(net, output_size=size, loss=loss, num_workers=args.workers) as model:

        def run(steps: Iterable[tuple[Any, ...]], count: int) -> tuple[float, float]:
            start, cpu = time.perf_counter(), time.process_time()
            for _ in model.steps(steps):
                pass
            return (time.perf_counter() - start) / count, (time.process_time() - cpu) / count

        run([fixed] * 2, 2)
        count = max(3, int(args.seconds / run([fixed] * 3, 3)[0]))
        given = [sample(number) for number in range(count)]
        ways: dict[str, Callable[[], Iterable[tuple[Any, ...]]]] = {
            "fixed": lambda: itertools.repeat(fixed, count),
            "given": lambda: given,
            "augmented": lambda: map(sample, range(count)),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for turn in range(args.turns):
            # Whoever goes first differs, as the machine may become slower or faster within a turn.
            for name in list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]:
                seconds[name].append(run(ways[name](), count))
    start = time.process_time()
    for number in range(count):
        sample(number)
    alone = (time.process_time() - start) / count
    report: dict[str, Any] = {"case": case, "steps_of_a_run": count, "sample_alone_s": alone}
    wall, cpu = ({name: [pair[k] for pair in found] for name, found in seconds.items()} for k in (0, 1))
    for name in ways:
        report[name] = {"wall": summary(wall[name]), "cpu": summary(cpu[name]), "seconds": seconds[name]}
        report[name] |= {k: ratio(of[name], of["fixed"]) for k, of in zip(TIMES, (wall, cpu), strict=True)}
        took, times, cpu_times = (1e3 * report[name]["wall"]["median_s"], *(report[name][k] for k in TIMES))
        print(f"{case:10} {name:10} {took:7.1f} ms a step, {times:.3f} of fixed; CPU {cpu_times:.3f}", flush=True)
    print(f"{case:10} a sample alone takes {1e3 * alone:.1f} ms; wanted: augmented at most {WANTED} of fixed")
    return report


def main() -> None:
    args = arguments()
    reports = [measure(args, case) for case in args.case]
    if args.json:
        write_json(args.json, {"environment": environment(args.workers), "cases": reports})


if __name__ == "__main__":
    main()
