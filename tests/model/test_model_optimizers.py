"""Optimisers in a model: torch's results, one way of running like the other, files, accumulation, rates."""

import msgspec
import numpy as np
import pytest
from dask.utils import key_split
from model_cases import DROPPING, NET, SEVERAL, SEVERAL_SIZE, SIZE, copied, new_model, same, samples

import znn_dask as znn
from znn_dask.errors import CheckpointError, ParameterError
from znn_dask.io.checkpoint import read_checkpoint, write_checkpoint
from znn_dask.lower import step
from znn_dask.model.optimizers import from_plain, to_plain
from znn_dask.net import Convolution, Edge, Network, Normalisation
from znn_dask.ops.update import AdamRule, AverageRule

pytestmark = pytest.mark.timeout(120)

OPTIMIZERS = {
    "nesterov": znn.SGD(0.05, 0.9, 0.01, nesterov=True),
    "clipped": znn.SGD(0.05, 0.9, 0.01, clip_norm=0.05),
    "clipped by value": znn.SGD(0.05, 0.9, clip_value=0.01),
    "adam": znn.Adam(0.01, weight_decay=0.01),
    "adamw": znn.AdamW(0.01, betas=(0.8, 0.95), clip_norm=0.05),
    "collecting": znn.SGD(0.05, 0.9, accumulate=3),
    "all": znn.AdamW(0.01, clip_norm=0.05, accumulate=2, rates={"conv1": 0.5, "*/bias": 2.0}),
}
EVERY = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def model_of(optimizer, net=DROPPING, size=5, **options):
    return new_model(net, size, optimizer=optimizer, tune=False, **options)


def state_of(model):
    state = model._core.state
    return state.step_count, state.update_count, state.parts


# --- torch ---


@EVERY
def test_steps_are_those_of_torch(optimizer):
    torch = pytest.importorskip("torch")
    pairs = samples(NET, SIZE, 6)
    with model_of(optimizer, NET, SIZE) as model:
        tensors = {n: torch.tensor(p.astype(float), requires_grad=True) for n, p in model.parameters.items()}
        theirs = peer(torch, optimizer, tensors)
        for number, (x, target) in enumerate(pairs, 1):
            now = {name: tensor.detach().numpy().astype(np.float32) for name, tensor in tensors.items()}
            with model_of(None, NET, SIZE) as other:
                other.load_parameters(now)
                loss, gradients = other.gradients(x, target)
            assert model.step(x, target) == pytest.approx(loss, rel=1e-4)
            for name, tensor in tensors.items():
                part = torch.tensor(gradients[name].astype(float)) / optimizer.accumulate
                tensor.grad = part if tensor.grad is None else tensor.grad + part
            if number % optimizer.accumulate == 0:
                if optimizer.clip_norm is not None:
                    assert torch.nn.utils.clip_grad_norm_(tensors.values(), optimizer.clip_norm) > optimizer.clip_norm
                if optimizer.clip_value is not None:
                    torch.nn.utils.clip_grad_value_(tensors.values(), optimizer.clip_value)
                theirs.step()
                theirs.zero_grad()
        for name, values in model.parameters.items():
            np.testing.assert_allclose(values, tensors[name].detach().numpy(), rtol=1e-4, atol=2e-5)


def peer(torch, optimizer, tensors):
    """Return torch's optimiser, with a group for every parameter, whose rate may have a factor."""
    rates = dict.fromkeys(tensors, 1.0)
    if optimizer.rates:
        rates |= {name: 2.0 for name in tensors if name.endswith("bias")} | {"conv1/kernel": 0.5}
    groups = [{"params": [t], "lr": rates[name] * optimizer.learning_rate} for name, t in tensors.items()]
    if isinstance(optimizer, znn.SGD):
        decay = {"weight_decay": optimizer.weight_decay, "nesterov": optimizer.nesterov}
        return torch.optim.SGD(groups, momentum=optimizer.momentum, **decay)
    kind = getattr(torch.optim, type(optimizer).__name__)
    return kind(groups, betas=optimizer.betas, eps=optimizer.epsilon, weight_decay=optimizer.weight_decay)


# --- one way of running like the other ---


