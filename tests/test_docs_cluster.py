"""The examples of the page about clusters work."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click import Context

from znn_dask.cli import COMMANDS, group

pytestmark = pytest.mark.timeout(120)
PAGE = (Path(__file__).resolve().parent.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_examples_run(tmp_path):
    pytest.importorskip("distributed", reason="distributed is not installed")
    assert len(EXAMPLES) == 3
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:Couldn't detect:RuntimeWarning", "-c", "\n".join(EXAMPLES)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "(20, 60, 60)"
    assert second.startswith("((1,), (10, 10), (30, 30), (30, 30)) ")
    losses = [float(n) for n in third.strip("[]").split(",")]
    assert losses[0] > losses[-1], "it learns"


def test_every_option_it_names_exists():
    commands = [group.get_command(Context(group), name) for name in COMMANDS]
    known = {name for command in commands for option in command.params for name in option.opts}
    dask = {"--port", "--nthreads", "--nworkers", "--tls-ca-file", "--tls-cert", "--tls-key"}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= known | dask
