"""The losses beside torch's: their names, values by hand, slopes, weights."""

import numpy as np
import pytest
from ops_cases import normal

from znn_dask.errors import ParameterError
from znn_dask.ops import loss
from znn_dask.ops.layout import Arrangement, Entry, split, to_public
from znn_dask.ops.losses import parse_loss

SIZE = (2, 3, 4)
# Two examples, fragments of sparsity (1, 2, 2) in two groups, channels in two blocks, one row too many.
ARRANGEMENT = Arrangement(
    (2, 2, 2),
    (1, 2, 2),
    tuple(tuple(Entry(e, 0, y, x) for e in (0, 1) for x in (0, 1)) for y in (0, 1)),
    ((0, 2), (2, 3)),
)
NAMES = ["square", "logistic", "square_square(0.3)", "dice", "dice(0)", "malis", "malis_constrained"]


def case(name, seed=0):
    rng = np.random.default_rng(seed)
    prediction = normal(rng, 2, 3, *SIZE, dtype=np.float32)
    target = rng.integers(0, 2, prediction.shape).astype(np.float32)
    if name.startswith("malis"):
        target = rng.integers(0, 4, (2, 1, *SIZE))
    return prediction, target, rng.random((2, 1, *SIZE), np.float32) + 0.5


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_give_what_public_arrays_give(name, weighted):
    prediction, target, weight = case(name)
    weight = weight if weighted else None
    value, gradient = loss.evaluate(prediction, target, weight, name)
    for factor in (1.0, 0.5):
        found, *blocks = loss.loss_and_gradients(
            split(prediction, ARRANGEMENT), target, weight, name, ARRANGEMENT, SIZE, factor
        )
        assert found == pytest.approx(factor * value, rel=1e-6)
        d_prediction = to_public(blocks, ARRANGEMENT, ARRANGEMENT.dense_size)
        inside = d_prediction[:, :, :2, :3, :4]
        np.testing.assert_allclose(inside, factor * gradient, rtol=1e-5, atol=1e-7)
        assert not d_prediction[:, :, :, 3:].any(), "what was added by rounding up has no gradient"


@pytest.mark.parametrize("name", [name for name in NAMES if "malis" not in name])
def test_gradients_are_slopes(name):
    prediction, target, weight = case(name)
    weight = np.repeat(weight, 3, axis=1) * np.array([1, 2, 3]).reshape(3, 1, 1, 1)
    _, gradient = loss.evaluate(prediction, target, weight, name)
    rng, step = np.random.default_rng(1), 1e-6
    for _ in range(10):
        way = rng.standard_normal(prediction.shape)
        values = [loss.evaluate(prediction + s * way, target, weight, name)[0] for s in (-step, step)]
        assert (values[1] - values[0]) / (2 * step) == pytest.approx(np.sum(gradient * way), rel=1e-4, abs=1e-7)


def test_square_square_by_hand():
    p = np.array([0.1, 0.25, 0.9, 1.3], np.float32).reshape(1, 1, 1, 1, 4)
    t = np.array([0, 0, 1, 1], np.float32).reshape(1, 1, 1, 1, 4)
    value, gradient = loss.evaluate(p, t, None, "square_square")
    assert value == pytest.approx((0.25**2 + 0.3**2) / 4)
    np.testing.assert_allclose(gradient.ravel(), [0, 0.125, 0, 0.15], rtol=1e-6)


def test_dice_by_hand():
    inf = 50.0
    p = np.array([inf, inf, -inf, -inf], np.float32).reshape(1, 1, 1, 1, 4)
    t = np.array([1, 0, 1, 0], np.float32).reshape(1, 1, 1, 1, 4)
    assert loss.evaluate(p, t, None, "dice(0)")[0] == pytest.approx(1 - 2 * 1 / (2 + 2))
    assert loss.evaluate(p, t, None, "dice")[0] == pytest.approx(1 - 3 / 5)
    assert loss.evaluate(-np.abs(p), 0 * t, None, "dice")[0] == pytest.approx(0)
    # A voxel without weight does not exist.
    w = np.array([1, 0, 1, 1], np.float32).reshape(1, 1, 1, 1, 4)
    assert loss.evaluate(p, t, w, "dice(0)")[0] == pytest.approx(1 - 2 * 1 / (1 + 2))


def test_names_and_numbers():
    assert parse_loss("square_square").numbers == (0.2,)
    assert parse_loss(" square_square( 0.3 ) ") == parse_loss("square_square(0.3)")
    assert [parse_loss(name).target for name in ("dice", "softmax", "malis")] == ["values", "classes", "segments"]


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "squares": "Did you mean 'square'",
        "square(1)": "takes no numbers",
        "dice(1, 2)": "one finite number",
        "dice(-1)": "one finite number",
        "square_square(nan)": "one finite number",
        "dice(x)": "must be numbers",
        "dice(1": "loss must be one of",
        "malis(1,2)": "offsets z,y,x",
        "malis(1,2,0.5)": "whole numbers",
    }.items(),
)
def test_a_wrong_name_says_what_would_do(name, message):
    with pytest.raises(ParameterError, match=message):
        parse_loss(name)
