"""Samples are what the network would see there, are drawn evenly, and are a function of seed and step alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from znn_dask.errors import ConfigError, DataError, ShapeError
from znn_dask.model import Model
from znn_dask.model.predict import mirrored
from znn_dask.net import Network
from znn_dask.train.config import DataSection, VolumeSection
from znn_dask.train.config_file import make_config
from znn_dask.train.mirror import margins
from znn_dask.train.samples import Samples, Volume, check_channels, check_size, cut_region, load_volumes


def numbered(shape: tuple[int, int, int], region=None, reach=None) -> Volume:
    """A volume whose voxels are all different, and whose target tells even from odd."""
    whole = tuple((0, n) for n in shape)
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    return Volume(image, (image[0] % 2).astype(np.uint8), region or whole, reach or whole, "numbered")


@given(st.integers(-50, 50), st.integers(1, 9), st.integers(0, 5))
def test_mirrored_is_numpys_reflection(start: int, length: int, low: int) -> None:
    count = 20
    values = np.arange(low, low + length)
    before = max(0, -start)
    after = max(0, start + count - length)
    padded = np.pad(values, (before, after), mode="reflect") if length > 1 else np.full(before + length + after, low)
    expected = padded[start + before : start + before + count]
    np.testing.assert_array_equal(mirrored(low + start + np.arange(count), low, low + length), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 30, 95])
def test_margins_add_up(size: int) -> None:
    (before, *_), (after, *_) = margins((size, size, size))
    assert before + after + 1 == size
    assert after - before in (0, 1)


def test_the_target_belongs_to_the_middle_of_the_input() -> None:
    samples = Samples([numbered((6, 7, 8))], (2, 3, 4), (2, 2, 3), mirror=False, transpose=True)
    for step in range(20):
        image, target = samples.sample(step)
        assert image.shape == (1, 1, 3, 4, 6)
        middle = image[:, :, 0:2, 1:3, 1:4]
        np.testing.assert_array_equal(middle % 2, target)


@pytest.mark.parametrize("view", [(3, 3, 3), (2, 4, 4), (1, 3, 5), (4, 2, 2)])
def test_flipping_and_exchanging_keep_image_and_target_together(view: tuple[int, int, int]) -> None:
    """Every sample is a true cut of one of the 16 variants of the (mirrored) volume."""
    volume = numbered((7, 8, 9))
    samples = Samples([volume], view, (2, 3, 4), flip="zyx", transpose=True)
    (bz, by, bx), _ = margins(view)
    seen = set()
    for step in range(60):
        image, target = samples.sample(step)
        found = []
        for variant in range(16):
            picture = volume.image[0]
            picture = picture.transpose(0, 2, 1) if variant & 8 else picture
            picture = picture[tuple(slice(None, None, -1 if variant >> a & 1 else 1) for a in range(3))]
            padded = np.pad(picture, [(8, 8)] * 3, mode="reflect")
            first = image[0, 0, bz, by, bx]
            z, y, x = (int(i) for i in np.argwhere(picture == first)[0])
            box = zip((z, y, x), (bz, by, bx), image.shape[2:], strict=True)
            cut = padded[tuple(slice(i + 8 - b, i + 8 - b + n) for i, b, n in box)]
            inside = picture[z : z + 2, y : y + 3, x : x + 4] % 2
            # Beside a mirror another variant may look alike, but its target would lie outside.
            if np.array_equal(cut, image[0, 0]) and inside.shape == (2, 3, 4):
                found.append(variant)
                np.testing.assert_array_equal(inside, target[0, 0])
        assert found
        seen.update(found)
    assert len(seen) == 16


def test_samples_depend_on_seed_and_step_alone() -> None:
    make = lambda seed, **more: Samples([numbered((9, 9, 9))], (3, 3, 3), (2, 2, 2), seed=seed, flip="zyx", **more)  # noqa: E731
    one, other = make(3), make(3)
    for step in (5, 0, 5, 77):
        for a, b in zip(one.sample(step), other.sample(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.sample(0).image, one.sample(1).image)
    assert not np.array_equal(one.sample(0).image, make(4).sample(0).image)
    assert not np.array_equal(one.sample(0).image, make(3, purpose="test").sample(0).image)


def test_volumes_are_drawn_by_their_number_of_places() -> None:
    small, large = numbered((4, 4, 4)), numbered((4, 4, 10))
    large.image[:] += 1000
    samples = Samples([small, large], (1, 1, 1), (4, 4, 4))
    from_large = np.mean([samples.sample(step).image.max() >= 1000 for step in range(400)])
    assert abs(from_large - 7 / 8) < 0.06, "1 place in the small volume, 7 in the large one"


def test_every_place_is_drawn() -> None:
    samples = Samples([numbered((3, 3, 4))], (1, 1, 1), (2, 2, 2))
    corners = {float(samples.sample(step).image[0, 0, 0, 0, 0]) for step in range(300)}
    assert len(corners) == 2 * 2 * 3


def test_regions_bound_targets_and_reach_bounds_inputs() -> None:
    region = ((2, 6), (0, 8), (0, 8))
    for reach in (region, ((0, 8), (0, 8), (0, 8))):
        samples = Samples([numbered((8, 8, 8), region, reach)], (5, 1, 1), (2, 2, 2), flip="z", seed=1)
        sections, targets = set(), set()
        for step in range(200):
            image = samples.sample(step).image
            sections.update((image // 64).ravel().astype(int).tolist())
            targets.update((image[:, :, 2:-2] // 64).ravel().astype(int).tolist())
        assert targets == {2, 3, 4, 5}
        assert sections == set(range(*reach[0]))


def test_without_mirroring_inputs_stay_inside_and_all_that_fit_are_used() -> None:
    volume = numbered((6, 6, 6))
    samples = Samples([volume], (4, 3, 1), (3, 2, 6), mirror=False)
    corners = {float(samples.sample(step).image[0, 0, 0, 0, 0]) for step in range(100)}
    assert corners == {0.0, 6.0, 12.0}
    with pytest.raises(ShapeError, match=r"no output patch of \(4, 2, 6\).*fits into region z 0:6"):
        Samples([volume], (4, 3, 1), (4, 2, 6), mirror=False)


def test_batches_hold_different_patches() -> None:
    samples = Samples([numbered((9, 9, 9))], (3, 3, 3), (2, 2, 2), batch=3)
    image, target = samples.sample(0)
    assert image.shape == (3, 1, 4, 4, 4)
    assert target.shape == (3, 1, 2, 2, 2)
    assert not np.array_equal(image[0], image[1])


def test_volumes_smaller_than_the_field_of_view_are_refused() -> None:
    words = r"offers \(4, 9, 9\) voxels .* less than the network's field of view .* see z 2:6, .* Use 'reach: volume'"
    with pytest.raises(ShapeError, match=words):
        check_size(numbered((9, 9, 9), reach=((2, 6), (0, 9), (0, 9))), (5, 5, 5))
    with pytest.raises(ShapeError, match="has 1 channels, but the network reads 2"):
        check_channels(numbered((9, 9, 9)), 2)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("letters", "window"), [("CTMCTC", 2), ("CC", 2)])
def test_cuts_agree_with_predict(letters: str, window: int) -> None:
    """The rule for the middle of an even field of view, and for mirroring, is that of `Model.predict`."""
    net = Network.parse(letters, width=2, kernel=[2, 3, 2][: letters.count("C")], window=window)
    volume = numbered((9, 10, 11), region=((3, 7), (0, 10), (2, 6)))
    with Model(net, output_size=3, num_workers=1) as model:
        whole = model.predict(volume.image / 990, border="mirror")
        part = model.predict(cut_region(volume, net.field_of_view) / 990, border=None)
    np.testing.assert_allclose(part, whole[:, 3:7, :, 2:6], rtol=1e-4, atol=1e-5)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    random = np.random.default_rng(0)
    np.save(tmp_path / "image.npy", random.normal(5, 2, (6, 7, 8)).astype(np.float32))
    np.save(tmp_path / "label.npy", random.integers(0, 2, (6, 7, 8)))
    return {name: str(tmp_path / f"{name}.npy") for name in ("image", "label")}


def test_volumes_are_loaded_once_and_prepared(files: dict[str, str]) -> None:
    data = make_config({"data": {**files, "train": [{"z": [0, 4]}, {"z": [4, 6], "reach": "volume"}]}}).data
    first, second = load_volumes(data, data.train, "train")
    assert first.image is second.image
    assert first.target is second.target
    assert first.region == first.reach == ((0, 4), (0, 7), (0, 8))
    assert second.region == ((4, 6), (0, 7), (0, 8))
    assert second.reach == ((0, 6), (0, 7), (0, 8))
    np.testing.assert_allclose(first.image[...].mean(), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("section", "error", "message"),
    [
        ({"z": [0, 7]}, ShapeError, r"data\.train\.0\.z is \[0, 7\), but its volume has 0 to 6 along z"),
        ({"y": [3, 3]}, ShapeError, r"data\.train\.0\.y is \[3, 3\)"),
        ({"image": "absent.npy"}, DataError, r"there is no file absent\.npy"),
    ],
)
def test_sections_that_do_not_fit(files, section, error, message) -> None:
    data = make_config({"data": {**files, "train": [section]}}).data
    with pytest.raises(error, match=message):
        load_volumes(data, data.train, "train")


def test_volumes_without_files_say_which_key_to_give() -> None:
    with pytest.raises(ConfigError, match=r"data\.train\.0 has no image; give data\.image=FILE"):
        load_volumes(DataSection(), [VolumeSection()], "train")
