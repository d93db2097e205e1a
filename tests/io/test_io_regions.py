"""Volumes are read by region: every format gives what numpy would, and names what is wrong with it."""

import json
from pathlib import Path

import fsspec
import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from znn_dask.errors import DataError, OutputExistsError, ShapeError
from znn_dask.io.source import parse_source
from znn_dask.io.volumes import open_image, open_label, open_volume
from znn_dask.io.writing import check_destination, write_volume

VOLUME = np.random.default_rng(0).integers(0, 60000, (5, 37, 53)).astype(np.uint16)
REGIONS = [
    (slice(1, 3), slice(5, 30), slice(7, 50)),
    (slice(0, 5), slice(36, 37), slice(0, 1)),
    (2, slice(None), slice(3, 40, 4)),
    (Ellipsis, 5),
    (slice(1, 1),),
]


def write_tiff(path: Path, **options: object) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(VOLUME, photometric="minisblack", **options)


def make(folder: Path, kind: str) -> str:
    path = folder / f"a.{kind.split('-')[0]}"
    if kind in ("npy", "zarr", "tif"):
        write_volume(path, VOLUME)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("deep/stack", data=VOLUME, chunks=(2, 8, 8), compression="lzf")
        return f"{path}:deep/stack"
    elif kind == "tif-tiles":
        write_tiff(path := folder / "a.tif", tile=(16, 32), compression="zlib")
    elif kind == "tif-strips":
        write_tiff(path := folder / "a.tif", rowsperstrip=10, compression="lzw", predictor=True)
    elif kind == "tif-big-endian":
        tifffile.imwrite(path := folder / "a.tif", VOLUME, byteorder=">", photometric="minisblack")
    elif kind == "tif-pages":
        with tifffile.TiffWriter(path := folder / "a.tif") as file:
            for section in VOLUME:
                file.write(section, contiguous=False)
    elif kind == "sections":
        (path := folder / "sections").mkdir()
        for number, section in enumerate(VOLUME):
            (path / f"z{2 * number + 7}.png").write_bytes(imagecodecs.png_encode(section))
        (path / "notes.txt").write_text("not a section")
    elif kind == "sections-pattern":
        for number, section in enumerate(VOLUME):
            tifffile.imwrite(folder / f"z{2 * number + 7}.tif", section)
        return str(folder / "z*.tif")
    elif kind.startswith("zarr-"):
        array = zarr.open_group(path := folder / "a.zarr", mode="w", zarr_format=int(kind[-1])).create_array(
            "raw", shape=VOLUME.shape, chunks=(2, 16, 16), dtype=VOLUME.dtype
        )
        array[...] = VOLUME
        return f"{path}/raw"
    return str(path)


KINDS = ["npy", "tif", "tif-tiles", "tif-strips", "tif-big-endian", "tif-pages", "sections", "sections-pattern"]


@pytest.mark.parametrize("kind", [*KINDS, "h5", "zarr", "zarr-2", "zarr-3"])
def test_regions_are_those_of_the_whole(tmp_path: Path, kind: str) -> None:
    volume = open_volume(make(tmp_path, kind))
    assert volume.shape == VOLUME.shape
    assert volume.dtype == VOLUME.dtype
    for region in REGIONS:
        np.testing.assert_array_equal(volume[region], VOLUME[region])
    with pytest.raises(ShapeError, match="there is no 5 on an axis of 5"):
        volume[5]
    with pytest.raises(ShapeError, match="positive step"):
        volume[::-1]
    volume.close()


@pytest.mark.parametrize("kind", ["tif-tiles", "h5"])
def test_only_what_is_asked_for_is_read(tmp_path: Path, kind: str) -> None:
    """The rest may be damaged."""
    name = make(tmp_path, kind)
    path = tmp_path / ("a.tif" if kind.startswith("tif") else "a.h5")
    content = bytearray(path.read_bytes())
    if kind.startswith("tif"):
        with tifffile.TiffFile(path) as file:
            place, count = file.pages[4].dataoffsets[-1], file.pages[4].databytecounts[-1]
    else:
        with h5py.File(path) as file:
            info = file["deep/stack"].id.get_chunk_info(file["deep/stack"].id.get_num_chunks() - 1)
            place, count = info.byte_offset, info.size
    content[place : place + count] = b"\xff" * count
    path.write_bytes(content)
    volume = open_volume(name)
    np.testing.assert_array_equal(volume[0:2, 0:8, 0:8], VOLUME[0:2, 0:8, 0:8])
    with pytest.raises(DataError, match=r"cannot be read as (tiff|hdf5)"):
        volume[4, 30:, 48:]
    volume.close()


