"""Steps: what they leave behind, that none can be half done, that nothing but the plan shapes their results."""

import threading

import numpy as np
import pytest
import reference_network as plain
from model_cases import (
    DROPPING,
    FLAT,
    FLAT_SIZE,
    NET,
    OPTIMIZER,
    SEVERAL,
    SEVERAL_SIZE,
    SIZE,
    WAYS,
    copied,
    new_model,
    same,
    samples,
)

import znn_dask as znn
from znn_dask.ops import direct, fft, filter, loss, memory, spectral, transfer, update
from znn_dask.tasks import ArrivalReduce

pytestmark = pytest.mark.timeout(60)


def eager(net, parameters, pairs, rates, momentum, decay):
    """Make every update at once in float64: v = m v + g + decay w, w -= rate v."""
    parameters = {name: array.astype(np.float64) for name, array in parameters.items()}
    velocities = {name: np.zeros_like(array) for name, array in parameters.items()}
    for (x, target), rate in zip(pairs, rates, strict=True):
        inputs, targets = ({"input": x}, {"output": target}) if isinstance(x, np.ndarray) else (x, target)
        gradients = plain.run(net, parameters, inputs, targets).gradients
        for name, gradient in gradients.items():
            velocities[name] = momentum * velocities[name] + gradient + decay * parameters[name]
            parameters[name] = parameters[name] - rate * velocities[name]
    return parameters


# --- pending updates ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("net", "size"), [(NET, SIZE), (FLAT, FLAT_SIZE), (SEVERAL, SEVERAL_SIZE)])
def test_parameters_after_every_step_are_those_of_eager_updates(net, size, way):
    pairs, rates = samples(net, size, 4, batch=2), [0.05, 0.05, 0.2, 0.01]
    with new_model(net, size, **way) as model:
        start = model.parameters
        for n, (pair, rate) in enumerate(zip(pairs, rates, strict=True), 1):
            model.learning_rate = rate
            model.step(*pair)
            if n % 2 == 0:  # read after every second, so that updates stay pending too
                expected = eager(net, start, pairs[:n], rates[:n], 0.9, 0.01)
                for name, array in model.parameters.items():
                    np.testing.assert_allclose(array, expected[name], atol=2e-5)


def test_looking_at_a_model_changes_nothing():
    """Whoever flushes, and when, makes no difference in the last bit."""
    pairs = samples(count=4)
    looks = [
        lambda m: m.flush(),
        lambda m: (m.parameters, m.flush(), m.flush()),
        lambda m: m.gradients(*pairs[0]),
        lambda m: m.forward(pairs[0][0]),
        lambda m: m.predict(np.zeros((8, 8, 8))),
        lambda m: (str(m.plan), repr(m), m.graph("step"), m.graph("forward")),
    ]
    with new_model() as undisturbed:
        losses = [undisturbed.step(*pair) for pair in pairs]
        expected = undisturbed.parameters
    for look in looks:
        with new_model() as model:
            look(model)
            found = []
            for pair in pairs:
                found.append(model.step(*pair))
                look(model)
            assert found == losses
            assert same(model.parameters, expected)
            assert model.step_count == 4


def test_gradients_can_be_taken_again():
    (pair, other) = samples(count=2)
    with new_model() as model:
        model.step(*other)
        before, first = copied(model.parameters), model.gradients(*pair)
        second = model.gradients(*pair)
        assert first[0] == second[0]
        assert same(first[1], second[1])
        assert same(model.parameters, before)
        assert model.step_count == 1


def test_loading_parameters_forgets_what_was_pending():
    pairs = samples(count=3)
    with new_model() as model, new_model() as fresh:
        start = model.parameters
        model.step(*pairs[0])
        model.step(*pairs[1])
        model.load_parameters(start)
        assert same(model.parameters, start)
        assert model.step(*pairs[2]) == fresh.step(*pairs[2])
        assert same(model.parameters, fresh.parameters)
        assert (model.step_count, fresh.step_count) == (3, 1)


# --- nothing is half done ---


class BoomError(Exception):
    """What an operation raises in these tests."""


