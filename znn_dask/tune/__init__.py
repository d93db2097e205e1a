"""Measuring which algorithms are fastest on this machine, and remembering it on the disk."""

from znn_dask.tune.store import Store
from znn_dask.tune.tuner import Record, Tuner, name_of, timing

__all__ = ["Record", "Store", "Tuner", "name_of", "timing"]
