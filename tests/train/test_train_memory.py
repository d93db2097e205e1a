"""A long run holds its memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from train_cases import ROOT, write_config

import znn_dask as znn
from znn_dask.train.loop import Loop

pytestmark = pytest.mark.timeout(290)
PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory(znn.Callback):
    """Notes the resident bytes of this process after some updates."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.bytes: dict[int, int] = {}

    def on_step(self, run: Loop, loss: float) -> None:
        if run.step % self.every == 0:
            self.bytes[run.step] = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell the resident bytes")
def test_a_run_of_2000_updates_holds_its_memory_within_2_percent(tmp_path: Path) -> None:
    """In a process of its own, with tests, validations, checkpoints and pictures on the way; after the first 400."""
    write_config(tmp_path)
    done = subprocess.run(
        [sys.executable, __file__, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = {int(step): size for step, size in json.loads(done.stdout.splitlines()[-1]).items()}
    print({step: f"{size / 2**20:.1f} MiB" for step, size in found.items()})
    settled = [size for step, size in found.items() if step >= 400]
    assert len(settled) == 9
    assert max(settled) <= 1.02 * min(settled)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    memory = Memory(every=200)
    log = {"every": 20, "test_every": 50, "validate_every": 100, "checkpoint_every": 100}
    more = {"updates": 2000, "log": log, "callbacks": [memory], "progress": False}
    with znn.Trainer(None, folder / "config.yaml", folder=folder / "run", **more) as trainer:
        trainer.run()
    print(json.dumps(memory.bytes))
