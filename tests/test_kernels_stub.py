"""The checked-in signatures of the compiled module are those it has.

mypy's stubtest does not take nanobind's functions for functions, so the stub is made anew and compared.
"""

import ast
import subprocess
import sys
from pathlib import Path

import znn_dask


def test_the_stub_is_the_one_that_nanobind_makes(tmp_path):
    made = tmp_path / "_kernels.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-m", "znn_dask._kernels", "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    kept = Path(znn_dask.__file__).with_name("_kernels.pyi")
    assert ast.dump(ast.parse(kept.read_text())) == ast.dump(ast.parse(made.read_text())), "run `make stub`"
