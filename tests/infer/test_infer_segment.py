"""Objects block by block, and figures slab by slab: the same as of the whole volume at once."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from znn_dask.cli import main
from znn_dask.infer import metrics, segment, streamed
from znn_dask.infer.segment import Cutting, blocks_of, segment_blocks
from znn_dask.infer.sink import Sink
from znn_dask.io.source import parse_source
from znn_dask.io.volumes import read_volume

pytestmark = pytest.mark.timeout(120)


def segmented(folder, volume, block, cutting):
    """Segment an array in blocks."""
    sinks = [Sink(parse_source(folder / name), (1, *volume.shape), "uint32", (4, 4, 4)) for name in ("a.npy", "b.npy")]
    for sink in sinks:
        sink.create()
    whole = tuple(slice(0, n) for n in volume.shape)
    count = segment_blocks(lambda box: volume[box], blocks_of(volume.shape, block), *sinks, cutting)
    return count, sinks[cutting.method == "watershed"].read(whole)


def same_objects(a, b):
    """Say whether two labellings differ in their numbers alone."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs) and ((a == 0) == (b == 0)).all()


@settings(max_examples=15)
@given(
    st.tuples(*[st.integers(1, 12)] * 3), st.tuples(*[st.integers(1, 7)] * 3), st.floats(0.2, 0.8), st.integers(0, 99)
)
def test_components_do_not_know_of_blocks(tmp_path_factory, size, block, threshold, seed):
    volume = np.random.default_rng(seed).random(size)
    count, found = segmented(tmp_path_factory.mktemp("s"), volume, block, Cutting(threshold))
    expected, n = ndimage.label(volume < threshold)
    assert count == n
    assert same_objects(found, expected)
    assert set(np.unique(found)) - {0} == set(range(1, n + 1)), "numbered one after another"


def test_small_components_are_dropped(tmp_path):
    volume = np.random.default_rng(0).random((9, 10, 11))
    _, found = segmented(tmp_path, volume, (4, 4, 4), Cutting(0.3, min_size=4))
    expected, _ = ndimage.label(volume < 0.3)
    sizes = np.bincount(expected.ravel())
    np.testing.assert_array_equal(found > 0, (expected > 0) & (sizes[expected] >= 4))


def test_a_watershed_in_blocks_is_that_of_the_whole_where_the_halo_suffices(tmp_path):
    seeds = np.zeros((12, 24, 24))
    seeds[2:10:7, 3::9, 3::9] = 1
    volume = ndimage.distance_transform_edt(1 - seeds) / 10
    cutting = Cutting(0.05, "watershed", halo=12)
    (tmp_path / "b").mkdir()
    n, whole = segmented(tmp_path, volume, (12, 24, 24), cutting)
    m, found = segmented(tmp_path / "b", volume, (6, 10, 9), cutting)
    assert n == m == 2 * 3 * 3
    assert (whole > 0).all()
    assert np.mean(found == relabelled(found, whole)) > 0.97


def relabelled(found, whole):
    """Return one labelling with the numbers of the other, by the largest overlap."""
    table = np.zeros(whole.max() + 1, found.dtype)
    for n in range(1, whole.max() + 1):
        table[n] = np.bincount(found[whole == n]).argmax()
    return table[whole]


def test_the_command_and_evaluation_of_its_segments(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(segment, "BLOCK", (2, 8, 8))
    ids = np.zeros((3, 10, 22), np.int32)
    ids[:, :, :7], ids[:, :, 8:15], ids[:, :, 16:] = 5, 9, 3
    np.save(tmp_path / "ids.npy", ids)
    for dtype, top in ((np.uint8, 255), (np.float32, 1)):
        np.save(tmp_path / "p.npy", (top * (ids == 0)).astype(dtype))
        out = tmp_path / f"{dtype.__name__}.zarr"
        assert main(["segment", str(tmp_path / "p.npy"), str(out), "--quiet"]) == 0
        assert "3 objects" in capsys.readouterr().out
        assert same_objects(read_volume(out), ids)
        assert main(["evaluate", str(out), str(tmp_path / "ids.npy"), "--segmentation", "--json"]) == 0
        scores = json.loads(capsys.readouterr().out)["ids"]
        assert scores["rand_error"] == pytest.approx(0)
        assert (scores["segments"], scores["cells"]) == (3, 3)
    options = ["--method", "watershed", "--overwrite", "--quiet"]
    assert main(["segment", str(tmp_path / "p.npy"), str(out), *options]) == 0
    assert (read_volume(out) > 0).all()
    assert main(["segment", str(tmp_path / "p.npy"), str(out), "--quiet"]) == 2
    assert "exists" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["float32.zarr", "ids.npy", "p.npy", "uint8.zarr"]


# --- figures ---


@settings(max_examples=15)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 90), st.integers(0, 99))
def test_streamed_figures_are_those_of_the_whole(size, slab, seed):
    rng = np.random.default_rng(seed)
    prediction, target = rng.random(size).astype(np.float32), rng.random(size) < 0.4
    boxes = list(streamed.boxes_of(size, slab))
    bounds = streamed.value_range(lambda box: prediction[box], boxes)
    found = streamed.pixel_scores(lambda box: prediction[box], lambda box: target[box], boxes, bounds, 0.4)
    expected = metrics.pixel_scores(prediction, target, 0.4)
    for name, value in vars(expected).items():
        assert getattr(found, name) == pytest.approx(value), name


def test_scores_of_ids_are_scikit_image_s():
    rng = np.random.default_rng(0)
    segments, cells = rng.integers(0, 5, (6, 7, 8)), rng.integers(0, 4, (6, 7, 8))
    boxes = list(streamed.boxes_of((6, 7, 8), 60))
    found = streamed.id_scores(lambda box: segments[box], lambda box: cells[box], boxes)
    counted = cells != 0
    rand = metrics.adapted_rand_error(cells[counted], segments[counted], ignore_labels=())[0]
    split, merge = metrics.variation_of_information(cells[counted], segments[counted])
    assert found.rand_error == pytest.approx(rand)
    assert (found.voi_split, found.voi_merge) == pytest.approx((split, merge))


def test_predictions_of_few_bits_count_from_0_to_1(tmp_path, capsys):
    rng = np.random.default_rng(0)
    probability, label = rng.random((4, 9, 9)).astype(np.float32), rng.integers(0, 2, (4, 9, 9))
    np.save(tmp_path / "label.npy", label)
    reports = []
    for values in (
        probability,
        np.rint(255 * probability).astype(np.uint8),
        np.rint(65535 * probability).astype(np.uint16),
    ):
        np.save(tmp_path / "p.npy", values)
        assert main(["evaluate", str(tmp_path / "p.npy"), str(tmp_path / "label.npy"), "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out)["pixels"])
    for report in reports[1:]:
        assert report["error"] == pytest.approx(reports[0]["error"], abs=0.01)
        assert report["best_threshold"] == pytest.approx(reports[0]["best_threshold"], abs=0.02)
