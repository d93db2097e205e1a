"""The graphs themselves: plain Dask tasks with readable keys, complete, of the right number and in the right order."""

import pickle
import re
from itertools import pairwise

import dask
import numpy as np
import pytest
from dask.task_spec import Task
from dask.utils import key_split
from lower_cases import MODES, NETS, TOKEN, ancestors, counts, given, of_kind, plan_of, run_all, step_of

from znn_dask.lower import ORDERS, Options, lower_forward, lower_step, make_plan
from znn_dask.lower.builder import Priorities
from znn_dask.lower.step import StepOptions, parameter_blocks, update_rules
from znn_dask.net import Convolution, Edge, Network
from znn_dask.ops.update import AverageRule, SgdRule
from znn_dask.tasks import Reduce

pytestmark = pytest.mark.timeout(60)

PENDING = StepOptions("square", SgdRule(0.9, 0.01), pending=True, updates=True)
FORWARD = (
    "image",
    "fft-image",
    "fft-kernel",
    "conv-forward",
    "ifft-image",
    "transfer",
    "max-filter",
    "max-pool",
    "filtered",
    "argmax",
    "dropout",
    "sum",
    "node-sum",
    "pad",
    "crop",
    "split",
    "split-phase",
    "merge",
    "kernel-phase",
    "average-pool",
    "upsample",
    "maxout",
    "largest",
    "which-largest",
    "norm-moments",
    "norm-statistics",
    "norm-running",
    "norm-mean",
    "norm-variance",
    "normalise",
    "softmax",
    "softmax-part",
)
UPDATE = (
    "update",
    "update-parameter",
    "update-velocity",
    "update-after",
    "update-after-parameter",
    "update-after-velocity",
)
BACKWARD = (
    "backward-pad",
    "backward-pad-image",
    "backward-crop",
    "backward-split",
    "backward-merge",
    "backward-merge-phase",
    "kernel-phase-gradient",
    "backward-average-pool",
    "backward-upsample",
    "backward-maxout",
    "maxout-gradient",
    "norm-gradient-moments",
    "norm-coefficients",
    "norm-gradients",
    "scale-gradient",
    "shift-gradient",
    "backward-normalise",
    "backward-softmax",
    "backward-softmax-part",
    "loss",
    "loss-value",
    "loss-gradient",
    "loss-sum",
    "backward-transfer",
    "transfer-gradient",
    "bias-part",
    "bias-gradient",
    "backward-max-filter",
    "backward-max-pool",
    "backward-dropout",
    "fft-gradient",
    "backward-conv",
    "ifft-gradient",
    "conv-gradient",
    "kernel-gradient",
    "sum-gradient",
    "node-sum-gradient",
)
EVERY = [(name, mode) for name in NETS for mode in MODES]


def is_complete(graph):
    """Every dependency is a task or a declared input, every declared input is read, every output is there."""
    read = set().union(*(task.dependencies for task in graph.dask.values()))
    outside = read - graph.dask.keys()
    assert outside == set(graph.inputs.values())
    assert not set(graph.inputs.values()) & graph.dask.keys()
    assert set(graph.outputs.values()) <= graph.dask.keys()
    assert graph.priority.keys() == graph.dask.keys()
    assert graph.n_bytes.keys() <= graph.dask.keys()


@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_plain_tasks_readable_keys_nothing_missing(name, mode):
    net, plan, step = step_of(name, 2, PENDING, **mode)
    for graph in (step, lower_forward(net, plan, TOKEN)):
        is_complete(graph)
        for key, task in graph.dask.items():
            assert isinstance(task, Task)
            assert task.key == key
            words, *place = key
            assert re.fullmatch(rf"[a-z]+(-[a-z]+)*-{TOKEN}", words)
            assert f"{key_split(key)}-{TOKEN}" == words
            assert all(isinstance(part, str | int) and not isinstance(part, bool) for part in place)
        assert set(counts(graph)) <= {*FORWARD, *BACKWARD, *UPDATE, "output"}


