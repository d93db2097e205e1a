"""Images before the first filter cut into bands: which networks can be, and the same answers as without."""

import msgspec
import numpy as np
import pytest
import test_lower_memory as of_memory
from hypothesis import given
from hypothesis import strategies as st
from lower_cases import NETS

import znn_dask as znn
from znn_dask.lower import Options, arrange, make_plan
from znn_dask.lower.bands import bands_of, choose_bands, front_of
from znn_dask.lower.expand import expand
from znn_dask.lower.plan import check_plan, fragment_sizes
from znn_dask.net import zoo
from znn_dask.ops import bands

pytestmark = pytest.mark.timeout(120)
RNG = np.random.default_rng(0)


def parse(letters, ndim=3, **more):
    return znn.Network.parse(letters, **{"width": 3, "kernel": 3, "window": 2, "ndim": ndim, **more})


def plan_of(net, size, batch=1, **options):
    return make_plan(net, dict.fromkeys(net.outputs, size), batch, Options(**options))


@pytest.mark.parametrize(
    ("net", "size", "count"),
    [
        (parse("CTMCT"), (32, 32, 32), 3),
        (parse("CTCTMCT"), (32, 32, 32), 3),
        (parse("CTMCT"), (8, 64, 64), 2),  # more would be computed twice than pays
        (parse("CTMCT"), (4, 4, 4), 1),  # too small
        (parse("CTPCT"), (20, 20, 20), 4),
        (parse("CTMCT", ndim=2), (1, 128, 128), 4),
        (parse("CTMCT", width=20), (32, 32, 32), 3),
        (parse("CTMCT", width=40), (32, 32, 32), 2),  # has two blocks
        (parse("CTCT"), (32, 32, 32), 1),  # no filter
        (zoo.unet3d(widths=(3, 4, 5)), (64, 8, 12), 1),  # has slabs
    ],
)
def test_images_before_the_first_filter_are_cut(net, size, count):
    plan = plan_of(net, size, tasks=8)
    assert plan.bands == count
    check_plan(net, plan)


def test_a_batch_needs_fewer_bands():
    assert plan_of(parse("CTMCT"), (32, 32, 32), batch=2, tasks=8).bands == 2
    assert plan_of(parse("CTMCT"), (32, 32, 32), batch=4, tasks=8).bands == 1


@pytest.mark.parametrize("count", [0, 17, -1])
def test_a_plan_with_other_bands_is_refused(count):
    net = parse("CTMCT")
    worse = msgspec.structs.replace(plan_of(net, (32, 32, 32)), bands=count)
    with pytest.raises(znn.ParameterError, match="not one of its network"):
        check_plan(net, worse)


def test_a_network_without_a_filter_has_no_front():
    assert front_of(expand(parse("CTCT"))) is None
    front = front_of(expand(parse("CTCTMCTMCT")))
    assert front is not None
    assert len(front.nodes) == 5
    assert front.edge.op.kind == "max_filter"


@given(st.integers(1, 60), st.integers(1, 8))
def test_every_row_counts_in_one_band(rows, count):
    if (count - 1) * -(-rows // count) >= rows:
        return
    found = np.zeros(rows, int)
    for band in bands_of(rows, count):
        assert band.first >= 0
        found[band.first + band.again : band.first + band.rows] += 1
    assert (found == 1).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("rows", "count"), [(6, 2), (7, 2), (7, 3), (9, 4)])
def test_bands_are_put_together_and_taken_apart(rows, count, axis):
    shape = [2, 3, 3, 4, 5]
    shape[axis + 1] = rows
    image = RNG.standard_normal(shape).astype(np.float32)
    pieces = bands_of(rows, count)
    whole = [bands.cut(image, band.first, band.rows, 0, axis) for band in pieces]
    np.testing.assert_array_equal(bands.join(whole, [band.first for band in pieces], axis), image)
    once = np.zeros_like(image)
    for band in pieces:
        where = (slice(None),) * (axis + 1) + (slice(band.first, band.first + band.rows),)
        once[where] += bands.cut(image, *band, axis)
    np.testing.assert_array_equal(once, image)


NETWORKS = [
    (parse("CTMCTMCT"), (10, 9, 8)),
    (parse("CTCTMCT", window=3), (15, 6, 6)),
    (parse("CTPCT"), (7, 5, 6)),
    (parse("CTMCT", ndim=2, kernel=4), (1, 22, 9)),
    (parse("CTPCTCT", ndim=2, width=18), (1, 9, 5)),
]


@pytest.mark.parametrize(("net", "size"), NETWORKS)
@pytest.mark.parametrize("way", [{}, {"convolution": "fft"}, {"convolution": "direct", "block": 2}, {"sum": "arrival"}])
def test_the_same_answers_as_in_one_piece(net, size, way, monkeypatch):
    answers = []
    for count in (3, 1):
        monkeypatch.setattr("znn_dask.lower.choose.choose_bands", lambda *_, n=count: n)
        with znn.Model(net, size, tune=False, num_workers=2, batch=2, **way) as model:
            assert model.plan.plan.bands == count
            rng = np.random.default_rng(1)
            x = rng.standard_normal((2, 1, *model.input_size), np.float32)
            target = rng.standard_normal((2, net.nodes[next(iter(net.outputs))].channels, *size), np.float32)
            loss, gradients = model.gradients(x, target)
            answers.append([model.forward(x), np.array(loss), *gradients.values()])
    for one, other in zip(*answers, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * np.abs(other).max())


def test_bands_overlap_by_what_the_filter_sees(monkeypatch):
    monkeypatch.setattr("znn_dask.lower.choose.choose_bands", lambda *_: 2)
    net = expand(parse("CTMCT"))
    plan = plan_of(net, (12, 12, 12))
    arrangements = arrange(net, plan)
    whole = fragment_sizes(net, plan.output_size)
    first, *_, last = front_of(net).nodes
    for name, halo in ((first, 3), (last, 1)):
        (one,), (other,) = arrangements[name].groups
        assert one.z + arrangements[name].size[0] - other.z == halo
        assert other.z + arrangements[name].size[0] == whole[name][0]
    assert choose_bands(net, whole, 1) == 1


def test_the_same_bits_for_any_number_of_workers(monkeypatch):
    monkeypatch.setattr("znn_dask.lower.choose.choose_bands", lambda *_: 2)
    net, size = NETWORKS[0]
    answers = []
    for num_workers in (1, 2, 4, 8):
        with znn.Model(net, size, tune=False, num_workers=num_workers) as model:
            rng = np.random.default_rng(1)
            x = rng.standard_normal((1, *model.input_size), np.float32)
            target = rng.standard_normal((1, *size), np.float32)
            losses = list(model.steps([(x, target)] * 2))
            answers.append([*losses, *(values.tobytes() for values in model.parameters.values())])
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("name", ["chain", "2d strides", "uneven strides"])
@pytest.mark.parametrize("mode", [{}, {"convolution": "fft", "block": 2}])
def test_the_memory_of_bands_is_predicted(name, mode, monkeypatch):
    monkeypatch.setattr("znn_dask.lower.choose.choose_bands", lambda *_: 2)
    assert plan_of(NETS[name][0], NETS[name][1]["output"]).bands == 2
    of_memory.test_every_result_is_as_large_as_the_graph_says(name, mode)
    of_memory.test_the_prediction_is_the_peak_of_one_worker(name, mode)
