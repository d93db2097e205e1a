"""The machinery of a model: its plan, its compiled graphs and its state, for samples already checked."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from znn_dask.config import pin
from znn_dask.geometry import Triple
from znn_dask.io.znn_hdf5 import ZnnFile
from znn_dask.lower import Options, Plan, make_plan
from znn_dask.lower.memory import parameter_bytes
from znn_dask.lower.parameters import to_blocks, to_public
from znn_dask.lower.step import StepOptions, step_input_sizes, update_rules
from znn_dask.model.compiled import Compiled, Programs, for_batch, learn_transforms
from znn_dask.model.losses import Losses, by_output
from znn_dask.model.memory import forward_bytes, kept_arrays, step_bytes
from znn_dask.model.optimizers import Optimizer, rate_factors
from znn_dask.model.samples import Batch
from znn_dask.model.state import PlanReport, State, new_version
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
        loss: Losses,
        optimizer: Optimizer,
        seed: int,
        num_workers: int | None,
        policy: str,
        wisdom: Wisdom | None = None,
    ) -> None:
        self.net, self.plan, self.options = net, plan, options
        self.loss, self.optimizer, self.seed = loss, optimizer, seed
        self.learning_rate = optimizer.learning_rate
        self.factors = rate_factors(optimizer, net)
        self.rules = update_rules(net, plan, optimizer.rule, self.factors)
        self.scheduler = Scheduler(num_workers, policy, pinned=pin())
        self.programs = Programs(net, self.scheduler)
        self.input_sizes = step_input_sizes(net, plan)
        self.wisdom = learn_transforms(net, plan, wisdom)
        self._plans = {plan.batch: plan}
        self.state = State({}, {})
        self.origin: ZnnFile | None = None

    @property
    def optimizer_now(self) -> Optimizer:
        """The optimiser, with the learning rate of now."""
        return msgspec.structs.replace(self.optimizer, learning_rate=self.learning_rate)

    def start(
        self, parameters: Mapping[str, Any], slots: Mapping[str, Mapping[str, Any]] | None = None, steps: int = 0
    ) -> None:
        """Take parameters in public form, and what the optimiser keeps, which is zero unless given."""
        blocks = to_blocks(self.net, self.plan, parameters)
        kept: dict[str, dict[Hashable, Array]] = {}
        for slot in self.optimizer.rule.slots:
            if slots is not None:
                kept[slot] = to_blocks(self.net, self.plan, slots[slot])
            else:
                owners = [name for name in blocks if slot in self.rules[name].slots]
                kept[slot] = {name: np.zeros_like(blocks[name]) for name in owners}
        self.state = State(blocks, kept, step_count=steps)

    def resume(self, update_count: int, parts: int, sums: Mapping[str, Any]) -> None:
        """Go on in the middle of an update: take the sums of ``parts`` gradients in public form."""
        pending = to_blocks(self.net, self.plan, sums) if parts else None
        self.state = replace(self.state, update_count=update_count, parts=parts, pending=pending)

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
        updated, parts = state, 1
        if state.pending is not None:
            parts += state.parts if self._adds else 0
            updated = replace(
                state,
                parameters={name: results.get(("parameter", name), old) for name, old in state.parameters.items()},
                slots={
                    slot: {name: results.get((slot, name), old) for name, old in blocks.items()}
                    for slot, blocks in state.slots.items()
                },
                update_count=self.updates_due,
            )
        self.state = replace(
            updated,
            pending={name: results["gradient", name] for name in state.parameters},
            parts=parts,
            pending_rate=rate,
            pending_norm=results.get("norm", 0.0),
            step_count=state.step_count + 1,
            version=new_version(),
        )
        return float(results["loss"])

    def take(self, loss: float, gradients: Mapping[Hashable, Array]) -> float:
        """Make a step of gradients that were computed elsewhere, from the parameters as they are after `flush`.

        Parameters
        ----------
        loss : float
        gradients : dict of block name to float32 array
            Of the whole minibatch.
        """
        if self.state.pending is not None:  # too few for an update: those of a step add up
            gradients = {name: values + self.state.pending[name] for name, values in gradients.items()}
        results: dict[Any, Any] = {("gradient", name): values for name, values in gradients.items()} | {"loss": loss}
        if self.optimizer.clip_norm is not None:
            results["norm"] = update.norm_of([update.square_sum(values) for values in gradients.values()])
        return self.commit(results, self.learning_rate)

    @property
    def _adds(self) -> bool:
        """Whether the pending gradients are too few for an update."""
        return self.state.pending is not None and self.state.parts < self.optimizer.accumulate

    @property
    def updates_due(self) -> int:
        """Number of the last update whose gradients there are."""
        return self.state.update_count + (self.state.pending is not None and not self._adds)

    @property
    def completes(self) -> bool:
        """Whether the gradients of the next step are enough for an update."""
        return (self.state.parts if self._adds else 0) + 1 == self.optimizer.accumulate

    def _run_step(self, batch: Batch, pending: bool) -> dict[Any, Any]:
        return self.program(batch, pending).run(self.values(batch))

    def program(self, batch: Batch, pending: bool) -> Compiled:
        """Return the compiled step for a sample."""
        options = self.step_options(frozenset(batch.weights), pending)
        return self.programs.step(self.plan_for(batch.size), options)

    def flush(self) -> None:
        """Make the pending updates."""
        state = self.state
        if state.pending is None or self._adds:
            return
        rate, norm, count = state.pending_rate, state.pending_norm, self.updates_due
        parameters, slots = dict(state.parameters), {slot: dict(blocks) for slot, blocks in state.slots.items()}
        for name, rule in self.rules.items():
            old = state.of_block(rule.slots, name)
            new = update.apply(rule, state.parameters[name], state.pending[name], rate, norm, count, *old)
            parameters[name] = new[0]
            for slot, values in zip(rule.slots, new[1:], strict=True):
                slots[slot][name] = values
        self.state = replace(state, parameters=parameters, slots=slots, pending=None, parts=0, update_count=count)

    def step_options(self, weights: frozenset[str], pending: bool) -> StepOptions:
        """Return what a step of this model needs to know."""
        rule, adds = self.optimizer.rule, pending and self._adds
        return StepOptions(by_output(self.loss), rule, self.factors, self.seed, weights, pending, adds)

    def values(self, batch: Batch | None) -> dict[Hashable, Any]:
        """Return every value a graph of this model may ask for, by the names of `lower`."""
        state = self.state
        values: dict[Hashable, Any] = {"wisdom": self.wisdom, "step": state.step_count}
        values |= {"pending-rate": state.pending_rate, "learning-rate": self.learning_rate}
        values |= {"pending-count": self.updates_due, "learning-count": self.updates_due + 1}
        values |= {"pending-norm": state.pending_norm}
        values |= state.parameters
        for slot, blocks in state.slots.items():
            values |= {(slot, name): array for name, array in blocks.items()}
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
        rule = self.optimizer.rule
        kept = kept_arrays(rule) * parameter_bytes(self.net, self.plan)
        used = step_bytes(self.net, self.plan, n_workers, self.scheduler.policy, rule)
        return PlanReport(self.net, self.plan, used, kept, n_workers)

    def tile_bytes(self, size: Triple, num_workers: int | None = None) -> int:
        """Return the bytes that computing one tile takes, parameters included."""
        kept = (kept_arrays(self.optimizer.rule) - 1) * parameter_bytes(self.net, self.plan)
        n_workers = num_workers or self.scheduler.num_workers
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
