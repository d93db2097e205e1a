"""The machinery of a model: its plan, its compiled graphs and its state, for samples already checked."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from znn_dask.geometry import Triple
from znn_dask.io.znn_hdf5 import ZnnFile
from znn_dask.lower import Options, Plan, make_plan
from znn_dask.lower.memory import parameter_bytes
from znn_dask.lower.parameters import to_blocks, to_public
from znn_dask.lower.step import StepOptions, averaging, step_input_sizes
from znn_dask.model.compiled import Compiled, Programs, for_batch, learn_transforms
from znn_dask.model.memory import forward_bytes, step_bytes
from znn_dask.model.samples import Batch
from znn_dask.model.state import SGD, PlanReport, State, new_version
from znn_dask.net import Network
from znn_dask.ops import update
from znn_dask.ops.fft import Wisdom
from znn_dask.sched import Scheduler

Array = npt.NDArray[np.float32]


class Core:
    """A planned network on a scheduler.

    Attributes
    ----------
    state : State
        Replaced as a whole after a step has succeeded.
    learning_rate : float
        Of the gradients computed from now on.
    origin : ZnnFile or None
        Of a model that ZNN trained: what its file said besides the weights.
    """

    def __init__(
        self,
        net: Network,
        plan: Plan,
        options: Options,
        loss: str,
        optimizer: SGD,
        seed: int,
        num_workers: int | None,
        policy: str,
        wisdom: Wisdom | None = None,
    ) -> None:
        self.net, self.plan, self.options = net, plan, options
        self.loss, self.optimizer, self.seed = loss, optimizer, seed
        self.learning_rate = optimizer.learning_rate
        self.scheduler = Scheduler(num_workers, policy)
        self.programs = Programs(net, self.scheduler)
        self.input_sizes = step_input_sizes(net, plan)
        self.wisdom = learn_transforms(net, plan, wisdom)
        self._plans = {plan.batch: plan}
        self.state = State({}, {})
        self.origin: ZnnFile | None = None

    @property
    def optimizer_now(self) -> SGD:
        """The optimiser, with the learning rate of now."""
        return msgspec.structs.replace(self.optimizer, learning_rate=self.learning_rate)

    def start(self, parameters: Mapping[str, Any], velocities: Mapping[str, Any] | None = None, steps: int = 0) -> None:
        """Take parameters in public form; velocities are zero unless given."""
        blocks = to_blocks(self.net, self.plan, parameters)
        if velocities is None:
            moving = {name: np.zeros_like(values) for name, values in blocks.items()}
        else:
            moving = to_blocks(self.net, self.plan, velocities)
        self.state = State(blocks, moving, step_count=steps)

    def public(self, blocks: Mapping[Hashable, Array]) -> dict[str, Array]:
        """Return blocks of parameters in public form."""
        return to_public(self.net, self.plan, blocks)

    def forward(self, batch: Batch) -> dict[str, Array]:
        """Return the outputs by name, with a batch axis."""
        self.flush()
        program = self.programs.forward(self.plan_for(batch.size))
        return program.run(self.values(batch))

    def plan_for(self, n_examples: int) -> Plan:
        """Return the plan for a number of examples, with its transforms learned."""
        if n_examples not in self._plans:
            plan = for_batch(self.plan, n_examples)
            self.wisdom = learn_transforms(self.net, plan, self.wisdom)
            self._plans[n_examples] = plan
        return self._plans[n_examples]

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        """Return loss and gradients of a sample."""
        self.flush()
        results = self._run_step(batch, pending=False)
        gradients = self.public({name: results["gradient", name] for name in self.state.parameters})
        parameters = self.net.parameters
        return float(results["loss"]), {name: d for name, d in gradients.items() if parameters[name].learned}

    def step(self, batch: Batch) -> float:
        """Make the pending updates and compute the next ones; if that fails, nothing has changed."""
        rate = self.learning_rate
        return self.commit(self._run_step(batch, pending=self.state.pending is not None), rate)

    def commit(self, results: Mapping[Any, Any], rate: float) -> float:
        """Make the results of a step the state of the model, and return its loss.

        Parameters
        ----------
        results : mapping
            Of the step that followed the state as it is.
        rate : float
            The learning rate of its gradients.
        """
        state = self.state
        names = state.parameters
        updated = state
        if state.pending is not None:
            updated = replace(
                state,
                parameters={name: results["parameter", name] for name in names},
                velocities={name: results["velocity", name] for name in names},
            )
        self.state = replace(
            updated,
            pending={name: results["gradient", name] for name in names},
            pending_rate=rate,
            step_count=state.step_count + 1,
            version=new_version(),
        )
        return float(results["loss"])

    def _run_step(self, batch: Batch, pending: bool) -> dict[Any, Any]:
        return self.program(batch, pending).run(self.values(batch))

    def program(self, batch: Batch, pending: bool) -> Compiled:
        """Return the compiled step for a sample."""
        options = self.step_options(frozenset(batch.weights), pending)
        return self.programs.step(self.plan_for(batch.size), options)

    def flush(self) -> None:
        """Make the pending updates."""
        state = self.state
        if state.pending is None:
            return
        momentum, decay = self.optimizer.momentum, self.optimizer.weight_decay
        new = {}
        for name, values in state.parameters.items():
            operands = (values, state.velocities[name], state.pending[name])
            share = averaging(self.net, name)
            if share is None:
                new[name] = update.sgd(*operands, state.pending_rate, momentum, decay)
            else:
                new[name] = update.average(*operands, share)
        parameters = {name: pair[0] for name, pair in new.items()}
        velocities = {name: pair[1] for name, pair in new.items()}
        self.state = replace(state, parameters=parameters, velocities=velocities, pending=None)

    def step_options(self, weights: frozenset[str], pending: bool) -> StepOptions:
        """Return what a step of this model needs to know."""
        optimizer = self.optimizer
        return StepOptions(self.loss, optimizer.momentum, optimizer.weight_decay, self.seed, weights, pending)

    def values(self, batch: Batch | None) -> dict[Hashable, Any]:
        """Return every value a graph of this model may ask for, by the names of `lower`."""
        state = self.state
        values: dict[Hashable, Any] = {"wisdom": self.wisdom, "step": state.step_count}
        values |= {"pending-rate": state.pending_rate, "learning-rate": self.learning_rate}
        values |= state.parameters
        values |= {("velocity", name): v for name, v in state.velocities.items()}
        values |= {("pending", name): v for name, v in (state.pending or {}).items()}
        if batch is not None:
            for kind, arrays in (
                ("input", batch.images),
                ("target", batch.targets),
                ("weight", batch.weights),
            ):
                values |= {(kind, name): array for name, array in arrays.items()}
        return values

    def report(self) -> PlanReport:
        """Return the plan with what it takes."""
        n_workers = self.scheduler.num_workers
        kept = 3 * parameter_bytes(self.net, self.plan)
        used = step_bytes(self.net, self.plan, n_workers, self.scheduler.policy)
        return PlanReport(self.net, self.plan, used, kept, n_workers)

    def tile_bytes(self, size: Triple, num_workers: int | None = None) -> int:
        """Return the bytes that computing one tile takes, parameters included."""
        kept, n_workers = 2 * parameter_bytes(self.net, self.plan), num_workers or self.scheduler.num_workers
        return kept + forward_bytes(self.net, self.patch_plan(size), n_workers, self.scheduler.policy)

    def tile_forward(self, size: Triple) -> Callable[[dict[str, Array]], dict[str, Array]]:
        """Return what computes the outputs of a tile, (channel, z, y, x), from what it reads."""
        plan = self.patch_plan(size)
        self.wisdom = learn_transforms(self.net, plan, self.wisdom)
        program = self.programs.forward(plan)

        def forward(images: dict[str, Array]) -> dict[str, Array]:
            batch = Batch({name: image[np.newaxis] for name, image in images.items()}, {}, {}, 1, True)
            return {name: values[0] for name, values in program.run(self.values(batch)).items()}

        return forward

    def patch_plan(self, size: Triple) -> Plan:
        """Return the plan of a tile; the parameters stay in the blocks they are in."""
        # Nothing is measured for a tile of which there may be one.
        sizes = dict.fromkeys(self.net.outputs, size)
        return make_plan(self.net, sizes, 1, self.options, blocks=self.plan.blocks, training=False)
