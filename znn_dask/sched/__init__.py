"""When and where tasks run: a Dask scheduler for fine-grained graphs. Knows nothing of networks."""

from znn_dask.sched.chain import Chain
from znn_dask.sched.dispatch import Dispatch
from znn_dask.sched.program import Program
from znn_dask.sched.scheduler import Scheduler, get
from znn_dask.sched.trace import Trace
from znn_dask.sched.verify import verify

__all__ = ["Chain", "Dispatch", "Program", "Scheduler", "Trace", "get", "verify"]
