"""Models under every policy: the same answer bitwise, each with its own order, and the memory that goes with it."""

import statistics

import pytest
from model_cases import NET, copied, new_model, same, samples

import znn_dask as znn
from znn_dask.lower import ORDERS
from znn_dask.model.compiled import ordering
from znn_dask.ops import memory
from znn_dask.sched import Scheduler
from znn_dask.sched.policies import POLICIES
from znn_dask.sched.queues import newest_first, oldest_first, own_first

pytestmark = pytest.mark.timeout(120)

DEEP = znn.Network.parse("CTMCTMCTCT", width=12, kernel=[3, 4, 3, 2], out_channels=2)
DEEP_SIZE = (6, 6, 6)
WAY = {"convolution": "fft", "granularity": "edge", "block": 2, "tune": False}


def step_tables(model):
    """Return the tables of a model's step in the middle of many."""
    core = model._core
    return core.programs.step(core.plan, core.step_options(frozenset(), pending=True)).program.tables


def after_steps(policy, num_workers):
    with new_model(policy=policy, num_workers=num_workers, **WAY) as model:
        losses = [model.step(*pair) for pair in samples(count=3)]
        return losses, copied(model.parameters), model.forward(samples(count=1)[0][0]).tobytes()


def test_every_policy_gives_the_same_answer():
    losses, parameters, output = after_steps("locality", 1)
    for policy in POLICIES:
        for num_workers in (1, 2, 4, 8):
            found = after_steps(policy, num_workers)
            assert found[0] == losses
            assert same(found[1], parameters)
            assert found[2] == output


def test_every_policy_has_an_order_or_a_queue_of_its_own():
    queues = {"fifo": oldest_first, "steal": own_first}
    orders = {}
    for policy in POLICIES:
        with new_model(policy=policy, **WAY) as model:
            tables = step_tables(model)
            orders[policy] = (tuple(tables.rank), tables.queue)
            assert tables.queue is queues.get(policy, newest_first)
            priority = model.graph("step").priority
            if policy in ORDERS:
                # Of a node, whatever its blocks and groups; the scheduler alone would not know.
                assert len(set(priority.values())) < 6 * len(NET.nodes)
    assert len(set(orders.values())) == len(POLICIES)


def test_orders_of_nodes_are_given_and_the_critical_path_is_in_seconds():
    with new_model(policy="locality", **WAY) as model:
        graph = model.graph("step")
    for policy in POLICIES:
        priority, seconds = ordering(graph, policy)
        assert (priority is graph.priority) == (policy in ORDERS)
        assert (seconds is None) == (policy != "critical-path")
    keys = list(graph.outputs.values())
    given = dict.fromkeys(graph.inputs.values(), 0)
    with Scheduler(1, "critical-path") as scheduler:
        dsk = {**given, **graph.dask}
        ranks = [
            scheduler.compile(dsk, keys, seconds=s).tables.rank for s in (None, ordering(graph, "critical-path")[1])
        ]
    assert ranks[0] != ranks[1]


@pytest.mark.parametrize("policy", POLICIES)
def test_one_worker_takes_what_was_predicted(policy):
    x, target = samples(DEEP, DEEP_SIZE, 1)[0]
    before = memory.pool_counts().bytes_in_use
    with new_model(DEEP, DEEP_SIZE, num_workers=1, tune=False, convolution="fft", policy=policy) as model:
        for _ in range(3):
            model.step(x, target)
        peaks = []
        for _ in range(2):
            memory.reset_peak()
            model.step(x, target)
            peaks.append(memory.pool_counts().bytes_peak - before)
        assert model.plan.peak_bytes == pytest.approx(statistics.median(peaks), rel=0.03)


def test_predictions_differ_where_orders_do():
    predicted = set()
    for policy in POLICIES:
        with new_model(DEEP, DEEP_SIZE, num_workers=1, tune=False, convolution="fft", policy=policy) as model:
            predicted.add(model.plan.peak_bytes)
    assert len(predicted) > 3


def test_an_unknown_policy_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(znn.model.memory, "make_plan", lambda *_: pytest.fail("it was planned"))
    with pytest.raises(znn.ParameterError, match=r"policy must be one of .*Did you mean 'locality-depth'\?"):
        new_model(policy="locality-deep")
