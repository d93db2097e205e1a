"""Images cut along z: which networks can be, and the same answers as without."""

import msgspec
import numpy as np
import pytest
from todays_networks import CASES

import znn_dask as znn
from znn_dask.lower import Options, arrange, make_plan
from znn_dask.lower.expand import expand
from znn_dask.lower.plan import check_plan, fragment_sizes
from znn_dask.net import zoo
from znn_dask.ops import border
from znn_dask.ops import reference_sampling as reference

pytestmark = pytest.mark.timeout(120)
RNG = np.random.default_rng(0)
UNET = zoo.unet3d(widths=(3, 4, 5), norm="instance")
SIZE = (32, 8, 12)


def plan_of(net, size, batch=1, **options):
    return make_plan(net, dict.fromkeys(net.outputs, size), batch, Options(**options))


@pytest.mark.parametrize(
    ("net", "size", "slabs"),
    [
        (UNET, (64, 8, 12), 4),
        (UNET, SIZE, 2),
        (UNET, (16, 8, 12), 1),  # the coarsest image has 4 sections
        (zoo.unet3d(widths=(3, 4, 5), padding="valid"), (8, 8, 8), 1),
        (zoo.n4(), (1, 16, 16), 1),
        (znn.Network.parse("CTMCT", width=3), (16, 16, 16), 1),
        (CASES["group"][0], (32, 8, 8), 1),  # mirrored and trilinear
    ],
)
def test_networks_are_cut_where_their_images_stay_aligned(net, size, slabs):
    plan = plan_of(net, size)
    assert plan.slabs == slabs
    check_plan(net, plan)
    if slabs == 1:
        worse = msgspec.structs.replace(plan, slabs=2)
        with pytest.raises(znn.ParameterError, match="not one of its network"):
            check_plan(net, worse)


def test_a_large_batch_needs_no_slabs():
    assert plan_of(UNET, (32, 64, 64)).slabs == 2
    assert plan_of(UNET, (32, 64, 64), batch=8).slabs == 1


@pytest.mark.parametrize("batch", [1, 3])
def test_every_voxel_is_in_one_slab(batch):
    net = expand(UNET)
    plan = plan_of(UNET, SIZE, batch)
    assert plan.slabs == 2
    whole = fragment_sizes(net, plan.output_size)
    for name, arrangement in arrange(net, plan).items():
        if net.incoming(name) and net.incoming(name)[0].op.kind == "pad":
            continue
        seen = np.zeros((batch, *whole[name]), int)
        for group in arrangement.groups:
            for entry in group:
                seen[entry.example, entry.z : entry.z + arrangement.size[0]] += 1
        assert (seen == 1).all()
        assert arrangement.dense_size == whole[name]


@pytest.mark.parametrize("way", [{}, {"convolution": "fft"}, {"convolution": "direct", "block": 2}])
def test_the_same_answers_as_in_one_piece(way, monkeypatch):
    x, target = (RNG.standard_normal((1, *SIZE)).astype(np.float32) for _ in range(2))
    answers = []
    for most in (4, 1):
        monkeypatch.setattr("znn_dask.lower.slabs.MOST", most)
        with znn.Model(UNET, SIZE, tune=False, num_workers=2, **way) as model:
            assert model.plan.plan.slabs == (2 if most > 1 else 1)
            loss, gradients = model.gradients(x, target)
            answers.append([model.forward(x), np.array(loss), *gradients.values()])
    for one, other in zip(*answers, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * np.abs(other).max())


def test_the_same_bits_for_any_number_of_workers():
    x, target = (RNG.standard_normal((1, *SIZE)).astype(np.float32) for _ in range(2))
    answers = []
    for num_workers in (1, 2, 4, 8):
        with znn.Model(UNET, SIZE, tune=False, num_workers=num_workers) as model:
            losses = list(model.steps([(x, target)] * 2))
            answers.append([*losses, *(values.tobytes() for values in model.parameters.values())])
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(("before", "after"), [((1, 1, 1), (1, 1, 1)), ((2, 0, 1), (1, 2, 0)), ((4, 1, 0), (0, 0, 1))])
def test_padded_slabs_are_those_of_the_padded_image(before, after):
    image = RNG.standard_normal((2, 12, 5, 6, 3)).astype(np.float32)
    slabs = np.split(image, 3, axis=1)
    padded = reference.pad(image, before, after, "zero")
    d_padded, d_image = [], np.zeros_like(image)
    for number, slab in enumerate(slabs):
        beside = slabs[number - 1] if number else None, slabs[number + 1] if number < 2 else None
        found = border.pad_slab(slab, *beside, before, after)
        np.testing.assert_array_equal(found, padded[:, 4 * number : 4 * number + 4 + before[0] + after[0]])
        d_padded.append(RNG.standard_normal(found.shape).astype(np.float32))
    # The adjoint: what every padded slab holds of a voxel comes back to it.
    for number in range(3):
        beside = d_padded[number - 1] if number else None, d_padded[number + 1] if number < 2 else None
        d_image[:, 4 * number : 4 * number + 4] = border.pad_slab_backward(d_padded[number], *beside, before, after)
    total = 0.0
    for number, slab in enumerate(slabs):
        beside = slabs[number - 1] if number else None, slabs[number + 1] if number < 2 else None
        total += float((border.pad_slab(slab, *beside, before, after) * d_padded[number]).sum())
    assert np.isclose(total, float((image * d_image).sum()), rtol=1e-4)
