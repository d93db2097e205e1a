"""What every test shares: no tuning, PyTorch on one thread, Hypothesis without deadlines, no test silently not run.

With ``ZNN_DASK_REQUIRE_ALL=1`` (continuous integration) a skipped test or module counts as a failure.
``ZNN_DASK_TEST_EXAMPLES`` sets how many examples Hypothesis tries per property (25 unless given).
"""

import os
import signal
import sys
import tempfile

import pytest
from hypothesis import settings

# A shell starts its background jobs deaf to Ctrl-C, and what they start inherits that; here it is under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRE_ALL = os.environ.get("ZNN_DASK_REQUIRE_ALL") == "1"

# Models of tests take the cost model's choice, and what some measure is not kept; new processes inherit both.
os.environ["ZNN_DASK_TUNE"] = "0"
_cache = tempfile.TemporaryDirectory(prefix="znn-dask-tests-")
os.environ["ZNN_DASK_CACHE_DIR"] = _cache.name

# Times on a shared machine vary too much for deadlines; a fixed choice of examples repeats.
settings.register_profile(
    "znn_dask",
    deadline=None,
    max_examples=int(os.environ.get("ZNN_DASK_TEST_EXAMPLES", "25")),
    derandomize=REQUIRE_ALL,
    print_blob=True,
)
settings.load_profile("znn_dask")


def pytest_collection_finish() -> None:
    """Keep PyTorch, where a test module imported it, to one thread: its results then repeat bitwise."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def torch():
    """PyTorch on one thread; the test is skipped where it is not installed."""
    module = pytest.importorskip("torch", reason="PyTorch is not installed")
    module.set_num_threads(1)
    return module


def _fail_if_skipped(report):
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"not run, but ZNN_DASK_REQUIRE_ALL=1: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Turn a skipped test into a failed one where all are required."""
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    """Turn a module that was skipped as a whole into a failed one where all are required."""
    return _fail_if_skipped((yield))
