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


def test_networks_that_see_the_whole_minibatch_are_refused():
    net = Network.parse("CTDC", width=2, kernel=2)
    with znn.Model(net, SIZE, **OPTIONS) as model, pytest.raises(znn.ParameterError, match="sees the whole minibatch"):
        DataParallel(model, None, 2)


@pytest.mark.parametrize("more", [{"accumulate": 2}, {"clip_norm": 1.0}, {"clip_value": 1.0}])
def test_gradients_that_are_more_than_a_mean_are_refused(more):
    options = OPTIONS | {"optimizer": znn.SGD(learning_rate=0.05, **more)}
    with znn.Model(NET, SIZE, **options) as model, pytest.raises(znn.ParameterError, match="accumulated or clipped"):
        DataParallel(model, None, 2)
