"""Networks from PyTorch and back: modules, state dicts, files of torch.export and ONNX. Needs the extra "torch"."""

from znn_dask.exchange.files import read_module, read_pt2, read_state, write_onnx, write_pt2, write_state
from znn_dask.exchange.modules import to_module
from znn_dask.exchange.reading import Found

__all__ = [
    "Found",
    "read_module",
    "read_pt2",
    "read_state",
    "to_module",
    "write_onnx",
    "write_pt2",
    "write_state",
]
