"""The kernels as compiled for lesser processors are right too, on any machine that runs the tests."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# What the table of kernels calls itself, by what was wished for. Elsewhere there is only plain C++.
SETS = {"v2": "isa_v2", "v3": "isa_v3"} if platform.machine() in ("x86_64", "AMD64") else {"": "isa_plain"}


def run(wish: str, *command: str) -> str:
    environment = os.environ | {"ZNN_DASK_ISA": wish, "ZNN_DASK_TEST_EXAMPLES": "10"}
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=100, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("wish", SETS)
def test_every_instruction_set_equals_the_reference(wish):
    name = "from znn_dask import _kernels; print(_kernels.isa())"
    assert run(wish, "-c", name).strip() == SETS[wish]
    files = [str(HERE / f"test_ops_{name}.py") for name in ("convolution", "filter", "pointwise")]
    flags = ["-q", "-p", "no:cacheprovider", "-k", "equals_reference or one_voxel or precision"]
    assert " passed" in run(wish, "-m", "pytest", *flags, *files)
