"""The same network and update in PyTorch, in the forms its users would try.

A form is a layout, ``contiguous`` or ``channels-last``, of a network that is dilated or, ``fragments``, puts the
sub-lattices after each max-filter into the batch, so that nothing is dilated; each as it is, or ``compiled`` by
torch.compile. Networks of one slice use the two-dimensional operations.

Nothing of znn-dask is imported here, so that a process which measures PyTorch holds PyTorch alone; `presets.layers`
describes a network for it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Layer = dict[str, Any]  # "kind", "size", "stride", "sparsity", "function", "kernel", "bias"; see `presets.layers`

LAYOUTS = ("contiguous", "channels-last", "fragments contiguous", "fragments channels-last")
FORMS = (*LAYOUTS, *(f"{layout} compiled" for layout in LAYOUTS))


def forms_of(layers: list[Layer]) -> list[str]:
    """Return the forms that differ for a network: one without max-filters has no fragments."""
    dense = any(layer["kind"] == "max_filter" for layer in layers)
    return [form for form in FORMS if dense or "fragments" not in form]


class TorchNet:
    """A chain network with parameters, an optimiser and a loss.

    Parameters
    ----------
    torch : module
        PyTorch, imported by the caller, who says what to do where it is absent.
    layers : list of dict
        A chain of convolutions, linear or ReLU transfers, max-filters and max-pools.
    parameters : dict of name to array
        Public form, copied.
    form : str
        One of `FORMS`.
    """

    def __init__(
        self,
        torch: Any,
        layers: list[Layer],
        parameters: Mapping[str, np.ndarray],
        form: str,
        rate: float,
        momentum: float,
    ) -> None:
        self.torch, self.layers = torch, layers
        self.fragments = form.startswith("fragments")
        # Two axes if nothing looks along z.
        self.axes = 2 if all(layer["size"][0] == 1 for layer in layers) else 3
        last = torch.channels_last_3d if self.axes == 3 else torch.channels_last
        self.format = last if "channels-last" in form else torch.contiguous_format
        functions = torch.nn.functional
        self._convolve = functions.conv3d if self.axes == 3 else functions.conv2d
        self._pool = functions.max_pool3d if self.axes == 3 else functions.max_pool2d
        self.parameters = {name: self._tensor(value) for name, value in parameters.items()}
        for value in self.parameters.values():
            value.requires_grad_(True)
        self.optimizer = torch.optim.SGD(list(self.parameters.values()), lr=rate, momentum=momentum)
        self._loss = torch.compile(self._plain_loss, dynamic=False) if form.endswith("compiled") else self._plain_loss

    def _tensor(self, value: np.ndarray) -> Any:
        """Return an array (a, b, z, y, x) as a tensor of this network's axes and format; others as they are."""
        if value.ndim == 5 and self.axes == 2:
            value = value[:, :, 0]
        tensor = self.torch.from_numpy(np.array(value))
        return tensor.to(memory_format=self.format) if tensor.ndim > 3 else tensor

    def _own(self, triple: Sequence[int]) -> tuple[int, ...]:
        return tuple(triple[3 - self.axes :])

    def forward(self, x: Any) -> Any:
        """Return the output for a tensor (batch, channel, z, y, x), without z in two dimensions."""
        f = self.torch.nn.functional
        merges: list[Callable[[Any], Any]] = []
        for layer in self.layers:
            kind, size = layer["kind"], self._own(layer["size"])
            dilation = (1,) * self.axes if self.fragments else self._own(layer["sparsity"])
            if kind == "convolution":
                bias = self.parameters.get(layer["bias"])
                x = self._convolve(x, self.parameters[layer["kernel"]], bias, dilation=dilation)
            elif kind == "transfer":
                x = {"relu": f.relu, "linear": lambda v: v}[layer["function"]](x)
            elif kind == "max_pool":
                x = self._pool(x, size)
            elif kind == "max_filter":
                x = self._pool(x, size, stride=1, dilation=dilation)
                if self.fragments:
                    x, merge = self._split(x, self._own(layer["stride"]))
                    merges.append(merge)
            else:
                raise NotImplementedError(f"the peer has no {kind}")
        for merge in reversed(merges):
            x = merge(x)
        return x

    def _split(self, x: Any, stride: tuple[int, ...]) -> tuple[Any, Callable[[Any], Any]]:
        """Put sub-lattices into the batch; the second result undoes it."""
        axes, (b, c, *size) = self.axes, x.shape
        pad = [p for n, s in zip(reversed(size), reversed(stride), strict=True) for p in (0, -n % s)]
        x = self.torch.nn.functional.pad(x, pad)
        pairs = [m for n, s in zip(x.shape[2:], stride, strict=True) for m in (n // s, s)]
        inner, outer = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        x = x.reshape(b, c, *pairs).permute(*outer, 0, 1, *inner).reshape(-1, c, *pairs[::2])

        def merge(out: Any) -> Any:
            _, n, *parts = out.shape
            out = out.reshape(*stride, b, n, *parts)
            order = [axis for j in range(axes) for axis in (axes + 2 + j, j)]
            whole = [m * s for m, s in zip(parts, stride, strict=True)]
            return out.permute(axes, axes + 1, *order).reshape(b, n, *whole)

        return x.contiguous(memory_format=self.format), merge

    def gradients(self, image: np.ndarray, target: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """Return the square loss and its gradients, public form."""
        loss = self._backward(image, target)
        shapes = {name: self._public(value.grad.numpy()) for name, value in self.parameters.items()}
        return loss, shapes

    def _public(self, value: np.ndarray) -> np.ndarray:
        return (value[:, :, None] if value.ndim == 4 else value).copy()

    def step(self, image: np.ndarray, target: np.ndarray) -> float:
        """Make one update and return the loss before it."""
        loss = self._backward(image, target)
        self.optimizer.step()
        return loss

    def _backward(self, image: np.ndarray, target: np.ndarray) -> float:
        self.optimizer.zero_grad()
        loss = self._loss(self._tensor(image), self._tensor(target))
        loss.backward()
        return float(loss.detach())

    def _plain_loss(self, x: Any, target: Any) -> Any:
        output = self.forward(x)
        box = tuple(slice(n) for n in target.shape[2:])
        return self.torch.nn.functional.mse_loss(output[:, :, *box], target)
