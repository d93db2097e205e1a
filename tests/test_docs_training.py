"""The examples of docs/training.md run, one after the other, and its keys and files are those of a run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from znn_dask.train.config import LogSection
from znn_dask.train.divergence import FACTOR, WINDOW

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.mark.timeout(150)
def test_the_examples_run_and_leave_the_files_of_the_table(tmp_path):
    examples = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(examples)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "held-out error" in done.stdout
    assert "adapted Rand error" in done.stdout
    assert "updates 60 [" in done.stdout
    files = {name for row in re.findall(r"^\| (`.*?`) \|", PAGE, flags=re.M) for name in re.findall("`(.*?)`", row)}
    missing = {name for name in files if not list((tmp_path / "runs" / "membranes").glob(name))}
    assert missing == {"tensorboard/"}


def test_the_keys_and_numbers_are_those_of_the_code():
    keys = set(re.findall(r"`log\.(\w+)", PAGE))
    assert keys
    assert keys <= set(LogSection.__struct_fields__)
    assert f"over {WINDOW} updates is more than {'ten' if FACTOR == 10 else FACTOR} times" in PAGE.replace("\n", " ")
