"""What a model gives to others: a module of PyTorch, a file of ONNX."""

from pathlib import Path
from typing import Any, Protocol

from znn_dask import exchange
from znn_dask.geometry import Triple
from znn_dask.net import Network


class _Known(Protocol):
    """What is asked of a model."""

    @property
    def net(self) -> Network: ...

    @property
    def parameters(self) -> dict[str, Any]: ...

    @property
    def input_size(self) -> Triple | dict[str, Triple]: ...


class Outward:
    """The part of `Model` that others read."""

    def to_torch(self: _Known, ndim: int | None = None) -> Any:
        """Return an equal torch.nn.Module that needs nothing of this package, in evaluation mode.

        Its layers and the keys of its state dict are named as the edges: "conv1.weight". It takes a tensor for every
        input, of shape (batch, channel, z, y, x), and returns a tensor, or a dict where there are several outputs.
        Images stay dense, as `forward` has them: what comes after a max-filter is dilated.

        Parameters
        ----------
        ndim : 2 or 3, optional
            Axes of its images. Unless given, networks of ``ndim=2`` take (batch, channel, y, x).

        Raises
        ------
        MissingExtraError
            If PyTorch is not installed: the extra "torch".
        """
        return exchange.to_module(self.net, self.parameters, ndim)

    def to_onnx(self: _Known, path: str | Path, input_size: Any = None) -> None:
        """Write a file of ONNX that computes what `forward` does, for batches of any number.

        Parameters
        ----------
        path : str or Path
        input_size : size or dict of input to size, optional
            Voxels of its images, which are fixed; those of the model unless given.

        Raises
        ------
        MissingExtraError
            If PyTorch, onnx or onnxscript is not installed: the extra "onnx".
        ShapeError
            If the network cannot take images of this size.
        """
        net = self.net
        sizes = net.node_sizes(net.output_size(self.input_size if input_size is None else input_size))
        exchange.write_onnx(net, self.parameters, path, {name: sizes[name] for name in net.inputs})
