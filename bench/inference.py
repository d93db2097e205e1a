"""Prediction of whole volumes: voxels a second, beside PyTorch on the same machine.

    python bench/inference.py --net n337 --width 40 --workers 2 --against torch --json bench/results/inference-n337.json
    python bench/inference.py --net all --width 40 --against torch

Ours computes the largest tile that fits the memory, as `znn-dask predict` does. PyTorch computes the same tile and
smaller ones, dilated and with fragments in the batch, contiguous and channels-last, each in a process of its own with a
time limit. Its best tile and form then takes turns with ours, and the ratio is the median of the turns. Every answer is
compared with ours before it is timed. Output is dense: one value for every voxel. ``--processes`` adds ours on several
processes at once.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import presets
from measure import environment, write_json
from torch_peer import LAYOUTS, TorchNet

import znn_dask as znn
from znn_dask.geometry import Triple, ceil_div
from znn_dask.model.memory import as_bytes
from znn_dask.model.tiling import fit_of, halved_patch, search_patch
from znn_dask.model.volumes import predictor_of, tile_bytes_of
from znn_dask.net import Dropout

NETS = ("n337", "n537", "n726", "n926", "vd2d")
WANTED = {"n337": 3.0, "n537": 6.0, "n726": 8.0, "n926": 8.0, "vd2d": 3.0}  # times PyTorch's best
TOLERANCE = 1e-3  # of the largest value
SMALLEST = 2
PAUSE_S = 0.2  # after PyTorch, whose threads wait actively for more work


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="n337", help=f"{', '.join(NETS)}, all, or letters for Network.parse")
    parser.add_argument("--width", type=int, default=40, help="maps; the published networks have 80")
    parser.add_argument("--kernel", type=int, default=3, help="of a network given by letters")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", default="4 GiB", help="most that a tile of ours may take")
    parser.add_argument(
        "--volume",
        help="output voxels to be cut into tiles, as Z,Y,X; 64,256,256, or 1,512,512 in 2D",
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--turns", type=int, default=7, help="of ours and PyTorch's best; 0 for no turns")
    parser.add_argument("--against", choices=("torch",), help="the peer")
    parser.add_argument("--tiles", type=int, default=3, help="tiles of PyTorch: ours, half of it, a quarter, ...")
    parser.add_argument("--forms", nargs="*", default=LAYOUTS, choices=LAYOUTS, help="of PyTorch; all unless given")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for one form and tile of PyTorch")
    parser.add_argument("--processes", type=int, nargs="*", default=[], help="also so many processes of one worker")
    parser.add_argument("--json", help="write the report here")
    parser.add_argument("--child", nargs=3, metavar=("SAMPLE", "FORM", "WORKERS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def network(name: str, width: int, kernel: int) -> znn.Network:
    """Return a network by name, or by letters."""
    if name not in NETS:
        return znn.Network.parse(name, width=width, kernel=kernel)
    if name != "vd2d":
        net: znn.Network = getattr(znn.zoo, name)(width=width)
        return net
    # Dropout does nothing in a prediction, and the peer has none.
    net = znn.zoo.vd2d()
    edges = [replace(e, op=Dropout(0.0)) if isinstance(e.op, Dropout) else e for e in net.edges.values()]
    return znn.Network(net.nodes.values(), edges, net.ndim)


def volume_of(args: argparse.Namespace, net: znn.Network) -> Triple:
    """Return the output voxels that were asked for."""
    z, y, x = map(int, (args.volume or ("1,512,512" if net.field_of_view[0] == 1 else "64,256,256")).split(","))
    return z, y, x


def best_tile(model: znn.Model, volume: Triple, memory: int, workers: int) -> Triple:
    """Return the tile that `znn-dask predict` would choose."""
    fit, extra = fit_of(model.net)
    (more,) = extra.values()

    def estimate(patch: Triple) -> int:
        return tile_bytes_of(model, patch, workers)

    found = search_patch(volume, fit, more, estimate, memory, SMALLEST)
    return found or halved_patch(volume, fit, estimate, memory, SMALLEST)


def timed(run: Any, repetitions: int) -> list[float]:
    """Return the seconds of every repetition after one that does not count."""
    run()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def rate(tile: Triple, seconds: list[float]) -> float:
    """Return output voxels a second, by the median."""
    return float(np.prod(tile) / np.median(seconds))


def measure(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return the report of one network."""
    net = network(name, args.width, args.kernel)
    volume = volume_of(args, net)
    with znn.Model(net, 1, num_workers=args.workers, tune=False) as model:
        tile = best_tile(model, volume, as_bytes(args.memory) or 0, args.workers)
        predictor = predictor_of(model, tile, args.workers)
        images = images_of(net, tile)
        report: dict[str, Any] = {"net": name, "width": args.width, "tile": tile, "volume": volume}
        seconds = timed(lambda: predictor(images), args.repetitions)
        report["ours"] = {"seconds": seconds, "voxels_per_s": rate(tile, seconds)}
        print(f"{name} width {args.width}: ours {rate(tile, seconds):,.0f} voxels/s, tile {tile}", flush=True)
        if args.against == "torch":
            compare(args, model, report, lambda: predictor(images))
            print(f"  wanted: {WANTED.get(name, 'nothing')}")
        report["processes"] = {n: many(args, name, n) for n in args.processes}
    return report


