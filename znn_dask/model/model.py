"""Model: a network that runs, learns and is saved."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from znn_dask.errors import CheckpointError, OutputExistsError, ParameterError, ShapeError
from znn_dask.geometry import Triple, as_triple
from znn_dask.lower import Options, Plan, StepGraph, lower_step, make_plan
from znn_dask.lower.memory import forward_bytes, peak_bytes
from znn_dask.lower.parameters import check_parameters, initial_parameters, to_blocks, to_public
from znn_dask.lower.step import StepOptions, step_input_sizes
from znn_dask.model.compiled import Programs, for_batch, fresh_token, make_transforms
from znn_dask.model.predict import Progress, as_given, check_out, choose_patch, predict_scene, see
from znn_dask.model.samples import Batch, by_name, read_images, read_sample
from znn_dask.model.state import SGD, PlanReport, State, check_rate
from znn_dask.model.storage import Description, decode_wisdom, encode_wisdom, read_model, write_model
from znn_dask.model.views import forward_graph, step_graph
from znn_dask.net import Network
from znn_dask.ops import fft, update
from znn_dask.ops.loss import check_loss
from znn_dask.sched import Scheduler

Array = npt.NDArray[np.float32]


class Model:
    """A network with parameters, planned and compiled for this machine.

    Parameters
    ----------
    net : Network
    output_size : int or (z, y, x), or dict of output to these
        Voxels of the dense output that a step computes.
    loss : "square" | "logistic" | "softmax"
        As torch's mse_loss, binary_cross_entropy_with_logits and cross_entropy.
    optimizer : SGD, optional
    seed : int
        Of parameters and dropout.
    num_workers : int, optional
        Threads; None takes all CPUs this process may use.
    convolution : "auto" | "fft" | "direct" | "fft-stored" | dict of edge to these
        "fft-stored" is ZNN as published (arXiv 1510.06706).
    fft_backend : "auto" | "pyfftw" | "scipy"
    granularity : "auto" | "node" | "edge"
        Whether the edges that converge on a node are one task, or one each and a sum.
    block : "auto" or int
        Channels per block; 1 gives the paper's graph.
    sum : "tree"
        Sums in a fixed tree: results do not depend on the order of arrival.
    policy : str
        Of the scheduler, see `Scheduler`.
    batch : int
        Examples the plan is made for; others are possible.

    Raises
    ------
    ParameterError
        If an argument has no valid value; the message lists those that are.
    ShapeError
        If outputs of these sizes cannot be.
    """

    def __init__(
        self,
        net: Network,
        output_size: int | Iterable[int] | Mapping[str, Any],
        loss: str = "square",
        optimizer: SGD | None = None,
        seed: int = 0,
        num_workers: int | None = None,
        convolution: str | dict[str, str] = "auto",
        fft_backend: str = "auto",
        granularity: str = "auto",
        block: int | str = "auto",
        sum: str = "tree",  # noqa: A002  # the public name
        policy: str = "locality",
        batch: int = 1,
    ) -> None:
        if not isinstance(net, Network):
            raise ParameterError(f"net must be a Network, got {type(net).__name__}; Network.parse(...) makes one")
        check_loss(loss)
        options = Options(convolution, granularity, block, fft_backend, sum)
        plan = make_plan(net, _output_sizes(net, output_size), batch, options)
        self._set_up(net, plan, options, loss, optimizer or SGD(), seed, num_workers, policy)
        self._start(initial_parameters(net, seed))

    def _set_up(
        self,
        net: Network,
        plan: Plan,
        options: Options,
        loss: str,
        optimizer: SGD,
        seed: int,
        num_workers: int | None,
        policy: str,
    ) -> None:
        self.net, self.loss, self.seed, self.optimizer = net, loss, seed, optimizer
        self._learning_rate = optimizer.learning_rate
        self._plan, self._options = plan, options
        self._scheduler = Scheduler(num_workers, policy)
        self._programs = Programs(net, self._scheduler)
        self._input_sizes = step_input_sizes(net, plan)
        self._wisdom = make_transforms(net, plan)

    def _start(self, parameters: Mapping[str, Any], velocities: Mapping[str, Any] | None = None, steps: int = 0) -> None:
        blocks = to_blocks(self.net, self._plan, parameters)
        if velocities is None:
            still = {name: np.zeros_like(values) for name, values in blocks.items()}
        else:
            still = to_blocks(self.net, self._plan, velocities)
        self._state = State(blocks, still, step_count=steps)

    # ---- what it is

    @property
    def output_size(self) -> Triple | dict[str, Triple]:
        """Size of the output (z, y, x); a dict where there are several."""
        return _single(self._plan.output_size)

    @property
    def input_size(self) -> Triple | dict[str, Triple]:
        """Size of the input (z, y, x); a dict where there are several."""
        return _single(self._input_sizes)

    @property
    def num_workers(self) -> int:
        """Threads that compute."""
        return self._scheduler.num_workers

    @property
    def step_count(self) -> int:
        """Steps made so far."""
        return self._state.step_count

    @property
    def learning_rate(self) -> float:
        """Rate of the gradients computed from now on."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        check_rate(rate)
        self._learning_rate = float(rate)

    @property
    def plan(self) -> PlanReport:
        """What was chosen per layer, block sizes, peak bytes; prints as a table."""
        graph = lower_step(self.net, self._plan, self._step_options(frozenset(), False), "plan")
        return PlanReport(self.net, self._plan, peak_bytes(graph))

    @property
    def parameters(self) -> dict[str, Array]:
        """Copies of all parameters: kernels (out, in, z, y, x), biases (channel,)."""
        self.flush()
        return to_public(self.net, self._plan, self._state.parameters)

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace all parameters; velocities start again from zero.

        Raises
        ------
        ParameterError
            If names or shapes are not those of the network.
        """
        check_parameters(self.net, parameters)
        self._start(parameters, steps=self._state.step_count)

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
        self.flush()
        batch = read_images(x, self.net.inputs, self._input_sizes)
        outputs = self._programs.forward(for_batch(self._plan, batch.size)).run(self._values(batch))
        return _single({name: y[0] if batch.squeezed else y for name, y in outputs.items()})

    def gradients(self, x: Any, target: Any, weight: Any = None) -> tuple[float, dict[str, Array]]:
        """Return the loss and its gradient with respect to every parameter; changes nothing.

        Parameters
        ----------
        x, target, weight
            As for `step`.
        """
        self.flush()
        batch = self._read(x, target, weight)
        program = self._programs.step(
            for_batch(self._plan, batch.size), self._step_options(frozenset(batch.weights), False)
        )
        results = program.run(self._values(batch))
        blocks = {name: results["gradient", name] for name in self._state.parameters}
        return float(results["loss"]), to_public(self.net, self._plan, blocks)

    def step(self, x: Any, target: Any, weight: Any = None) -> float:
        """Make one update and return the loss before it.

        Nothing of it runs after it returns, but its updates may stay pending until they are needed. If it is
        interrupted or fails, the model is as before.

        Parameters
        ----------
        x : array or dict of input to array
            As for `forward`.
        target : array of shape (channel, z, y, x), with a batch axis if x has one; or dict of output to these
            For the softmax loss the class of each voxel, (z, y, x).
        weight : array like the target, or with one channel; or dict of output to these; optional
            Multiplies the loss of each voxel before the mean.

        Raises
        ------
        ShapeError, ParameterError
            If the sample does not fit the model.
        """
        batch, state, rate = self._read(x, target, weight), self._state, self._learning_rate
        options = self._step_options(frozenset(batch.weights), state.pending is not None)
        results = self._programs.step(for_batch(self._plan, batch.size), options).run(self._values(batch))
        names = state.parameters
        changed = {} if state.pending is None else {kind: {n: results[kind, n] for n in names} for kind in ("parameter", "velocity")}
        self._state = State(
            parameters=changed.get("parameter", state.parameters),
            velocities=changed.get("velocity", state.velocities),
            pending={name: results["gradient", name] for name in names},
            pending_rate=rate,
            step_count=state.step_count + 1,
        )
        return float(results["loss"])

    def steps(self, samples: Iterable[tuple[Any, ...]]) -> Iterator[float]:
        """Make one step per sample (x, target[, weight]); the next sample is provided while a step runs."""
        each = iter(samples)
        with ThreadPoolExecutor(1, thread_name_prefix="znn-dask-samples") as provider:
            coming = provider.submit(next, each, None)
            while (sample := coming.result()) is not None:
                coming = provider.submit(next, each, None)
                yield self.step(*sample)

    def flush(self) -> None:
        """Apply pending updates."""
        state = self._state
        if state.pending is None:
            return
        new = {
            name: update.sgd(
                values, state.velocities[name], state.pending[name], state.pending_rate,
                self.optimizer.momentum, self.optimizer.weight_decay,
            )
            for name, values in state.parameters.items()
        }
        parameters = {name: pair[0] for name, pair in new.items()}
        velocities = {name: pair[1] for name, pair in new.items()}
        self._state = replace(state, parameters=parameters, velocities=velocities, pending=None)

    def predict(
        self, volume: Any, out: Any = None, border: str | None = "mirror", progress: Progress | None = None
    ) -> Any:
        """Compute the output for every voxel of a volume, patch by patch.

        Parameters
        ----------
        volume : array of shape (z, y, x) or (channel, z, y, x)
            Of any size; numpy, zarr, h5py or dask, read by region. Or dict of input to these.
        out : array of shape (channel, z, y, x), optional
            Where to write, for instance a zarr array; else a new numpy array. Or dict of output to these.
        border : "mirror" | "constant" | None
            What lies outside the volume: its mirror image, or zeros. None keeps to what is inside: the output is then
            smaller by ``field_of_view - 1``.
        progress : callable(done, total), optional
            Told about patches.

        Returns
        -------
        array of shape (channel, z, y, x)
            ``out`` if that was given; else float32. A dict where there are several outputs.

        Raises
        ------
        ShapeError
            If the volume is smaller than the border allows, or does not fit ``out``.
        ParameterError
            If the border is unknown, or the network has max-pooling, which is not dense.
        """
        self.flush()
        scene = see(self.net, by_name(volume, list(self.net.inputs), "input"), border)
        target = None if out is None else by_name(out, list(self.net.outputs), "output")
        if target is not None:
            check_out(target, self.net.outputs, scene.size)
        patch = choose_patch(scene.size, lambda size: forward_bytes(self.net, self._patch_plan(size)))
        plan = self._patch_plan(patch)
        make_transforms(self.net, plan)

        def forward(images: dict[str, Array]) -> Mapping[str, Array]:
            return self._programs.forward(plan).run(self._values(Batch(images, {}, {}, 1, True)))

        results = predict_scene(scene, self.net.outputs, patch, forward, self.net.field_of_view, target, progress)
        result = _single(results)
        return result if isinstance(volume, Mapping) or out is not None else as_given(volume, result)

    def _patch_plan(self, size: Triple) -> Plan:
        """Return the plan of a forward pass of another size; the parameters stay in their blocks."""
        sizes = dict.fromkeys(self.net.outputs, size)
        return msgspec.structs.replace(make_plan(self.net, sizes, 1, self._options), blocks=self._plan.blocks)

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
            of forward those of the outputs by name. Every call gives new keys.
        """
        if kind not in ("step", "forward"):
            raise ParameterError(f"graph must be 'step' or 'forward', got {kind!r}")
        if kind == "forward":
            self.flush()
            batch = None if x is None else read_images(x, self.net.inputs, self._input_sizes)
            return forward_graph(self.net, self._plan, self._values(batch), fresh_token())
        batch = None if x is None else self._read(x, target, weight)
        weights = frozenset(by_name(weight, list(self.net.outputs), "weight")) if weight is not None else frozenset()
        options = replace(self._step_options(weights, self._state.pending is not None), updates=True)
        values = self._values(batch)
        plan = self._plan if batch is None else for_batch(self._plan, batch.size)
        return step_graph(self.net, plan, options, values, self._learning_rate, fresh_token())

    # ---- files

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None, overwrite: bool = True) -> None:
        """Write the model so that it can go on bitwise as it would have: parameters, velocities, step, plan, wisdom.

        The file (safetensors) is written to a temporary name and renamed.

        Parameters
        ----------
        path : str or Path
        metadata : mapping of str to str, optional
            More to keep in it.
        overwrite : bool
            Whether an existing file may be replaced.

        Raises
        ------
        OutputExistsError
            If the file exists and may not be replaced.
        """
        if not overwrite and Path(path).exists():
            raise OutputExistsError(f"{path} exists; give overwrite=True to replace it")
        self.flush()
        description = Description(
            network=self.net.to_text(),
            plan=self._plan,
            options=self._options,
            optimizer=msgspec.structs.replace(self.optimizer, learning_rate=self._learning_rate),
            loss=self.loss,
            seed=self.seed,
            step_count=self._state.step_count,
            policy=self._scheduler.policy,
            wisdom=encode_wisdom(self._wisdom.single),
        )
        velocities = to_public(self.net, self._plan, self._state.velocities)
        write_model(path, description, self.parameters, velocities, dict(metadata or {}))

    @classmethod
    def load(cls, path: str | Path, output_size: Any = None, num_workers: int | None = None) -> "Model":
        """Read a model that `save` wrote.

        Parameters
        ----------
        path : str or Path
        output_size : optional
            Another output size than it was saved with; the plan is then made anew.
        num_workers : int, optional
            As for `Model`.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged or no model.
        """
        stored = read_model(path)
        about, net = stored.description, stored.net
        fft.adopt(fft.Wisdom(decode_wisdom(about.wisdom)))
        plan = about.plan
        if output_size is not None and _output_sizes(net, output_size) != plan.output_size:
            plan = make_plan(net, _output_sizes(net, output_size), plan.batch, about.options)
        model = cls.__new__(cls)
        try:
            check_parameters(net, stored.parameters)
            check_parameters(net, stored.velocities)
            model._set_up(net, plan, about.options, about.loss, about.optimizer, about.seed, num_workers, about.policy)
        except ParameterError as error:
            raise CheckpointError(f"{path} cannot be used: {error}") from error
        model._start(stored.parameters, stored.velocities, about.step_count)
        return model

    # ---- inside

    def _step_options(self, weights: frozenset[str], pending: bool) -> StepOptions:
        optimizer = self.optimizer
        return StepOptions(self.loss, optimizer.momentum, optimizer.weight_decay, self.seed, weights, pending)

    def _read(self, x: Any, target: Any, weight: Any) -> Batch:
        inputs, outputs = (self.net.inputs, self._input_sizes), (self.net.outputs, self._plan.output_size)
        return read_sample(x, target, weight, inputs, outputs, self.loss == "softmax")

    def _values(self, batch: Batch | None) -> dict[Hashable, Any]:
        """Return every value a graph of this model may ask for, by the names of `lower`."""
        state = self._state
        values: dict[Hashable, Any] = {"wisdom": self._wisdom, "step": state.step_count, "pending-rate": state.pending_rate}
        values |= state.parameters
        values |= {("velocity", name): v for name, v in state.velocities.items()}
        values |= {("pending", name): v for name, v in (state.pending or {}).items()}
        if batch is not None:
            for kind, arrays in (("input", batch.images), ("target", batch.targets), ("weight", batch.weights)):
                values |= {(kind, name): array for name, array in arrays.items()}
        return values

    def close(self) -> None:
        """End the threads. The model can still be read and saved."""
        self._scheduler.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model: {self.net.n_parameters:,} parameters, output {self.output_size}, {self.step_count} steps>"


def _output_sizes(net: Network, given: Any) -> dict[str, Triple]:
    names = list(net.outputs)
    sizes = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
    if set(sizes) != set(names):
        raise ShapeError(f"output_size must be given for {', '.join(names)}, got {', '.join(map(str, sizes))}")
    return {name: as_triple(sizes[name], net.ndim, "output_size") for name in names}


def _single(values: Mapping[str, Any]) -> Any:
    return next(iter(values.values())) if len(values) == 1 else dict(values)
