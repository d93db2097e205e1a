"""A small model and a volume for predictions from file to file."""

import numpy as np

from znn_dask.infer import files, run
from znn_dask.infer.job import Job
from znn_dask.infer.journal import Journal
from znn_dask.net import Convolution, Edge, Network

NET = Network.parse("CTMC", width=3, kernel=2, out_channels=2)
SIZE = (14, 20, 26)
TILE = (6, 9, 10)
VOLUME = np.random.default_rng(0).integers(0, 255, SIZE, dtype=np.uint8)
SAME = Network(
    {"input": 1, "a": 2, "output": 1},
    [
        Edge("c1", "input", "a", Convolution((3, 3, 3), padding="same")),
        Edge("c2", "a", "output", Convolution((1, 1, 1))),
    ],
)


def hidden(folder):
    """What an unfinished prediction leaves."""
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


class StoppedError(Exception):
    """Stands for whatever may happen."""


def stopping_after(count):
    """A crew that stops after some blocks."""

    def runner(job: Job, journal: Journal, progress):
        added = journal.add

        def add(number):
            added(number)
            if len(journal.done) >= count:
                raise StoppedError

        journal.add = add
        run.run_local(job, journal, progress)

    return files.Crew(runner, 1)
