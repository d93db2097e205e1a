"""Whole graphs: the forward pass for users, and the step that trains.

A step starts with the updates that the step before left behind, at the lowest priority; then forward, loss, backward
and the gradients, which it leaves behind in turn. The first step has none to begin with.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dask
from dask.task_spec import DataNode, GraphNode

from znn_dask.errors import ParameterError
from znn_dask.lower.arrange import arrange, input_sizes
from znn_dask.lower.backward import lower_backward_pass
from znn_dask.lower.builder import DEFAULT_ORDER, Builder, Key, ref, refs
from znn_dask.lower.expand import expand
from znn_dask.lower.forward import lower_forward_pass
from znn_dask.lower.lowering import Lowering, Values
from znn_dask.lower.plan import Plan
from znn_dask.net import Convolution, Network, Normalisation
from znn_dask.net.parameters import parameters_of
from znn_dask.ops import layout, loss, update
from znn_dask.tasks import ArrivalReduce, Reduce


@dataclass(frozen=True)
class StepGraph:
    """A graph of tasks and the keys by which it is used.

    Attributes
    ----------
    dask : dict of key to task
        A Dask graph for any scheduler.
    inputs : dict of name to key
        What the graph refers to and does not hold.
    outputs : dict of name to key
        What can be asked of it.
    priority : dict of key to int
        Larger runs first.
    n_bytes : dict of key to int
        Of every result that is a new array.
    extra_bytes : dict of key to int
        Of the arrays that a task holds only while it runs.
    """

    dask: dict[Key, GraphNode]
    inputs: dict[Any, Key]
    outputs: dict[Any, Key]
    priority: dict[Key, int]
    n_bytes: dict[Key, int] = field(repr=False, default_factory=dict)
    extra_bytes: dict[Key, int] = field(repr=False, default_factory=dict)

    def run(self, get: Callable[..., Any], inputs: Mapping[Any, Any] | None = None) -> dict[Any, Any]:
        """Compute the outputs with any Dask scheduler.

        The priorities go along as annotations (`dask.annotate`). The scheduler of `distributed` follows them among
        the tasks it knows to be ready; Dask's local ones have no priorities and ignore them.

        Parameters
        ----------
        get : callable(graph, keys)
            ``client.get`` of a `distributed.Client`, ``dask.get``, ``dask.threaded.get``, `znn_dask.get`, ...
        inputs : mapping of name to array, optional
            A value for every name of ``inputs``.

        Returns
        -------
        dict of name to value
            By the names of ``outputs``.

        Raises
        ------
        ParameterError
            If an input is missing or unknown.
        """
        given = dict(inputs or {})
        if given.keys() != self.inputs.keys():
            raise ParameterError(
                f"inputs must be given for {_listed(self.inputs)}, got {_listed(given)}; "
                "Model.graph(kind, x, target) puts a sample into the graph"
            )
        values = {self.inputs[name]: DataNode(self.inputs[name], value) for name, value in given.items()}
        # A bound method of a dict is known to every process, also where this package is not installed.
        with dask.annotate(priority=self.all_priorities().__getitem__):
            results = get(self.dask | values, list(self.outputs.values()))
        return dict(zip(self.outputs, results, strict=True))

    def all_priorities(self) -> dict[Key, int]:
        """Return a priority for every key, also of values and inputs: that of the first task that reads them."""
        found = dict(self.priority)
        for key, task in self.dask.items():
            for other in task.dependencies - self.priority.keys():
                found[other] = max(self.priority[key], found.get(other, self.priority[key]))
        lowest = min(self.priority.values())
        return dict.fromkeys(self.dask, lowest) | found


@dataclass(frozen=True)
class StepOptions:
    """What a step needs to know besides network and plan.

    Attributes
    ----------
    loss : str
        For all outputs.
    momentum, weight_decay : float
        Of the updates.
    seed : int
        Of dropout.
    weights : frozenset of str
        The outputs that are given a weight per voxel.
    pending : bool
        Whether a step before has left updates behind.
    updates : bool
        Whether this step's own updates are made too, in the graph itself.
    """

    loss: str
    momentum: float = 0.0
    weight_decay: float = 0.0
    seed: int = 0
    weights: frozenset[str] = frozenset()
    pending: bool = False
    updates: bool = False


def parameter_blocks(net: Network, plan: Plan) -> Iterable[tuple[Hashable, str, tuple[slice, ...]]]:
    """Yield the blocks parameters are kept in: the name, the parameter's name, its part of the public array.

    Kernels are ("kernel", edge, block in, block out), others by their name ("bias", edge, block).
    """
    net = expand(net)
    for edge in net.edges.values():
        # Of maps that are phases, those of one phase; edges that work map by map have the blocks of their source.
        if isinstance(edge.op, Convolution):
            shape = net.parameters[f"{edge.name}/kernel"].shape
            blocks_in = _slices(plan.blocks[edge.source], shape[1])
            blocks_out = _slices(plan.blocks[edge.target], shape[0])
            for i, part_in in enumerate(blocks_in):
                for o, part_out in enumerate(blocks_out):
                    yield ("kernel", edge.name, i, o), f"{edge.name}/kernel", (part_out, part_in)
            continue
        n = net.nodes[edge.source].channels
        for parameter in parameters_of(edge.name, edge.op, n, n):
            kind = parameter.name.rpartition("/")[2]
            for b, part in enumerate(_slices(plan.blocks[edge.source], n)):
                yield (kind, edge.name, b), parameter.name, (part,)


def block_bytes(net: Network, plan: Plan) -> dict[Hashable, int]:
    """Return the bytes of every parameter block."""
    found: dict[Hashable, int] = {}
    for block, name, part in parameter_blocks(net, plan):
        kernel = net.parameters[name].shape[2:]
        found[block] = 4 * math.prod(kernel) * math.prod(each.stop - each.start for each in part)
    return found


def _slices(widths: Iterable[int], channels: int) -> list[slice]:
    slices, first = [], 0
    for width in widths:
        if first == channels:
            break
        slices.append(slice(first, first + width))
        first += width
    return slices


def lower_forward(net: Network, plan: Plan, token: str, order: str = DEFAULT_ORDER) -> StepGraph:
    """Return the graph of a forward pass; its outputs are the public arrays, by node name.

    Inputs: ("input", node), (parameter block), "wisdom". Its priorities are of an order of `ORDERS`.
    """
    low = _lowering(net, plan, token, False, 0, order)
    for name, _, _ in parameter_blocks(net, plan):
        low.parameters[name] = low.graph.input(name, *_words(name))
    lower_forward_pass(low)
    outputs = {}
    for name in net.outputs:
        arrangement, size = low.arrangements[name], plan.output_size[name]
        keys = _grouped(low, name)
        priority = low.priorities.forward[name]
        outputs[name] = low.graph.task("output", (name,), priority, layout.to_public, refs(keys), arrangement, size)
    return _finish(low.graph, outputs)


def lower_step(net: Network, plan: Plan, options: StepOptions, token: str, order: str = DEFAULT_ORDER) -> StepGraph:
    """Return the graph of a step, with priorities of an order of `ORDERS`.

    Inputs: ("input", node), ("target", output), ("weight", output), "step", "wisdom", the parameter blocks; with
    pending updates also ("velocity", block), ("pending", block) and "pending-rate", with ``options.updates``
    "learning-rate".
    Outputs: "loss", ("gradient", block); with updates pending ("parameter", block) and ("velocity", block) after
    them; with ``options.updates`` ("new-parameter", block) and ("new-velocity", block) after this step's own.
    """
    low = _lowering(net, plan, token, True, options.seed, order)
    outputs: dict[Any, Key] = {}
    n_bytes = block_bytes(net, plan)
    for name in n_bytes:
        low.parameters[name] = low.graph.input(name, *_words(name))
        if options.pending:
            pending = low.graph.input(("pending", name), "pending", *_words(name))
            pair = _update(low, options, "update", name, low.parameters[name], pending, n_bytes[name])
            low.parameters[name], velocity = pair
            outputs["parameter", name], outputs["velocity", name] = low.parameters[name], velocity
    lower_forward_pass(low)
    d_outputs, losses = _losses(low, options)
    last = max(low.priorities.backward.values())
    outputs["loss"] = low.graph.total("loss-sum", (), last, losses)
    gradients = lower_backward_pass(low, d_outputs) | low.averages
    for name, key in gradients.items():
        outputs["gradient", name] = key
        if options.updates:
            pair = _update(low, options, "update-after", name, low.parameters[name], key, n_bytes[name])
            outputs["new-parameter", name], outputs["new-velocity", name] = pair
    return _finish(low.graph, outputs)


def step_input_sizes(net: Network, plan: Plan) -> dict[str, tuple[int, int, int]]:
    """Return the size (z, y, x) of every input, as users give it."""
    return dict(input_sizes(net, plan))


def _lowering(net: Network, plan: Plan, token: str, training: bool, seed: int, order: str) -> Lowering:
    net = expand(net)
    graph = Builder(token, ArrivalReduce if plan.sum == "arrival" else Reduce)
    return Lowering(net, plan, arrange(net, plan), graph, {}, training, seed, order=order)


def _finish(graph: Builder, outputs: dict[Any, Key]) -> StepGraph:
    inputs: dict[Any, Key] = dict(graph.inputs)
    return StepGraph(graph.tasks, inputs, outputs, graph.priority, graph.n_bytes, graph.extra_bytes)


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names)) or "none"


def _words(name: Any) -> tuple[Any, ...]:
    """Return a parameter block's name as the rest of a key."""
    return tuple(name)


