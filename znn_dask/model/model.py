"""Model: a network that runs, learns and is saved."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError
from znn_dask.geometry import Triple
from znn_dask.lower import Options, StepGraph
from znn_dask.lower.parameters import check_parameters, initial_parameters
from znn_dask.model import files
from znn_dask.model.core import Core
from znn_dask.model.filed import Filed
from znn_dask.model.losses import Losses, as_losses, targets_of
from znn_dask.model.memory import as_bytes, planned
from znn_dask.model.optimizers import Optimizer, as_optimizer, as_rate
from znn_dask.model.outward import Outward
from znn_dask.model.pipeline import pipelined
from znn_dask.model.samples import Batch, as_seed, output_sizes, read_images, read_sample, single
from znn_dask.model.shown import Shown
from znn_dask.model.state import PlanReport
from znn_dask.model.views import graph_of
from znn_dask.model.volumes import Predicting
from znn_dask.net import Network
from znn_dask.ops.losses import Target
from znn_dask.sched.scheduler import resolve_workers
from znn_dask.tune import timing

Array = npt.NDArray[np.float32]
Size: TypeAlias = Triple | dict[str, Triple]


class Model(Filed, Outward, Predicting, Shown):
    """A network with parameters, planned and compiled for this machine.

    Parameters
    ----------
    net : Network
    output_size : int or (z, y, x), or dict of output to these
        Voxels of the dense output that a step computes.
    loss : str, or dict of output to str or (str, factor)
        "square", "logistic" or "softmax", as torch's mse_loss, binary_cross_entropy_with_logits and cross_entropy;
        "square_square(0.2)", "dice", "malis" or "malis_constrained", see docs/learning.md. Several losses are
        multiplied by their factors and added.
    optimizer : SGD, Adam or AdamW, optional
    seed : int
        Of parameters and dropout.
    num_workers : int, optional
        Threads; None takes all CPUs this process may use.
    convolution : "auto" | "fft" | "direct" | "winograd" | "fft-stored" | dict of edge to these
        "winograd" is for kernels of 2 to 5 taps along y and as many along x; said of all edges, others are direct.
        "fft-stored" is ZNN as published (arXiv 1510.06706).
    fft_backend : "auto" | "native" | "pyfftw" | "scipy"
    fft_effort : "estimate" | "measure"
        Whether FFTW may measure its algorithms. That is saved with the model; two new ones may differ in the last bits.
    granularity : "auto" | "node" | "edge"
        Whether the edges that converge on a node are one task, or one each and a sum.
    block : "auto" or int
        Channels per block; 1 gives the paper's graph.
    sum : "tree" | "arrival"
        Sums in a fixed tree, so that results never depend on the order of arrival; or, as in ZNN, in that order, so
        that they differ in the last bits from run to run.
    policy : str
        Of the scheduler, see `Scheduler`. For "locality" and "locality-depth" distances are those of the nodes.
    batch : int
        Examples the plan is made for; others are possible.
    tune : bool, optional
        Whether to measure once which algorithms are fastest here, or (False) to go by the cost model; True by default.
    memory : int or str, optional
        Most that the arrays of a step may take: bytes, or "2 GiB". Leaner, slower plans are then taken where needed.

    Raises
    ------
    ParameterError
        If an argument has no valid value; the message lists those that are.
    ShapeError, MemoryLimitError
        If outputs of these sizes cannot be, or no plan keeps to ``memory``.
    """

    def __init__(
        self,
        net: Network,
        output_size: int | Iterable[int] | Mapping[str, Any],
        loss: str | Mapping[str, Any] = "square",
        optimizer: Optimizer | None = None,
        seed: int = 0,
        num_workers: int | None = None,
        convolution: str | dict[str, str] = "auto",
        fft_backend: str = "auto",
        fft_effort: str = "estimate",
        granularity: str = "auto",
        block: int | str = "auto",
        sum: str = "tree",
        policy: str = "locality",
        batch: int = 1,
        tune: bool | None = None,
        memory: int | str | None = None,
    ) -> None:
        if not isinstance(net, Network):
            raise ParameterError(f"net must be a Network, got {type(net).__name__}; Network.parse(...) makes one")
        losses, optimizer = as_losses(loss, net), as_optimizer(optimizer)
        options = Options(convolution, granularity, block, fft_backend, fft_effort, sum, as_bytes(memory))
        num_workers = resolve_workers(num_workers)
        sizes, rule = output_sizes(net, output_size), optimizer.rule
        plan = planned(net, sizes, batch, options, timing(tune), num_workers, policy, rule)
        self._core = Core(net, plan, options, losses, optimizer, as_seed(seed), num_workers, policy)
        self._core.start(initial_parameters(net, self.seed))

    # ---- what it is

    @property
    def net(self) -> Network:
        """The network."""
        return self._core.net

    @property
    def loss(self) -> Losses:
        """The loss of all outputs, or (loss, factor) by output."""
        return self._core.loss

    @property
    def seed(self) -> int:
        """The seed of parameters and dropout."""
        return self._core.seed

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser, with the learning rate of now."""
        return self._core.optimizer_now

    @property
    def output_size(self) -> Size:
        """Size of the output (z, y, x); a dict where there are several."""
        return cast(Size, single(self._core.plan.output_size))

    @property
    def input_size(self) -> Size:
        """Size of the input (z, y, x); a dict where there are several."""
        return cast(Size, single(self._core.input_sizes))

    @property
    def num_workers(self) -> int:
        """Threads that compute."""
        return self._core.scheduler.num_workers

    @property
    def step_count(self) -> int:
        """Steps made so far."""
        return self._core.state.step_count

    @property
    def learning_rate(self) -> float:
        """Rate of the gradients computed from now on."""
        return self._core.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._core.learning_rate = as_rate("learning_rate", rate)

    @property
    def plan(self) -> PlanReport:
        """What was chosen per layer, block sizes, peak memory; prints as a table."""
        return self._core.report()

    @property
    def parameters(self) -> dict[str, Array]:
        """Copies of all parameters: kernels (out, in, z, y, x), biases (channel,)."""
        self._core.flush()
        return self._core.public(self._core.state.parameters)

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters; what the optimiser keeps (velocities) starts again from zero.

        Raises
        ------
        ParameterError
            If names or shapes are not those of the network.
        """
        check_parameters(self.net, parameters)
        self._core.start(parameters, steps=self.step_count)

    # ---- running

    def forward(self, x: Any) -> Any:
        """Compute the outputs of one patch.

        Parameters
        ----------
        x : array of shape (channel, z, y, x) or (batch, channel, z, y, x), or dict of input to these
            Of `input_size`; ``(z, y, x)`` will do for one channel.

        Returns
        -------
        float32 array of shape (channel, z, y, x), with a batch axis if the input has one; or dict of output to these

        Raises
        ------
        ShapeError, ParameterError
            If an input does not fit.
        """
        batch = read_images(x, self.net.inputs, self._core.input_sizes)
        outputs = self._core.forward(batch)
        return single({name: y[0] if batch.squeezed else y for name, y in outputs.items()})

    def gradients(self, x: Any, target: Any, weight: Any = None) -> tuple[float, dict[str, Array]]:
        """Return the loss and its gradient with respect to every parameter; changes nothing.

        Parameters
        ----------
        x, target, weight
            As for `step`.
        """
        return self._core.gradients(self._read(x, target, weight))

    def step(self, x: Any, target: Any, weight: Any = None) -> float:
        """Make one update and return the loss before it; with an optimiser that accumulates, a part of one.

        Nothing of it runs after it returns, but its updates may stay pending until they are needed. If it is
        interrupted or fails, the model is as before.

        Parameters
        ----------
        x : array or dict of input to array
            As for `forward`.
        target : array of shape (channel, z, y, x), with a batch axis if x has one; or dict of output to these
            For the softmax loss the class of each voxel, (z, y, x); for MALIS the id of its segment, 0 for background.
        weight : array like the target, or with one channel; or dict of output to these; optional
            Multiplies the loss of each voxel before the mean.

        Raises
        ------
        ShapeError, ParameterError
            If the sample does not fit the model.
        """
        return self._core.step(self._read(x, target, weight))

    def steps(self, samples: Iterable[tuple[Any, ...]]) -> Iterator[float]:
        """Make one step per sample (x, target[, weight]) and yield its loss, with no barrier between steps.

        A step begins while the one before it ends, and samples are provided meanwhile, on another thread. The results
        are those of `step`, bit for bit, also if the model or its learning rate is changed between two losses; after a
        loss the model is as that step left it. With a memory limit steps do not overlap.
        """
        return pipelined(self._core, iter(samples), self._read)

    def flush(self) -> None:
        """Apply pending updates."""
        self._core.flush()

    # ---- graphs

    def graph(self, kind: str = "step", x: Any = None, target: Any = None, weight: Any = None) -> StepGraph:
        """Return a Dask graph of this model as it is now, for any Dask scheduler.

        Parameters
        ----------
        kind : "step" | "forward"
        x, target, weight : optional
            A sample to put into the graph; without it, ``inputs`` names the keys to be given:
            float32 arrays with a batch axis, of shape (batch, channel, z, y, x).

        Returns
        -------
        StepGraph
            ``dask``, ``inputs`` and ``outputs``: of a step the key of the "loss" and of each new parameter by name;
            of forward those of the outputs by name. Every call gives new keys. ``graph.run(get)`` computes it with any
            Dask scheduler, see docs/dashboard.md.
        """
        if kind not in ("step", "forward"):
            raise ParameterError(f"graph must be 'step' or 'forward', got {kind!r}")
        batch = None
        if x is not None:
            images = read_images(x, self.net.inputs, self._core.input_sizes)
            batch = images if kind == "forward" else self._read(x, target, weight)
        return graph_of(self._core, kind, batch)

    # ---- files

    @classmethod
    def load(
        cls, path: str | Path, output_size: Any = None, num_workers: int | None = None, loss: Losses | None = None
    ) -> "Model":
        """Read a model that `save` wrote, or an HDF5 file of a network that ZNN trained.

        Parameters
        ----------
        path : str or Path
        output_size : optional
            Another output size than it was saved with; the plan is then made anew, within the memory given then. ZNN's
            files say none: 1x100x100 in 2D and 20x20x20 in 3D unless given.
        num_workers : int, optional
            As for `Model`.
        loss : optional
            Another loss than it was saved with. ZNN's files say none: softmax where there are several linear outputs,
            else square, unless given.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged or no model.
        """
        model = cls.__new__(cls)
        model._core = files.load(path, output_size, num_workers, loss)
        return model

    # ---- inside

    @property
    def _targets(self) -> dict[str, Target]:
        return targets_of(self._core.loss, self.net)

    def _read(self, x: Any, target: Any, weight: Any = None) -> Batch:
        inputs = self.net.inputs, self._core.input_sizes
        outputs = self.net.outputs, self._core.plan.output_size
        return read_sample(x, target, weight, inputs, outputs, self._targets)

    def close(self) -> None:
        """End the threads. The model can still be read and saved."""
        self._core.scheduler.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model: {self.net.n_parameters:,} parameters, output {self.output_size}, {self.step_count} steps>"
