"""Each kernel by itself: time, rate, the fraction of what the machine can do, and what a second thread brings.

    python bench/kernels.py --workers 2 --json bench/results/kernels.json

Every answer is compared with its float64 reference first. Then short calls of the kernel, of its limit and of its
peers take turns, in the time their one thread was on a core; the least of each counts, since other work on the machine
can only add. Limits: the multiply-adds of
one core for arithmetic, a copy of as many bytes for element-wise passes; the peer of transforms is pyfftw's execute.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from kernel_cases import WANTED, Case, cases
from limits import copy_run, fma_peak_run, together
from measure import environment, write_json
from unet_cases import unet_cases

from znn_dask import _kernels

LEAST_SPEEDUP = 0.9  # per thread
SAMPLE_S = 0.004  # of one turn of one candidate


def per_call(run: Callable[[], Any], calls: int) -> float:
    """Return the seconds that this thread was on a core for one of some calls."""
    start = time.thread_time()
    for _ in range(calls):
        run()
    return (time.thread_time() - start) / calls


def turns(runs: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """Return the seconds per call of every turn of every candidate."""
    calls = {}
    for name, run in runs.items():
        run()
        calls[name] = max(1, int(SAMPLE_S / max(1e-7, min(per_call(run, 1) for _ in range(3)))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            times[name].append(per_call(run, calls[name]))
    return times


def measure(case: Case, repetitions: int) -> dict[str, Any]:
    """Return time, rate and fraction of the limit of one case on one thread."""
    peak, flop = fma_peak_run()
    runs = {"kernel": case.run, "limit": copy_run(int(case.n_bytes)) if case.n_bytes else peak}
    runs |= {f"pyfftw {name}": run for name, run in case.peers()}
    times = turns(runs, repetitions)
    best = {name: min(seconds) for name, seconds in times.items()}
    work, of_limit, unit = (case.n_bytes,) * 2 + ("gb_per_s",) if case.n_bytes else (case.flop, flop, "gflop_per_s")
    ratios = [limit / kernel for limit, kernel in zip(times["limit"], times["kernel"], strict=True)]
    found: dict[str, Any] = {
        "ms": best["kernel"] * 1e3,
        unit: work / best["kernel"] / 1e9,
        f"limit_{unit}": of_limit / best["limit"] / 1e9,
        "fraction": work / of_limit * best["limit"] / best["kernel"],
        "median_fraction": work / of_limit * statistics.median(ratios),
    }
    peers = [name for name in best if name.startswith("pyfftw")]
    if peers:
        peer = min(peers, key=best.__getitem__)
        found |= {"peer": peer, "peer_ms": best[peer] * 1e3, "times_peer": best[peer] / best["kernel"]}
    return found | {"seconds": times}


def speedup(run: Callable[[], Any], once: float, workers: int, repetitions: int) -> float:
    """Return how many times the rate of one thread several have: the median of alternating turns."""
    calls = max(2, int(0.03 / once))

    def work() -> None:
        for _ in range(calls):
            run()

    # Once before: scratch memory belongs to the thread.
    pairs = [(together(work, 1, run), together(work, workers, run)) for _ in range(repetitions)]
    return statistics.median(workers * alone / both for alone, both in pairs)


def verdict(case: Case, found: dict[str, Any]) -> str:
    """Return "ok" or "below" by the acceptance, nothing where it does not speak of the case."""
    value = found.get("times_peer") if case.kind == "transform" else found["fraction"]
    if not case.accepted or value is None:
        return ""
    return "ok" if value >= WANTED[case.kind] else "below"


def line(name: str, found: dict[str, Any], workers: int) -> str:
    """Return a row of the table."""
    if "gb_per_s" in found:
        rate = f"{found['gb_per_s']:7.1f} GB/s    {found['fraction']:5.0%} of copy"
    else:
        rate = f"{found['gflop_per_s']:7.1f} GFLOP/s {found['fraction']:5.0%} of FMA "
    peer = f"{found['times_peer']:5.2f} x pyfftw" if "times_peer" in found else " " * 14
    less = "" if found["speedup"] >= LEAST_SPEEDUP * workers else "!"
    speed = f"{workers} threads {found['speedup']:.2f}{less:1}" if found["speedup"] else ""
    return f"{name:62} {found['ms']:8.3f} ms {rate} {peer}  {speed:16} {found['verdict']}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="threads of the speedup; 1 leaves it out")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name contains one of these")
    parser.add_argument("--json", help="write the report here")
    args = parser.parse_args()
    report: dict[str, Any] = {"environment": {**environment(args.workers), "isa": _kernels.isa()}, "kernels": {}}
    for case in itertools.chain(cases(), unet_cases()):
        if not any(part in case.name for part in args.only):
            continue
        error = case.check()
        found = measure(case, args.repetitions)
        found["speedup"] = 0.0
        if args.workers > 1:
            found["speedup"] = speedup(case.run, found["ms"] / 1e3, args.workers, max(3, args.repetitions // 3))
        found["verdict"] = verdict(case, found)
        report["kernels"][case.name] = {**found, "error": error, "kind": case.kind}
        print(line(case.name, found, args.workers), flush=True)
    verdicts = [entry["verdict"] for entry in report["kernels"].values()]
    print(f"acceptance: {verdicts.count('ok')} ok, {verdicts.count('below')} below")
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