def _grouped(low: Lowering, node: str) -> list[Key]:
    return [low.values[node][block, group] for block, group in low.places(node)]


def _update(
    low: Lowering, options: StepOptions, kind: str, name: Any, parameter: Key, gradient: Key, n_bytes: int
) -> tuple[Key, Key]:
    graph = low.graph
    velocity = graph.input(("velocity", name), "velocity", *_words(name))
    if kind != "update" and options.pending:
        velocity = graph.key("update-velocity", *name)
    # The rate may have changed since the pending gradients were computed.
    rate = (
        graph.input("pending-rate", "pending-rate")
        if kind == "update"
        else graph.input("learning-rate", "learning-rate")
    )
    target = low.net.edges[name[1]].target
    operands = (ref(parameter), ref(velocity), ref(gradient))
    share = averaging(low.net, name)
    if share is None:
        arguments = (*operands, ref(rate), options.momentum, options.weight_decay)
        whole = graph.task(kind, name, low.priorities.update[target], update.sgd, *arguments)
    else:
        whole = graph.task(kind, name, low.priorities.update[target], update.average, *operands, share)
    pair = graph.part(f"{kind}-parameter", name, whole, 0), graph.part(f"{kind}-velocity", name, whole, 1)
    graph.n_bytes |= dict.fromkeys(pair, n_bytes)
    return pair


