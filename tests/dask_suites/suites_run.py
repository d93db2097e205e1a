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
    outcomes : "passed", "failed", "skipped", "xfailed" or "xpassed" for each test
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
    scheduler : "ours", "ordered" or "dask", see `suites_plugin`
    folder : an empty folder to work in
    timeout_s : for all together, seconds
    """
    report, output = folder / f"{scheduler}.json", folder / f"{scheduler}.log"
    environment = {
        # Not the settings of the pytest that runs this one.
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Some of Dask's tests depend on the order of sets.
        "PYTHONHASHSEED": "1",
        "SUITES_SCHEDULER": scheduler,
        "SUITES_REPORT": str(report),
    }
    work = folder / f"{scheduler}-work"
    work.mkdir()
    options = ["-q", "-rfE", "-p", "suites_plugin", "-p", "no:cacheprovider", "-m", "not network and not gpu"]
    options += ["-c", HERE / "suites.ini", "--rootdir", PACKAGE.parent, "--basetemp", folder / f"{scheduler}-temp"]
    # Those of distributed run on its scheduler.
    options += ["-k", "not distributed", "--ignore", PACKAGE / "tests" / "test_distributed.py"]
    names = [PACKAGE.parent / test for test in tests]
    with output.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *map(str, options), *map(str, names)],
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


PASSED = "passed", "xpassed"


def worse(ours, theirs, known):
    """Compare what came of the tests on both.

    Parameters
    ----------
    ours, theirs : Report
        Tests that passed on ours may be missing in the other.
    known : mapping of test to reason
        Differences that are expected; a name without parameters stands for all of its tests.

    Returns
    -------
    list of str
        A text for each test that is worse on our scheduler without being known, for each that is known and is not
        worse, and for each that ran on one only.
    """
    lines = []
    differs = set()
    for test, theirs_was in theirs.outcomes.items():
        was = ours.outcomes.get(test, "not run")
        if theirs_was in PASSED and was not in PASSED:
            differs.add(known_as(test, known))
            if not known_as(test, known):
                lines.append(f"{test}: {theirs_was} on Dask's scheduler, {was} on ours\n{ours.messages.get(test, '')}")
    for test, was in ours.outcomes.items():
        if was not in PASSED and test not in theirs.outcomes:
            lines.append(f"{test}: {was} on our scheduler, not run on Dask's")
    ran = {known_as(test, known) for test in ours.outcomes}
    lines += [f"{name}: known to differ, but does not" for name in known if name in ran - differs]
    return lines


def known_as(test, known):
    """Return the name under which a test is known to differ, None if it is not."""
    return next((name for name in (test, test.partition("[")[0]) if name in known), None)
