"""Dask's own tests pass on our scheduler as well as on Dask's, but for the differences listed and explained here."""

import pytest
from suites_run import run_suites

LOCAL = [
    *(f"dask/tests/test_{name}.py" for name in ("threaded", "local", "callbacks", "context", "traceback", "delayed")),
    "dask/diagnostics/tests",
]
