"""Volumes of several files, masks, targets of every kind, and networks whose margins are not a field of view."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from znn_dask.errors import ConfigError, DataError, ShapeError
from znn_dask.net import Convolution, Edge, Network, zoo
from znn_dask.net.operations import Padding
from znn_dask.train.config_file import make_config
from znn_dask.train.heldout import evaluate_regions
from znn_dask.train.losses import measured
from znn_dask.train.mirror import Margins, margins, margins_of
from znn_dask.train.places import BLOCK, Blocks
from znn_dask.train.preprocess import SLAB, Prepared, preprocess, statistics
from znn_dask.train.resolve import check_net
from znn_dask.train.samples import Samples
from znn_dask.train.session import open_run, open_volumes, training_samples
from znn_dask.train.targets import NEAREST, Labels, TargetSpec, affinity_map
from znn_dask.train.volumes import Opened, Volume, check_size, cut_region, load_volumes

IDS = arrays.arrays(np.int32, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 3))
OFFSETS = st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=4).map(tuple)


def whole(shape) -> tuple:
    return tuple((0, n) for n in shape)


def numbered(shape, mask=None, spec=None, region=None) -> Volume:
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    target = Labels(image[0].astype(np.int64), spec or TargetSpec("classes"))
    return Volume(image, target, region or whole(shape), whole(shape), "numbered", mask)


# ---- targets


@given(IDS, OFFSETS)
def test_affinities_are_as_defined(ids: np.ndarray, offsets: tuple) -> None:
    target = Labels(ids, TargetSpec("affinity", offsets=offsets)).box([slice(0, n) for n in ids.shape])
    for channel, offset in enumerate(offsets):
        for place in np.ndindex(ids.shape):
            other = tuple(np.add(place, offset))
            inside = all(0 <= i < n for i, n in zip(other, ids.shape, strict=True))
            valid = True if target.valid is None else target.valid[(channel, *place)]
            assert valid == inside
            if inside:
                assert target.values[(channel, *place)] == (ids[place] == ids[other] != 0)
    assert affinity_map(ids, offsets).sum() == (target.values * (1 if target.valid is None else target.valid)).sum()


@given(IDS, st.sampled_from(["boundary", "affinity", "classes", "binary"]), st.data())
def test_a_box_of_a_target_is_that_of_the_whole(ids: np.ndarray, kind: str, data) -> None:
    labels = Labels(ids, TargetSpec(kind, threshold=2, offsets=((0, 0, -1), (2, -1, 0))))
    low = [data.draw(st.integers(0, n - 1)) for n in ids.shape]
    box = tuple(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(low, ids.shape, strict=True))
    np.testing.assert_array_equal(labels[box], labels[:][(..., *box)])


def test_the_order_of_affinities_is_x_y_z() -> None:
    ids = np.ones((2, 2, 2), int)
    ids[:, :, 1] = 2
    x, y, z = affinity_map(ids)
    assert NEAREST == ((0, 0, -1), (0, -1, 0), (-1, 0, 0))
    assert x.sum() == 0
    assert y[:, 1].all()
    assert z[1].all()


def test_classes_and_ignored_labels() -> None:
    labels = np.array([[[3, 7, 9, 255]]])
    target = TargetSpec("classes", classes=(7, 3)).make(labels)
    assert target.values.tolist() == [[[[1, 0, 0, 0]]]]
    assert target.valid.tolist() == [[[[True, True, False, False]]]]
    target = TargetSpec("classes", ignore=255).make(labels)
    assert target.values.tolist() == [[[[3, 7, 9, 0]]]]
    assert target.valid.tolist() == [[[[True, True, True, False]]]]
    target = TargetSpec("affinity", offsets=((0, 0, 1),), ignore=9).make(np.array([[[3, 3, 9, 9]]]))
    assert target.values.tolist() == [[[[1, 0, 1]]]]
    assert target.valid.tolist() == [[[[True, False, False]]]]


def test_ids_are_numbered_anew() -> None:
    big = 10**15
    assert TargetSpec("ids").make(np.array([[[0, big, 5, big]]])).values.tolist() == [[[[0, 2, 1, 2]]]]
    assert TargetSpec("ids").make(np.array([[[big, 5]]])).values.tolist() == [[[[2, 1]]]]


def test_affinities_follow_flips_and_leave_out_pairs_over_the_border() -> None:
    ids = np.kron(np.arange(1, 28).reshape(3, 3, 3), np.ones((3, 3, 3), int))
    item = Volume(
        ids[None].astype(np.float32),
        Labels(ids, TargetSpec("affinity")),
        whole(ids.shape),
        whole(ids.shape),
        "ids",
    )
    samples = Samples([item], (1, 1, 1), (4, 5, 6), flip="zyx", transpose=True)
    left_out = 0
    for step in range(30):
        image, target, weight = samples.sample(step)
        seen = image[0, 0].astype(int)
        expected = Labels(seen, TargetSpec("affinity")).box([slice(0, n) for n in seen.shape])
        known = expected.valid  # pairs inside the patch, whose both ends are seen
        np.testing.assert_array_equal(target[0][known], expected.values[known])
        assert weight[0][known].all()
        left_out += int((weight[0] == 0).sum())
    assert left_out > 0


# ---- masks


def test_no_patch_is_without_a_valid_voxel_and_all_others_are_equally_likely() -> None:
    mask = np.zeros((3, 6, 7), np.uint8)
    mask[1, 2, 3] = mask[2, 5, 6] = 1
    empty = np.ones((4, 4, 4), np.uint8)
    samples = Samples([numbered((3, 6, 7), mask), numbered((4, 4, 4), empty)], (1, 1, 1), (2, 3, 3))
    counts: dict[tuple[int, float], int] = {}
    for step in range(3000):
        sample = samples.sample(step)
        assert sample.weight.any()
        counts[int(sample.image.max()), float(sample.image.min())] = (
            counts.get((int(sample.image.max()), float(sample.image.min())), 0) + 1
        )
    corners = [c for c in np.ndindex(2, 4, 5) if mask[c[0] : c[0] + 2, c[1] : c[1] + 3, c[2] : c[2] + 3].any()]
    assert len(counts) == len(corners) + 3 * 2 * 2
    mean = 3000 / len(counts)
    assert max(abs(n - mean) for n in counts.values()) < 5 * mean**0.5


def test_the_mask_is_the_weight() -> None:
    mask = (np.random.default_rng(0).random((6, 9, 9)) < 0.5).astype(np.uint8)
    mask_of = mask.ravel()
    samples = Samples([numbered((6, 9, 9), mask)], (3, 3, 3), (2, 4, 5), flip="zyx", transpose=True)
    for step in range(20):
        _, target, weight = samples.sample(step)
        np.testing.assert_array_equal(weight[0, 0], mask_of[target[0, 0]])


def test_sparse_masks_are_found() -> None:
    mask = np.zeros((40, 200, 200), bool)
    mask[33, 150, 77] = True
    samples = Samples([numbered(mask.shape, mask)], (1, 1, 1), (1, 2, 2))
    for step in range(5):
        assert samples.sample(step).weight.sum() == 1


def test_an_empty_mask_is_an_error() -> None:
    with pytest.raises(DataError, match="the mask of numbered leaves no voxel of its region"):
        Samples([numbered((4, 4, 4), np.zeros((4, 4, 4)))], (1, 1, 1), (2, 2, 2))


@given(st.integers(0, 2**32))
def test_blocks_say_where_something_may_be(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, [12, 50, 50]))
    region = tuple(sorted(random.choice(n + 1, 2, replace=False).tolist()) for n in shape)
    mask = random.random(shape) < 0.01
    inside = np.zeros(shape, bool)
    inside[tuple(slice(*side) for side in region)] = True
    if not (mask & inside).any():
        return
    blocks = Blocks(numbered(shape, mask, region=region))
    low = np.array([[random.integers(a, b) for a, b in region] for _ in range(50)])
    high = np.array([[random.integers(x + 1, b + 1) for x, (_, b) in zip(row, region, strict=True)] for row in low])
    for a, b, found in zip(low, high, blocks.any(low, high), strict=True):
        exact = (mask & inside)[tuple(slice(*side) for side in zip(a, b, strict=True))].any()
        wide = tuple(slice(x // s * s, -(-y // s) * s) for x, y, s in zip(a, b, BLOCK, strict=True))
        assert found == (mask & inside)[wide].any()
        assert found or not exact


# ---- preprocessing by region


@pytest.mark.parametrize("method", ["section", "volume", "rescale", "none"])
@pytest.mark.parametrize("clip", [None, (40.0, 180.0)])
def test_regions_are_prepared_as_the_whole(method: str, clip) -> None:
    image = np.random.default_rng(0).integers(0, 255, (2, 5, 20, 30)).astype(np.uint8)
    image[1, 2] = 9
    prepared, expected = Prepared(image, method, clip), preprocess(image.astype(np.float32), method, clip)
    np.testing.assert_array_equal(prepared[:, 1:4, 3:9, 5:], expected[:, 1:4, 3:9, 5:])
    np.testing.assert_array_equal(prepared[1, 2], expected[1, 2])
    if clip is not None and method == "none":
        assert (expected.min(), expected.max()) == clip
    if method == "rescale":
        assert expected[0].min() == -1
        assert expected[0].max() == 1


def test_statistics_do_not_depend_on_what_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).normal(1000, 3, (2, 7, 40, 50))
    found = statistics(image)
    np.testing.assert_allclose(found.mean, image.astype(np.float32).mean(axis=(2, 3), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.variance, image.astype(np.float32).var(axis=(2, 3), dtype=np.float64), rtol=1e-9)
    monkeypatch.setattr("znn_dask.train.preprocess.SLAB", 4000)
    again = statistics(image)
    assert SLAB > 4000
    for name in ("mean", "variance", "low", "high"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
    monkeypatch.setattr("znn_dask.train.preprocess.SECTION_PART", 300)
    parts = statistics(image)
    np.testing.assert_allclose(parts.variance, found.variance, rtol=1e-9)


# ---- files


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    random = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=random.integers(0, 255, (6, 20, 21)).astype(np.uint8), chunks=(2, 8, 8))
        file.create_dataset("label", data=random.integers(0, 4, (6, 20, 21)), chunks=True)
        file.create_dataset("mask", data=(random.random((6, 20, 21)) < 0.3).astype(np.uint8))
    return {name: f"{tmp_path / 'a.h5'}:/{name}" for name in ("image", "label", "mask")}


def test_what_is_read_by_region_is_what_is_kept_in_memory(files: dict[str, str]) -> None:
    def samples(gib: float) -> Samples:
        raw = {
            "data": {
                **files,
                "target": "boundary",
                "in_memory": gib,
                "clip": [10, 200],
                "augment": [{"kind": "rotate"}],
            }
        }
        data = make_config(raw).data
        volumes = load_volumes(data, data.train, "train")
        assert isinstance(volumes[0].image.image, np.ndarray) == (gib > 0)
        return Samples(volumes, (3, 5, 5), (2, 6, 6), flip="zyx", transpose=True, augment=data.augment)

    lazy, kept = samples(0), samples(1)
    for step in range(5):
        for a, b in zip(lazy.sample(step), kept.sample(step), strict=True):
            np.testing.assert_array_equal(a, b)


def test_several_inputs_and_their_margins(files: dict[str, str], tmp_path: Path) -> None:
    nodes = {"raw": 1, "hint": 1, "output": 1}
    edges = [Edge("a", "raw", "output", Convolution((1, 5, 5))), Edge("b", "hint", "output", Convolution((1, 5, 5)))]
    net = Network(nodes, edges)
    np.save(tmp_path / "hint.npy", np.zeros((6, 20, 21), np.float32))
    raw = {
        "network": {"letters": "C"},
        "training": {"output_size": [1, 4, 4]},
        "data": {**files, "image": {"raw": files["image"], "hint": str(tmp_path / "hint.npy")}},
    }
    config = make_config(raw)
    train, _ = open_volumes(config, net)
    sample = training_samples(config, net, train, (1, 4, 4)).sample(0)
    assert {name: value.shape for name, value in sample.image.items()} == dict.fromkeys(
        ("raw", "hint"), (1, 1, 1, 8, 8)
    )
    assert not sample.image["hint"].any()
    assert sample.weight is not None
    with pytest.raises(
        ConfigError, match=r"data\.train\.0\.image names one file, but the network has the inputs raw, h"
    ):
        open_volumes(make_config({**raw, "data": {**files}}), net)
    np.save(tmp_path / "hint.npy", np.zeros((6, 20, 20), np.float32))
    with pytest.raises(ShapeError, match="images of one volume must have one size"):
        open_volumes(config, net)


def test_masks_must_fit_and_files_are_opened_once(files: dict[str, str], tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones((6, 20, 20)))
    data = make_config({"data": {**files, "mask": str(tmp_path / "mask.npy")}}).data
    with pytest.raises(ShapeError, match="Image and mask must have the same size"):
        load_volumes(data, data.train, "train")
    data = make_config({"data": {**files, "train": [{"z": [0, 3]}, {"z": [3, 6], "mask": files["label"]}]}}).data
    first, second = load_volumes(data, data.train, "train", opened=Opened(data))
    assert first.image is second.image
    assert first.mask is not second.mask
    assert first.counts().shape == (3, 20, 21)
    np.testing.assert_array_equal(second.counts(), second.target.ids[3:] != 0)


# ---- margins


def test_margins_of_valid_networks_are_the_field_of_view() -> None:
    for net in (Network.parse("CTMCTC", width=2, kernel=[2, 3, 2]), zoo.n4()):
        for size in ((1, 1, 1), (4, 5, 6)):
            assert margins_of(net, size) == {"input": margins(net.field_of_view)}


def test_padded_networks_need_less() -> None:
    size = (5, 6, 7)
    nodes = {"input": 1, "a": 1, "output": 1}
    same = Edge("one", "input", "a", Convolution((3, 3, 3), padding=Padding((1, 1, 1))))
    net = Network(nodes, [same, Edge("two", "a", "output", Convolution((2, 1, 4)))])
    assert margins_of(net, size) == {"input": Margins((0, 0, 1), (1, 0, 2))}
    item = numbered(size)
    check_size(item, margins_of(net, size)["input"].view)
    sample = Samples([item], margins_of(net, size), size).sample(0)
    assert sample.image.shape == (1, 1, 6, 6, 10)
    assert sample.image[0, 0, 0, 0, 1] == 0
    np.testing.assert_array_equal(cut_region(item, margins_of(net, size)["input"]), sample.image[0])


@pytest.mark.parametrize(
    ("data", "training", "network", "message"),
    [
        ({"target": "affinity"}, {}, {}, "names 3 offsets, but the network has 1 output channels"),
        ({"target": "affinity"}, {"loss": "softmax"}, {"out_channels": 3}, "not 'softmax'"),
        ({"target": "classes"}, {}, {"out_channels": 3}, "'classes' needs training.loss 'softmax'"),
        ({"target": "classes", "classes": [1, 2]}, {"loss": "softmax"}, {"out_channels": 3}, "names 2 classes"),
    ],
)
def test_targets_that_do_not_suit_the_network(data, training, network, message) -> None:
    config = make_config({"data": data, "training": training, "network": {"letters": "C", **network}})
    with pytest.raises(ConfigError, match=message):
        check_net(config, Network.parse("C", width=1, out_channels=network.get("out_channels", 1)))


# ---- what is measured


def test_what_does_not_count_is_not_measured() -> None:
    output = np.array([3.0, -3.0, 3.0, -3.0], np.float32).reshape(1, 1, 1, 1, 4)
    target = np.array([1, 0, 0, 0], np.float32).reshape(output.shape)
    weight = np.array([1, 1, 0, 1], np.float32).reshape(output.shape)
    low = np.log1p(np.exp(-3))
    assert measured(output, target, None, "logistic") == pytest.approx((low + 3 / 4, 0.25))
    assert measured(output, target, weight, "logistic") == pytest.approx((low * 3 / 4, 0.0), rel=1e-5)


def test_classes_and_ids_are_measured_as_what_they_are() -> None:
    output = np.zeros((1, 3, 1, 1, 2), np.float32)
    output[0, 2, 0, 0, 0] = 50
    output[0, 1, 0, 0, 1] = 50
    loss, error = measured(output, np.array([2, 0]).reshape(1, 1, 1, 1, 2), None, "softmax")
    assert error == 0.5
    assert loss > 5
    ids = np.array([[5, 5, 7]]).reshape(1, 1, 1, 1, 3)
    affinities = np.full((1, 1, 1, 1, 3), 9.0, np.float32)
    # One pair of two is of one segment; the first voxel has no neighbour before it.
    assert measured(affinities, ids, None, "malis(0,0,-1)")[1] == 0.5


@pytest.mark.timeout(120)
@pytest.mark.parametrize("target", ["affinity", "classes"])
def test_a_run_with_masks_and_other_targets(files: dict[str, str], tmp_path: Path, target: str) -> None:
    affinity = target == "affinity"
    raw = {
        "network": {"letters": "CTC", "width": 3, "ndim": 2, "out_channels": 3 if affinity else 4},
        "training": {"output_size": [2, 4, 4], "updates": 3, "loss": "logistic" if affinity else "softmax", "batch": 2},
        "data": {
            **files,
            "target": target,
            "ignore": 3 if affinity else None,
            "train": [{"z": [0, 4]}],
            "test": [{"z": [4, 6]}],
            "augment": [{"kind": "rotate"}, {"kind": "grey"}],
        },
        "log": {"test_patches": 2, "test_every": 3, "report": False},
        "compute": {"workers": 1},
    }
    loop, _ = open_run(make_config(raw), tmp_path / "run")
    with loop.model:
        loop.run(progress=False)
        assert np.isfinite(loop.last_test_error)
        found = evaluate_regions(loop.model, loop.regions)
    assert 0 <= found.scores.error <= 1
    counted = sum(int(item.counts().sum()) for item in loop.regions)
    assert counted < 2 * 20 * 21 * (3 if affinity else 1)
    assert found.predictions[0].shape == (2, 20, 21)