@pytest.mark.parametrize("mode", MODES)
def test_graphs_travel_between_processes(mode):
    _, _, graph = step_of("chain", 1, PENDING, **mode)
    again = pickle.loads(pickle.dumps(graph.dask))
    assert again == graph.dask
    assert [type(task) for task in again.values()] == [type(task) for task in graph.dask.values()]


@pytest.mark.parametrize("name", NETS)
def test_two_lowerings_share_no_key(name):
    net, plan = plan_of(name)
    first, second = (lower_step(net, plan, PENDING, token) for token in ("0000000a", "0000000b"))
    for one, other in ((first.dask, second.dask), (first.inputs.values(), second.inputs.values())):
        assert len(list(one)) == len(list(other))
        assert not set(one) & set(other)


# An edge may be named as a node: names of both kinds stand in keys.
NAMESAKES = Network(
    {"input": 3, "other": 3, "a": 3, "output": 2, "second": 2},
    [
        Edge("c1", "input", "a", Convolution((1, 1, 1))),
        Edge("a", "other", "a", Convolution((1, 1, 1))),
        Edge("output", "a", "output", Convolution((1, 2, 2))),
        Edge("input", "a", "second", Convolution((1, 2, 2))),
    ],
)


@pytest.mark.parametrize("mode", MODES)
def test_an_edge_may_be_named_as_a_node(mode):
    plan = make_plan(NAMESAKES, {"output": (2, 3, 3), "second": (2, 3, 3)}, 1, Options(**mode))
    graph = lower_step(NAMESAKES, plan, StepOptions("square"), TOKEN)
    results = dask.get({**graph.dask, **given(NAMESAKES, plan, graph)}, list(graph.outputs.values()))
    assert len(results) == len(graph.outputs)


def test_the_published_graph():
    """One task per edge and image: f f' kernels, f images; the transforms of forward serve all passes."""
    net = Network.parse("CTCT", width=3, kernel=3, in_channels=2, out_channels=4)
    plan = make_plan(net, {"output": (4, 4, 4)}, 1, Options("fft-stored", "edge", 1))
    graph = lower_step(net, plan, StepOptions("square"), TOKEN)
    found = counts(graph)
    first, second = 2 * 3, 3 * 4
    expected = {
        "fft-kernel": first + second,
        "fft-image": 2 + 3,
        "conv-forward": first + second,
        "sum": 3 + 4,
        "ifft-image": 3 + 4,
        "fft-gradient": 3 + 4,
        "backward-conv": second,  # nobody wants the gradient of the input
        "sum-gradient": 3,
        "ifft-gradient": 3,
        "conv-gradient": first + second,
        "kernel-gradient": 0,
        "backward-transfer": 3 + 4,
    }
    assert {kind: found[kind] for kind in expected} == expected
    sums = of_kind(graph, "sum", "sum-gradient")
    assert all(isinstance(graph.dask[key], Reduce) for key in sums)
    assert sorted(len(graph.dask[key].args) for key in sums) == [2] * 3 + [3] * 4 + [4] * 3
    assert all(config.tile == size for config, size in zip(plan.convolutions.values(), [(8,) * 3, (6,) * 3], strict=1))


@pytest.mark.parametrize("convolution", ["fft", "direct", "fft-stored"])
def test_a_task_per_node_block_or_per_edge_block(convolution):
    net = Network.parse("CTC", width=5, kernel=2, in_channels=3, out_channels=4)  # blocks 2+1, 2+2+1, 2+2
    found = {}
    for granularity in ("node", "edge"):
        plan = make_plan(net, {"output": (3, 3, 3)}, 1, Options(convolution, granularity, 2))
        found[granularity] = counts(lower_step(net, plan, StepOptions("square"), TOKEN))
    node, edge = found["node"], found["edge"]
    assert (node["conv-forward"], edge["conv-forward"]) == (3 + 2, 2 * 3 + 3 * 2)
    assert (node["backward-conv"], edge["backward-conv"]) == (3, 3 * 2)
    assert node["conv-gradient"] == edge["conv-gradient"] == 2 * 3 + 3 * 2
    assert (node["sum"], edge["sum"]) == (0, 3 + 2)
    assert (node["sum-gradient"], edge["sum-gradient"]) == (0, 3)
    for kind in ("fft-image", "fft-kernel", "fft-gradient", "ifft-image", "ifft-gradient"):
        assert node[kind] == edge[kind]
    if convolution == "fft":
        assert (node["fft-image"], node["fft-gradient"], node["fft-kernel"]) == (2 + 3, 3 + 2, 0)