class Fuse:
    """Raises an exception at the n-th call of any operation of a model."""

    OPERATIONS = (
        (direct, "forward_transfer"),
        (direct, "forward"),
        (direct, "backward"),
        (direct, "kernel_gradient"),
        (spectral, "image_spectrum"),
        (spectral, "product"),
        (spectral, "output_image"),
        (spectral, "kernel_gradient"),
        (filter, "max_filter"),
        (filter, "max_filter_backward"),
        (transfer, "backward"),
        (loss, "loss_and_gradients"),
        (update, "sgd"),
    )

    def __init__(self, monkeypatch):
        self.lock = threading.Lock()
        self.n_calls, self.at, self.error = 0, None, BoomError
        for module, name in self.OPERATIONS:
            monkeypatch.setattr(module, name, self.around(getattr(module, name)))

    def around(self, operation):
        def fused(*args, **kwargs):
            with self.lock:
                self.n_calls += 1
                if self.n_calls == self.at:
                    raise self.error("here")
            return operation(*args, **kwargs)

        fused.__znn_fresh__ = True
        return fused

    def set(self, at, error=BoomError):
        self.n_calls, self.at, self.error = 0, at, error


@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt])
@pytest.mark.parametrize("convolution", ["fft", "direct"])
def test_a_step_that_fails_leaves_the_model_as_it_was(monkeypatch, convolution, error, num_workers):
    pairs = samples(count=3)
    fuse = Fuse(monkeypatch)
    options = {"convolution": convolution, "num_workers": num_workers, "block": 2}
    with new_model(**options) as undisturbed:
        losses, n_calls = [], []
        for pair in pairs:
            fuse.set(None)
            losses.append(undisturbed.step(*pair))
            n_calls.append(fuse.n_calls)
        expected = undisturbed.parameters
    assert 10 < n_calls[0] < n_calls[1] == n_calls[2]
    with new_model(**options) as model:
        found = []
        for step, pair in enumerate(pairs):
            for at in range(1, n_calls[step] + 1, 1 + n_calls[step] // 6):
                fuse.set(at, error)
                state = model._core.state
                with pytest.raises(error, match="here"):
                    model.step(*pair)
                assert model._core.state is state
                state.check()
                assert model.step_count == step
            fuse.set(None)
            found.append(model.step(*pair))
        assert found == losses
        assert same(model.parameters, expected)
        fuse.set(1, error)
        with pytest.raises(error):
            model.gradients(*pairs[0])
        fuse.set(None)
        assert same(model.parameters, expected)


def test_flushing_that_fails_can_be_done_again(monkeypatch):
    pairs = samples(count=2)
    with new_model() as undisturbed:
        undisturbed.step(*pairs[0])
        expected = undisturbed.parameters
    fuse = Fuse(monkeypatch)
    with new_model() as model:
        model.step(*pairs[0])
        fuse.set(2, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            model.flush()
        fuse.set(None)
        assert same(model.parameters, expected)


def test_samples_that_fail_end_the_steps_and_leave_those_made():
    def broken():
        yield from samples(count=2)
        raise BoomError("no more")

    with new_model() as model:
        losses = []
        with pytest.raises(BoomError, match="no more"):
            losses.extend(model.steps(broken()))
        assert len(losses) == model.step_count == 2
        wrong = [samples(count=1)[0], (np.zeros(3), np.zeros(3)), samples(count=1)[0]]
        steps = model.steps(iter(wrong))
        next(steps)
        with pytest.raises(ValueError, match="input 'input' must have shape"):
            next(steps)
        assert model.step_count == 3


# --- workers, memory, threads ---


@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
def test_sums_in_order_of_arrival_differ_by_rounding_alone(num_workers):
    way = {"granularity": "edge", "block": 1, "convolution": "fft", "num_workers": num_workers}
    (pair,) = samples(count=1)
    with new_model(**way) as tree, new_model(sum="arrival", **way) as arrival:
        assert any(type(task) is ArrivalReduce for task in arrival.graph().dask.values())
        loss, gradients = tree.gradients(*pair)
        for _ in range(5):
            other_loss, others = arrival.gradients(*pair)
            assert other_loss == pytest.approx(loss, rel=1e-5)
            for name, gradient in gradients.items():
                error = np.linalg.norm(others[name] - gradient)
                assert error <= 1e-5 * np.linalg.norm(gradient)


@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_workers_gives_the_same_bits(way):
    pairs = samples(DROPPING, 5, 3, batch=2)
    volume = np.random.default_rng(0).random((9, 8, 10), np.float32)
    answers = []
    for num_workers in (1, 2, 4, 8):
        with new_model(DROPPING, 5, num_workers=num_workers, batch=2, **way) as model:
            losses = list(model.steps(pairs))
            assert model.num_workers == num_workers
            arrays = [*model.parameters.values(), model.predict(volume), *model.gradients(*pairs[0])[1].values()]
            answers.append((losses, [array.tobytes() for array in arrays]))
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("way", WAYS[:2])
def test_what_was_measured_serves_any_number_of_workers(tmp_path, way):
    """Two models may measure differently; one that is saved with what it measured gives one answer."""
    pairs, answers = samples(count=2, batch=2), []
    with new_model(batch=2, fft_backend="pyfftw", fft_effort="measure", **way) as model:
        model.save(tmp_path / "m")
    for num_workers in (1, 2, 4, 8):
        with znn.Model.load(tmp_path / "m", num_workers=num_workers) as model:
            losses = list(model.steps(pairs))
            answers.append((losses, [array.tobytes() for array in model.parameters.values()]))
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("way", WAYS)
def test_one_worker_takes_no_new_memory_after_the_first_steps(way):
    ((x, target),) = samples(count=1, batch=2)
    with new_model(num_workers=1, batch=2, **way) as model:
        for _ in range(4):
            model.step(x, target)
        before = memory.pool_counts()
        for _ in range(20):
            model.step(x, target)
        after = memory.pool_counts()
    assert after.n_from_system == before.n_from_system
    assert after.bytes_from_system == before.bytes_from_system
    assert after.bytes_in_use == before.bytes_in_use


@pytest.mark.parametrize("num_workers", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_more_workers_take_hardly_any(way, num_workers):
    """Which tasks run at once differs from step to step, so a new most may come late, but ever more never does."""
    ((x, target),) = samples(count=1, batch=2)
    with new_model(num_workers=num_workers, batch=2, **way) as model:
        for _ in range(40):
            model.step(x, target)
        before = memory.pool_counts()
        for _ in range(20):
            model.step(x, target)
        after = memory.pool_counts()
    assert after.bytes_from_system <= 1.1 * before.bytes_from_system
    assert after.bytes_in_use == before.bytes_in_use


def test_threads_end_with_the_model():
    before = set(threading.enumerate())
    model = new_model(num_workers=4)
    pairs = samples(count=3)
    list(model.steps(pairs))
    started = set(threading.enumerate()) - before
    assert started
    assert all(thread.name.startswith("znn-dask") for thread in started)
    model.close()
    model.close()
    for thread in started:
        thread.join(10)
    assert not started & set(threading.enumerate())
    assert model.parameters
    assert model.step_count == 3
    with pytest.raises(RuntimeError, match="closed"):
        model.step(*pairs[0])
    assert model.step_count == 3


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize(("planned", "given"), [(1, 1), (1, 3), (20, 20), (20, 5), (20, 2)])
def test_every_transform_is_measured_before_the_first_step(monkeypatch, planned, given, way):
    """What each thread measures for itself may differ from thread to thread, and is not saved with the model."""
    learned, used = set(), set()
    learn, plan = fft.learn, fft.plan

    def learning(backend, effort, tiles, known=None):
        learned.update(tiles := list(tiles))
        return learn(backend, effort, tiles, known)

    def planning(backend, size, lanes, wisdom):
        assert wisdom.effort == "measure"
        used.add((size, lanes))
        return plan(backend, size, lanes, wisdom)

    monkeypatch.setattr(fft, "learn", learning)
    monkeypatch.setattr(fft, "plan", planning)
    ((x, target),) = samples(count=1, batch=given)
    with new_model(batch=planned, fft_backend="pyfftw", fft_effort="measure", **way) as model:
        model.step(x, target)
        model.predict(x[0])
        assert used
        assert used <= learned


def test_the_optimiser_tells_the_rate_of_now():
    with new_model() as model:
        model.learning_rate = 0.125
        assert model.optimizer.learning_rate == model.learning_rate == 0.125
        assert model.optimizer.momentum == OPTIMIZER.momentum
        assert OPTIMIZER.learning_rate == 0.05
