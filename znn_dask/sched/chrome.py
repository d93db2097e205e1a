"""A trace as a file for Perfetto (https://ui.perfetto.dev) or chrome://tracing, in Chrome's trace event format."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from znn_dask.sched.traced import TracedTask


def events(tasks: Sequence[TracedTask]) -> list[dict[str, Any]]:
    """Return trace events: names of the process and its threads, then one complete event per task.

    Parameters
    ----------
    tasks : by their start

    Returns
    -------
    list of dict
        ``ts`` and ``dur`` are microseconds, from the start of the first task; ``tid`` is the worker.
    """
    process = os.getpid()
    threads = {task.worker: task.thread for task in tasks}
    made: list[dict[str, Any]] = [_name("process_name", process, 0, name="znn-dask")]
    for worker in sorted(threads):
        made.append(_name("thread_name", process, worker, name=f"worker {worker}"))
        made.append(_name("thread_sort_index", process, worker, sort_index=worker))
    first = tasks[0].start_ns if tasks else 0
    for task in tasks:
        details: dict[str, Any] = {"key": str(task.key), "run": task.run, "bytes": task.n_bytes}
        if task.cpu_ns is not None:
            details["cpu_us"] = task.cpu_ns / 1e3
        if task.failed:
            details["failed"] = True
        event = {"name": task.kind, "cat": task.kind, "ph": "X", "pid": process, "tid": task.worker}
        times = {"ts": (task.start_ns - first) / 1e3, "dur": (task.end_ns - task.start_ns) / 1e3}
        made.append({**event, **times, "args": details})
    return made


def _name(what: str, process: int, thread: int, **args: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": args}


def write_events(tasks: Sequence[TracedTask], path: str | os.PathLike[str]) -> None:
    """Write the events of a trace. The file is complete or absent: it is renamed when it is written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"traceEvents": events(tasks), "displayTimeUnit": "ms"}, file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
