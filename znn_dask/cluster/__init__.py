"""The same work on dask.distributed."""
