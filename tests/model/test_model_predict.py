"""Whole volumes: tiled equals whole equals one dense forward pass, whatever the volume is kept in."""

import dask.array
import h5py
import numpy as np
import pytest
import reference_network as plain
from model_cases import DROPPING, FLAT, NET, SIZE, max_filter_branches, new_model

import znn_dask as znn
from znn_dask.model import predict as tiles
from znn_dask.net import Convolution, Edge, Network

pytestmark = pytest.mark.timeout(60)

STRIDES = Network.parse("CMTCT", width=3, kernel=2, window=(2, 3, 3), stride=(1, 2, 3), out_channels=2, transfer="tanh")
NETS = {
    "3d": (NET, (9, 11, 12)),
    "2d stack": (FLAT, (4, 13, 12)),
    "strides": (STRIDES, (7, 9, 10)),
    "branches": (max_filter_branches(), (7, 8, 9)),
}
BORDERS = ["mirror", "constant", None]


def volume_of(net, size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((next(iter(net.inputs.values())), *size)).astype(np.float32)


def dense(net, parameters, volume, border):
    """Pad by numpy and compute everything at once in float64."""
    if border is not None:
        margins = [((f - 1) // 2, f - 1 - (f - 1) // 2) for f in net.field_of_view]
        volume = np.pad(volume, [(0, 0), *margins], mode="reflect" if border == "mirror" else "constant")
    inputs = {next(iter(net.inputs)): volume[np.newaxis]}
    return plain.run(net, parameters, inputs).outputs["output"][0]


def assert_close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def in_tiles(monkeypatch, n_bytes):
    monkeypatch.setattr(tiles, "MEMORY", n_bytes)
    monkeypatch.setattr(tiles, "SMALLEST", 2)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("name", NETS)
def test_tiled_is_whole_is_padded_and_dense(monkeypatch, name, border):
    net, size = NETS[name]
    volume = volume_of(net, size)
    with new_model(net, 2) as model:
        expected = dense(net, model.parameters, volume, border)
        calls = []
        whole = model.predict(volume, border=border, progress=lambda *call: calls.append(call))
        assert calls == [(0, 1), (1, 1)]
        assert type(whole) is np.ndarray
        assert whole.dtype == np.float32
        assert_close(whole, expected)
        for n_bytes in (5_000, 1):
            in_tiles(monkeypatch, n_bytes)
            calls.clear()
            tiled = model.predict(volume, border=border, progress=lambda *call: calls.append(call))
            assert len(calls) > 3
            assert calls == [(n, len(calls) - 1) for n in range(len(calls))]
            assert_close(tiled, expected)


@pytest.mark.parametrize("border", BORDERS)
def test_volumes_of_awkward_sizes(monkeypatch, border):
    """Thinner than a patch, as thin as can be, longer than a tile by one."""
    least = NET.field_of_view if border is None else tuple(f - (f - 1) // 2 for f in NET.field_of_view)
    with new_model() as model:
        for size in (least, (least[0], 17, least[2] + 1), (least[0] + 5, least[1], 19)):
            volume = volume_of(NET, size)
            expected = dense(NET, model.parameters, volume, border)
            assert_close(model.predict(volume, border=border), expected)
            with monkeypatch.context() as patched:
                in_tiles(patched, 30_000)
                assert_close(model.predict(volume, border=border), expected)


def test_a_volume_may_be_a_single_voxel_in_zeros():
    with new_model() as model:
        volume = np.ones((1, 1, 1, 1), np.float32)
        assert_close(model.predict(volume, border="constant"), dense(NET, model.parameters, volume, "constant"))


def test_predict_is_forward():
    with new_model() as model:
        volume = volume_of(NET, NET.input_size(SIZE))
        assert_close(model.predict(volume, border=None), model.forward(volume))
        model.step(volume, np.zeros((3, *SIZE), np.float32))
        assert_close(model.predict(volume, border=None), model.forward(volume))


@pytest.mark.parametrize("kind", [np.uint8, np.float64, np.int16, bool])
def test_volumes_of_any_numbers(kind):
    with new_model() as model:
        volume = (50 * np.abs(volume_of(NET, (8, 9, 10)))).astype(kind)
        expected = model.predict(volume.astype(np.float32))
        np.testing.assert_array_equal(model.predict(volume), expected)
        np.testing.assert_array_equal(model.predict(volume[0]), expected)
        np.testing.assert_array_equal(model.predict(volume[0].tolist()), expected)


# --- other arrays ---


def test_a_dask_array_gives_a_dask_array(monkeypatch):
    volume = volume_of(NET, (9, 10, 11))
    with new_model() as model:
        in_tiles(monkeypatch, 40_000)
        expected = model.predict(volume)
        for chunks in ((1, 4, 4, 4), (1, 9, 10, 11), (1, 2, 10, 3)):
            found = model.predict(dask.array.from_array(volume, chunks=chunks))
            assert isinstance(found, dask.array.Array)
            assert found.shape == expected.shape
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found.compute(), expected)
        np.testing.assert_array_equal(model.predict(dask.array.from_array(volume[0], chunks=5)).compute(), expected)


def test_hdf5_in_and_out(monkeypatch, tmp_path):
    volume = volume_of(NET, (9, 10, 11))
    with new_model() as model, h5py.File(tmp_path / "volume.h5", "w") as file:
        in_tiles(monkeypatch, 40_000)
        expected = model.predict(volume)
        file["four"], file["three"] = volume, volume[0]
        out = file.create_dataset("out", expected.shape, "f4", chunks=(1, 4, 4, 4))
        for name in ("four", "three"):
            np.testing.assert_array_equal(model.predict(file[name]), expected)
            out[...] = 0
            assert model.predict(file[name], out=out) is out
            np.testing.assert_array_equal(out[...], expected)


def test_zarr_in_and_out(monkeypatch):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    volume = volume_of(NET, (9, 10, 11))
    with new_model() as model:
        in_tiles(monkeypatch, 40_000)
        expected = model.predict(volume)
        source = zarr.array(volume, chunks=(1, 4, 4, 4))
        out = zarr.zeros(expected.shape, chunks=(1, 5, 5, 5), dtype="f4")
        assert model.predict(source, out=out) is out
        np.testing.assert_array_equal(out[...], expected)


def test_out_may_be_a_view_of_other_numbers():
    volume = volume_of(NET, (9, 10, 11))
    with new_model() as model:
        expected = model.predict(volume)
        room = np.zeros((9, 10, 11, 3), np.float64)
        out = np.moveaxis(room, -1, 0)
        assert model.predict(volume, out=out) is out
        np.testing.assert_array_equal(out, expected)


class Watched:
    """An array that notes how much of it is read."""

    def __init__(self, array):
        self.array, self.shape, self.read = array, array.shape, []

    def __getitem__(self, where):
        part = self.array[where]
        self.read.append(part.shape)
        return part


@pytest.mark.parametrize("border", BORDERS)
def test_each_tile_reads_its_own_region_only(monkeypatch, border):
    volume = volume_of(NET, (40, 9, 9))
    watched = Watched(volume)
    with new_model() as model:
        in_tiles(monkeypatch, 30_000)
        found = model.predict(watched, border=border)
        assert_close(found, dense(NET, model.parameters, volume, border))
    assert len(watched.read) >= 2
    longest = -(-40 // 2) + NET.field_of_view[0] - 1  # the volume was halved at least once
    assert max(shape[1] for shape in watched.read) <= longest


# --- several inputs and outputs ---


def two_inputs():
    return Network(
        {"a": 1, "b": 1, "output": 2},
        [Edge("ca", "a", "output", Convolution((3, 3, 3))), Edge("cb", "b", "output", Convolution((1, 5, 5)))],
    )


@pytest.mark.parametrize("border", BORDERS)
def test_inputs_of_different_field_of_view_stay_aligned(border):
    """A voxel is predicted from what lies around it, in every input."""
    net, volume, rng = two_inputs(), volume_of(NET, (8, 9, 10)), np.random.default_rng(0)
    small, large = rng.standard_normal((2, 1, 3, 3, 3)), rng.standard_normal((2, 1, 1, 5, 5))
    with new_model(net, 3) as model:
        for kept, name, view in ((small, "a", (3, 3, 3)), (large, "b", (1, 5, 5))):
            alone = Network({"input": 1, "output": 2}, [Edge("c", "input", "output", Convolution(view))])
            kernels = {"ca/kernel": 0 * small, "cb/kernel": 0 * large, f"c{name}/kernel": kept}
            model.load_parameters(kernels)
            found = model.predict({"a": volume, "b": volume}, border=border)
            expected = dense(alone, {"c/kernel": kept}, volume, "constant" if border is None else border)
            if border is None:
                expected = expected[:, 1:-1, 2:-2, 2:-2]
            assert_close(found, expected)


def test_several_outputs_come_by_name():
    net = Network(
        {"input": 1, "one": 1, "two": 2},
        [Edge("c1", "input", "one", Convolution((2, 2, 2))), Edge("c2", "input", "two", Convolution((2, 2, 2)))],
    )
    volume = volume_of(net, (6, 7, 8))
    with new_model(net, 3) as model:
        found = model.predict(volume)
        assert {name: array.shape for name, array in found.items()} == {"one": (1, 6, 7, 8), "two": (2, 6, 7, 8)}
        out = {name: np.zeros_like(array) for name, array in found.items()}
        assert model.predict({"input": volume}, out=out) is not None
        for name, array in found.items():
            np.testing.assert_array_equal(out[name], array)
        with pytest.raises(znn.ParameterError, match="outputs must be given for one, two, got one"):
            model.predict(volume, out={"one": out["one"]})


# --- what does not fit ---


@pytest.mark.parametrize(
    ("volume", "options", "error", "words"),
    [
        (np.zeros((9, 9, 9)), {"border": "wrap"}, znn.ParameterError, "border must be 'mirror', 'constant' or None"),
        (np.zeros((9, 9)), {}, znn.ShapeError, r"must have shape \(1, z, y, x\) or \(z, y, x\), got \(9, 9\)"),
        (np.zeros((2, 9, 9, 9)), {}, znn.ShapeError, r"must have shape \(1, z, y, x\)"),
        (np.zeros((1, 1, 9, 9, 9)), {}, znn.ShapeError, r"must have shape \(1, z, y, x\)"),
        (np.zeros((9, 9, 5)), {"border": None}, znn.ShapeError, r"the volume has \(9, 9, 5\) voxels .* at least \(6"),
        (np.zeros((9, 9, 3)), {}, znn.ShapeError, r"the volume has \(9, 9, 3\) voxels .* to be mirrored"),
        (np.zeros((0, 9, 9)), {}, znn.ShapeError, "the volume has"),
        (np.zeros((0, 9, 9)), {"border": "constant"}, znn.ZnnError, "at least 1|the volume has"),
        (np.zeros((9, 9, 9)), {"out": np.zeros((3, 9, 9, 8))}, znn.ShapeError, r"out for 'output' must have shape"),
        (np.zeros((9, 9, 9)), {"out": np.zeros((9, 9, 9))}, znn.ShapeError, r"out for 'output' must have shape"),
        ({"image": np.zeros((9, 9, 9))}, {}, znn.ParameterError, "inputs must be given for input, got image"),
        (np.full((9, 9, 9), "a"), {}, znn.ZnnError, "numbers"),
    ],
)
def test_volumes_that_do_not_fit(volume, options, error, words):
    with new_model() as model, pytest.raises(error, match=words):
        model.predict(volume, **options)


def test_pooling_nets_cannot_predict_volumes():
    net = Network.parse("CTPC", width=3, kernel=2)
    with new_model(net, 2) as model, pytest.raises(znn.ParameterError, match="max-pooling: use max-filters"):
        model.predict(np.zeros((9, 9, 9)))


def test_progress_may_stop_it():
    def stop(done, total):
        raise KeyboardInterrupt

    with new_model(DROPPING, 3) as model:
        before = model.predict(np.ones((7, 7, 7)))
        with pytest.raises(KeyboardInterrupt):
            model.predict(np.ones((7, 7, 7)), progress=stop)
        np.testing.assert_array_equal(model.predict(np.ones((7, 7, 7))), before)
