"""What a model takes and gives: shapes, kinds of numbers, names, and words for what does not fit."""

import numpy as np
import pytest
import reference_network as plain
from model_cases import DROPPING, FLAT, FLAT_SIZE, NET, SEVERAL, SEVERAL_SIZE, SIZE, copied, new_model, same, samples

import znn_dask as znn
from znn_dask.net import Dropout, Edge, Network

pytestmark = pytest.mark.timeout(60)

SINGLE = {"3d": (NET, SIZE), "2d": (FLAT, FLAT_SIZE)}


@pytest.fixture(scope="module")
def model():
    with new_model() as made:
        yield made


@pytest.fixture(scope="module")
def several():
    with new_model(SEVERAL, SEVERAL_SIZE) as made:
        yield made


# --- shapes ---


@pytest.mark.parametrize("name", SINGLE)
def test_shapes_with_and_without_a_batch(name):
    net, size = SINGLE[name]
    ((x, target),) = samples(net, size, 1, batch=3)
    channels = net.outputs["output"]
    with new_model(net, size) as model:
        assert model.input_size == net.input_size(size)
        assert model.output_size == size
        many = model.forward(x)
        assert many.shape == (3, channels, *size)
        assert many.dtype == np.float32
        for i in range(3):
            one = model.forward(x[i])
            assert one.shape == (channels, *size)
            np.testing.assert_allclose(one, many[i], atol=1e-5)
        np.testing.assert_array_equal(model.forward(x[0, 0]), model.forward(x[0]))
        np.testing.assert_array_equal(model.forward(x[:1])[0], model.forward(x[0]))
        loss, gradients = model.gradients(x, target)
        assert type(loss) is float
        assert {n: (g.shape, g.dtype) for n, g in gradients.items()} == {
            n: (p.shape, np.dtype("f4")) for n, p in net.parameters.items()
        }
        # The mean over a batch is the mean of the examples.
        each = [model.gradients(x[i], target[i]) for i in range(3)]
        assert loss == pytest.approx(np.mean([one for one, _ in each]), rel=1e-5)
        for key, gradient in gradients.items():
            np.testing.assert_allclose(gradient, np.mean([g[key] for _, g in each], axis=0), atol=1e-6)
        assert type(model.step(x, target)) is float
        losses = model.steps([(x, target), (x[0], target[0]), (x, target, np.ones((3, 1, *size)))])
        assert iter(losses) is losses
        assert [type(value) for value in losses] == [float] * 3
        assert model.step_count == 4


def test_nothing_is_done_before_it_is_asked_for():
    with new_model() as model:
        losses = model.steps(samples() * 2)
        assert model.step_count == 0
        next(losses)
        assert model.step_count == 1
        losses.close()
        assert model.step_count == 1
        assert list(model.steps([])) == []


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.uint8, np.int32, bool])
def test_any_numbers_go_in_and_float32_comes_out(model, kind):
    ((x, target),) = samples(count=1)
    x, target = (100 * x).astype(kind), target.astype(kind)
    y = model.forward(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, model.forward(x.astype(np.float32)))
    assert model.gradients(x, target)[0] == model.gradients(x.astype("f4"), target.astype("f4"))[0]


def test_strides_of_the_input_do_not_matter(model):
    ((x, target),) = samples(count=1)
    turned = np.asfortranarray(x), x[..., ::-1].copy()[..., ::-1], np.repeat(x, 2, axis=-1)[..., ::2], x.tolist()
    for other in turned:
        assert model.gradients(other, np.asfortranarray(target))[0] == model.gradients(x, target)[0]
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(model.forward(frozen), model.forward(x))


def test_results_are_the_callers_own(model):
    ((x, _),) = samples(count=1)
    y = model.forward(x)
    kept = y.copy()
    y[...] = 0
    again = model.forward(x)
    np.testing.assert_array_equal(again, kept)
    parameters = model.parameters
    for array in parameters.values():
        array[...] = 7
    np.testing.assert_array_equal(model.forward(x), kept)


