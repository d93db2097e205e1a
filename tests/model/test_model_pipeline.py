"""`Model.steps` against `Model.step`: the same bits whatever the caller does between two losses, and real overlap."""

import threading
import time

import numpy as np
import pytest
from dask.diagnostics import Profiler
from dask.utils import key_split
from model_cases import DROPPING, new_model, same, samples

import znn_dask as znn
from znn_dask.model.core import Core

pytestmark = pytest.mark.timeout(240)
WORKERS = (1, 2, 4, 8)


def one_by_one(model, pairs, between=None):
    """Return the losses of `step`, with something done after each."""
    losses = []
    for number, pair in enumerate(pairs):
        losses.append(model.step(*pair))
        if between is not None:
            between(model, number)
    return losses


def in_a_line(model, pairs, between=None):
    """Return the losses of `steps`, with the same done after each."""
    losses = []
    for number, loss in enumerate(model.steps(pairs)):
        losses.append(loss)
        if between is not None:
            between(model, number)
    return losses


def assert_same(pairs, between=None, num_workers=2, **way):
    found = []
    for run in (one_by_one, in_a_line):
        with new_model(DROPPING, 5, num_workers=num_workers, batch=1, **way) as model:
            losses = run(model, pairs, between)
            found.append((losses, model.step_count, model.parameters))
    assert found[0][:2] == found[1][:2]
    assert same(found[0][2], found[1][2])


@pytest.mark.parametrize("num_workers", WORKERS)
def test_steps_are_those_of_step(num_workers):
    assert_same(samples(DROPPING, 5, 12), num_workers=num_workers)


def test_a_changed_learning_rate_counts_from_the_next_step():
    def between(model, number):
        model.learning_rate = 0.1 / (1 + number)

    assert_same(samples(DROPPING, 5, 6), between)


def test_replaced_parameters_count_from_the_next_step():
    kept = {}

    def between(model, number):
        if number == 1:
            kept[0] = model.parameters
        if number in (3, 4):
            model.load_parameters(kept[0])

    assert_same(samples(DROPPING, 5, 8), between)


def test_steps_and_reading_in_between_change_nothing(tmp_path):
    other = samples(DROPPING, 5, 1)[0]

    def between(model, number):
        if number == 1:
            model.flush()
        if number == 2:
            model.save(tmp_path / "model")
            model.forward(other[0])
            model.gradients(*other)
        if number == 4:
            model.step(*other)

    assert_same(samples(DROPPING, 5, 8), between)


def test_samples_of_different_batches_and_weights_may_alternate():
    pairs = []
    for number, (x, target) in enumerate(samples(DROPPING, 5, 9)):
        if number in (2, 3, 7):
            pairs.append((np.concatenate([x, x]), np.concatenate([target, target])))
        elif number in (4, 5):
            pairs.append((x, target, np.full((1, 1, *target.shape[2:]), 0.5)))
        else:
            pairs.append((x, target))
    assert_same(pairs)


@pytest.mark.parametrize("way", [{"memory": "1 GiB"}, {"policy": "steal"}, {"policy": "fifo"}])
def test_other_ways_of_running(way):
    assert_same(samples(DROPPING, 5, 5), **way)


def test_dask_callbacks_see_every_step():
    with new_model() as model, Profiler() as profiler:
        losses = list(model.steps(samples(count=3)))
    assert len(losses) == 3
    assert [key_split(result.key) for result in profiler.results].count("loss") == 3


def test_after_a_loss_the_model_is_as_that_step_left_it():
    pairs = samples(DROPPING, 5, 6)
    with new_model(DROPPING, 5) as expected, new_model(DROPPING, 5) as model:
        for pair, loss in zip(pairs, model.steps(pairs), strict=True):
            assert loss == expected.step(*pair)
            assert model.step_count == expected.step_count
            assert same(model.parameters, expected.parameters)


