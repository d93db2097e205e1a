"""The memory of a step: predicted, limited, and taken from the system once."""

import gc
import resource

import numpy as np
import pytest
from model_cases import FLAT, FLAT_SIZE, NET, SIZE, WAYS, max_filter_branches, new_model, samples

import znn_dask as znn
from znn_dask.lower import Options, lower_step, make_plan
from znn_dask.lower.cost import predict
from znn_dask.lower.leaner import Heard
from znn_dask.lower.step import StepOptions
from znn_dask.model.memory import planned, step_bytes
from znn_dask.ops import memory
from znn_dask.tune import Tuner, measure

pytestmark = pytest.mark.timeout(120)

MEDIUM = znn.Network.parse("CTMCTMCTCT", width=12, kernel=[3, 4, 3, 2], out_channels=2)
MEDIUM_SIZE = {"output": (6, 6, 6)}
LARGE = znn.Network.parse("CTCTC", width=24, kernel=7, out_channels=4)
LARGE_SIZE = {"output": (20, 20, 20)}
CASES = [
    *((NET, SIZE, way) for way in WAYS),
    (FLAT, FLAT_SIZE, {"convolution": "fft"}),
    (max_filter_branches(), (3, 4, 5), {}),
    (MEDIUM, MEDIUM_SIZE, {}),
    (MEDIUM, MEDIUM_SIZE, {"convolution": "fft"}),
    (MEDIUM, MEDIUM_SIZE, {"convolution": "direct", "batch": 2}),
    (MEDIUM, MEDIUM_SIZE, {"convolution": "fft", "granularity": "edge", "block": 4}),
    (MEDIUM, MEDIUM_SIZE, {"convolution": "direct", "granularity": "edge", "block": 2, "sum": "arrival"}),
]


def sample(net, size, batch):
    return samples(net, next(iter(size.values())) if isinstance(size, dict) else size, 1, batch=batch)[0]


def measured(net, size, num_workers, n_steps=15, **way):
    """Return the predicted and the largest of the measured peaks: of a worker kept waiting, a step takes less."""
    x, target = sample(net, size, way.get("batch", 1))
    gc.collect()
    before = memory.pool_counts().bytes_in_use
    with new_model(net, size, num_workers=num_workers, tune=False, **way) as model:
        for _ in range(3):
            model.step(x, target)
        peaks = []
        for _ in range(n_steps):
            memory.reset_peak()
            model.step(x, target)
            peaks.append(memory.pool_counts().bytes_peak - before)
        return model.plan.peak_bytes, max(peaks)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_one_worker_takes_what_was_predicted(case):
    net, size, way = CASES[case]
    predicted, real = measured(net, size, 1, 2, **way)
    assert predicted == pytest.approx(real, rel=0.03)


@pytest.mark.parametrize("case", [6, 7, 8])
def test_two_workers_take_about_what_was_predicted(case):
    net, size, way = CASES[case]
    predicted, real = measured(net, size, 2, **way)
    assert predicted == pytest.approx(real, rel=0.15)


def test_more_workers_are_predicted_to_take_more():
    plan = make_plan(MEDIUM, MEDIUM_SIZE, 1, Options("fft"))
    peaks = [step_bytes(MEDIUM, plan, n) for n in (1, 2, 4)]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[2]
    assert peaks == [step_bytes(MEDIUM, plan, n) for n in (1, 2, 4)]


def test_the_plan_says_what_is_predicted():
    with new_model(num_workers=3) as model:
        report = model.plan
        assert 0 < report.kept_bytes < report.peak_bytes
        assert "peak memory of a step with 3 workers about" in str(report)
        assert "parameters, velocities and pending gradients" in str(report)


# --- spectra made again ---


@pytest.mark.parametrize("net", [LARGE, max_filter_branches()])
def test_spectra_made_again_change_no_bit(net):
    size = {"output": (4, 4, 4)}
    plan = make_plan(net, size, 1, Options("fft"))
    again = {name: replaced(chosen, keep=False) for name, chosen in plan.convolutions.items()}
    leaner = replaced(plan, convolutions=again)
    results = []
    for each in (plan, leaner):
        with new_model(net, size, convolution="fft", tune=False) as model:
            model._core.plan = each
            model._core._plans = {1: each}
            results.append(model.gradients(*sample(net, size, 1)))
    assert results[0][0] == results[1][0]
    assert all((results[0][1][name] == results[1][1][name]).all() for name in results[0][1])
    graphs = [lower_step(net, each, StepOptions("square"), "0000beef") for each in (plan, leaner)]
    assert len(graphs[1].dask) > len(graphs[0].dask)
    assert "anew" in str(znn.model.state.PlanReport(net, leaner, 1, 1, 1))


def replaced(struct, **changes):
    return type(struct)(**{**{name: getattr(struct, name) for name in struct.__struct_fields__}, **changes})