def averaging(net: Network, block: Hashable) -> float | None:
    """Return how much a step replaces of a parameter block that is a running average; None for what is learned."""
    assert isinstance(block, tuple)
    op = net.edges[block[1]].op
    return op.momentum if isinstance(op, Normalisation) and block[0] in ("mean", "variance") else None


def _losses(low: Lowering, options: StepOptions) -> tuple[dict[str, Values], list[Key]]:
    graph, d_outputs, losses = low.graph, {}, []
    for name in low.net.outputs:
        target = graph.input(("target", name), "target", name)
        weight: object = None
        if name in options.weights:
            weight = ref(graph.input(("weight", name), "weight", name))
        arrangement, size = low.arrangements[name], low.plan.output_size[name]
        whole = graph.task(
            "loss",
            (name,),
            low.priorities.backward[name],
            loss.loss_and_gradients,
            refs(_grouped(low, name)),
            ref(target),
            weight,
            options.loss,
            arrangement,
            size,
        )
        losses.append(graph.part("loss-value", (name,), whole, 0))
        d_outputs[name] = {
            place: graph.part("loss-gradient", (name, *place), whole, position + 1)
            for position, place in enumerate(low.places(name))
        }
        for place, key in d_outputs[name].items():
            graph.n_bytes[key] = low.n_bytes(name, place)
    return d_outputs, losses
