"""Tiles: they cover, they agree with the whole, and where they overlap they are blended."""

import dask.array
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import znn_dask as znn
from znn_dask.model.lazy import lazy_result
from znn_dask.model.outputs import Finish, activated
from znn_dask.model.predict import Request, predict_scene, see
from znn_dask.model.predictor import Predictor, close_all
from znn_dask.model.tiling import Fit, Tiling, fit_of, profile, search_patch, tiling_of
from znn_dask.net import Convolution, Edge, MaxFilter, MaxPool, Network, Upsample

pytestmark = pytest.mark.timeout(120)
ANY = Fit((1, 1, 1), (1, 1, 1))
sizes = st.tuples(*[st.integers(1, 23)] * 3)


@pytest.fixture(scope="module", autouse=True)
def no_threads_left():
    yield
    close_all()


# --- geometry ---


@given(sizes, sizes, st.sampled_from([None, "gaussian", "bump"]), st.integers(1, 4))
def test_blocks_cover_a_volume_once_and_tiles_hold_their_blocks(size, patch, blend, step):
    fit = Fit((step,) * 3, (step,) * 3)
    patch = fit.up(patch) if blend else tuple(map(min, patch, size))
    tiling = tiling_of(size, patch, fit if blend else ANY, blend, (2, 3, 4))
    seen = np.zeros(size, int)
    for tile in tiling:
        seen[tile.box] += 1
        ends = [a + p for a, p in zip(tile.start, tiling.patch, strict=True)]
        assert all(a <= low for a, low in zip(tile.start, tile.low, strict=True))
        assert all(end >= high for end, high in zip(ends, tile.high, strict=True))
        if blend:
            assert all(a % step == 0 for a in tile.start)
        else:
            assert all(end <= n for end, n in zip(ends, size, strict=True))
    assert (seen == 1).all()


@given(sizes, sizes, st.sampled_from([None, "gaussian"]))
def test_who_reads_what_is_what_is_read(size, patch, blend):
    patch = patch if blend else tuple(map(min, patch, size))
    tiling = tiling_of(size, patch, ANY, blend)
    pairs = {(block, tile) for block in range(len(tiling)) for tile in tiling.overlapping(block)}
    assert pairs == {(block, tile) for tile in range(len(tiling)) for block in tiling.readers(tile)}
    if blend and len(tiling) < 60:
        for block in tiling:
            for tile in tiling:
                ends = [a + p for a, p in zip(tile.start, tiling.patch, strict=True)]
                over = all(
                    a < h and e > lo for a, e, lo, h in zip(tile.start, ends, block.low, block.high, strict=True)
                )
                assert over == ((block.number, tile.number) in pairs)


