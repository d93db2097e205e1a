"""Whole volumes, of any size: prediction from file to file, objects, and how good they are."""

from znn_dask.infer.files import Crew, Settings, predict_file

__all__ = ["Crew", "Settings", "predict_file"]