def images_of(net: znn.Network, tile: Triple) -> dict[str, np.ndarray]:
    """Return what is read for a tile; the same every time."""
    size = net.node_sizes(dict.fromkeys(net.outputs, tile))
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((n, *size[name]), dtype=np.float32) for name, n in net.inputs.items()}


def compare(args: argparse.Namespace, model: znn.Model, report: dict[str, Any], run: Callable[[], object]) -> None:
    """Add what PyTorch reaches and how many times as fast ours is."""
    with tempfile.TemporaryDirectory() as folder:
        report["torch"] = tried = torch_forms(args, model, report["tile"], Path(folder))
        done = [t for t in tried if "voxels_per_s" in t]
        if not done and all(t["late"] for t in tried):
            report["times_at_least"] = report["ours"]["voxels_per_s"] * args.timeout / math.prod(report["tile"])
            print(f"  at least {report['times_at_least']:.1f} times PyTorch, which ended no pass in time")
        if not done:
            return
        best = max(done, key=lambda t: t["voxels_per_s"])
        report["times_best"] = report["ours"]["voxels_per_s"] / best["voxels_per_s"]
        if args.turns:
            take_turns(args, report, best, run, Path(folder))
    report["best"] = {"form": best["form"], "tile": best["tile"]}
    print(f"  {report['times_best']:.2f} times PyTorch's best ({best['form']}, tile {best['tile']})")


def torch_forms(args: argparse.Namespace, model: znn.Model, tile: Triple, folder: Path) -> list[dict[str, Any]]:
    """Return what PyTorch reaches with every form and tile."""
    net, tried = model.net, []
    for k in range(args.tiles):
        z, y, x = (max(1, ceil_div(n, 2**k)) for n in tile)
        smaller = z, y, x
        (image,) = images_of(net, smaller).values()
        expected = next(iter(predictor_of(model, smaller, args.workers)({next(iter(net.inputs)): image}).values()))
        arrays: dict[str, Any] = {f"parameter {n}": v for n, v in model.parameters.items()}
        layers = np.array(json.dumps(presets.layers(net)))
        np.savez(sample_of(folder, smaller), layers=layers, image=image[np.newaxis], expected=expected, **arrays)
        tried += [try_form(args, form, smaller, folder) for form in args.forms]
    return tried


def sample_of(folder: Path, tile: tuple[int, ...]) -> Path:
    """Return the file with the sample of a tile."""
    return folder / f"{'x'.join(map(str, tile))}.npz"


