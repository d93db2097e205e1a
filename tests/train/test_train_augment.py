"""Augmentation keeps image, target and mask together, depends on seed and step alone, and does what it says."""

import msgspec
import numpy as np
import pytest

from znn_dask.errors import ConfigError
from znn_dask.randomness import generator
from znn_dask.train import augment
from znn_dask.train.augment import Elastic, Rotate, Shifted
from znn_dask.train.config_file import describe, from_json, make_config, to_json
from znn_dask.train.preprocess import Prepared
from znn_dask.train.samples import Samples
from znn_dask.train.targets import Labels, TargetSpec
from znn_dask.train.volumes import Volume
from znn_dask.train.warp import Frame, make_motion

SHAPE = (24, 30, 36)
STRAIGHT = Frame((0, 0, 0), (1, 1, 1), (0, 1, 2))
WARPS = {
    "elastic": (Elastic(amplitude=1.5, amplitude_z=0.7, spacing=(8, 8, 8)),),
    "rotation": (Rotate(degrees=180, zoom=0.2),),
    "tilt": (Rotate(degrees=40, tilt=20),),
    "step": (Shifted(probability=1, distance=4, step=1),),
    "all": (Elastic(amplitude=1, spacing=(8, 8, 8)), Rotate(degrees=30), Shifted(probability=1, distance=3, step=1)),
}


def located(region=None, **more) -> Volume:
    """Every voxel's image says where it is (three channels), its label too."""
    image = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij"))
    ids = np.arange(1, np.prod(SHAPE) + 1).reshape(SHAPE)
    whole = tuple((0, n) for n in SHAPE)
    return Volume(image, Labels(ids, TargetSpec("classes")), region or whole, whole, "located", **more)


@pytest.mark.parametrize("name", WARPS)
def test_warps_keep_image_and_label_together(name: str) -> None:
    samples = Samples([located()], (9, 9, 9), (4, 6, 8), flip="zyx", transpose=True, augment=WARPS[name], seed=1)
    moved = 0
    for step in range(12):
        image, target, weight = samples.sample(step)
        assert image.shape == (1, 3, 12, 14, 16)
        counted = weight[0, 0] > 0
        found = np.stack(np.unravel_index(target[0, 0] - 1, SHAPE))
        # A label is that of the nearest voxel, an image lies between voxels.
        off = np.abs(found - image[0, :, 4:-4, 4:-4, 4:-4]).max(axis=0)
        assert off[counted].max(initial=0) <= 0.5001
        moved += bool(off.max() > 0) or name == "step"
        assert counted.any()
    assert moved > 8


def test_what_comes_from_outside_the_region_does_not_count() -> None:
    region = ((4, 20), (6, 24), (6, 24))
    samples = Samples([located(region)], (1, 1, 1), (8, 16, 16), augment=[Rotate(degrees=180)], seed=2)
    shares = []
    for step in range(12):
        image, target, weight = samples.sample(step)
        found = np.stack(np.unravel_index(target[0, 0] - 1, SHAPE))
        for axis, (low, high) in enumerate(region):
            assert found[axis].min() >= low
            assert found[axis].max() < high
        inside = np.all(
            [(np.rint(c) >= a) & (np.rint(c) < b) for c, (a, b) in zip(image[0], region, strict=True)], axis=0
        )
        rounding = np.abs(image[0] - np.floor(image[0]) - 0.5).min(axis=0) < 1e-3
        np.testing.assert_array_equal((weight[0, 0] > 0)[~rounding], inside[~rounding])
        shares.append(weight.mean())
    assert min(shares) < 1


def test_a_slip_moves_one_section_of_the_image_alone() -> None:
    item = Shifted(probability=1, distance=5, step=0)
    samples = Samples([located()], (5, 5, 5), (6, 8, 8), augment=[item])
    for step in range(8):
        image, target, _ = samples.sample(step)
        found = np.stack(np.unravel_index(target[0, 0] - 1, SHAPE))
        off = np.abs(image[0, :, 2:-2, 2:-2, 2:-2] - found).max(axis=(0, 2, 3))
        assert (off > 0).sum() <= 1


def test_a_part_is_moved_as_the_whole() -> None:
    items = [Rotate(degrees=90, tilt=30), Elastic(amplitude_z=1, spacing=(4, 4, 4)), Shifted(probability=1)]
    low, high = (-5, -6, -7), (12, 14, 16)
    motion = make_motion(items, low, high, (7, 9, 11), named_random(3))
    whole, part = motion.course(low, high, STRAIGHT), motion.course((0, -1, 2), (5, 9, 10), STRAIGHT)
    np.testing.assert_allclose(part.field(), whole.field()[:, 5:10, 5:15, 9:17], atol=1e-4)