@pytest.mark.parametrize("block", [1, "auto"])
def test_parameters_given_are_copied(block):
    net = Network.parse("CTC", width=1 if block == "auto" else 3, kernel=2, out_channels=1)
    with new_model(net, 3, block=block) as model:
        given = model.parameters
        model.load_parameters(given)
        before = model.parameters
        for array in given.values():
            array += 1
        assert same(model.parameters, before)


# --- several inputs and outputs ---


def test_several_inputs_and_outputs_go_by_name(several):
    ((x, target),) = samples(SEVERAL, SEVERAL_SIZE, 1, batch=2)
    y = several.forward(x)
    assert {name: array.shape for name, array in y.items()} == {"left": (2, 2, 2, 4, 5), "right": (2, 3, 2, 3, 4)}
    bare = several.forward({name: array[0] for name, array in x.items()})
    assert {name: array.ndim for name, array in bare.items()} == {"left": 4, "right": 4}
    assert several.input_size == SEVERAL.input_size(SEVERAL_SIZE)
    expected = plain.run(SEVERAL, several.parameters, x, target)
    loss, gradients = several.gradients(x, target)
    assert loss == pytest.approx(expected.loss, rel=1e-5)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected.gradients[name], atol=1e-5)
    weight = np.full((2, 1, 2, 4, 5), 0.0, np.float32)
    lighter, none_left = several.gradients(x, target, {"left": weight})
    assert lighter < loss
    assert not none_left["o1/kernel"].any()
    assert several.gradients(x, target, {"left": None})[0] == loss


def test_names_that_are_missing_or_unknown(several):
    ((x, target),) = samples(SEVERAL, SEVERAL_SIZE, 1)
    for call in (lambda x: several.forward(x), lambda x: several.step(x, target)):
        with pytest.raises(znn.ParameterError, match="inputs must be given for a, b, got a"):
            call({"a": x["a"]})
        with pytest.raises(znn.ParameterError, match="network has the inputs a, b: give a dict"):
            call(x["a"])
    with pytest.raises(znn.ParameterError, match="targets must be given for left, right"):
        several.step(x, {"left": target["left"]})
    with pytest.raises(znn.ParameterError, match="weights must be given for left, right, got middle"):
        several.step(x, target, {"middle": 1})
    with pytest.raises(znn.ShapeError, match="different numbers of examples"):
        several.forward({"a": x["a"], "b": np.concatenate([x["b"]] * 2)})
    with pytest.raises(znn.ShapeError, match="output_size must be given for left, right, got left"):
        new_model(SEVERAL, {"left": (2, 4, 5)})
    assert several.step_count == 0


