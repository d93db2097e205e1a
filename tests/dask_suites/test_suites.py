"""Dask's own tests pass on our scheduler as well as on Dask's, but for the differences listed and explained here."""

import pytest
from suites_run import PASSED, Report, run_suites, worse

ORDER = (
    "dask/tests/test_local.py::test_ordering",
    "dask/tests/test_local.py::test_complex_ordering",
    "dask/tests/test_order.py::test_local_parents_of_reduction",
)
PROCESSES = (
    "dask/tests/test_multiprocessing.py::test_process_initializer",
    "dask/bag/tests/test_bag.py::test_temporary_directory",
)
KNOWN = {
    **dict.fromkeys(ORDER, "asks for Dask's order of tasks on one worker; ours has it with policy='dask'"),
    **dict.fromkeys(PROCESSES, "asks for processes, and fails on Dask's threads as well"),
}
"""Tests that pass on Dask's schedulers and not on ours, and why."""

PART = [
    *(f"dask/tests/test_{name}.py" for name in ("threaded", "local", "callbacks", "context", "traceback", "delayed")),
    *(f"dask/tests/test_{name}.py" for name in ("base", "graph_manipulation", "composite_expr")),
    "dask/diagnostics/tests",
    "dask/bag/tests/test_random.py",
    "dask/array/tests/test_array_core.py",
]
"""What continuous integration runs: about a minute."""

WHOLE = ["dask/tests", "dask/array/tests", "dask/bag/tests", "dask/diagnostics/tests"]


@pytest.mark.timeout(600)
def test_a_part_of_dasks_tests_passes_on_our_scheduler(tmp_path):
    ours = run_suites(PART, "ours", tmp_path, timeout_s=280)
    assert ours.calls["ours"] > 2000
    assert ours.calls["dask"] < ours.calls["ours"] / 10
    # What passes on ours needs no comparison.
    others = {test.partition("[")[0] for test, outcome in ours.outcomes.items() if outcome not in PASSED}
    theirs = run_suites(sorted(others), "dask", tmp_path, timeout_s=280)
    assert theirs.calls["ours"] == 0
    assert not worse(ours, theirs, KNOWN)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_dasks_tests_pass_on_our_scheduler_as_well_as_on_dasks(tmp_path):
    ours, theirs = (run_suites(WHOLE, scheduler, tmp_path, timeout_s=3500) for scheduler in ("ours", "dask"))
    assert ours.calls["ours"] > 0.95 * theirs.calls["dask"]
    assert theirs.calls["ours"] == 0
    assert not worse(ours, theirs, KNOWN)


@pytest.mark.timeout(120)
def test_one_worker_and_policy_dask_keep_dasks_order(tmp_path):
    ordered = run_suites(ORDER, "ordered", tmp_path, timeout_s=100)
    assert set(ordered.outcomes.values()) == {"passed"}
    assert ordered.calls["ours"] >= len(ORDER)
    assert ordered.calls["dask"] == 0


def test_a_comparison_finds_what_is_worse_and_what_no_longer_is():
    theirs = Report({"a": "passed", "b[1]": "passed", "b[2]": "passed", "c": "failed", "d": "passed"}, {}, {})
    ours = Report({"a": "failed", "b[1]": "passed", "b[2]": "skipped", "c": "failed", "e": "passed"}, {"a": "why"}, {})
    assert worse(ours, theirs, {}) == [
        "a: passed on Dask's scheduler, failed on ours\nwhy",
        "b[2]: passed on Dask's scheduler, skipped on ours\n",
        "d: passed on Dask's scheduler, not run on ours\n",
    ]
    assert worse(ours, theirs, {"a": "", "b": "", "d": ""}) == []
    assert worse(ours, theirs, {"a": "", "b": "", "c": "", "d": "", "f": ""}) == ["c: known to differ, but does not"]
    missing = Report({"a": "failed", "d": "passed"}, {}, {})
    assert worse(missing, Report({}, {}, {}), {}) == ["a: failed on our scheduler, not run on Dask's"]
