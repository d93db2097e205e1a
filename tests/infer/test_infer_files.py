"""From file to file: every format holds what `Model.predict` gives."""

import h5py
import numpy as np
import pytest
import zarr
from infer_cases import SIZE, TILE, VOLUME, hidden

from znn_dask.infer import measure
from znn_dask.infer.files import Settings, predict_file
from znn_dask.infer.prepare import Prepared, moments_of
from znn_dask.io.volumes import read_volume
from znn_dask.model.tiling import Fit
from znn_dask.train.preprocess import preprocess

pytestmark = pytest.mark.timeout(120)

# --- formats ---


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.h5:/x/y", "a.zarr", "a.zarr:/x", "a.ome.zarr"])
def test_every_format_holds_what_predict_gives(model, source, tmp_path, name):
    told = []
    settings = Settings(tile=TILE, dtype="uint16")
    sink = predict_file(model, source, tmp_path / name, settings, progress=lambda *call: told.append(call))
    expected = model.predict(VOLUME, probabilities=True, dtype="uint16")
    found = read_volume(tmp_path / name)
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert sink.stored_shape == found.shape
    assert told[-1] == (27, 27)
    assert hidden(tmp_path) == []


def test_inputs_of_every_format_give_the_same(model, source, tmp_path):
    predict_file(model, source, tmp_path / "ref.npy", Settings(tile=TILE))
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("raw", data=VOLUME, chunks=(4, 5, 6))
    for version in (2, 3):
        zarr.create_array(tmp_path / f"{version}.zarr", data=VOLUME, chunks=(4, 5, 6), zarr_format=version)
    zarr.create_array(tmp_path / "s.zarr", data=VOLUME, chunks=(4, 5, 6), shards=(8, 10, 12))
    for name in ("in.h5:/raw", "2.zarr", "3.zarr", "s.zarr"):
        predict_file(model, tmp_path / name, tmp_path / "out.npy", Settings(tile=TILE, overwrite=True))
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.load(tmp_path / "ref.npy"))


@pytest.mark.parametrize(("shards", "version"), [(False, 2), (False, 3), (True, 3)])
def test_no_two_blocks_share_a_chunk_or_shard(model, source, tmp_path, shards, version):
    settings = Settings(tile=TILE, shards=shards, zarr_format=version)
    predict_file(model, source, tmp_path / "a.zarr", settings)
    array = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert array.metadata.zarr_format == version
    shared = array.shards if shards else array.chunks
    assert (array.shards is None) != shards
    assert all(step % n == 0 for step, n in zip(TILE, shared[1:], strict=True))


def test_ome_zarr_says_what_its_axes_are(model, source, tmp_path):
    predict_file(model, source, tmp_path / "a.ome.zarr", Settings(tile=TILE, channels=[1]))
    image = zarr.open_group(tmp_path / "a.ome.zarr", mode="r").attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert read_volume(tmp_path / "a.ome.zarr").shape == SIZE


def test_other_datasets_of_an_hdf5_file_stay(model, source, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["mine"] = np.arange(5)
    predict_file(model, source, tmp_path / "a.h5:/new", Settings(tile=TILE, overwrite=True))
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {"mine", "new"}


@pytest.mark.parametrize("method", ["section", "volume", "rescale", "none"])
def test_images_are_prepared_as_in_training(monkeypatch, method):
    monkeypatch.setattr("znn_dask.infer.prepare.SLAB", 700)
    stack = np.random.default_rng(3).integers(0, 200, (2, 7, 20, 30)).astype(np.float32)
    stack[1, 3] = 8.0  # constant
    image = Prepared(stack, "stack")
    image.moments = moments_of(image, method)
    whole = tuple(slice(0, n) for n in stack.shape)
    np.testing.assert_allclose(image[whole], preprocess(stack, method), atol=2e-6)
    part = (slice(0, 2), slice(3, 6), slice(4, 9), slice(1, 2))
    np.testing.assert_allclose(image[part], preprocess(stack, method)[part], atol=2e-6)


def test_regions_borders_and_masks(model, source, tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[2:9, 4:12, 3:20] = 1
    np.save(tmp_path / "mask.npy", mask)
    box = (slice(1, 9), slice(3, 12), slice(0, 20))
    whole = model.predict(VOLUME, border="constant", probabilities=True)
    settings = Settings("constant", box, str(tmp_path / "mask.npy"), tile=TILE)
    predict_file(model, source, tmp_path / "a.npy", settings)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), (whole * mask)[(slice(None), *box)], atol=1e-5)
    predict_file(model, source, tmp_path / "b.npy", Settings(None, tile=TILE))
    inside = model.predict(VOLUME, border=None, probabilities=True)
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), inside, atol=1e-5)


def test_padded_networks_are_blended_as_in_memory(same, source, tmp_path):
    settings = Settings(tile=(8, 8, 8), probabilities=False)
    predict_file(same, source, tmp_path / "a.zarr", settings)
    found = read_volume(tmp_path / "a.zarr")
    expected = same.predict(VOLUME)[0]  # a single tile
    inner = tuple(slice(4, n - 4) for n in SIZE)
    assert np.abs(found - expected)[inner].mean() < 0.05 * np.abs(expected).mean()
    assert hidden(tmp_path) == []


def test_the_fastest_tile_is_taken(model, source, tmp_path, monkeypatch):
    assert measure.candidates(Fit((1, 1, 1), (1, 1, 1)), (1, 8, 9)) == [(1, 8, 9), (1, 4, 9), (1, 8, 5)]
    rates = {(14, 20, 26): 1.0, (7, 20, 26): 3.0, (14, 10, 26): 2.0, (14, 20, 13): 2.0}
    monkeypatch.setattr(measure, "_rate", lambda model, scene, patch, n: rates[patch])
    told = []
    predict_file(model, source, tmp_path / "a.npy", Settings(measure=True), progress=lambda *call: told.append(call))
    assert told[-1] == (2, 2)
    monkeypatch.undo()
    predict_file(model, source, tmp_path / "b.npy", Settings(measure=True))
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"), atol=1e-5)
