"""How many CPUs this process may use: the default number of workers.

A container or a job scheduler often grants fewer CPUs than the machine has, by affinity or by a cgroup quota;
more workers than that only get in each other's way.
"""

import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path


def available_cpus() -> int:
    """Return the number of CPUs granted by affinity and cgroup quota (rounded up), at least 1."""
    return max(1, min(_affinity(), _own_quota()))


def _affinity() -> int:
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _own_quota() -> int:
    return math.ceil(min(cgroup_quota(), 2**20))


def cgroup_quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the smallest CPU quota of the process's cgroups, version 1 or 2.

    Parameters
    ----------
    groups : path
        The kernel's list of this process's groups, lines ``id:controllers:path``.
    root : path
        Where the hierarchies are mounted.

    Returns
    -------
    float
        CPUs; infinity where nothing limits.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            quota = min(quota, _smallest(root, path, _quota_v2))
        elif "cpu" in controllers.split(","):
            for mount in {controllers, "cpu", "cpu,cpuacct", "cpuacct,cpu"}:
                quota = min(quota, _smallest(root / mount, path, _quota_v1))
    return quota


def _smallest(mount: Path, path: str, read: Callable[[Path], float]) -> float:
    """Return the smallest quota of a group and its parents; in a container the path may not be visible."""
    folder = mount / path.lstrip("/")
    folders = [folder, *folder.parents]
    return min((read(f) for f in folders if f == mount or mount in f.parents), default=math.inf)


def _quota_v2(folder: Path) -> float:
    try:
        limit, period = (folder / "cpu.max").read_text().split()
        return math.inf if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota_v1(folder: Path) -> float:
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return limit / period if limit > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
