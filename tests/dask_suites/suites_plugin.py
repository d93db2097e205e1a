"""A pytest plugin: Dask's own tests, on Dask's schedulers or on ours, with what came of every test.

``SUITES_SCHEDULER=ours`` puts `znn_dask.sched.get` in the place of every local scheduler that Dask knows by name, of
``dask.threaded.get``, of ``dask.get``, and of what collections take by default; ``ordered`` is ours with one worker and
Dask's order; with ``dask`` nothing is replaced. ``SUITES_REPORT`` names the file for the outcomes and for how often
each scheduler was called. Calls are counted in functions that return before a task runs, so that tracebacks, which Dask
tests too, have no frame of this plugin.
"""

import functools
import itertools
import json
import os
import signal
import sys
import types
from pathlib import Path

import dask.base
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


def called(name, defaults):
    """Return our scheduler under the name of one of Dask's: tests are named after it, and know it from others."""
    ours = znn_dask.sched.scheduler.get
    return types.FunctionType(ours.__code__, ours.__globals__, name, defaults or ours.__defaults__)


def replace(defaults):
    """Put our scheduler wherever Dask holds one of its own; modules imported later take it from the names."""
    processes = dask.multiprocessing.get
    theirs = dask.threaded.get, dask.local.get_sync, processes
    replaced = {get: called(get.__name__, defaults) for get in theirs}
    for name, get in dask.base.named_schedulers.items():
        dask.base.named_schedulers[name] = replaced[get]
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "dask"]:
        for name, value in list(vars(module).items()):
            if callable(value) and any(value is get for get in replaced):
                setattr(module, name, replaced[value])
            default = vars(value).get("__dask_scheduler__") if isinstance(value, type) else None
            if isinstance(default, staticmethod) and default.__func__ in replaced:
                value.__dask_scheduler__ = staticmethod(replaced[default.__func__])
    # Only tests of Dask's processes call this one themselves.
    dask.multiprocessing.get = processes


# A shell starts its background jobs deaf to Ctrl-C, and what they start inherits that; here it is under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

counted(znn_dask.sched.scheduler, "read", "ours")
counted(dask.local, "start_state_from_dask", "dask")
if os.environ["SUITES_SCHEDULER"] == "ours":
    replace(None)
elif os.environ["SUITES_SCHEDULER"] == "ordered":
    replace((1, "dask"))  # num_workers, policy


def pytest_runtest_logreport(report):
    """Keep what came of a test: the worst of its phases."""
    if report.failed:
        outcome = "failed"
    elif hasattr(report, "wasxfail"):
        outcome = "xpassed" if report.passed else "xfailed"
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
