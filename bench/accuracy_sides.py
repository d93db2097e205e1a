"""The two sides of `accuracy.py`: our model, and `Model.to_torch` of it in the form that is fastest here."""

import copy
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from torch_peer import TorchNet

import znn_dask as znn
from znn_dask.net import Convolution, MaxFilter
from znn_dask.train.samples import Sample

HOPELESS = 3.0  # times the best form's first update


class Side(Protocol):
    """Somebody who learns from samples."""

    def train(self, samples: Sequence[Sample]) -> list[float]:
        """Make an update for every sample; return the losses before each."""
        ...

    def outputs(self, image: Any) -> np.ndarray:
        """Return the output (batch, channel, z, y, x)."""
        ...


class Ours:
    """Our model, as `train` runs it: an update begins while the one before ends."""

    def __init__(self, model: znn.Model) -> None:
        self.model = model

    def train(self, samples: Sequence[Sample]) -> list[float]:
        losses = list(self.model.steps(tuple(sample) for sample in samples))
        self.model.flush()
        return losses

    def outputs(self, image: Any) -> np.ndarray:
        return np.asarray(self.model.forward(image))


class Fragments(TorchNet):
    """A chain of `Model.to_torch` that puts the sub-lattices after each max-filter into the batch."""

    def __init__(self, torch: Any, net: znn.Network, module: Any, axes: int, layout: Any) -> None:
        self.torch, self.axes, self.format = torch, axes, layout
        f = torch.nn.functional
        self._convolve, self._pool = (f.conv3d, f.max_pool3d) if axes == 3 else (f.conv2d, f.max_pool2d)
        self.edges = [(edge.op, dict(module.named_modules())[edge.name]) for edge in net.edges.values()]

    def forward(self, x: Any) -> Any:
        merges: list[Callable[[Any], Any]] = []
        for op, module in self.edges:
            if isinstance(op, Convolution):
                x = self._convolve(x, module.weight)
            elif isinstance(op, MaxFilter):
                x, merge = self._split(self._pool(x, self._own(op.window), stride=1), self._own(op.stride))
                merges.append(merge)
            else:
                x = module(x)
        for merge in reversed(merges):
            x = merge(x)
        return x


class Theirs:
    """PyTorch: the module of a model, with its weights.

    Parameters
    ----------
    form : str
        A layout, "contiguous" or "channels-last", with "fragments" before for no dilation and "compiled" after.
    """

    def __init__(self, torch: Any, net: znn.Network, module: Any, form: str, loss: str, optimizer: znn.SGD) -> None:
        self.torch, self.loss = torch, loss
        self.axes = 2 if net.ndim == 2 else 3
        last = torch.channels_last_3d if self.axes == 3 else torch.channels_last
        self.layout = last if "channels-last" in form else torch.contiguous_format
        # In evaluation mode, as it comes: dropout, which has rate 0 here, then costs nothing.
        self.module = copy.deepcopy(module).to(memory_format=self.layout)
        forward = self.module
        if form.startswith("fragments"):
            forward = Fragments(torch, net, self.module, self.axes, self.layout).forward
        self.forward = torch.compile(forward, dynamic=False) if form.endswith("compiled") else forward
        parameters = self.module.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=optimizer.learning_rate, momentum=optimizer.momentum)

    def train(self, samples: Sequence[Sample]) -> list[float]:
        losses = []
        for sample in samples:
            self.optimizer.zero_grad()
            target = self._tensor(sample.target)
            loss = self._loss(self._cropped(self.forward(self._image(sample.image)), target), target, sample.weight)
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    def outputs(self, image: Any) -> np.ndarray:
        with self.torch.no_grad():
            found = self.forward(self._image(image)).numpy()
        return np.asarray(found[:, :, None] if self.axes == 2 else found)

    def _loss(self, output: Any, target: Any, weight: Any) -> Any:
        f = self.torch.nn.functional
        if self.loss == "softmax":
            each = f.cross_entropy(output, target[:, 0].long(), reduction="none")[:, None]
        else:
            each = f.binary_cross_entropy_with_logits(output, target, reduction="none")
        return (each if weight is None else each * self._tensor(weight)).mean()

    def _cropped(self, output: Any, target: Any) -> Any:
        return output[:, :, *(slice(n) for n in target.shape[2:])]

    def _image(self, value: Any) -> Any:
        return self._tensor(value).contiguous(memory_format=self.layout)

    def _tensor(self, value: Any) -> Any:
        array = np.asarray(value)
        return self.torch.from_numpy(np.ascontiguousarray(array[:, :, 0] if self.axes == 2 else array))


def forms_of(net: znn.Network, compiled: bool) -> list[str]:
    """Return the forms that differ for a network; fragments are made of chains only."""
    chain = all(len(net.outgoing(node)) < 2 and len(net.incoming(node)) < 2 for node in net.nodes)
    filters = any(isinstance(edge.op, MaxFilter) for edge in net.edges.values())
    kinds = ["", "fragments "] if chain and filters else [""]
    plain = [kind + layout for kind, layout in itertools.product(kinds, ("channels-last", "contiguous"))]
    return plain + [f"{form} compiled" for form in plain if compiled]


def fastest_form(make: Callable[[str], Theirs], forms: Sequence[str], sample: Sample) -> tuple[str, dict[str, float]]:
    """Return the form whose updates are fastest, and the seconds of each; its own parameters learn, no others."""
    seconds: dict[str, float] = {}
    for form in forms:
        side = make(form)
        if form.endswith("compiled"):
            side.train([sample])
        for turn in range(3):
            start = time.perf_counter()
            side.train([sample])
            took = time.perf_counter() - start
            seconds[form] = min(seconds.get(form, took), took)
            if turn == 0 and took > HOPELESS * min(seconds.values()):
                break
        print(f"  {form:36} {1e3 * seconds[form]:9.1f} ms", flush=True)
    return min(seconds, key=seconds.__getitem__), seconds