# --- what does not fit ---


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, t: (x[..., 1:], t), znn.ShapeError, r"input 'input' must have shape \(1, 8, 9, 10\)"),
        (lambda x, t: (np.concatenate([x, x], axis=1), t), znn.ShapeError, "input 'input' must have shape"),
        (lambda x, t: (x[0, 0, 0], t), znn.ShapeError, "input 'input' must have shape"),
        (lambda x, t: (x[:0], t), znn.ShapeError, "input 'input' must have shape"),
        (lambda x, t: (x, t[:, :2]), znn.ShapeError, r"target 'output' must have shape \(3, 3, 4, 5\)"),
        (lambda x, t: (x, np.concatenate([t, t])), znn.ShapeError, "2 examples of target or weight, 1 of the input"),
        (lambda x, t: (x, t, t[..., 1:]), znn.ShapeError, "weight 'output' must have shape"),
        (lambda x, t: (x, t, t[:, :2]), znn.ShapeError, "weight 'output' must have shape"),
        (lambda x, t: (x, t, np.concatenate([t, t])), znn.ShapeError, "examples of target or weight"),
        (lambda x, t: (x.astype(str), t), znn.ParameterError, "input 'input' must be an array of numbers"),
        (lambda x, t: (x * 1j, t), znn.ParameterError, "array of numbers, got dtype complex"),
        (lambda x, t: (x, None), znn.ParameterError, "target 'output' must be an array of numbers"),
        (lambda x, t: ({"inputs": x}, t), znn.ParameterError, "inputs must be given for input, got inputs"),
    ],
)
def test_samples_that_do_not_fit(model, change, error, words):
    ((x, target),) = samples(count=1)
    before = copied(model.parameters)
    for method in (model.step, model.gradients):
        with pytest.raises(error, match=words):
            method(*change(x, target))
    assert same(model.parameters, before)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"net": "CTC"}, znn.ParameterError, "net must be a Network, got str"),
        ({"size": 0}, znn.ZnnError, "output_size must be at least 1"),
        ({"size": (2, 2)}, znn.ZnnError, "output_size must be an int or three ints"),
        ({"size": "big"}, znn.ZnnError, "output_size"),
        ({"loss": "sqare"}, znn.ParameterError, "loss must be one of square, logistic, softmax.*Did you mean 'square'"),
        ({"num_workers": 0}, znn.ParameterError, "num_workers must be an int of at least 1"),
        ({"policy": "luck"}, znn.ParameterError, "policy"),
        ({"batch": 0}, znn.ParameterError, "batch must be"),
        ({"optimizer": 0.1}, znn.ParameterError, "optimizer"),
        ({"seed": "three"}, znn.ParameterError, "seed"),
    ],
)
def test_models_that_cannot_be(options, error, words):
    with pytest.raises(error, match=words):
        new_model(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -1},
        {"learning_rate": float("nan")},
        {"learning_rate": "fast"},
        {"learning_rate": True},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"momentum": float("nan")},
        {"momentum": "much"},
        {"weight_decay": -1},
        {"weight_decay": float("inf")},
        {"weight_decay": None},
    ],
)
def test_optimisers_that_cannot_be(options):
    with pytest.raises(znn.ParameterError, match=next(iter(options))):
        znn.SGD(**options)


def test_rates_that_cannot_be(model):
    before = model.learning_rate
    for rate in (-0.1, float("inf"), float("nan"), "0.1", None):
        with pytest.raises(znn.ParameterError, match="learning_rate must be a finite number of 0 or more"):
            model.learning_rate = rate
    assert model.learning_rate == before == model.optimizer.learning_rate


def test_parameters_that_do_not_belong(model):
    good = model.parameters
    first = next(iter(good))
    for change, words in (
        ({first: None}, f"missing {first}"),
        ({"more/kernel": good[first]}, "unknown more/kernel"),
        ({first: good[first][1:]}, rf"parameter '{first}' must have shape"),
    ):
        wrong = {name: array for name, array in {**good, **change}.items() if array is not None}
        with pytest.raises(znn.ParameterError, match=words):
            model.load_parameters(wrong)
    assert same(model.parameters, good)


# --- classes, weights ---


def test_classes_in_every_shape():
    """A class per voxel, with or without the axis of one channel, and a weight in the same shapes."""
    with new_model(loss="softmax", batch=2) as model:
        ((x, classes),) = samples(batch=2, count=1, loss="softmax")
        weight = np.random.default_rng(1).random(classes.shape, np.float32)
        expected = plain.run(NET, model.parameters, {"input": x}, {"output": classes}, {"output": weight}, "softmax")
        for t in (classes, classes[:, np.newaxis], classes.astype(np.uint8), classes.astype(float)):
            for w in (weight[:, np.newaxis], weight):
                loss, gradients = model.gradients(x, t, w)
                assert loss == pytest.approx(expected.loss, rel=1e-5)
        np.testing.assert_allclose(gradients["conv1/kernel"], expected.gradients["conv1/kernel"], atol=1e-6)
        one = model.gradients(x[0], classes[0], weight[0])[0]
        assert one == model.gradients(x[:1], classes[:1], weight[:1, np.newaxis])[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t + 1, "holds class 3, but classes go from 0 to 2"),
        (lambda t: t - 1, "holds class -1, but classes go from 0 to 2"),
        (lambda t: t + 0.5, "must hold whole numbers"),
        (lambda t: np.full(t.shape, np.nan), "must hold whole numbers"),
    ],
)
def test_classes_that_cannot_be(change, words):
    ((x, classes),) = samples(count=1, loss="softmax")
    classes[0, 0, 0, :3] = 0, 1, 2
    with new_model(loss="softmax") as model, pytest.raises(znn.ParameterError, match=words):
        model.step(x, change(classes))


