"""One plan, one answer, bitwise: for any number of workers, any Dask scheduler, threads or processes.

Also what the graph of a step promises: the updates that a step left behind, new keys at every call, dropout.
"""

import os
import subprocess
import sys

import dask
import numpy as np
import pytest
import reference_network as plain
from dask.threaded import get as threaded_get

import znn_dask as znn
from znn_dask.net import Network
from znn_dask.ops import fft, memory

pytestmark = pytest.mark.timeout(120)

NET = Network.parse("CTMDCTMCT", width=5, kernel=[3, 2, 2], out_channels=2, dropout=0.3)
OUTPUT_SIZE = (2, 3, 5)
OPTIMIZER = znn.SGD(learning_rate=0.05, momentum=0.9, weight_decay=0.01)
PLANS = [
    {"convolution": "fft", "granularity": "edge", "block": 2},
    {"convolution": "fft-stored", "granularity": "node", "block": 2},
    {"convolution": "direct", "granularity": "edge", "block": 3},
    {},
]
RNG = np.random.default_rng(0)
PARAMETERS = plain.random_parameters(NET, RNG)
SAMPLES = [
    [next(iter(part.values())) for part in plain.random_sample(NET, OUTPUT_SIZE, "square", RNG, 2, weighted=True)]
    for _ in range(3)
]


def new_model(num_workers=2, options=PLANS[0], batch=2):
    model = znn.Model(NET, OUTPUT_SIZE, optimizer=OPTIMIZER, seed=7, num_workers=num_workers, batch=batch, **options)
    model.load_parameters(PARAMETERS)
    return model


def everything(model):
    """Losses, gradients, outputs and parameters of a short run, as bytes."""
    found = [model.step(*sample) for sample in SAMPLES[:2]]
    loss, gradients = model.gradients(*SAMPLES[2])
    arrays = [*gradients.values(), model.forward(SAMPLES[2][0]), *model.parameters.values()]
    return [*found, loss, *(array.tobytes() for array in arrays)]


@pytest.mark.parametrize("options", PLANS)
def test_any_number_of_workers(options):
    answers = []
    for num_workers in (1, 2, 4, 8):
        with new_model(num_workers, options) as model:
            answers.append(everything(model))
            assert everything(model) != answers[-1], "the model has moved on"
    assert all(answer == answers[0] for answer in answers)


def graph_and_answer(options=PLANS[0], n_before=1):
    """The graph of a step, and what the model itself makes of the same step."""
    with new_model(options=options) as model:
        for sample in SAMPLES[:n_before]:
            model.step(*sample)
        graph = model.graph("step", *SAMPLES[2])
        loss = model.step(*SAMPLES[2])
        return graph, loss, model.parameters


def assert_answer(results, graph, loss, parameters):
    found = dict(zip(graph.outputs, results, strict=True))
    assert float(found.pop("loss")) == loss
    assert found.keys() == parameters.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, parameters[name])


GETTERS = {"znn": znn.get, "synchronous": dask.get, "threaded": threaded_get}