@EVERY
@pytest.mark.parametrize("num_workers", [1, 4])
def test_steps_are_those_of_step(optimizer, num_workers):
    pairs = samples(DROPPING, 5, 7)
    found = []
    for way in ("step", "steps", "flushed"):
        with model_of(optimizer, num_workers=num_workers) as model:
            if way == "step":
                losses = [model.step(*pair) for pair in pairs]
            else:
                losses = []
                for number, loss in enumerate(model.steps(pairs)):
                    losses.append(loss)
                    if way == "flushed" and number % 2:
                        model.flush()
            found.append((losses, model.parameters, state_of(model)))
    for other in found[1:]:
        assert found[0][0] == other[0]
        assert same(found[0][1], other[1])
        assert found[0][2] == other[2]


@EVERY
@pytest.mark.parametrize("made", [3, 4])
def test_a_saved_model_goes_on_bitwise(optimizer, made, tmp_path):
    pairs = samples(DROPPING, 5, 7)
    with model_of(optimizer) as model:
        for pair in pairs[:made]:
            model.step(*pair)
        model.save(tmp_path / "model.safetensors")
        expected = [model.step(*pair) for pair in pairs[made:]], copied(model.parameters)
    with znn.Model.load(tmp_path / "model.safetensors", num_workers=1) as again:
        assert again.optimizer == optimizer
        assert list(again.steps(pairs[made:])) == expected[0]
        assert same(again.parameters, expected[1])
        again._core.state.check()


def test_changes_between_two_losses_count_from_the_next_step():
    pairs = samples(DROPPING, 5, 8)
    found = []
    for piped in (False, True):
        with model_of(OPTIMIZERS["adamw"]) as model:
            start = model.parameters
            losses = []
            for number, loss in enumerate(model.steps(pairs) if piped else (model.step(*pair) for pair in pairs)):
                losses.append(loss)
                model.learning_rate = 0.01 / (1 + number)
                if number == 4:
                    model.load_parameters(start)
                if number == 5:
                    model.flush()
            found.append((losses, model.parameters, state_of(model)))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])
    assert found[0][2] == found[1][2] == (8, 3, 0)


@EVERY
def test_a_graph_with_its_updates_gives_the_next_parameters(optimizer):
    pairs = samples(DROPPING, 5, 4)
    with model_of(optimizer) as model:
        for pair in pairs:
            graph = model.graph("step", *pair)
            made = graph.run(znn.get)
            assert made["loss"] == pytest.approx(model.step(*pair), rel=1e-6)
            for name, values in model.parameters.items():
                np.testing.assert_array_equal(made[name], values)


# --- files ---


def test_files_of_before_still_load(tmp_path):
    """An optimiser without a kind, and nothing said of counts."""
    path, pair = tmp_path / "model.safetensors", samples(count=1)[0]
    with new_model() as model:
        model.step(*pair)
        model.save(path)
        expected = model.parameters, model.step(*pair)
    tensors, metadata = read_checkpoint(path)
    about = msgspec.json.decode(metadata["model"])
    about["optimizer"] = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    del about["update_count"], about["parts"]
    assert any(name.startswith("velocities/") for name in tensors)
    write_checkpoint(path, tensors, {**metadata, "model": msgspec.json.encode(about).decode()})
    with znn.Model.load(path) as again:
        assert same(again.parameters, expected[0])
        assert again.step(*pair) == expected[1]


@pytest.mark.parametrize("optimizer", [znn.SGD(rates={"a": 0.5}), znn.Adam(clip_value=1), znn.AdamW(accumulate=2)])
def test_optimisers_survive_as_plain_values(optimizer):
    assert from_plain(msgspec.json.decode(msgspec.json.encode(to_plain(optimizer)))) == optimizer


@pytest.mark.parametrize("values", [{"kind": "Lion"}, {"kind": "Adam", "momentum": 1}, {"learning_rate": -1}])
def test_plain_values_that_cannot_be(values):
    with pytest.raises(CheckpointError, match="its optimiser"):
        from_plain(values)


def test_slots_that_are_missing_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with model_of(znn.Adam()) as model:
        model.save(path)
    tensors, metadata = read_checkpoint(path)
    del tensors["squares/conv1/kernel"]
    write_checkpoint(path, tensors, metadata)
    with pytest.raises(CheckpointError, match="missing conv1/kernel"):
        znn.Model.load(path)


def test_znn_files_hold_no_adam(tmp_path):
    with model_of(znn.Adam()) as model, pytest.raises(ParameterError, match="no optimiser but SGD"):
        model.save(tmp_path / "model.h5")


