"""What a process holds: its peak resident memory and the page faults of its steps. Needs nothing but Python."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

FEWEST = 5  # steps, however long they take


def peak_mib() -> float:
    """Return the most memory that this process has held so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def minor_faults() -> int:
    """Return how many pages this process has been given so far without reading them from a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def train(step: Callable[[], Any], updates: int, steps: int, limit_s: int) -> dict[str, Any]:
    """Make some updates, which give the peak, then steps, which give the faults of each, for about so long at most."""
    for _ in range(updates):
        step()
    peak, before = peak_mib(), minor_faults()
    until, made = time.monotonic() + limit_s, 0
    while made < steps and (made < FEWEST or time.monotonic() < until):
        step()
        made += 1
    return {"peak_mib": peak, "faults_per_step": (minor_faults() - before) / max(1, made), "steps": made}
