"""A pytest plugin: Dask's own tests, on Dask's schedulers or on ours, with what came of every test.

``SUITES_SCHEDULER=ours`` puts `znn_dask.sched.get` in the place of every local scheduler that Dask knows by name, of
``dask.threaded.get``, of ``dask.get``, and of what collections take by default; with ``dask`` nothing is replaced.
``SUITES_REPORT`` names the file for the outcomes and for how often each scheduler was called. Calls are counted in
functions that return before a task runs, so that tracebacks, which Dask tests too, have no frame of this plugin.
"""

import functools
import itertools
import json
import os
import sys
from pathlib import Path

import dask.array
import dask.bag
import dask.base
import dask.dataframe
import dask.local
import dask.multiprocessing
import dask.threaded

import znn_dask.sched.scheduler

calls = {"ours": itertools.count(), "dask": itertools.count()}
outcomes = {}
messages = {}


def counted(module, name, who):
    """Let a function of a module count its calls."""
    original = getattr(module, name)

    @functools.wraps(original)
    def counting(*args, **kwargs):
        next(calls[who])
        return original(*args, **kwargs)

    setattr(module, name, counting)


def replace():
    """Put our scheduler wherever Dask holds one of its own."""
    ours = znn_dask.sched.scheduler.get
    processes = dask.multiprocessing.get
    theirs = dask.threaded.get, dask.local.get_sync, processes
    for name in dask.base.named_schedulers:
        dask.base.named_schedulers[name] = ours
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "dask"]:
        for name, value in list(vars(module).items()):
            if any(value is get for get in theirs):
                setattr(module, name, ours)
            elif isinstance(value, type) and vars(value).get("__dask_scheduler__") and value.__dask_scheduler__ in theirs:
                value.__dask_scheduler__ = staticmethod(ours)
    # Only tests of Dask's processes call this one themselves.
    dask.multiprocessing.get = processes


counted(znn_dask.sched.scheduler, "read", "ours")
counted(dask.local, "start_state_from_dask", "dask")
if os.environ["SUITES_SCHEDULER"] == "ours":
    replace()


def pytest_runtest_logreport(report):
    """Keep what came of a test: the worst of its phases."""
    if report.failed:
        outcome = "failed"
    elif hasattr(report, "wasxfail"):
        outcome = "xfailed"
    elif report.skipped:
        outcome = "skipped"
    else:
        outcome = "passed"
    if report.when == "call" or outcome != "passed":
        if outcomes.get(report.nodeid) != "failed":
            outcomes[report.nodeid] = outcome
        if outcome == "failed":
            messages[report.nodeid] = str(report.longrepr)[-4000:]


def pytest_collectreport(report):
    """Keep modules that could not be read."""
    if report.failed:
        outcomes[report.nodeid] = "failed"
        messages[report.nodeid] = str(report.longrepr)[-4000:]


def pytest_sessionfinish():
    """Write the report."""
    found = {"outcomes": outcomes, "messages": messages, "calls": {who: next(count) for who, count in calls.items()}}
    Path(os.environ["SUITES_REPORT"]).write_text(json.dumps(found))
