"""Whole graphs: the forward pass for users, and the step that trains.

A step starts with the updates that the step before left behind, at the lowest priority; then forward, loss, backward
and the gradients, which it leaves behind in turn. The first step has none to begin with.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
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
from znn_dask.ops.update import PLAIN, AdamRule, AverageRule, Rule, SgdRule
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
    loss : str, or tuple of (output, str, factor)
        For all outputs, or for each.
    rule : Rule
        Of the updates.
    factors : tuple of (parameter, factor)
        Of the learning rate of some parameters.
    seed : int
        Of dropout.
    weights : frozenset of str
        The outputs that are given a weight per voxel.
    pending : bool
        Whether a step before has left gradients behind.
    adds : bool
        Whether those are too few for an update yet, so that this step's are added to them.
    updates : bool
        Whether this step's own updates are made too, in the graph itself.
    """

    loss: str | tuple[tuple[str, str, float], ...]
    rule: SgdRule | AdamRule = PLAIN
    factors: tuple[tuple[str, float], ...] = ()
    seed: int = 0
    weights: frozenset[str] = frozenset()
    pending: bool = False
    adds: bool = False
    updates: bool = False

    def loss_of(self, output: str) -> tuple[str, float]:
        """Return the loss of an output and its factor."""
        if isinstance(self.loss, str):
            return self.loss, 1.0
        return next((loss, factor) for name, loss, factor in self.loss if name == output)


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


