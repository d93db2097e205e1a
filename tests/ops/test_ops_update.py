"""Updates against their numpy twins, by hand and against torch.optim."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from znn_dask.ops import reference_update, update
from znn_dask.ops.update import AdamRule, AverageRule, Clipping, SgdRule

RULES = [
    SgdRule(),
    SgdRule(0.9, 0.05),
    SgdRule(0.9, 0.05, nesterov=True),
    AdamRule(),
    AdamRule(0.8, 0.95, 1e-6, 0.1),
    AdamRule(decay=0.1, decoupled=True),
]


def arrays(count, shape=(3, 5), seed=0):
    rng = np.random.default_rng(seed)
    made = [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]
    for array in made:
        array.flags.writeable = False
    return made


@given(
    st.integers(1, 70),
    st.floats(0, 1),
    st.integers(1, 1000),
    st.sampled_from([1.0, 0.25]),
    st.sampled_from([math.inf, 0.3]),
    st.booleans(),
)
def test_adam_equals_its_twin_and_leaves_its_inputs_alone(n, rate, count, scale, most, decoupled):
    parameter, moment, gradient = arrays(3, (n,), seed=n)
    (square,) = (np.abs(array) for array in arrays(1, (n,), seed=n + 1))
    rule = AdamRule(decay=0.1, decoupled=decoupled)
    given = parameter, moment, square, gradient, rate, count, rule, scale, most
    found = update.adam(*given)
    expected = reference_update.adam(*(a.astype(float) if isinstance(a, np.ndarray) else a for a in given))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6 * rate * count + 1e-6)
    assert not any(np.shares_memory(new, old) for new in found for old in given[:4])


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_scales_and_clips_first(nesterov):
    given = (*arrays(3), 0.1, 0.5, 0.25, nesterov, 0.5, 0.2)
    expected = reference_update.sgd(*given)
    for one, other in zip(update.sgd(*given), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not np.allclose(expected[0], reference_update.sgd(*given[:6], nesterov)[0])


def test_updates_by_hand():
    one = np.ones(1, np.float32)
    w, v = update.sgd(2 * one, 3 * one, 5 * one, 0.1, 0.5, 0.25, True)
    assert v == pytest.approx(7)
    assert w == pytest.approx(2 - 0.1 * (5.5 + 0.5 * 7))
    # The first update of Adam is the learning rate in size, whatever the gradient.
    assert update.adam(2 * one, 0 * one, 0 * one, -7 * one, 0.1, 1, AdamRule())[0] == pytest.approx(2.1)
    (kept,) = update.apply(AverageRule(0.25), one, 5 * one, 123.0, None, 0)
    assert kept == pytest.approx(2)


@pytest.mark.parametrize("gradient", [math.nan, math.inf])
def test_what_is_not_finite_is_not_clipped_away(gradient):
    one = np.ones(1, np.float32)
    clipped = update.sgd(one, one, np.float32(gradient) * one, 0.1, 0.0, 0.0, False, 1.0, 0.5)[1]
    assert np.isnan(clipped) == math.isnan(gradient)


def test_norm_and_scale():
    parts = arrays(3, (7, 9))
    norm = update.norm_of([update.square_sum(part) for part in parts])
    assert norm == pytest.approx(np.linalg.norm(np.concatenate(parts).astype(float)), rel=1e-9)
    assert Clipping(norm=2.0).scale(8.0) == pytest.approx(0.25, rel=1e-6)
    assert Clipping(norm=2.0).scale(1.0) == 1.0
    assert Clipping(4, norm=2.0).scale(16.0) == pytest.approx(0.25 / 2, rel=1e-6)
    assert math.isnan(update.norm_of([1.0, math.nan]))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("clipping", [Clipping(), Clipping(norm=1.5), Clipping(value=0.4)], ids=str)
def test_ten_updates_are_those_of_torch(rule, clipping):
    torch = pytest.importorskip("torch")
    parameters, rates = arrays(2, (4, 6)), [0.1] * 6 + [0.02] * 4
    tensors = [torch.tensor(array.copy(), requires_grad=True) for array in parameters]
    if isinstance(rule, SgdRule):
        theirs = torch.optim.SGD(tensors, 0.1, rule.momentum, 0, rule.decay, rule.nesterov)
    else:
        kind = torch.optim.AdamW if rule.decoupled else torch.optim.Adam
        theirs = kind(tensors, 0.1, (rule.beta1, rule.beta2), rule.epsilon, rule.decay)
    slots = [[np.zeros_like(array) for _ in rule.slots] for array in parameters]
    rule = type(rule)(**{**vars(rule), "clipping": clipping})
    for count, rate in enumerate(rates, 1):
        gradients = arrays(2, (4, 6), seed=count)
        norm = update.norm_of([update.square_sum(g) for g in gradients])
        for number, gradient in enumerate(gradients):
            tensors[number].grad = torch.tensor(gradient.copy())
            made = update.apply(rule, parameters[number], gradient, rate, norm, count, *slots[number])
            parameters[number], slots[number] = made[0], list(made[1:])
        if clipping.norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, clipping.norm)
        if clipping.value is not None:
            torch.nn.utils.clip_grad_value_(tensors, clipping.value)
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        for ours, tensor in zip(parameters, tensors, strict=True):
            np.testing.assert_allclose(ours, tensor.detach().numpy(), rtol=1e-6, atol=1e-6)
