"""Every format gives the same array, and whatever is wrong becomes one line that helps."""

import builtins
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from znn_dask.errors import DataError, MissingExtraError, OutputExistsError, ShapeError
from znn_dask.io.source import parse_source
from znn_dask.io.volumes import read_image, read_label, read_volume
from znn_dask.io.writing import check_destination, write_volume

VOLUME = np.random.default_rng(0).integers(0, 255, (3, 5, 7), dtype=np.uint8)
NAMES = ["a.npy", "a.tif", "a.TIFF", "a.h5", "a.hdf5:/group/raw", "a.h5:raw", "a.zarr", "a.zarr:/group/raw"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.uint16])
def test_what_is_written_is_read(tmp_path: Path, name: str, dtype: type) -> None:
    volume = VOLUME.astype(dtype)
    write_volume(tmp_path / name, volume)
    read = read_volume(tmp_path / name)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, volume)


@pytest.mark.parametrize("name", NAMES)
def test_channels_are_kept(tmp_path: Path, name: str) -> None:
    volume = np.stack([VOLUME, VOLUME + 1]).astype(np.float32)
    write_volume(tmp_path / name, volume)
    np.testing.assert_array_equal(read_volume(tmp_path / name), volume)


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_hdf5_with_compression_and_one_dataset_needs_no_name(tmp_path: Path, compression: str | None) -> None:
    with h5py.File(tmp_path / "a.lzf.h5", "w") as file:
        file.create_dataset("deep/stack", data=VOLUME, compression=compression, chunks=(1, 2, 3))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.lzf.h5"), VOLUME)


def test_compressed_tiff_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for section in VOLUME:
            file.write(section, compression="zlib", contiguous=False)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif"), VOLUME)


def test_images_get_their_axes(tmp_path: Path) -> None:
    for shape in ((5, 7), (3, 5, 7), (2, 3, 5, 7)):
        np.save(tmp_path / "a.npy", np.ones(shape, np.uint16))
        image = read_image(tmp_path / "a.npy")
        assert image.shape == (1,) * (4 - len(shape)) + shape
        assert image.dtype == np.float32


@pytest.mark.parametrize("name", ["b.npy", "b.tif", "b.h5:/x", "b.zarr"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"there is no file .*b\."):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_a_wrong_dataset_name_lists_those_that_exist(tmp_path: Path, name: str) -> None:
    write_volume(tmp_path / f"{name}:/group/stack", VOLUME)
    with pytest.raises(DataError, match=r"no dataset '/group/stak'; it has /group/stack\. Did you mean"):
        read_volume(tmp_path / f"{name}:/group/stak")


def test_several_datasets_ask_for_a_name(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.h5:/one", VOLUME)
    write_volume(tmp_path / "a.h5:/two", VOLUME, overwrite=True)
    with pytest.raises(DataError, match=r"holds 2 datasets; name one, for instance .*a\.h5:/one"):
        read_volume(tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.h5"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a volume at all")
    with pytest.raises(DataError, match=rf"{name} cannot be read as"):
        read_volume(tmp_path / name)


def test_unknown_endings_and_needless_datasets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the ending '\.png' is unknown; use one of \.npy"):
        parse_source("a.png")
    with pytest.raises(DataError, match="has no datasets"):
        parse_source("a.npy:/raw")
    assert parse_source("b/a.h5:raw/x").dataset == "/raw/x"


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read_volume(tmp_path / "a.npy")


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 2), np.complex64))
    with pytest.raises(DataError, match="holds complex64"):
        read_volume(tmp_path / "a.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_located(tmp_path: Path, bad: float) -> None:
    image = np.zeros((2, 3, 4), np.float32)
    image[1, 2, 3] = image[1, 0, 2] = bad
    np.save(tmp_path / "a.npy", image)
    with pytest.raises(DataError, match=rf"is {bad} at \(1, 0, 2\) \(z, y, x\), the first of 2 values"):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(3,), (1, 1, 2, 2, 2), (0, 4, 4)])
def test_wrong_axes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(DataError, match="has shape"):
        read_image(tmp_path / "a.npy")


def test_labels_must_fit_the_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    np.testing.assert_array_equal(read_label(tmp_path / "a.npy", (1, 3, 5, 7)), VOLUME)
    with pytest.raises(ShapeError, match=r"size \(3, 5, 7\).*image has \(3, 5, 8\)"):
        read_label(tmp_path / "a.npy", (1, 3, 5, 8))


@pytest.mark.parametrize("name", NAMES)
def test_existing_files_are_kept_without_leave(tmp_path: Path, name: str) -> None:
    write_volume(tmp_path / name, VOLUME)
    with pytest.raises(OutputExistsError, match=r"exists\. Choose another name, or give --overwrite"):
        write_volume(tmp_path / name, VOLUME + 1)
    with pytest.raises(OutputExistsError):
        check_destination(tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name), VOLUME)
    write_volume(tmp_path / name, VOLUME + 1, overwrite=True)
    np.testing.assert_array_equal(read_volume(tmp_path / name), VOLUME + 1)
    assert len(list(tmp_path.iterdir())) == 1


def test_overwriting_a_dataset_keeps_its_neighbours(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.h5:/raw", VOLUME)
    write_volume(tmp_path / "a.h5:/prediction", VOLUME + 1, overwrite=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.h5:/raw"), VOLUME)


def test_zarr_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_zarr(name: str, *rest: object, **more: object) -> object:
        if name == "zarr":
            raise ImportError(name)
        return real(name, *rest, **more)

    (tmp_path / "a.zarr").mkdir()
    monkeypatch.setattr(builtins, "__import__", without_zarr)
    with pytest.raises(MissingExtraError, match=r"znn-dask\[zarr\]"):
        read_volume(tmp_path / "a.zarr")
    with pytest.raises(MissingExtraError, match=r"znn-dask\[zarr\]"):
        check_destination(tmp_path / "b.zarr")


def test_a_tiff_of_different_images_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for shape in ((4, 5), (8, 9)):
            file.write(np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=r"different shapes: \[\(4, 5\), \(8, 9\)\]"):
        read_volume(tmp_path / "a.tif")