def try_form(args: argparse.Namespace, form: str, tile: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Time one form of PyTorch with one tile; what it did before the time limit counts."""
    found: dict[str, Any] = {"form": form, "tile": tile, "seconds": [], "late": False}
    with peer(sample_of(folder, tile), form, args.workers, args.timeout) as ask:
        for _ in range(args.repetitions + 1):
            said = ask()
            if "note" in said:
                found |= said
                break
            if "difference" in said and not said["difference"] < TOLERANCE:
                sys.exit(f"the answers differ from PyTorch's ({form}) by {said['difference']}: nothing was timed")
            found["seconds"].append(said["seconds"])
    # The first is slower, but better than nothing.
    if timed := found["seconds"][1:] or found["seconds"]:
        found["voxels_per_s"] = float(np.prod(tile) / np.median(timed))
    told = [format(found["voxels_per_s"], ",.0f")] if timed else []
    print(f"  {form:28} tile {tile}: {', '.join([*told, *filter(None, [found.get('note')])])}", flush=True)
    return found


def take_turns(args: argparse.Namespace, report: dict[str, Any], best: dict[str, Any], run: Any, folder: Path) -> None:
    """Add the ratio of ours to PyTorch's best, of repetitions in turns."""
    tile, form = best["tile"], best["form"]
    ratios = []
    with peer(sample_of(folder, tile), form, args.workers, math.inf) as ask:
        ask()
        run()
        for _ in range(args.turns):
            theirs = np.prod(tile) / ask()["seconds"]
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            run()
            ratios.append(float(np.prod(report["tile"]) / (time.perf_counter() - start) / theirs))
    report |= {"ratios": ratios, "times_best": statistics.median(ratios)}
    print(f"  in turns {', '.join(f'{value:.2f}' for value in sorted(ratios))}")


@contextlib.contextmanager
def peer(sample: Path, form: str, workers: int, limit_s: float) -> Iterator[Callable[[], dict[str, Any]]]:
    """Start PyTorch in a process; give what makes it compute once and tell its seconds, or a note if it is over."""
    command = [sys.executable, __file__, "--child", str(sample), form, str(workers)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    late = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), process.kill)
    late.start()

    def ask() -> dict[str, Any]:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.flush()
        if line := process.stdout.readline():
            found: dict[str, Any] = json.loads(line)
            return found
        if process.wait() < 0:
            return {"note": f"ended after {limit_s:.0f} s", "late": True}
        return {"note": f"fails: {(process.stderr.read().strip().splitlines() or ['no message'])[-1][:200]}"}

    try:
        yield ask
    finally:
        late.cancel()
        process.kill()
        process.communicate()


def child(sample: str, form: str, workers: str) -> None:
    """Be a process with PyTorch: compute once for every line that comes in, and say how long it took."""
    import torch

    torch.set_num_threads(int(workers))
    with np.load(sample) as file:
        arrays = {name: file[name] for name in file.files}
    parameters = {n.removeprefix("parameter "): v for n, v in arrays.items() if n.startswith("parameter ")}
    net = TorchNet(torch, json.loads(str(arrays["layers"])), parameters, form, 0.0, 0.0)
    image, expected = arrays["image"], arrays["expected"]
    with torch.inference_mode():
        x = net._tensor(image)
        for number, _ in enumerate(sys.stdin):
            start = time.perf_counter()
            y = net.forward(x)
            said = {"seconds": time.perf_counter() - start}
            if number == 0:
                y = y.numpy()[0]
                y = y[:, np.newaxis] if y.ndim == 3 else y
                y = y[(slice(None), *map(slice, expected.shape[1:]))]
                said["difference"] = float(np.abs(y - expected).max() / np.abs(expected).max())
            print(json.dumps(said), flush=True)


def many(args: argparse.Namespace, name: str, n_processes: int) -> dict[str, float]:
    """Return the voxels a second of several processes of one worker at once, all together."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(n_processes) as pool:
        each = pool.starmap(alone, [(args, name)] * n_processes)
    return {"voxels_per_s": sum(each), "processes": n_processes}


def alone(args: argparse.Namespace, name: str) -> float:
    """Return the voxels a second of one worker in this process."""
    net = network(name, args.width, args.kernel)
    volume = volume_of(args, net)
    with znn.Model(net, 1, num_workers=1, tune=False) as model:
        memory = (as_bytes(args.memory) or 0) // max(1, *args.processes)
        tile = best_tile(model, volume, memory, 1)
        predictor, images = predictor_of(model, tile, 1), images_of(net, tile)
        return rate(tile, timed(lambda: predictor(images), args.repetitions))


def main() -> None:
    args = arguments()
    if args.child:
        child(*args.child)
        return
    if args.against == "torch" and importlib.util.find_spec("torch") is None:
        sys.exit("PyTorch is absent: pip install torch==2.13.0")
    names = NETS if args.net == "all" else (args.net,)
    reports = [measure(args, name) for name in names]
    if args.json:
        write_json(args.json, {"environment": environment(args.workers), "networks": reports})


if __name__ == "__main__":
    main()