def test_a_weight_for_all_channels_or_each(model):
    ((x, target),) = samples(count=1)
    weight = np.random.default_rng(1).random((1, 1, *SIZE), np.float32)
    each = np.broadcast_to(weight, target.shape)
    losses = {model.gradients(x, target, w)[0] for w in (weight, weight[0], weight[0, 0], each, each[0])}
    assert len(losses) == 1
    expected = plain.run(NET, model.parameters, {"input": x}, {"output": target}, {"output": weight}).loss
    assert losses.pop() == pytest.approx(expected, rel=1e-5)


# --- dropout ---


def test_dropout_does_not_depend_on_how_it_is_computed():
    ((x, target),) = samples(DROPPING, 4, 1, batch=3)
    losses = []
    for options in ({}, {"block": 1, "granularity": "edge"}, {"convolution": "fft"}, {"batch": 3}, {"num_workers": 8}):
        with new_model(DROPPING, 4, **options) as model:
            losses.append([model.step(x, target), model.step(x, target), model.gradients(x, target)[0]])
    np.testing.assert_allclose(losses, [losses[0]] * len(losses), rtol=1e-5)
    assert len(set(losses[0])) == 3


def test_dropout_goes_by_the_seed_and_spares_prediction():
    ((x, target),) = samples(DROPPING, 4, 1)
    values, outputs, parameters = [], [], None
    for seed in (1, 2, 1):
        with new_model(DROPPING, 4, seed=seed) as model:
            parameters = parameters or model.parameters
            model.load_parameters(parameters)
            outputs.append(model.forward(x))
            values.append(model.gradients(x, target)[0])
            np.testing.assert_array_equal(model.forward(x), outputs[0])
            volume = np.random.default_rng(0).random((7, 7, 7))
            np.testing.assert_array_equal(model.predict(volume), model.predict(volume))
    assert values[0] == values[2] != values[1]


@pytest.mark.parametrize("rate", [0.5, 0.0])
def test_two_dropouts_side_by_side(rate):
    """What is not dropped from is passed on, three times the same array; it is to be added to itself."""
    net = Network({"input": 1, "output": 1}, [Edge(f"d{i}", "input", "output", Dropout(rate)) for i in range(3)])
    x = np.random.default_rng(0).random((1, 3, 3, 3), np.float32)
    for num_workers in (1, 2, 8):
        with new_model(net, 3, num_workers=num_workers) as model:
            np.testing.assert_allclose(model.forward(x), 3 * x, rtol=1e-6)
            assert model.gradients(x, x)[1] == {}
            losses = {model.step(x, x), model.step(x, x)}
            assert min(losses) > 0
            assert len(losses) == (1 if rate == 0 else 2)


def test_dropout_at_rate_0_is_no_task():
    nets = [Network.parse(letters, width=4, kernel=2, out_channels=2, dropout=0.0) for letters in ("CTDCTDC", "CTCTC")]
    ((x, target),) = samples(nets[0], 4, 1, batch=3)
    found = []
    for net in nets:
        with new_model(net, 4) as model:
            assert not [key for key in model.graph("step").dask if "dropout" in str(key)]
            loss, gradients = model.gradients(x, target)
            found.append((loss, gradients))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])
