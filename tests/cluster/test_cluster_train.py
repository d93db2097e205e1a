"""Data-parallel training: N workers make the steps of one process with the whole minibatch."""

import logging
import os
import signal

import numpy as np
import pytest

import znn_dask as znn
from znn_dask.cluster.train import DataParallel
from znn_dask.net import Network

distributed = pytest.importorskip("distributed", reason="distributed is not installed")
pytestmark = pytest.mark.timeout(240)
NET = Network.parse("CTMCTC", width=4, kernel=2, out_channels=2, transfer="tanh")
SIZE = (2, 3, 4)
OPTIONS = {"optimizer": znn.SGD(learning_rate=0.05, momentum=0.9), "num_workers": 1, "tune": False, "seed": 2}


@pytest.fixture(scope="module")
def threads():
    """A cluster of two workers in this process."""
    options = {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with distributed.Client(**options, silence_logs=logging.CRITICAL) as client:
        yield client


def samples(count, batch):
    rng = np.random.default_rng(0)
    shape = NET.input_size(SIZE)
    return [
        (
            rng.standard_normal((batch, 1, *shape), np.float32),
            rng.standard_normal((batch, 2, *SIZE), np.float32),
            rng.random((batch, 1, *SIZE), np.float32),
        )
        for _ in range(count)
    ]


def alone(batch, count=4):
    """The losses and parameters of one process."""
    with znn.Model(NET, SIZE, batch=batch, **OPTIONS) as model:
        losses = [model.step(*sample) for sample in samples(count, batch)]
        return losses, model.parameters


def assert_same(found, expected):
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)


@pytest.mark.parametrize("n_workers", [2, 4])
def test_workers_make_the_steps_of_one_process(n_workers, tmp_path):
    losses, parameters = alone(5)
    options = {"processes": False, "n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    found = []
    with distributed.Client(**options, silence_logs=logging.CRITICAL) as client:
        for _ in range(2):
            with znn.Model(NET, SIZE, batch=5, **OPTIONS) as model:
                parallel = DataParallel(model, client, num_workers=1)
                assert parallel.shares == n_workers
                data = samples(4, 5)
                steps = [parallel.step(*sample) for sample in data[:2]]
                model.save(tmp_path / "m")
            # It goes on from the file, with another number of shares.
            with znn.Model.load(tmp_path / "m", num_workers=1) as again:
                steps += [DataParallel(again, client, 1, 1).step(*sample) for sample in data[2:]]
                found.append((steps, again.parameters))
    for steps, ours in found:
        np.testing.assert_allclose(steps, losses, rtol=1e-5)
        assert_same(ours, parameters)
    for name, array in found[0][1].items():
        np.testing.assert_array_equal(found[1][1][name], array)


def test_a_killed_worker_costs_its_share_only():
    losses, parameters = alone(4)
    options = {"processes": True, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.Client(**options, memory_limit=0, silence_logs=logging.CRITICAL) as client,
        znn.Model(NET, SIZE, batch=4, **OPTIONS) as model,
    ):
        parallel = DataParallel(model, client, num_workers=1)
        found = []
        for n, sample in enumerate(samples(4, 4)):
            if n == 2:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
            found.append(parallel.step(*sample))
        np.testing.assert_allclose(found, losses, rtol=1e-5)
        assert_same(model.parameters, parameters)


def test_a_network_that_normalises_over_the_batch_is_refused():
    net = Network.builder()
    x = net.input("input")
    net.output(net.conv(net.norm(net.conv(x, 2, kernel=2), over="batch"), 1, kernel=2), "output")
    with (
        znn.Model(net.build(), SIZE, **OPTIONS) as model,
        pytest.raises(znn.ParameterError, match="normalise over 'instance' or 'group' instead"),
    ):
        DataParallel(model, None, 2)


DROPPING = Network.parse("CTMCTDC", width=4, kernel=2, out_channels=2, transfer="tanh", dropout=0.4)
COLLECTING = {
    "dropout": (DROPPING, {}),
    "clipped by norm": (NET, {"clip_norm": 0.05}),
    "clipped by value": (NET, {"clip_value": 0.01}),
    "accumulated": (NET, {"accumulate": 3}),
    "all": (DROPPING, {"accumulate": 2, "clip_norm": 0.05}),
}


@pytest.mark.parametrize("name", COLLECTING)
def test_what_sees_the_whole_minibatch_is_as_in_one_process(name, threads, tmp_path):
    net, more = COLLECTING[name]
    options = OPTIONS | {"optimizer": znn.SGD(learning_rate=0.05, momentum=0.9, **more)}
    data = samples(8, 3)
    with znn.Model(net, SIZE, batch=3, **options) as model:
        losses = [model.step(*sample) for sample in data]
        parameters = model.parameters
    with znn.Model(net, SIZE, batch=3, **options) as model:
        parallel = DataParallel(model, threads, num_workers=1)
        found = list(parallel.steps(data[:3]))
        model.save(tmp_path / "m")
    # Saved in the middle of an update, and gone on with by another number of shares.
    with znn.Model.load(tmp_path / "m", num_workers=1) as again:
        found += DataParallel(again, threads, 3, 1).steps(data[3:])
        np.testing.assert_allclose(found, losses, rtol=1e-5)
        assert_same(again.parameters, parameters)
    if more:
        with znn.Model(net, SIZE, batch=3, **OPTIONS) as plain:
            list(plain.steps(data))
            assert not np.allclose(plain.parameters["conv1/kernel"], parameters["conv1/kernel"], atol=1e-4)


@pytest.mark.slow
def test_what_sees_the_whole_minibatch_is_as_in_one_process_over_processes():
    options = OPTIONS | {"optimizer": znn.Adam(learning_rate=0.01, clip_norm=0.05, accumulate=2)}
    data = samples(6, 4)
    with znn.Model(DROPPING, SIZE, batch=4, **options) as model:
        losses, parameters = list(model.steps(data)), model.parameters
    cluster = {"processes": True, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.Client(**cluster, memory_limit=0, silence_logs=logging.CRITICAL) as client,
        znn.Model(DROPPING, SIZE, batch=4, **options) as model,
    ):
        np.testing.assert_allclose(list(DataParallel(model, client, num_workers=1).steps(data)), losses, rtol=1e-5)
        assert_same(model.parameters, parameters)


def test_a_wrong_sample_is_told_after_the_losses_before_it(threads):
    data = samples(2, 3)
    with znn.Model(NET, SIZE, batch=3, **OPTIONS) as model:
        steps = DataParallel(model, threads, num_workers=1).steps([*data, (1, 2)])
        assert np.isfinite([next(steps), next(steps)]).all()
        with pytest.raises(znn.ShapeError):
            next(steps)
        assert model.step_count == 2


def test_a_cluster_without_workers_is_given_up(monkeypatch):
    monkeypatch.setattr("znn_dask.cluster.train.PATIENCE_S", 0.2)
    with (
        distributed.Client(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as client,
        znn.Model(NET, SIZE, batch=3, **OPTIONS) as model,
    ):
        before = model.parameters
        with pytest.raises(znn.DataError, match="the Dask cluster has no workers after 0 s"):
            DataParallel(model, client, 2).step(*samples(1, 3)[0])
        assert model.step_count == 0
        assert_same(model.parameters, before)