@given(sizes, st.integers(200, 20_000), st.integers(1, 12))
def test_the_patch_that_is_found_keeps_to_the_memory(size, memory, least):
    extra = (2, 4, 6)

    def estimate(patch):
        return 8 * int(np.prod([p + e for p, e in zip(patch, extra, strict=True)])) + 100

    found = search_patch(size, ANY, extra, estimate, memory, 2, least)
    if found is None:
        return
    assert estimate(found) <= memory
    tiles = np.prod([-(-n // p) for n, p in zip(size, found, strict=True)])
    assert tiles >= least or found == size or min(found) <= 2 or tiles >= 1
    if estimate(size) <= 0.97 * memory and least == 1:
        assert found == size, "the whole fits"


def test_the_largest_tile_that_fits_wins():
    asked = []

    def estimate(patch):
        asked.append(patch)
        return 100 * int(np.prod([p + 29 for p in patch]))

    found = search_patch((100, 512, 512), ANY, (29, 29, 29), estimate, 150_000_000, 8)
    assert 0.7 * 150_000_000 < estimate(found) <= 150_000_000
    assert len(asked) <= 7, "estimates are dear"


# --- tiled is whole ---


@st.composite
def cases(draw):
    letters = draw(st.sampled_from(["C", "CTC", "CTMC", "CTMCTC", "CMC"]))
    kernel = draw(st.tuples(*[st.integers(1, 3)] * 3))
    window = draw(st.tuples(*[st.integers(1, 2)] * 3))
    net = Network.parse(letters, width=draw(st.integers(1, 3)), kernel=kernel, window=window, out_channels=2)
    size = tuple(f + draw(st.integers(0, 8)) for f in net.field_of_view)
    border = draw(st.sampled_from(["mirror", "constant", None]))
    patch = draw(st.tuples(*[st.integers(2, 9)] * 3))
    return net, size, border, patch, draw(st.integers(0, 99))


def tiled(model, volume, border, patch):
    """Predict with tiles of a size."""
    scene = see(model.net, {"input": volume}, Request(border))
    tiling = tiling_of(scene.size, tuple(map(min, patch, scene.size)), scene.fit, scene.blend)
    results = {"output": np.full((2, *scene.size), np.nan, np.float32)}
    predict_scene(scene, tiling, model._core.tile_forward(tiling.patch), results, Finish(), None)
    return results["output"], scene, tiling


@pytest.mark.parametrize("count", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_tiled_is_whole_for_any_network_size_and_tiling(count):
    @settings(max_examples=count)
    @given(cases())
    def check(case):
        net, size, border, patch, seed = case
        volume = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
        with znn.Model(net, 2, tune=False, num_workers=1, seed=seed) as model:
            whole = model.predict(volume, border=border)
            found, _, _ = tiled(model, volume, border, patch)
            np.testing.assert_allclose(found, whole, atol=1e-5 * max(1, np.abs(whole).max()))

    check()


@settings(max_examples=6)
@given(cases(), st.integers(2, 9))
def test_lazy_is_eager(case, chunk):
    net, size, border, patch, seed = case
    volume = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    lazy = dask.array.from_array(volume, chunks=chunk)
    with znn.Model(net, 2, tune=False, num_workers=1, seed=seed) as model:
        eager, _, tiling = tiled(model, volume, border, patch)
        scene = see(net, {"input": lazy}, Request(border))
        found = lazy_result(scene, tiling, Predictor(model._core, tiling.patch, 1), Finish())["output"]
        if border is not None:
            assert found.chunks[1:] == lazy.chunks
        model.load_parameters({name: 0 * array for name, array in model.parameters.items()})
    # The model is closed and has changed: what is lazy knows the model as it was.
    np.testing.assert_array_equal(found.compute(scheduler="threads"), eager)


# --- padded networks ---

SAME = Network({"input": 1, "output": 2}, [Edge("c", "input", "output", Convolution((3, 3, 3), padding="same"))])
U = Network(
    {"input": 1, "a": 2, "b": 2, "c": 2, "output": 2},
    [
        Edge("c1", "input", "a", Convolution((3, 3, 3), padding="same")),
        Edge("p", "a", "b", MaxPool((2, 2, 2))),
        Edge("c2", "b", "c", Convolution((3, 3, 3), padding="same")),
        Edge("u", "c", "output", Upsample((2, 2, 2))),
        Edge("c3", "a", "output", Convolution((1, 1, 1))),
    ],
)
KERNEL = np.random.default_rng(1).standard_normal((3, 3, 3))


def forward_same(images):
    """Two maps of a convolution with zeros around each tile."""
    filtered = ndimage.correlate(images["input"][0], KERNEL.astype(np.float32), mode="constant")
    return {"output": np.stack([filtered, -filtered])}


@pytest.mark.parametrize("blend", ["gaussian", "bump"])
def test_blended_tiles_are_whole_inside_and_near_it_at_their_borders(blend):
    volume = np.random.default_rng(0).standard_normal((20, 21, 22)).astype(np.float32)
    scene = see(SAME, {"input": volume}, Request(blend=blend))
    assert scene.extra["input"] == (0, 0, 0)
    tiling = tiling_of(scene.size, (8, 8, 8), scene.fit, scene.blend)
    assert len(tiling) > 20
    results = {"output": np.full((2, 20, 21, 22), np.nan, np.float32)}
    predict_scene(scene, tiling, forward_same, results, Finish(), None)
    whole = forward_same({"input": volume[None]})["output"]
    # A voxel in the middle of a tile owes little to tiles that end near it, where zeros come in.
    error = np.abs(results["output"] - whole)
    assert error.mean() < 0.1 * np.abs(whole).mean()
    lone = tiling_of(scene.size, (20, 21, 22), scene.fit, scene.blend)
    predict_scene(scene, lone, forward_same, results, Finish(), None)
    np.testing.assert_array_equal(results["output"], whole)


def test_what_all_tiles_agree_on_is_not_changed_by_blending():
    volume = np.random.default_rng(0).standard_normal((9, 30, 17)).astype(np.float32)
    scene = see(SAME, {"input": volume}, Request())
    results = {"output": np.empty((1, 9, 30, 17), np.float32)}
    for patch in [(4, 6, 8), (9, 7, 17), (5, 30, 5)]:
        tiling = tiling_of(scene.size, patch, scene.fit, scene.blend)
        predict_scene(scene, tiling, lambda images: {"output": 2 * images["input"]}, results, Finish(), None)
        np.testing.assert_allclose(results["output"][0], 2 * volume, rtol=1e-5)


def test_tiles_of_padded_networks_have_sizes_that_fit_and_lie_on_their_lattice():
    fit, extra = fit_of(U)
    assert (fit, extra) == (Fit((2, 2, 2), (2, 2, 2)), {"input": (0, 0, 0)})
    scene = see(U, {"input": np.zeros((7, 9, 11))}, Request())
    tiling = tiling_of(scene.size, fit.up((5, 5, 5)), fit, scene.blend)
    assert tiling.patch == (6, 6, 6)
    assert all(n % 2 == 0 for tile in tiling for n in tile.start)


@pytest.mark.parametrize("blend", ["gaussian", "bump"])
def test_weights_are_symmetric_and_largest_in_the_middle(blend):
    for length in (1, 2, 7, 32):
        weights = profile(length, blend)
        np.testing.assert_allclose(weights, weights[::-1], rtol=1e-5)
        assert (np.diff(weights[: (length + 1) // 2]) >= 0).all()
        assert weights.min() > 0


def test_strided_output_is_refused_with_the_reason():
    net = Network({"input": 1, "output": 1}, [Edge("c", "input", "output", Convolution((2, 2, 2), stride=(2, 2, 2)))])
    with pytest.raises(znn.ParameterError, match=r"one output voxel for each input voxel; .* 2 x 2 x 2"):
        see(net, {"input": np.zeros((8, 8, 8))}, Request())


# --- what is kept ---


def test_regions_masks_channels_and_bits():
    net = Network.parse("CTC", width=2, kernel=3, out_channels=3)
    volume = np.random.default_rng(0).standard_normal((8, 9, 10)).astype(np.float32)
    mask = np.zeros((8, 9, 10), bool)
    mask[2:5, 3:7, 4:8] = True
    with znn.Model(net, 2, tune=False, num_workers=1, loss="softmax") as model:
        whole = model.predict(volume)
        region = (slice(1, 6), slice(0, 9), slice(7, 10))
        np.testing.assert_allclose(model.predict(volume, region=region), whole[(slice(None), *region)], atol=1e-5)
        inside = model.predict(volume, border=None, region=(slice(1, 3), slice(0, 2), slice(2, 5)))
        np.testing.assert_allclose(inside, whole[:, 3:5, 2:4, 4:7], atol=1e-5)
        np.testing.assert_allclose(model.predict(volume, mask=mask), np.where(mask, whole, 0), atol=1e-5)
        shares = model.predict(volume, probabilities=True)
        np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-5)
        bytes_ = model.predict(volume, probabilities=True, channels=[2, 0], dtype="uint8")
        assert bytes_.dtype == np.uint8
        np.testing.assert_allclose(bytes_ / 255, shares[[2, 0]], atol=0.5 / 255 + 1e-5)
        for options, words in (
            ({"channels": [3]}, "channels must be numbers from 0 to 2"),
            ({"dtype": "int8"}, "dtype must be one of"),
            ({"mask": mask[1:]}, r"the mask has shape \(7, 9, 10\)"),
            ({"region": (slice(3, 3), slice(0, 9), slice(0, 9))}, "holds no voxel"),
        ):
            with pytest.raises(znn.ZnnError, match=words):
                model.predict(volume, **options)


def test_a_mask_spares_tiles(monkeypatch):
    net = Network({"input": 1, "output": 1}, [Edge("m", "input", "output", MaxFilter((1, 2, 2), (1, 1, 1)))])
    mask = np.zeros((4, 20, 20), bool)
    mask[:, :3, :3] = True
    scene = see(net, {"input": np.ones((4, 20, 20))}, Request(mask=mask))
    tiling, made = Tiling((4, 20, 20), (4, 5, 5), (4, 5, 5)), []

    def forward(images):
        made.append(images)
        return {"output": np.ones((1, 4, 5, 5), np.float32)}

    results = {"output": np.full((1, 4, 20, 20), 7, np.float32)}
    predict_scene(scene, tiling, forward, results, Finish(), None)
    assert len(made) == 1
    np.testing.assert_array_equal(results["output"][0], mask)


def test_probabilities_do_not_overflow():
    values = np.array([-1e4, 0, 1e4], np.float32)[:, None, None, None]
    np.testing.assert_allclose(activated(values, "logistic").ravel(), [0, 0.5, 1])
    np.testing.assert_allclose(activated(values, "softmax").ravel(), [0, 0, 1])
