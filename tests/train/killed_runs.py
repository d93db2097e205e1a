"""Runs a training again and again in processes that are killed (SIGKILL) at random moments, to be run as a program.

The processes are forks of one that has imported everything and started no thread. A process dies before or after some
call that brings a file to the disk, so in the middle of writing one, or after a random time. It is given a few more
updates than the one before, so that all of the run sees kills. Prints a line for every process: how it was killed, and
after which update the checkpoint is then. Pictures are not drawn: that would take most of the time.
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from znn_dask.cli import main
from znn_dask.io import atomic
from znn_dask.io.checkpoint import read_checkpoint
from znn_dask.train import pictures
from znn_dask.train.run import MODEL, read_stored

UPDATES_EACH = 20
MOST_SYNCS = 24  # a process that makes its 20 updates has more
MOST_SECONDS = 0.6


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_sync(number: int, before: bool) -> None:
    """Die at a call of fsync, before or after it does its work."""
    original, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == number and before:
            die()
        original(descriptor)
        if count == number:
            die()

    atomic.os.fsync = fsync


def die_after(seconds: float) -> None:
    def wait() -> None:
        time.sleep(seconds)
        die()

    threading.Thread(target=wait, daemon=True).start()


def one(command: list[str], at_sync: bool, draw: random.Random) -> str:
    """Run a command in a process that is killed at the latest when the command has ended; return how."""
    number, before, seconds = draw.randint(1, MOST_SYNCS), draw.random() < 0.5, draw.uniform(0, MOST_SECONDS)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        if at_sync:
            die_at_sync(number, before)
        else:
            die_after(seconds)
        code = main(command)
        os._exit(code) if code else die()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the command failed: {os.waitstatus_to_exitcode(status)}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    moment = f"{'before' if before else 'after'} sync {number}" if at_sync else f"after {seconds:.3f} s"
    return f"killed {moment}"


def check_files(folder: Path) -> int:
    """Read every model file; return after which update the current one is, -1 without one."""
    for path in folder.rglob("*.safetensors"):
        if not path.name.startswith("."):
            read_checkpoint(path)
    return read_stored(folder / MODEL).position.step if (folder / MODEL).exists() else -1


if __name__ == "__main__":
    pictures.curve_picture = pictures.prediction_picture = lambda *_: b"picture"
    folder, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    command, chance = sys.argv[4:], random.Random(seed)
    for number in range(1, rounds + 1):
        how = one([*command, f"training.updates={number * UPDATES_EACH}"], number % 2 == 1, chance)
        print(f"{how}; checkpoint of update {check_files(folder)}")
