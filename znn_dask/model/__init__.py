"""Model: a compiled graph and its parameters; the only state that lives between steps."""

from znn_dask.model.inward import from_torch, model_of
from znn_dask.model.model import Model
from znn_dask.model.optimizers import SGD, Adam, AdamW
from znn_dask.model.state import PlanReport

__all__ = ["SGD", "Adam", "AdamW", "Model", "PlanReport", "from_torch", "model_of"]