def test_a_patch_that_lies_otherwise_in_the_volume_is_moved_as_well() -> None:
    items = [Rotate(degrees=90, tilt=30), Elastic(amplitude_z=1, spacing=(4, 4, 4)), Shifted(probability=1)]
    box = (-2, -3, -1), (9, 10, 12)
    motion = make_motion(items, *box, (7, 7, 7), named_random(5))
    straight = motion.course(*box, STRAIGHT).field()
    turned = motion.course(*box, Frame((0, 0, 0), (-1, 1, -1), (0, 2, 1))).field()
    np.testing.assert_allclose(turned, [-straight[0], -straight[2], straight[1]], atol=1e-4)


class OnDisk:
    """An array that only boxes can be read of."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.read = 0

    def __getitem__(self, where) -> np.ndarray:
        found = self._array[where]
        self.read = max(self.read, found.size)
        return found.copy()


@pytest.mark.parametrize("method", ["section", "volume", "none"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_a_volume_on_disk_gives_the_samples_of_one_in_memory(kind: str, method: str) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 200, (1, *SHAPE)).astype(kind)
    ids = random.integers(0, 5, SHAPE)
    mask = (random.random(SHAPE) < 0.9).astype(np.uint8)
    whole = tuple((0, n) for n in SHAPE)
    region = ((2, 22), (3, 27), (0, 36))
    stored = OnDisk(image), OnDisk(ids), OnDisk(mask)

    def samples(image, ids, mask) -> Samples:
        labels = Labels(ids, TargetSpec("boundary"))
        volume = Volume(Prepared(image, method), labels, region, whole, "v", mask)
        return Samples(
            [volume], (5, 5, 5), (4, 5, 6), flip="zyx", transpose=True, seed=1, augment=[Rotate(), Elastic(amplitude=1)]
        )

    one, other = samples(image, ids, mask), samples(*stored)
    for array in stored:
        array.read = 0
    for step in range(8):
        for a, b in zip(one.sample(step), other.sample(step), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert 0 < stored[0].read < image.size
    assert 0 < stored[2].read < image.size


def test_a_moved_image_is_the_prepared_one() -> None:
    """Levels that are applied after interpolating, and mirrored borders, are those of the prepared volume."""
    image = np.random.default_rng(0).integers(0, 200, (1, *SHAPE)).astype(np.uint8)
    ids = np.ones(SHAPE, np.uint8)
    whole = tuple((0, n) for n in SHAPE)
    stored, prepared = (
        Samples([Volume(made, ids, whole, whole, "v")], (9, 9, 9), (4, 5, 6), flip="zyx", augment=[Rotate(tilt=30)])
        for made in (Prepared(image, "section"), Prepared(image, "section")[...])
    )
    for step in range(6):
        np.testing.assert_allclose(stored.sample(step).image, prepared.sample(step).image, atol=1e-5)


def test_a_rotation_is_one() -> None:
    """Distances stay, the middle of the output stays, and a zoom changes both axes of the section alike."""
    motion = make_motion([Rotate(degrees=90, tilt=30)], (-5, -5, -5), (12, 14, 16), (7, 9, 11), named_random(3))
    places = motion.course((-5, -5, -5), (12, 14, 16), STRAIGHT).field()
    middle = places[:, 5 + 3, 5 + 4, 5 + 5]
    np.testing.assert_allclose(middle, [3, 4, 5], atol=1e-4)
    for axis in range(1, 4):
        np.testing.assert_allclose(np.linalg.norm(np.diff(places, axis=axis), axis=0), 1, atol=1e-4)
    flat = make_motion([Rotate(degrees=90, zoom=0.5)], (0, 0, 0), (3, 9, 9), (3, 9, 9), named_random(4))
    field = flat.course((0, 0, 0), (3, 9, 9), STRAIGHT).field()
    np.testing.assert_array_equal(field[0], np.broadcast_to(np.arange(3).reshape(3, 1, 1), (3, 9, 9)))
    steps = [np.linalg.norm(np.diff(field[1:], axis=axis), axis=0) for axis in (2, 3)]
    np.testing.assert_allclose(steps[0].mean(), steps[1].mean(), rtol=1e-4)
    assert abs(steps[0].mean() - 1) > 0.01


def test_the_displacement_of_an_elastic_warp_has_its_size() -> None:
    item = Elastic(amplitude=3, spacing=(10, 10, 10))
    box = (0, 0, 0), (30, 60, 60)
    fields = [
        make_motion([item], *box, box[1], named_random(seed)).course(*box, STRAIGHT).field() for seed in range(12)
    ]
    grid = np.arange(60, dtype=np.float32)
    moves = np.stack([[y - grid[:, None], x - grid] for _, y, x in fields])
    assert 2.4 < moves.std() < 3.6
    assert abs(moves.mean()) < 0.5
    # Smooth: neighbours go the same way.
    assert np.abs(np.diff(moves, axis=-1)).max() < 2


def named_random(seed: int):
    return lambda name: generator(seed, 0, name)


def everything() -> list[augment.Augmentation]:
    return [made(probability=1) for made in augment.KINDS.values()]


def grey_samples(items, **more) -> Samples:
    image = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
    whole = tuple((0, n) for n in SHAPE)
    target = (image[0] > 0).astype(np.uint8)
    return Samples([Volume(image, target, whole, whole, "grey")], (3, 5, 5), (6, 8, 8), augment=items, **more)


@pytest.mark.parametrize("kind", augment.KINDS)
def test_each_kind_changes_images_and_repeats(kind: str) -> None:
    item = augment.KINDS[kind](probability=1)
    plain, one, other = grey_samples([]), grey_samples([item]), grey_samples([item])
    changes = 0
    for step in range(6):
        a, b = one.sample(step), other.sample(step)
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.target, b.target)
        assert a.image.dtype == np.float32
        assert np.isfinite(a.image).all()
        changes += not np.array_equal(a.image, plain.sample(step).image)
    assert changes >= 1
    never = grey_samples([msgspec.structs.replace(item, probability=0)])
    np.testing.assert_array_equal(never.sample(3).image, plain.sample(3).image)


def test_one_augmentation_does_not_shift_the_numbers_of_another() -> None:
    noise = augment.Noise()
    alone, after = grey_samples([noise], seed=3), grey_samples([augment.Grey(probability=0), noise], seed=3)
    np.testing.assert_array_equal(alone.sample(2).image, after.sample(2).image)
    twice = grey_samples([noise, noise], seed=3).sample(2).image - alone.sample(2).image
    assert twice.std() > 0.001
    batch = grey_samples([noise], batch=2, seed=3).sample(0).image
    assert not np.array_equal(batch[0], batch[1])


def test_noise_has_its_size() -> None:
    image = np.zeros((1, 40, 40, 40), np.float32)
    noisy = [augment.Noise(sigma=2).apply(image.copy(), generator(0, n, "noise")) for n in range(40)]
    assert abs(np.mean([n.mean() for n in noisy])) < 0.02
    assert 0.8 < np.mean([n.std() for n in noisy]) < 1.2  # uniform up to 2
    standard = noisy[0].ravel() / noisy[0].std()
    assert 0.66 < np.mean(np.abs(standard) < 1) < 0.70


def test_missing_sections_leave_something_to_see() -> None:
    image = np.random.default_rng(0).standard_normal((1, 5, 4, 4)).astype(np.float32)
    changed = augment.Missing(share=1, value=-7).apply(image.copy(), generator(0, 0, "missing"))
    gone = (changed == -7).all(axis=(0, 2, 3))
    assert gone.sum() == 4
    single = image[:, :1]
    assert augment.Missing(share=1).apply(single, generator(0, 0, "missing")) is single


def test_only_inputs_that_are_named_change() -> None:
    images = {name: np.zeros((1, 2, 3, 3), np.float32) for name in ("input", "boundary")}
    augment.change_greys([augment.Noise(inputs=("input",))], images, named_random(0))
    assert images["input"].any()
    assert not images["boundary"].any()


def test_augmentations_are_configured() -> None:
    raw = {"data": {"augment": [{"kind": "grey", "gamma": 0.5}, {"kind": "elastic", "spacing": [4, 32, 32]}]}}
    config = make_config(raw)
    assert config.data.augment == (augment.Grey(gamma=0.5), Elastic(spacing=(4, 32, 32)))
    assert from_json(to_json(config)) == config
    for kind in augment.KINDS:
        assert f"\n  {kind}: " in describe()
    for wrong, message in (
        ({"kind": "gray"}, r"data\.augment\[0\]\.kind: invalid value 'gray'"),
        ({"kind": "grey", "gama": 1}, r"data\.augment\S*: object contains unknown field `gama`"),
        ({"kind": "noise", "sigma": -1}, r"data\.augment\S*\.sigma: expected `float` >= 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_config({"data": {"augment": [wrong]}})


def test_all_together_keep_sizes_and_repeat_in_any_order() -> None:
    one, other = (grey_samples(everything(), flip="zyx", transpose=True, batch=2) for _ in range(2))
    forward = [one.sample(step) for step in range(4)]
    for step in (3, 0, 2, 1):
        image, target, weight = other.sample(step)
        assert image.shape == (2, 1, 8, 12, 12)
        for a, b in zip((image, target, weight), forward[step], strict=True):
            np.testing.assert_array_equal(a, b)
        assert set(np.unique(target)) <= {0, 1}
