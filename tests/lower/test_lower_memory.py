"""What a graph says of its memory, against what its tasks really return."""

import numpy as np
import pytest
from dask.utils import key_split
from lower_cases import MODES, NETS, TOKEN, given, plan_of, run_all, step_of

import znn_dask as znn
from znn_dask.lower import Options, lower_forward, make_plan
from znn_dask.lower.step import StepOptions
from znn_dask.model.memory import forward_bytes, peak_bytes
from znn_dask.net import Network
from znn_dask.ops import memory

pytestmark = pytest.mark.timeout(60)

PAIRS = [(name, mode) for i, name in enumerate(NETS) for mode in (MODES[i % len(MODES)], MODES[(i + 3) % len(MODES)])]


def nbytes(value):
    return value.nbytes if isinstance(value, np.ndarray) else 0


def measured_peak(graph, values):
    """Return the most bytes in use of the pool while one worker runs the graph."""
    with znn.Scheduler(1) as scheduler:
        program = scheduler.compile(graph.dask, list(graph.outputs.values()), priority=graph.priority)
        given = {key: values[key] for key in program.inputs}
        program.run(given)  # plans of transforms and tables are made once, and kept
        before = memory.pool_counts().bytes_in_use
        memory.reset_peak()
        program.run(given)
    return memory.pool_counts().bytes_peak - before


@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_every_result_is_as_large_as_the_graph_says(name, mode):
    net, plan, graph = step_of(name, 2, StepOptions("square", seed=1, weights=frozenset(NETS[name][1])), **mode)
    results, order = run_all(graph, given(net, plan, graph))
    assert len(order) == len(graph.dask)
    for key in order:
        said = graph.n_bytes[key]
        if said:
            assert said == results[key].nbytes, key
        else:
            # Results of several parts count as their parts; biases, losses and what a normalisation adds up not at all.
            numbers = 4 * plan.batch if key_split(key).startswith("norm-") else 1
            small = nbytes(results[key]) <= 4 * numbers * max(node.channels for node in net.nodes.values())
            assert isinstance(results[key], tuple) or small, key


@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_the_prediction_is_the_peak_of_one_worker(name, mode):
    net, plan, graph = step_of(name, 2, StepOptions("square", pending=True), **mode)
    predicted, real = peak_bytes(graph), measured_peak(graph, given(net, plan, graph))
    assert predicted >= max(graph.n_bytes.values())
    # What is not predicted: biases of gradients and what the loss needs.
    assert 0.97 * real <= predicted <= 1.03 * real


@pytest.mark.parametrize("name", ["chain", "2d strides", "max-pool"])
def test_what_nobody_asks_for_dies_at_once(name):
    """The argmax of the filters is for the backward pass; a forward pass never takes it."""
    net, plan = plan_of(name)
    graph = lower_forward(net, plan, TOKEN)
    assert peak_bytes(graph) == measured_peak(graph, given(net, plan, graph)) == forward_bytes(net, plan)


def test_larger_patches_and_batches_need_more():
    net = Network.parse("CTMCTC", width=4, kernel=2, out_channels=2)
    for options in (Options("fft"), Options("direct"), Options("fft-stored", "edge", 1)):
        sizes = [
            peak_bytes(lower_forward(net, make_plan(net, {"output": (n, n, n)}, batch, options), TOKEN))
            for n, batch in ((4, 1), (8, 1), (12, 1), (12, 3))
        ]
        assert sizes == sorted(set(sizes))


def test_the_argmax_of_a_large_window_takes_two_bytes():
    net = Network.parse("CMC", width=2, kernel=1, window=(5, 8, 8), stride=1, out_channels=1)
    plan = make_plan(net, {"output": (2, 2, 2)}, 1, Options())
    graph = lower_forward(net, plan, TOKEN)
    results, _ = run_all(graph, given(net, plan, graph))
    found = [key for key in graph.dask if key_split(key) == "argmax"]
    assert [graph.n_bytes[key] for key in found] == [results[key].nbytes for key in found]