def test_one_spectrum_for_edges_that_can_share_it():
    net = Network(
        {"input": 2, "x": 2, "y": 2, "z": 2},
        [
            Edge("same1", "input", "x", Convolution((2, 2, 2))),
            Edge("same2", "input", "y", Convolution((2, 2, 2))),
            Edge("other", "input", "z", Convolution((2, 2, 3))),
        ],
    )
    sizes = {"x": (4, 4, 4), "y": (4, 4, 4), "z": (4, 4, 3)}
    plan = make_plan(net, sizes, 1, Options("fft-stored"))
    graph = lower_step(net, plan, StepOptions("square"), TOKEN)
    assert counts(graph)["fft-image"] == 2
    results, _ = run_all(graph, given(net, plan, graph))
    assert np.isfinite(results[graph.outputs["loss"]])


# --- updates are deferred ---


@pytest.mark.parametrize("name", NETS)
def test_the_first_step_has_no_updates(name):
    net, plan, graph = step_of(name)
    assert not of_kind(graph, *UPDATE)
    assert not any(isinstance(given, tuple) and given[0] in ("velocity", "pending") for given in graph.inputs)
    blocks = {name for name, *_ in parameter_blocks(net, plan)}
    assert set(graph.outputs) == {"loss"} | {("gradient", block) for block in blocks}


@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_later_steps_start_with_the_updates_left_behind(name, mode):
    net, plan, graph = step_of(name, 1, StepOptions("square", pending=True), **mode)
    names = {block: name for block, name, _ in parameter_blocks(net, plan)}
    blocks = list(names)
    assert counts(graph)["update"] == len(blocks)
    assert not counts(graph)["update-after"]
    others = [graph.priority[key] for key in graph.dask if key_split(key) not in UPDATE]
    assert max(graph.priority[key] for key in of_kind(graph, *UPDATE)) < min(others)
    rules = update_rules(net, plan, SgdRule())
    for block in blocks:
        update = ("update-" + TOKEN, *block)
        averaged = isinstance(rules[block], AverageRule)
        slots = set() if averaged else {graph.inputs["velocity", block]}
        assert graph.dask[update].dependencies >= {graph.inputs["pending", block], *slots}
        assert not ancestors(graph, update) & graph.dask.keys(), "an update waits for nothing of this step"
        if not averaged:
            assert update in ancestors(graph, graph.outputs["loss"]), "forward uses the new parameters"
        # What is stale is read by the update alone.
        readers = [key for key, task in graph.dask.items() if graph.inputs[block] in task.dependencies]
        assert readers == [update]


# --- priorities ---


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_backward_before_forward_before_updates(name, mode, order):
    _, _, graph = step_of(name, 2, PENDING, order=order, **mode)
    highest = {kinds: max(graph.priority[k] for k in of_kind(graph, *kinds)) for kinds in (FORWARD, UPDATE)}
    lowest = {kinds: min(graph.priority[k] for k in of_kind(graph, *kinds)) for kinds in (FORWARD, BACKWARD)}
    assert highest[UPDATE] < lowest[FORWARD]
    assert highest[FORWARD] < lowest[BACKWARD]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_tasks_that_converge_share_one_priority(name, mode, order):
    net, _, graph = step_of(name, 2, order=order, **mode)
    for node in net.nodes:
        into = {edge.name for edge in net.incoming(node) if isinstance(edge.op, Convolution)}
        out_of = {edge.name for edge in net.outgoing(node) if isinstance(edge.op, Convolution)}
        for kind, edges in (("conv-forward", into), ("backward-conv", out_of)):
            found = {graph.priority[key] for key in of_kind(graph, kind) if key[1] in edges}
            assert len(found) <= 1
    for key in of_kind(graph, "sum", "sum-gradient"):
        task = graph.dask[key]
        if isinstance(task, Reduce):
            assert all(graph.priority[term] >= graph.priority[key] for term in task.dependencies)