@pytest.mark.parametrize("n_before", [0, 1])
@pytest.mark.parametrize("options", PLANS)
@pytest.mark.parametrize("getter", GETTERS)
def test_any_scheduler_on_this_machine(getter, options, n_before):
    graph, loss, parameters = graph_and_answer(options, n_before)
    results = GETTERS[getter](graph.dask, list(graph.outputs.values()))
    assert_answer(results, graph, loss, parameters)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_local_cluster(processes, tmp_path):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    with (
        dask.config.set({"temporary-directory": str(tmp_path)}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=processes, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        for options in PLANS:
            graph, loss, parameters = graph_and_answer(options)
            assert_answer(client.get(graph.dask, list(graph.outputs.values())), graph, loss, parameters)


def test_a_graph_takes_its_sample_later():
    with new_model() as model:
        graph = model.graph("step")
        x, target, _ = SAMPLES[2]
        assert set(graph.inputs) == {"input", "target"}
        given = {graph.inputs["input"]: x, graph.inputs["target"]: target}
        results = dask.get({**graph.dask, **given}, list(graph.outputs.values()))
        loss = model.step(x, target)
        assert_answer(results, graph, loss, model.parameters)


def test_the_graph_of_a_forward_pass():
    with new_model() as model:
        x = SAMPLES[0][0]
        graph = model.graph("forward", x)
        (output,) = dask.get(graph.dask, list(graph.outputs.values()))
        np.testing.assert_array_equal(output, model.forward(x))


def test_the_graph_of_a_forward_pass_takes_any_batch():
    with new_model(batch=1) as model:
        x = SAMPLES[0][0]
        graph = model.graph("forward", x)
        (output,) = dask.get(graph.dask, list(graph.outputs.values()))
        np.testing.assert_array_equal(output, model.forward(x))


def test_pending_updates_keep_their_own_learning_rate():
    with new_model() as model:
        model.step(*SAMPLES[0])
        model.learning_rate = 0.2
        graph = model.graph("step", *SAMPLES[1])
        results = dask.get(graph.dask, list(graph.outputs.values()))
        loss = model.step(*SAMPLES[1])
        assert_answer(results, graph, loss, model.parameters)


def test_every_graph_has_keys_of_its_own():
    with new_model() as model:
        first, second = (model.graph("step", *SAMPLES[0]) for _ in range(2))
    assert not set(first.dask) & set(second.dask)
    assert all(isinstance(key[0], str) for key in first.dask)


def test_a_graph_changes_neither_its_model_nor_its_inputs():
    with new_model() as model:
        before = {name: array.copy() for name, array in model.parameters.items()}
        kept = [array.copy() for array in SAMPLES[0]]
        graph = model.graph("step", *SAMPLES[0])
        first, second = (znn.get(graph.dask, list(graph.outputs.values())) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
        model.step(*SAMPLES[0])
        for array, copy in zip(SAMPLES[0], kept, strict=True):
            np.testing.assert_array_equal(array, copy)
    assert any((before[name] != array).any() for name, array in model.parameters.items())


def test_steps_are_steps_one_after_the_other():
    with new_model() as one, new_model() as other:
        assert list(one.steps(SAMPLES)) == [other.step(*sample) for sample in SAMPLES]
        for name, array in one.parameters.items():
            np.testing.assert_array_equal(array, other.parameters[name])


def test_parameters_and_velocities_survive_a_file(tmp_path):
    with new_model() as model:
        for sample in SAMPLES[:2]:
            model.step(*sample)
        model.save(tmp_path / "model.safetensors")
        expected = everything(model)
    with znn.Model.load(tmp_path / "model.safetensors") as again:
        assert everything(again) == expected


# --- plans differ by rounding only ---


@pytest.mark.parametrize("options", [*PLANS, {"block": 1, "granularity": "edge"}, {"fft_backend": "scipy"}])
def test_dropout_is_the_same_for_every_plan(options):
    """Its mask comes from the seed, the step and the place, so plans agree as if there were no dropout."""
    with new_model(options=PLANS[1]) as one, new_model(options=options) as other:
        losses = [[model.step(*sample) for sample in SAMPLES] for model in (one, other)]
        np.testing.assert_allclose(*losses, rtol=2e-5)
        for name, array in one.parameters.items():
            np.testing.assert_allclose(other.parameters[name], array, atol=2e-5 * np.abs(array).max())


def test_dropout_is_active_in_steps_alone():
    still = Network.parse("CTMDCTMCT", width=5, kernel=[3, 2, 2], out_channels=2, dropout=0.0)
    with new_model() as model, znn.Model(still, OUTPUT_SIZE, optimizer=OPTIMIZER, seed=7, batch=2) as without:
        without.load_parameters(PARAMETERS)
        x = SAMPLES[0][0]
        np.testing.assert_allclose(model.forward(x), without.forward(x), atol=1e-5)
        first = model.gradients(*SAMPLES[0])[0]
        assert first != pytest.approx(without.gradients(*SAMPLES[0])[0], rel=1e-3)
        assert model.gradients(*SAMPLES[0])[0] == first, "the same step, the same mask"
        model.learning_rate = 0.0
        assert model.step(*SAMPLES[0]) == first
        assert model.step(*SAMPLES[0]) != first, "another step, another mask"


# --- what keeps it so ---


@pytest.mark.parametrize(("width", "planned", "given"), [(1, 20, 20), (3, 5, 5), (5, 7, 2), (3, 1, 3)])
def test_what_fftw_measures_is_known_before_a_step_and_saved(width, planned, given, monkeypatch, tmp_path):
    """What is measured later would be measured anew elsewhere, perhaps in another way: other last bits."""
    asked, learned = set(), set()
    plan, learn = fft.plan, fft.learn

    def noted_plan(backend, size, lanes, wisdom):
        asked.add((size, lanes))
        return plan(backend, size, lanes, wisdom)

    def noted_learn(backend, effort, tiles, known=None):
        learned.update(tiles)
        return learn(backend, effort, tiles, known)

    monkeypatch.setattr(fft, "plan", noted_plan)
    monkeypatch.setattr(fft, "learn", noted_learn)
    net = Network.parse("CTC", width=width, kernel=3, out_channels=1)
    options = {"num_workers": 1, "batch": planned, "convolution": "fft"}
    options |= {"fft_backend": "pyfftw", "fft_effort": "measure"}
    with znn.Model(net, (3, 4, 4), **options) as model:
        inputs, targets, _ = plain.random_sample(net, (3, 4, 4), "square", RNG, given)
        model.step(inputs["input"], targets["output"])
        assert asked
        assert asked <= learned
        model.save(tmp_path / "model")
        with znn.Model.load(tmp_path / "model", num_workers=1) as again:
            assert again.step(inputs["input"], targets["output"]) == model.step(inputs["input"], targets["output"])
            for name, value in model.parameters.items():
                np.testing.assert_array_equal(value, again.parameters[name])


def test_a_running_step_asks_the_system_for_no_memory():
    with new_model(num_workers=1) as model:
        for _ in range(4):
            model.step(*SAMPLES[0])
        before = memory.pool_counts().n_from_system
        for _ in range(3):
            model.step(*SAMPLES[0])
        assert memory.pool_counts().n_from_system == before


VALIDATED = """
import numpy as np
import znn_dask as znn
from znn_dask.ops import reference, validation

net = znn.Network.parse("CTMCT", width=3, kernel=2)
x, target = np.ones((1, 1, *net.input_size(2)), np.float32), np.zeros((1, 1, 2, 2, 2), np.float32)
for convolution in ("fft", "direct"):
    with znn.Model(net, (2, 2, 2), num_workers=2, convolution=convolution) as model:
        model.step(x, target)
# Operations look their twins up when they run, so a wrong one must be noticed.
reference.transfer_forward = lambda image, *_: image + 1
with znn.Model(net, (2, 2, 2), num_workers=2) as model:
    try:
        model.step(x, target)
    except validation.ValidationError as error:
        print("noticed:", error)
"""


def test_validation_runs_the_reference_beside_every_step():
    result = subprocess.run(
        [sys.executable, "-c", VALIDATED],
        capture_output=True,
        text=True,
        env=os.environ | {"ZNN_DASK_VALIDATE": "1"},
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "noticed: forward_transfer: differs from its reference" in result.stdout