# --- limits ---


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(("net", "size"), [(MEDIUM, MEDIUM_SIZE), (LARGE, LARGE_SIZE)])
def test_plans_keep_to_a_limit_or_are_refused(net, size, num_workers):
    free = step_bytes(net, planned(net, size, 1, Options(), predict, num_workers), num_workers)
    with pytest.raises(znn.MemoryLimitError) as caught:
        planned(net, size, 1, Options(memory=1000), predict, num_workers)
    least = int(str(caught.value).split("memory=")[1].split()[0])
    assert least <= free
    assert "is too little for a step of output_size output" in str(caught.value)
    assert f"{num_workers} workers" in str(caught.value)
    for limit in {free, (free + least) // 2, least}:
        plan = planned(net, size, 1, Options(memory=limit), predict, num_workers)
        assert step_bytes(net, plan, num_workers) <= limit
        assert plan == planned(net, size, 1, Options(memory=limit), predict, num_workers)
    with pytest.raises(znn.MemoryLimitError):
        planned(net, size, 1, Options(memory=least - 1), predict, num_workers)


def test_a_limit_makes_spectral_layers_leaner():
    free = planned(LARGE, LARGE_SIZE, 1, Options(), predict, 1)
    assert any(chosen.spectral for chosen in free.convolutions.values())
    limit = step_bytes(LARGE, free, 1) * 3 // 4
    lean = planned(LARGE, LARGE_SIZE, 1, Options(memory=limit), predict, 1)
    assert lean != free
    assert step_bytes(LARGE, lean, 1) <= limit
    assert planned(LARGE, LARGE_SIZE, 1, Options(memory=1 << 40), predict, 1) == free


def test_a_limited_model_takes_no_more_and_learns_the_same():
    pair = sample(LARGE, LARGE_SIZE, 1)
    with new_model(LARGE, LARGE_SIZE, num_workers=1, tune=False) as model:
        expected = model.gradients(*pair)[1]
        limit = model.plan.peak_bytes * 3 // 4
    gc.collect()
    before = memory.pool_counts().bytes_in_use
    with new_model(LARGE, LARGE_SIZE, num_workers=1, tune=False, memory=limit) as model:
        found = model.gradients(*pair)[1]
        for _ in range(2):
            memory.reset_peak()
            model.step(*pair)
            assert memory.pool_counts().bytes_peak - before <= 1.01 * limit
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-4 * np.abs(gradient).max())


def test_what_the_user_settled_stays():
    limit = step_bytes(LARGE, make_plan(LARGE, LARGE_SIZE, 1, Options("fft")), 1) * 9 // 10
    lean = planned(LARGE, LARGE_SIZE, 1, Options("fft", memory=limit), predict, 1)
    assert {name for chosen in lean.convolutions.values() for name in chosen.algorithms} == {"fft"}
    with pytest.raises(znn.MemoryLimitError):
        planned(LARGE, LARGE_SIZE, 1, Options("fft-stored", memory=1 << 20), predict, 1)


def test_a_limit_measures_nothing_more(monkeypatch, tmp_path):
    monkeypatch.setenv("ZNN_DASK_CACHE_DIR", str(tmp_path))
    asked = []
    monkeypatch.setattr(measure, "seconds", lambda work, *_: asked.append(work) or 1e-3)
    free = planned(LARGE, LARGE_SIZE, 1, Options(), Tuner(), 1)
    count = len(asked)
    assert count
    limit = step_bytes(LARGE, free, 1) * 3 // 4
    assert planned(LARGE, LARGE_SIZE, 1, Options(memory=limit), Tuner(), 1) != free
    assert len(asked) == count


def test_times_that_were_told_are_used_in_the_proportions_of_the_counts():
    net = znn.Network.parse("CTC", width=8, kernel=3, out_channels=1)
    heard = Heard(lambda asked: [{c: {p: 3 * s for p, s in t.items()} for c, t in e.items()} for e in predict(asked)])
    plan = make_plan(net, {"output": (9, 9, 9)}, 2, Options(), heard)
    assert plan == make_plan(net, {"output": (9, 9, 9)}, 2, Options())
    layer, told = heard._told[0]
    finer = replaced(layer, groups=layer.entries * layer.groups, entries=1)
    (counted,) = predict([(finer, list(told))])
    for candidate, parts in heard.times(finer, list(told)).items():
        assert parts == pytest.approx({name: 3 * seconds for name, seconds in counted[candidate].items()})


@pytest.mark.parametrize("given", [0, -5, True, 1.5, "", "much", "-2 GB", "0", [1]])
def test_limits_that_are_none(given):
    with pytest.raises(znn.ParameterError, match=r"memory must be bytes above 0, a text like '2 GiB'.*, got"):
        new_model(memory=given)


def test_limits_are_saved_and_used_again(tmp_path):
    with new_model(memory="1 MiB", tune=False) as model:
        model.save(tmp_path / "m")
    with znn.Model.load(tmp_path / "m") as model:
        assert model._core.options.memory == 1 << 20
    with pytest.raises(znn.MemoryLimitError, match="too little for a step of output_size output 30x40x50"):
        znn.Model.load(tmp_path / "m", output_size=(30, 40, 50))


def test_prediction_keeps_to_the_limit_too():
    volume = np.random.default_rng(0).random((24, 24, 24), np.float32)
    with new_model(tune=False) as model:
        expected = model.predict(volume)
    gc.collect()
    before = memory.pool_counts().bytes_in_use
    with new_model(tune=False, memory="500 kB", num_workers=1) as model:
        memory.reset_peak()
        found = model.predict(volume)
        assert memory.pool_counts().bytes_peak - before <= 510_000
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- nothing is taken from the system ---


@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
def test_steps_take_nothing_from_the_system(num_workers):
    x, target = sample(MEDIUM, MEDIUM_SIZE, 1)
    with new_model(MEDIUM, MEDIUM_SIZE, num_workers=num_workers, tune=False) as model:
        for _ in range(40):
            model.step(x, target)
        before = memory.pool_counts()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            model.step(x, target)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        after = memory.pool_counts()
    if num_workers == 1:
        assert after.n_from_system == before.n_from_system
    # Which tasks run at once differs, so a new most may come late, but ever more never does.
    assert after.bytes_from_system <= 1.1 * before.bytes_from_system
    assert after.bytes_in_use == before.bytes_in_use
    assert faults < 20 * 100
