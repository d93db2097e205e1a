"""Model: a compiled graph and its parameters; the only state that lives between steps."""

from znn_dask.model.model import Model
from znn_dask.model.optimizers import SGD, Adam, AdamW
from znn_dask.model.state import PlanReport

__all__ = ["SGD", "Adam", "AdamW", "Model", "PlanReport"]
