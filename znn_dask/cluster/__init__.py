"""The same work on dask.distributed."""

from znn_dask.cluster.crews import Reach, crew_of, crew_on
from znn_dask.cluster.train import DataParallel

__all__ = ["DataParallel", "Reach", "crew_of", "crew_on"]