def update_rules(
    net: Network, plan: Plan, rule: SgdRule | AdamRule, factors: Iterable[tuple[str, float]] = ()
) -> dict[Hashable, Rule]:
    """Return what is done with the gradient of every parameter block; running averages have a rule of their own."""
    by_name, found = dict(factors), dict[Hashable, Rule]()
    for block, name, _ in parameter_blocks(net, plan):
        if not net.parameters[name].learned:
            op = net.edges[name.rpartition("/")[0]].op
            assert isinstance(op, Normalisation)
            found[block] = AverageRule(op.momentum)
        else:
            found[block] = replace(rule, factor=by_name[name]) if name in by_name else rule
    return found


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
    pending updates also (slot, block), ("pending", block) and "pending-rate", with ``options.updates``
    "learning-rate". Where the rule asks for them, also the number of an update and the norm of its gradients:
    "pending-count" and "pending-norm", "learning-count".
    Outputs: "loss", ("gradient", block); with updates pending ("parameter", block) and (slot, block) after them; with
    ``options.updates`` ("new-parameter", block) and ("new-" + slot, block) after this step's own. "norm" is that of
    all gradients, if the rule clips by it. With ``options.adds`` the gradients are the sums so far, and only running
    averages are updated.
    """
    low = _lowering(net, plan, token, True, options.seed, order)
    outputs: dict[Any, Key] = {}
    rules = update_rules(net, plan, options.rule, options.factors)
    changes = _Updates(low, options, block_bytes(net, plan))
    for name, rule in rules.items():
        low.parameters[name] = low.graph.input(name, *_words(name))
        if options.pending and not changes.waits(rule):
            new = changes.add("update", name, rule, low.parameters[name], changes.pending(name))
            low.parameters[name] = new["parameter"]
            outputs |= {(kind, name): key for kind, key in new.items()}
    lower_forward_pass(low)
    d_outputs, losses = _losses(low, options)
    last = max(low.priorities.backward.values())
    outputs["loss"] = low.graph.total("loss-sum", (), last, losses)
    gradients = lower_backward_pass(low, d_outputs) | low.averages
    for name in gradients:
        if options.pending and changes.waits(rules[name]):
            gradients[name] = changes.sum(name, gradients[name])
        outputs["gradient", name] = gradients[name]
    if options.rule.clipping.norm is not None:
        learned = {name: key for name, key in gradients.items() if not isinstance(rules[name], AverageRule)}
        outputs["norm"] = changes.norm(learned, last)
    if options.updates:
        for name, key in gradients.items():
            new = changes.add("update-after", name, rules[name], low.parameters[name], key, outputs.get("norm"))
            outputs |= {(f"new-{kind}", name): made for kind, made in new.items()}
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


@dataclass
class _Updates:
    """What is done with gradients in the graph of a step."""

    low: Lowering
    options: StepOptions
    n_bytes: dict[Hashable, int]

    def waits(self, rule: Rule) -> bool:
        """Return whether gradients left behind are still too few for an update."""
        return self.options.adds and not isinstance(rule, AverageRule)

    def pending(self, name: Any) -> Key:
        """Return the input for a gradient that was left behind."""
        return self.low.graph.input(("pending", name), "pending", *_words(name))

    def sum(self, name: Any, gradient: Key) -> Key:
        """Return the sum of a gradient and those left behind."""
        graph = self.low.graph
        return graph.total("gradient-sum", name, graph.priority[gradient], [gradient, self.pending(name)])

    def norm(self, gradients: Mapping[Any, Key], priority: int) -> Key:
        """Return the norm of all gradients together."""
        graph = self.low.graph
        parts = [
            graph.task("gradient-square", name, graph.priority[key], update.square_sum, ref(key))
            for name, key in gradients.items()
        ]
        return graph.task("gradient-norm", (), priority, update.norm_of, refs(parts))

    def add(
        self, kind: str, name: Any, rule: Rule, parameter: Key, gradient: Key, norm: Key | None = None
    ) -> dict[str, Key]:
        """Add an update; return the keys of the new "parameter" and slots."""
        graph, pending = self.low.graph, kind == "update"
        slots = [graph.input((slot, name), slot, *_words(name)) for slot in rule.slots]
        if not pending and self.options.pending and not self.waits(rule):
            slots = [graph.key(f"update-{slot}", *name) for slot in rule.slots]
        word = "pending" if pending else "learning"
        # The rate may have changed since the pending gradients were computed.
        rate = graph.input(f"{word}-rate", f"{word}-rate")
        count = ref(graph.input(f"{word}-count", f"{word}-count")) if rule.counts else 0
        if pending and not isinstance(rule, AverageRule) and rule.clipping.norm is not None:
            norm = graph.input("pending-norm", "pending-norm")
        arguments = rule, ref(parameter), ref(gradient), ref(rate), norm and ref(norm), count, *map(ref, slots)
        priority = self.low.priorities.update[self.low.net.edges[name[1]].target]
        whole = graph.task(kind, name, priority, update.apply, *arguments)
        kinds = ("parameter", *rule.slots)
        parts = {part: graph.part(f"{kind}-{part}", name, whole, index) for index, part in enumerate(kinds)}
        graph.n_bytes |= dict.fromkeys(parts.values(), self.n_bytes[name])
        return parts


def _losses(low: Lowering, options: StepOptions) -> tuple[dict[str, Values], list[Key]]:
    graph, d_outputs, losses = low.graph, {}, []
    for name in low.net.outputs:
        target = graph.input(("target", name), "target", name)
        weight: object = None
        if name in options.weights:
            weight = ref(graph.input(("weight", name), "weight", name))
        arrangement, size = low.arrangements[name], low.plan.output_size[name]
        chosen, factor = options.loss_of(name)
        whole = graph.task(
            "loss",
            (name,),
            low.priorities.backward[name],
            loss.loss_and_gradients,
            refs(_grouped(low, name)),
            ref(target),
            weight,
            chosen,
            arrangement,
            size,
            factor,
        )
        losses.append(graph.part("loss-value", (name,), whole, 0))
        d_outputs[name] = {
            place: graph.part("loss-gradient", (name, *place), whole, position + 1)
            for position, place in enumerate(low.places(name))
        }
        for place, key in d_outputs[name].items():
            graph.n_bytes[key] = low.n_bytes(name, place)
    return d_outputs, losses