def test_channels_of_tiff_come_first(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 255, (4, 9, 11, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb", compression="zlib")
    tifffile.imwrite(tmp_path / "one.tif", colours[0], photometric="rgb")
    hyper = colours.transpose(0, 3, 1, 2)
    tifffile.imwrite(tmp_path / "hyper.tif", hyper, imagej=True, metadata={"axes": "ZCYX"})
    expected = colours.transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(open_image(tmp_path / "rgb.tif")[:, 1:3, 2:5], expected[:, 1:3, 2:5])
    np.testing.assert_array_equal(open_image(tmp_path / "one.tif")[...], expected[:, :1])
    np.testing.assert_array_equal(open_image(tmp_path / "hyper.tif")[1:, 2], expected[1:, 2])


def ome(path: Path, axes: str, shape: tuple[int, ...], version: int = 2) -> np.ndarray:
    values = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for level, factor in enumerate((1, 2)):
        data = values[tuple(slice(None, None, factor) for _ in shape)]
        group.create_array(f"s{level}", shape=data.shape, chunks=data.shape, dtype=data.dtype)[...] = data
    scales = {"axes": [{"name": a} for a in axes], "datasets": [{"path": "s0"}, {"path": "s1"}]}
    group.attrs.update({"multiscales": [scales]} if version == 2 else {"ome": {"multiscales": [scales]}})
    return values


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(("axes", "shape"), [("tczyx", (1, 2, 3, 4, 5)), ("zyx", (3, 4, 5)), ("tyx", (1, 4, 5))])
def test_ome_zarr_gives_its_finest_level(tmp_path: Path, version: int, axes: str, shape: tuple[int, ...]) -> None:
    values = ome(tmp_path / "a.zarr", axes, shape, version)
    for name in ("a.zarr", "a.zarr/s0", "a.zarr:/s0"):
        image = open_image(tmp_path / name)
        np.testing.assert_array_equal(
            image[...], values.reshape((1,) * (4 - len(shape)) + shape)[-2:].reshape(image.shape)
        )
    coarse = open_image(tmp_path / "a.zarr/s1")
    assert coarse.shape[-1] == 3


def test_ome_zarr_that_is_no_volume(tmp_path: Path) -> None:
    ome(tmp_path / "times.zarr", "tzyx", (2, 3, 4, 5))
    with pytest.raises(DataError, match=r"has 2 points of time \(axis t\)"):
        open_volume(tmp_path / "times.zarr")
    ome(tmp_path / "odd.zarr", "qyx", (2, 3, 4))
    with pytest.raises(DataError, match="has the axes q, y, x; they must be of t, c, z, y, x"):
        open_volume(tmp_path / "odd.zarr")
    (tmp_path / "odd.zarr" / ".zattrs").write_text(json.dumps({"multiscales": [{"axes": ["z"], "datasets": []}]}))
    with pytest.raises(DataError, match=r"holds 2 datasets; name one"):
        open_volume(tmp_path / "odd.zarr")


def test_named_axes_are_put_in_order(tmp_path: Path) -> None:
    turned = zarr.create_array(
        tmp_path / "a.zarr", shape=VOLUME.shape[::-1], dtype=VOLUME.dtype, dimension_names=("x", "y", "z")
    )
    turned[...] = VOLUME.T
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr")[1:3, 2:9], VOLUME[1:3, 2:9])


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.h5:/volume", "a.zarr"])
def test_remote_volumes(tmp_path: Path, name: str) -> None:
    write_volume(tmp_path / name, VOLUME)
    local, _, dataset = name.partition(":")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / local), f"/remote/{local}", recursive=True)
    try:
        url = f"memory://remote/{local}" + (f":{dataset}" if dataset else "")
        assert str(parse_source(url)) == url
        volume = open_volume(url)
        np.testing.assert_array_equal(volume[1:4, 3:20, 5:], VOLUME[1:4, 3:20, 5:])
        volume.close()
        with pytest.raises(DataError, match=r"memory://remote/absent"):
            open_volume(f"memory://remote/absent{local[1:]}")
        with pytest.raises(DataError, match="cannot be written"):
            check_destination(url)
    finally:
        memory.rm("/remote", recursive=True)


@pytest.mark.parametrize("name", ["predicted", "a.png", "a.npy:/raw"])
def test_a_name_that_cannot_be_written_says_which_can(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} cannot be written: give .* ending in \.npy, \.tif, \.h5 or \.zarr$"):
        check_destination(tmp_path / name)


def test_sections_must_be_alike(tmp_path: Path) -> None:
    for number, shape in enumerate([(4, 5), (4, 6)]):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.zeros(shape, np.uint8))
    volume = open_volume(tmp_path)
    with pytest.raises(DataError, match=r"1\.tif is \(4, 6\) uint8, but 0\.tif is \(4, 5\) uint8"):
        volume[1]
    with pytest.raises(DataError, match="holds no sections"):
        open_volume(str(tmp_path / "q*.png"))
    with pytest.raises((DataError, OutputExistsError), match="cannot be written"):
        check_destination(tmp_path)


def test_values_that_are_not_finite_are_found_where_they_are_read(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 6), np.float32)
    values[2, 3, 4] = np.nan
    np.save(tmp_path / "a.npy", values)
    image, label = open_image(tmp_path / "a.npy"), open_label(tmp_path / "a.npy")
    assert not image[:, :2].any()
    for volume, where in ((image, (0, slice(1, 3), slice(2, 5))), (label, (slice(1, 3), slice(2, 5)))):
        with pytest.raises(DataError, match=r"is nan at \(2, 3, 4\) \(z, y, x\), the first of 1 values"):
            volume[where]
