"""Counted seconds and bytes: each task has its part of what the cost model says, and of what a run moves."""

import numpy as np
import pytest
from lower_cases import MODES, NETS, TOKEN, plan_of

import znn_dask as znn
from znn_dask.lower import lower_step
from znn_dask.lower.choose import layers_of
from znn_dask.lower.cost import predicted
from znn_dask.lower.counts import counted_bytes, counted_seconds
from znn_dask.lower.layers import seconds_of, used
from znn_dask.lower.step import StepOptions
from znn_dask.ops.update import SgdRule
from znn_dask.sched.costs import costs_of

pytestmark = pytest.mark.timeout(60)
CONVOLVING = ("conv", "backward-conv", "fft", "ifft", "backward-fft")


def step_of(name, **mode):
    net, plan = plan_of(name, 2, **mode)
    return net, plan, lower_step(net, plan, StepOptions("square", SgdRule(0.9), pending=True), TOKEN)


@pytest.mark.parametrize("mode", [mode for mode in MODES if "fft-stored" not in str(mode)])
@pytest.mark.parametrize("name", NETS)
def test_the_tasks_of_convolutions_take_what_the_cost_model_says(name, mode):
    net, plan, graph = step_of(name, **mode)
    seconds = counted_seconds(net, plan, graph)
    assert seconds.keys() == graph.dask.keys()
    assert min(seconds.values()) > 0
    expected = 0.0
    for edge, layer in layers_of(net, plan).items():
        chosen = plan.convolutions[edge]
        expected += seconds_of(layer, {each: predicted(layer, each) for each in used(layer, chosen)}, chosen)
    counted = sum(s for key, s in seconds.items() if key[0].rpartition("-")[0].startswith(CONVOLVING))
    assert counted == pytest.approx(expected)


def test_bytes_are_those_of_a_run():
    net = znn.Network.parse("CTMCTC", width=16, kernel=3)
    with znn.Model(net, 8, num_workers=1, optimizer=znn.SGD(0.01, 0.9)) as model:
        x = np.zeros((1, *model.input_size), np.float32)
        y = np.zeros((1, 8, 8, 8), np.float32)
        model.step(x, y)
        with znn.Trace() as trace:
            model.step(x, y)
        graph = lower_step(net, model._core.plan, StepOptions("square", SgdRule(0.9), pending=True), TOKEN)
    costs = costs_of(trace.runs)
    traced = {
        (key[0].rpartition("-")[0], *key[1:]): n for key, n in zip(costs.tables.keys, costs.n_bytes, strict=False)
    }
    reading_inputs = {key for key, task in graph.dask.items() if not task.dependencies <= graph.dask.keys()}
    n_equal = 0
    for key, counted in counted_bytes(graph).items():
        name = (key[0].rpartition("-")[0], *key[1:])
        if name in traced and key not in reading_inputs:
            # Scalars and small arrays beside the images are not counted.
            assert counted == pytest.approx(traced[name], rel=0.02, abs=1024), name
            n_equal += 1
    assert n_equal > 20