def test_leaving_early_drops_the_step_under_way():
    pairs = samples(DROPPING, 5, 6)
    with new_model(DROPPING, 5) as expected, new_model(DROPPING, 5) as model:
        for number, _ in enumerate(model.steps(pairs)):
            if number == 3:
                break
        one_by_one(expected, pairs[:4])
        assert model.step_count == 4
        assert same(model.parameters, expected.parameters)
        assert model.step(*pairs[4]) == expected.step(*pairs[4])


def test_a_step_begins_before_the_one_before_it_has_ended():
    net = znn.Network.parse("CTCTC", width=8, kernel=3, out_channels=1)
    pairs = samples(net, 24, 8)
    with new_model(net, 24, num_workers=4) as model:
        list(model.steps(pairs[:2]))
        with znn.Trace() as trace:
            list(model.steps(pairs))
    overlaps = 0
    for run in range(len(trace.runs) - 1):
        ends = max(task.end_ns for task in trace.tasks if task.run == run)
        overlaps += min(task.start_ns for task in trace.tasks if task.run == run + 1) < ends
    assert overlaps >= 3


def test_a_trace_knows_the_bytes_of_what_every_step_is_given():
    """Those that are handed on by the step before as well: no less than where each step is a run alone."""
    net = znn.Network.parse("CTCTC", width=8, kernel=3, out_channels=1)
    pairs = samples(net, 12, 4)
    with new_model(net, 12, num_workers=2) as model:
        model.step(*pairs[0])
        with znn.Trace() as alone:
            model.step(*pairs[1])
        with znn.Trace() as trace:
            list(model.steps(pairs))
    (expected,) = [sum(run.given.values()) for run in alone.runs]
    assert expected > 8 * 27 * 4
    assert [sum(run.given.values()) for run in trace.runs] == [expected] * 4


def test_the_graph_of_a_step_is_looked_up_once(monkeypatch):
    looked_up = []
    program = Core.program
    monkeypatch.setattr(Core, "program", lambda *args: looked_up.append(args) or program(*args))
    net = znn.Network.parse("CTC", width=2, kernel=2)
    pairs = samples(net, 4, 6)
    with new_model(net, 4) as model:
        list(model.steps(pairs))
    assert len(looked_up) == len(pairs)


def test_a_slow_sample_does_not_hold_back_the_loss_before_it():
    go = threading.Event()

    def slow():
        pairs = samples(count=3)
        yield pairs[0]
        yield pairs[1]
        assert go.wait(60)
        yield pairs[2]

    with new_model() as model:
        losses = model.steps(slow())
        next(losses)
        next(losses)  # comes although the third sample does not
        go.set()
        next(losses)
        assert list(losses) == []


def test_samples_are_provided_while_a_step_runs():
    asked = []

    def noting():
        for pair in samples(count=5):
            asked.append(time.perf_counter())
            yield pair

    with new_model() as model:
        losses = model.steps(noting())
        next(losses)
        for _ in range(200):
            if len(asked) >= 2:
                break
            time.sleep(0.01)
        assert len(asked) >= 2
        losses.close()
        assert len(asked) <= 4


@pytest.mark.parametrize("num_workers", WORKERS)
def test_a_failing_step_ends_the_steps_and_leaves_those_made(num_workers, monkeypatch):
    pairs = samples(DROPPING, 5, 6)
    with new_model(DROPPING, 5, num_workers=num_workers) as other:
        assert len(list(other.steps(pairs[:2]))) == 2
        parameters = other.parameters
    with new_model(DROPPING, 5, num_workers=num_workers) as model:
        losses = model.steps(pairs)
        # Its parameters are not looked at here: a step that had not begun would then be made by itself.
        before = [next(losses), next(losses)]
        count = model.step_count

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("znn_dask.sched.chain.Chain.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(losses)
        monkeypatch.undo()
        assert len(before) == count == model.step_count == 2
        assert same(model.parameters, parameters)
        assert len(list(model.steps(pairs[2:]))) == 4
