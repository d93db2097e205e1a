"""The same work on dask.distributed."""

from znn_dask.cluster.crews import Reach, crew_of, crew_on

__all__ = ["Reach", "crew_of", "crew_on"]