def test_priorities_fall_along_a_chain_and_rise_back():
    _, _, graph = step_of("chain", convolution="fft")
    names = ["conv1", "conv2", "conv3"]

    def of(kind):
        return [max(graph.priority[key] for key in of_kind(graph, kind) if key[1] == name) for name in names]

    forward = of("conv-forward")
    assert forward == sorted(forward, reverse=True)
    assert len(set(forward)) == 3
    gradients = of("conv-gradient")
    assert gradients == sorted(gradients), "the farthest from the input first"
    assert len(set(gradients)) == 3
    _, _, graph = step_of("chain", 1, PENDING, convolution="fft")
    updates = [graph.priority[f"update-{TOKEN}", "kernel", name, 0, 0] for name in names]
    assert updates == sorted(updates, reverse=True), "what forward needs first is made first"
    # Transforms of a finished node go before what converges on the next.
    for key in of_kind(graph, "conv-forward"):
        for spectrum in graph.dask[key].dependencies & set(of_kind(graph, "fft-image")):
            assert graph.priority[spectrum] > graph.priority[key]


def test_by_depth_priorities_rise_along_a_chain_and_on_the_way_back():
    _, _, graph = step_of("chain", 1, PENDING, order="locality-depth", convolution="fft")
    names = ["conv1", "conv2", "conv3"]

    def of(kind):
        return [max(graph.priority[key] for key in of_kind(graph, kind) if key[1] == name) for name in names]

    forward = of("conv-forward")
    assert forward == sorted(set(forward)), "the deepest first"
    gradients = of("conv-gradient")
    assert gradients == sorted(set(gradients), reverse=True), "the nearest to the input first"
    updates = [graph.priority[f"update-{TOKEN}", "kernel", name, 0, 0] for name in names]
    assert updates == sorted(updates, reverse=True), "what forward needs first is made first"
    highest = {kind: max(graph.priority[k] for k in of_kind(graph, kind)) for kind in ("conv-forward", "backward-conv")}
    for pass_of, transform in (("conv-forward", "fft-image"), ("backward-conv", "fft-gradient")):
        assert min(graph.priority[k] for k in of_kind(graph, transform)) > highest[pass_of]


def test_levels_of_nodes_by_depth():
    r"""
    in - a - b - out
      `---- c --'
    """
    edges = [("in", "a"), ("a", "b"), ("b", "out"), ("in", "c"), ("c", "out")]
    kernels = {"c": (3, 1, 1)}
    net = Network(
        dict.fromkeys(("in", "a", "b", "c", "out"), 1),
        [Edge(s + t, s, t, Convolution(kernels.get(t, (2, 1, 1)) if t != "out" else (1, 1, 1))) for s, t in edges],
    )
    places = Priorities.by_depth(net)
    index = list(net.nodes).index
    # Forward levels: in 0, a and c 1, b 2, out 3. Backward: out 4, b 5, c 5, a 6, in 7.
    first = sorted("ac", key=index, reverse=True)
    last = sorted("bc", key=index, reverse=True)
    assert sorted(net.nodes, key=places.forward.get, reverse=True) == ["out", "b", *first, "in"]
    assert sorted(net.nodes, key=places.backward.get, reverse=True) == ["in", "a", *last, "out"]
    assert sorted(net.nodes, key=places.update.get, reverse=True)[0] == "in"
    groups = [places.update, places.forward, places.image_spectrum, places.backward, places.gradient_spectrum]
    for lower, higher in pairwise(groups):
        assert max(lower.values()) < min(higher.values())
    assert all(len(set(group.values())) == len(net.nodes) for group in groups)
