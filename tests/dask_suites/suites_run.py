"""Run Dask's own tests in a process of their own, on Dask's schedulers or on ours."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import dask

HERE = Path(__file__).parent
PACKAGE = Path(dask.__file__).parent
"""Where the tests are: Dask's wheel ships them."""


@dataclass(frozen=True)
class Report:
    """What came of every test, by its name.

    Attributes
    ----------
    outcomes : "passed", "failed", "skipped" or "xfailed" for each test
    messages : the end of what pytest says of each that failed
    calls : how often our scheduler and Dask's were asked to compute a graph
    """

    outcomes: dict[str, str]
    messages: dict[str, str]
    calls: dict[str, int]

    def count(self, outcome):
        """Return how many tests ended so."""
        return list(self.outcomes.values()).count(outcome)


def run_suites(tests, scheduler, folder, timeout_s):
    """Run tests of the installed Dask.

    Parameters
    ----------
    tests : names of files or tests, relative to the folder that holds the package, as in ``dask/tests/test_base.py``
    scheduler : "ours" or "dask"
    folder : an empty folder to work in
    timeout_s : for all together, seconds
    """
    report, output = folder / f"{scheduler}.json", folder / f"{scheduler}.log"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SUITES_SCHEDULER": scheduler,
        "SUITES_REPORT": str(report),
    }
    # Not the settings of the tests that run this one.
    environment.pop("PYTEST_ADDOPTS", None)
    options = ["-c", HERE / "suites.ini", "--rootdir", PACKAGE.parent, "-m", "not network and not gpu", "-q", "-rfE"]
    command = [sys.executable, "-m", "pytest", "-p", "suites_plugin", "-p", "no:cacheprovider", *options]
    work = folder / f"{scheduler}-work"
    work.mkdir()
    with output.open("wb") as out:
        names = [PACKAGE.parent / test for test in tests]
        done = subprocess.run(
            [*map(str, command), f"--basetemp={folder / f'{scheduler}-temp'}", *map(str, names)],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    tail = output.read_text(errors="replace")[-4000:]
    # 0: all passed; 1: some failed. Anything else is no result.
    assert done.returncode in (0, 1), tail
    assert report.exists(), tail
    return Report(**json.loads(report.read_text()))


def worse(ours, theirs, known):
    """Compare what came of the tests that ran on both.

    Parameters
    ----------
    ours, theirs : Report
    known : mapping of test to reason
        Differences that are expected; a name without parameters stands for all of its tests.

    Returns
    -------
    list of str
        A line or more for each test that passes on Dask's scheduler and not on ours without being known, and for each
        that is known and does pass.
    """
    lines = []
    for test, outcome in ours.outcomes.items():
        if theirs.outcomes.get(test) == "passed" and outcome != "passed" and not reason(test, known):
            lines.append(f"{test} {outcome} on our scheduler, passed on Dask's\n{ours.messages.get(test, '')}")
    for name in known:
        found = [test for test in ours.outcomes if reason(test, {name: True})]
        if found and all(ours.outcomes[test] == "passed" for test in found):
            lines.append(f"{name} is known to fail on our scheduler, but passed; take it out of the list")
    lines += [f"{test} ran on one of the two only" for test in ours.outcomes.keys() ^ theirs.outcomes.keys()]
    return lines


def reason(test, known):
    """Return why a test is known to differ, None if it is not."""
    return known.get(test) or known.get(test.partition("[")[0])