# --- accumulation, rates, tasks ---


def test_a_mean_of_patches_is_a_minibatch():
    pairs = samples(NET, SIZE, 6)
    collecting, plain_sgd = znn.SGD(0.05, 0.9, accumulate=3), znn.SGD(0.05, 0.9)
    with model_of(collecting, NET, SIZE) as model, model_of(plain_sgd, NET, SIZE) as whole:
        before = copied(model.parameters)
        for number, pair in enumerate(pairs):
            model.step(*pair)
            assert same(model.parameters, before) == (number < 2)
        for at in (0, 3):
            whole.step(*(np.concatenate(part) for part in zip(*pairs[at : at + 3], strict=True)))
        for name, values in model.parameters.items():
            np.testing.assert_allclose(values, whole.parameters[name], rtol=1e-4, atol=1e-6)


def test_the_first_pattern_that_fits_counts_and_zero_keeps():
    pair = samples(NET, SIZE, 1)[0]
    moved = []
    for rates in ({}, {"conv2/kernel": 0.0, "conv*": 0.5}):
        with model_of(znn.SGD(0.05, 0.0, rates=rates), NET, SIZE) as model:
            before = model.parameters
            model.step(*pair)
            moved.append({name: values - before[name] for name, values in model.parameters.items()})
    assert not moved[1]["conv2/kernel"].any()
    np.testing.assert_allclose(moved[1]["conv1/kernel"], moved[0]["conv1/kernel"] / 2, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(moved[1]["transfer1/bias"], moved[0]["transfer1/bias"], rtol=1e-3, atol=1e-7)


def test_a_pattern_that_fits_nothing_is_an_error():
    with pytest.raises(ParameterError, match=r"'convv1' fits no edge.*Did you mean 'conv1'.*conv1, transfer1"):
        model_of(znn.SGD(rates={"convv1": 2}), NET, SIZE)


@pytest.mark.parametrize(
    ("make", "message"),
    {
        lambda: znn.SGD(momentum=0.0, nesterov=True): "momentum above 0",
        lambda: znn.SGD(clip_norm=1, clip_value=1): "not both",
        lambda: znn.SGD(clip_norm=0): "above 0",
        lambda: znn.Adam(betas=(0.9, 1.0)): "below 1",
        lambda: znn.Adam(betas=0.9): "two numbers",
        lambda: znn.AdamW(accumulate=0): "1 or more",
        lambda: znn.AdamW(rates={"a": -1}): r"rates\['a'\]",
        lambda: znn.SGD(rates=[1]): "must be a mapping",
    }.items(),
)
def test_a_wrong_optimiser_says_what_would_do(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


def test_plain_sgd_makes_no_more_tasks_and_clipping_one_more_per_block():
    """Three tasks per update as ever: the update and its two parts."""
    kinds = {}
    for name, optimizer in (("plain", znn.SGD()), ("clipped", znn.SGD(clip_norm=1.0)), ("adam", znn.Adam())):
        with model_of(optimizer, NET, SIZE) as model:
            model.step(*samples(NET, SIZE, 1)[0])
            kinds[name] = [key_split(key) for key in model.graph("step", *samples(NET, SIZE, 1)[0]).dask]
    n = kinds["plain"].count("update")
    assert [kinds["plain"].count(f"update-{part}") for part in ("parameter", "velocity")] == [n, n]
    assert len([kind for kind in kinds["plain"] if kind.startswith("update")]) == 6 * n
    assert not any("norm" in kind or "square" in kind for kind in kinds["plain"])
    assert kinds["clipped"].count("gradient-square") == n
    assert kinds["clipped"].count("gradient-norm") == 1
    assert kinds["adam"].count("update-square") == n


def test_running_averages_have_a_rule_of_their_own():
    net = Network(
        {"input": 1, "h": 2, "output": 2},
        [
            Edge("conv1", "input", "h", Convolution((1, 2, 2))),
            Edge("norm1", "h", "output", Normalisation(over="batch", momentum=0.3)),
        ],
    )
    names = ["conv1/kernel", "norm1/scale", "norm1/shift", "norm1/mean", "norm1/variance"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "parameter_blocks", lambda *_: [((name,), name, ()) for name in names])
        rules = step.update_rules(net, None, AdamRule(), [("conv1/kernel", 0.5)])
    assert rules["conv1/kernel",] == AdamRule(factor=0.5)
    assert rules["norm1/scale",] == rules["norm1/shift",] == AdamRule()
    assert rules["norm1/mean",] == rules["norm1/variance",] == AverageRule(0.3)


NORMALISED = Network(
    {"input": 1, "h": 3, "n": 3, "output": 2},
    [
        Edge("conv1", "input", "h", Convolution((1, 2, 2))),
        Edge("norm1", "h", "n", Normalisation(over="batch", momentum=0.3)),
        Edge("conv2", "n", "output", Convolution((2, 1, 1))),
    ],
)


@EVERY
def test_running_averages_go_on_beside_any_optimiser(optimizer, tmp_path):
    """Not clipped, not decayed, no rate; the same in steps, in a resumed run and in the graph."""
    if optimizer.rates:
        optimizer = msgspec.structs.replace(optimizer, rates={"conv1": 0.5, "*/shift": 2.0})
    pairs, kept = samples(NORMALISED, 5, 7), ("norm1/mean", "norm1/variance")
    with model_of(znn.SGD(0.05), NORMALISED) as plain, model_of(optimizer, NORMALISED) as model:
        plain.step(*pairs[0])
        losses = [model.step(*pairs[0])]
        if optimizer.accumulate == 1:
            for name in kept:
                np.testing.assert_array_equal(model.parameters[name], plain.parameters[name])
        model.save(tmp_path / "model.safetensors")
        losses += [model.step(*pair) for pair in pairs[1:]]
        expected = model.parameters
    with znn.Model.load(tmp_path / "model.safetensors", num_workers=2) as again:
        assert list(again.steps(pairs[1:])) == losses[1:]
        assert same(again.parameters, expected)
        graph = again.graph("step", *pairs[0]).run(znn.get)
        again.step(*pairs[0])
        for name, values in again.parameters.items():
            np.testing.assert_array_equal(graph[name], values)


# --- losses ---


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_losses_of_several_outputs_are_weighted_and_added(factor):
    x, target = samples(SEVERAL, SEVERAL_SIZE, 1, loss="square")[0]
    target = {name: (values > 0).astype(np.float32) for name, values in target.items()}
    chosen = {"left": ("logistic", factor), "right": "dice"}
    parts = []
    for loss in ({"left": "logistic", "right": ("square", 0)}, {"left": ("square", 0), "right": ("dice", 1)}, chosen):
        with new_model(SEVERAL, SEVERAL_SIZE, loss=loss, tune=False) as model:
            parts.append(model.gradients(x, target))
    assert model.loss == {"left": ("logistic", factor), "right": ("dice", 1.0)}
    (left, d_left), (right, d_right), (total, d_total) = parts
    assert total == pytest.approx(factor * left + right, rel=1e-6)
    for name, values in d_total.items():
        np.testing.assert_allclose(values, factor * d_left[name] + d_right[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", ["malis", "malis_constrained"])
def test_affinities_are_learned_from_segments(loss, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(NET_INPUT).astype(np.float32)
    ids = np.kron(np.array([[[1, 2], [3, 0]]]), np.ones((3, 2, 3), int))[:, :, :5]
    with new_model(loss=loss, optimizer=znn.Adam(0.01), tune=False) as model:
        losses = [model.step(x, ids) for _ in range(30)]
        assert losses[-1] < 0.8 * losses[0]
        for wrong, message in ((-ids, "0 \\(background\\) or more"), (ids + 0.5, "whole numbers")):
            with pytest.raises(ParameterError, match=message):
                model.step(x, wrong)
        model.save(tmp_path / "model.safetensors")
    with znn.Model.load(tmp_path / "model.safetensors") as again:
        assert again.loss == loss


NET_INPUT = (1, *NET.input_size(SIZE))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"left": "square"}, "must be given for the outputs left, right"),
        ({"left": "square", "right": ("square",)}, "must be a name or"),
        ({"left": "square", "right": ("square", -1)}, "factor of the loss of 'right'"),
        ("malis(1,0,0)", "each of the output's"),
        (3, "loss must be one of"),
    ],
)
def test_wrong_losses(loss, message):
    with pytest.raises(ParameterError, match=message):
        new_model(SEVERAL, SEVERAL_SIZE, loss=loss, tune=False)
