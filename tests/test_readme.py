"""What the README shows works: its Python runs as it stands, its commands and make targets exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from znn_dask.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
# Fenced blocks and spans in backticks.
CODE = re.findall(r"^```\w*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
CODE += re.findall(r"`([^`\n]+)`", README)
# What the examples print, in their order.
EXPECTED = ("field of view", "339201", "49999995000000")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_an_example_runs(number, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert EXPECTED[number] in done.stdout


def test_every_example_is_run():
    assert len(EXAMPLES) == len(EXPECTED)


def test_all_commands_are_named_and_exist():
    named = {name for code in CODE for name in re.findall(r"^znn-dask ([a-z]+)", code, flags=re.MULTILINE)}
    assert named == set(COMMANDS)


def test_make_targets_and_files_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {name for code in CODE for name in re.findall(r"^make ([a-z-]+)", code, flags=re.MULTILINE)}
    assert named
    assert named <= targets
    files = re.findall(r"`([A-Z]+\.md|(?:examples|notebooks)/[\w.]*|LICENSE|kernels/)`", README)
    assert [name for name in files if not (ROOT / name).exists()] == []
