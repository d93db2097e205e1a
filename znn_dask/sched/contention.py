"""Memory that all workers share: who runs slower, and by how much, when together they want more than it gives.

Alone a task moves its bytes in its seconds. As long as what all running tasks move in a second is below the bandwidth,
nobody waits. Above it every byte takes the same multiple of its time, such that the memory gives just what it
can. A task that spends a part m of its time on memory (its rate over what one core can draw) then runs slower by
1 + m (multiple - 1): those that mostly move data by the whole multiple, those that mostly compute hardly.
"""

import math
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from znn_dask.errors import ParameterError

PRECISION = 1e-6  # of the sum of all rates


@dataclass(frozen=True)
class Memory:
    """Bytes a second of all cores together, and of one alone."""

    bandwidth: float
    core_bandwidth: float

    @staticmethod
    def of(bandwidth: object, core_bandwidth: object = None) -> "Memory | None":
        """Return the memory of some rates, None if no total is given.

        Raises
        ------
        ParameterError
            If a rate is not a number above 0, or only that of one core is given.
        """
        for name, rate in (("bandwidth", bandwidth), ("core_bandwidth", core_bandwidth)):
            sound = isinstance(rate, (int, float)) and not isinstance(rate, bool) and 0 < rate < math.inf
            if rate is not None and not sound:
                raise ParameterError(f"{name} must be bytes a second, a finite number above 0, or None, got {rate!r}")
        if bandwidth is None:
            if core_bandwidth is not None:
                raise ParameterError("core_bandwidth needs the bandwidth of all cores together; give bandwidth too")
            return None
        assert isinstance(bandwidth, (int, float))
        alone = core_bandwidth if isinstance(core_bandwidth, (int, float)) else bandwidth
        return Memory(float(bandwidth), min(float(alone), float(bandwidth)))


class Contention:
    """Tasks that run beside each other, each on a worker of its own.

    For each worker `left` says how many seconds its task would take alone from now on, `rate` its bytes a second
    alone, `part` the part of its time that is memory's, `speed` how fast it runs now.
    """

    def __init__(self, memory: Memory, n_workers: int) -> None:
        self.memory = memory
        self.now = 0.0
        self.left = np.full(n_workers, np.inf)
        self.rate, self.part, self.speed = np.zeros(n_workers), np.zeros(n_workers), np.ones(n_workers)
        self.multiple = 1.0
        self.changed = False
        self.coming: list[tuple[float, int, int, float, float]] = []
        self.tasks = [0] * n_workers

    def add(self, start: float, task: int, worker: int, seconds: float, n_bytes: float) -> None:
        """Let a task start at a time to come."""
        rate = min(n_bytes / seconds, self.memory.core_bandwidth) if seconds else 0.0
        heappush(self.coming, (start, worker, task, seconds, rate))

    def next_end(self, before: float) -> tuple[float, int, int] | None:
        """Go on until a task ends, not after the other events; return when, the task and its worker, or None."""
        while True:
            if self.changed:
                self._share()
            worker = int((self.left / self.speed).argmin())
            end = max(self.now, self.now + float(self.left[worker] / self.speed[worker]))
            start = self.coming[0][0] if self.coming else math.inf
            if min(start, end) > before or min(start, end) == math.inf:
                return None
            if end <= start:
                self._go_on(end)
                self._set(worker, self.tasks[worker], math.inf, 0.0)
                return end, self.tasks[worker], worker
            start, worker, task, seconds, rate = heappop(self.coming)
            self._go_on(start)
            self._set(worker, task, seconds, rate)

    def _go_on(self, now: float) -> None:
        if now > self.now:
            self.left -= (now - self.now) * self.speed
            self.now = now

    def _set(self, worker: int, task: int, seconds: float, rate: float) -> None:
        self.left[worker], self.rate[worker], self.tasks[worker] = seconds, rate, task
        self.part[worker] = rate / self.memory.core_bandwidth
        self.changed = True

    def _share(self) -> None:
        """Find the multiple at which what all draw is the bandwidth."""
        self.changed = False
        most = self.memory.bandwidth
        if self.rate.sum() <= most * (1 + PRECISION):
            if self.multiple != 1.0:
                self.multiple = 1.0
                self.speed.fill(1.0)
            return
        # What is drawn falls with the multiple, ever more slowly. So from the left Newton's steps never go too far,
        # and one from the right ends on the left.
        while True:
            speed = 1.0 / (1.0 + self.part * (self.multiple - 1.0))
            drawn = self.rate * speed
            more = float(drawn.sum()) - most
            if abs(more) <= PRECISION * most:
                break
            self.multiple = max(1.0, self.multiple + more / float((drawn * self.part).dot(speed)))
        self.speed = speed
