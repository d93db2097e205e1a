"""The same network and update in PyTorch, in the forms its users would try.

``contiguous``: dilated convolutions and dilated max-pooling of stride 1. ``channels-last``: the same in that memory
format. ``fragments``: after each max-filter the sub-lattices go into the batch, so that nothing is dilated.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from znn_dask import Network
from znn_dask.net import Convolution, MaxFilter, MaxPool, Transfer

LAYOUTS = ("contiguous", "channels-last", "fragments", "fragments channels-last")


class TorchNet:
    """A chain network with parameters, an optimiser and a loss.

    Parameters
    ----------
    torch : module
        PyTorch, imported by the caller, who says what to do where it is absent.
    net : Network
        A chain of convolutions, linear or ReLU transfers, max-filters and max-pools.
    parameters : dict of name to array
        Public form, copied.
    layout : str
        One of `LAYOUTS`.
    """

    def __init__(
        self,
        torch: Any,
        net: Network,
        parameters: Mapping[str, np.ndarray],
        layout: str,
        rate: float,
        momentum: float,
    ) -> None:
        self.torch, self.net = torch, net
        self.fragments = layout.startswith("fragments")
        self.format = torch.channels_last_3d if layout.endswith("channels-last") else torch.contiguous_format
        self.parameters = {name: self._tensor(value) for name, value in parameters.items()}
        for value in self.parameters.values():
            value.requires_grad_(True)
        self.optimizer = torch.optim.SGD(list(self.parameters.values()), lr=rate, momentum=momentum)

    def _tensor(self, value: np.ndarray) -> Any:
        tensor = self.torch.from_numpy(np.array(value))
        return tensor.to(memory_format=self.format) if tensor.ndim == 5 else tensor

    def forward(self, image: np.ndarray) -> Any:
        """Return the output for an image of shape (batch, channel, z, y, x)."""
        f, x = self.torch.nn.functional, self._tensor(image)
        merges: list[Callable[[Any], Any]] = []
        for edge in self.net.edges.values():
            op = edge.op
            dilation = (1, 1, 1) if self.fragments else self.net.edge_sparsity(edge.name)
            if isinstance(op, Convolution):
                following = self.net.outgoing(edge.target)
                bias = self.parameters.get(f"{following[0].name}/bias") if following else None
                x = f.conv3d(x, self.parameters[f"{edge.name}/kernel"], bias, dilation=dilation)
            elif isinstance(op, Transfer):
                x = {"relu": f.relu, "linear": lambda v: v}[op.function](x)
            elif isinstance(op, MaxPool):
                x = f.max_pool3d(x, op.window)
            elif isinstance(op, MaxFilter):
                x = f.max_pool3d(x, op.window, stride=1, dilation=dilation)
                if self.fragments:
                    x, merge = self._split(x, op.stride)
                    merges.append(merge)
            else:
                raise NotImplementedError(edge.op.kind)
        for merge in reversed(merges):
            x = merge(x)
        return x

    def _split(self, x: Any, stride: tuple[int, int, int]) -> tuple[Any, Callable[[Any], Any]]:
        b, c, z, y, w = x.shape
        sz, sy, sx = stride
        pad = (-w % sx, -y % sy, -z % sz)
        x = self.torch.nn.functional.pad(x, (0, pad[0], 0, pad[1], 0, pad[2]))
        x = x.reshape(b, c, x.shape[2] // sz, sz, x.shape[3] // sy, sy, x.shape[4] // sx, sx)
        x = x.permute(3, 5, 7, 0, 1, 2, 4, 6).reshape(sz * sy * sx * b, c, x.shape[2], x.shape[4], x.shape[6])

        def merge(out: Any) -> Any:
            _, n, oz, oy, ox = out.shape
            out = out.reshape(sz, sy, sx, b, n, oz, oy, ox).permute(3, 4, 5, 0, 6, 1, 7, 2)
            return out.reshape(b, n, oz * sz, oy * sy, ox * sx)

        return x.contiguous(memory_format=self.format), merge

    def gradients(self, image: np.ndarray, target: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """Return the square loss and its gradients, public form."""
        self.optimizer.zero_grad()
        loss = self._loss(image, target)
        loss.backward()
        return float(loss), {name: value.grad.numpy().copy() for name, value in self.parameters.items()}

    def step(self, image: np.ndarray, target: np.ndarray) -> float:
        """Make one update and return the loss before it."""
        self.optimizer.zero_grad()
        loss = self._loss(image, target)
        loss.backward()
        self.optimizer.step()
        return float(loss)

    def _loss(self, image: np.ndarray, target: np.ndarray) -> Any:
        output = self.forward(image)
        z, y, x = target.shape[2:]
        return self.torch.nn.functional.mse_loss(output[:, :, :z, :y, :x], self.torch.from_numpy(target))
