"""`Model.predict`: a volume patch by patch is what the network computes on the whole volume, plainly."""

import dask.array
import numpy as np
import pytest
import reference_network as plain

import znn_dask as znn
from znn_dask.model import predict
from znn_dask.net import Convolution, Edge, MaxFilter, Network, Transfer

pytestmark = pytest.mark.timeout(60)

NET = Network.parse("CTMCTMC", width=3, kernel=2, window=[(1, 2, 2), (2, 2, 3)], out_channels=2)
RNG = np.random.default_rng(0)
PARAMETERS = plain.random_parameters(NET, RNG)
VOLUME = RNG.standard_normal((17, 23, 30)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    with znn.Model(NET, (4, 6, 5), num_workers=2) as model:
        model.load_parameters(PARAMETERS)
        yield model


@pytest.fixture
def small_patches(monkeypatch):
    """So little memory that the volume takes many patches."""
    monkeypatch.setattr(predict, "MEMORY", 1 << 16)


def expected(volume, border):
    """The whole volume at once, in float64, padded by numpy."""
    margin = [n - 1 for n in NET.field_of_view]
    before = [m // 2 for m in margin]
    padding = [(b, m - b) for b, m in zip(before, margin, strict=True)]
    padded = volume
    if border is not None:
        padded = np.pad(volume, padding, mode={"mirror": "reflect", "constant": "constant"}[border])
    return plain.run(NET, PARAMETERS, {"input": padded[np.newaxis, np.newaxis]}).outputs["output"][0]


@pytest.mark.parametrize("border", ["mirror", "constant", None])
def test_patches_together_are_the_whole(model, border, small_patches):
    counts = []
    found = model.predict(VOLUME, border=border, progress=lambda done, total: counts.append((done, total)))
    assert counts[-1][0] == counts[-1][1] > 1, "one patch would test nothing"
    assert [done for done, _ in counts] == list(range(len(counts)))
    np.testing.assert_allclose(found, expected(VOLUME, border), atol=2e-5)


@pytest.mark.parametrize("size", [(7, 8, 9), (9, 7, 30)])
def test_volumes_smaller_than_the_field_of_view(model, size):
    volume = VOLUME[tuple(map(slice, size))]
    np.testing.assert_allclose(model.predict(volume), expected(volume, "mirror"), atol=2e-5)
    assert np.isfinite(model.predict(volume[:1, :1, :1], border="constant")).all()


def test_too_small_volumes_are_refused(model):
    with pytest.raises(znn.ShapeError, match=r"the volume has \(1, 1, 1\) voxels .* mirrored"):
        model.predict(VOLUME[:1, :1, :1])
    with pytest.raises(znn.ShapeError, match="its field of view"):
        model.predict(VOLUME[:4, :4, :4], border=None)
    with pytest.raises(znn.ParameterError, match="border must be 'mirror', 'constant' or None, got 'reflect'"):
        model.predict(VOLUME, border="reflect")
    with pytest.raises(znn.ShapeError, match=r"must have shape \(1, z, y, x\) or \(z, y, x\)"):
        model.predict(np.stack([VOLUME, VOLUME]))


def test_dask_in_dask_out(model, small_patches):
    lazy = dask.array.from_array(VOLUME, chunks=(8, 10, 12))
    found = model.predict(lazy)
    assert isinstance(found, dask.array.Array)
    np.testing.assert_array_equal(found.compute(), model.predict(VOLUME))


def test_a_given_array_is_filled(model):
    out = np.full((2, *VOLUME.shape), np.nan, np.float32)
    assert model.predict(VOLUME, out=out) is out
    np.testing.assert_array_equal(out, model.predict(VOLUME))
    with pytest.raises(znn.ShapeError, match="out for 'output' must have shape"):
        model.predict(VOLUME, out=out[:1])


class Counted:
    """An array on a slow disk: counts the voxels that are read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = array, array.shape, array.dtype, 0

    def __getitem__(self, where):
        part = self.array[where]
        self.largest = max(self.largest, part.size)
        return part


def test_a_patch_reads_what_it_sees_and_no_more(model, small_patches):
    totals = []
    volume = Counted(np.tile(VOLUME, (1, 2, 3)))
    model.predict(volume, progress=lambda _, total: totals.append(total))
    assert totals[-1] > 8
    assert volume.largest < volume.array.size / 4


def test_pooling_is_refused():
    net = Network.parse("CP", width=1, kernel=1)
    with znn.Model(net, 2, num_workers=1) as model, pytest.raises(znn.ParameterError, match="max-pooling"):
        model.predict(VOLUME)


def test_several_inputs_and_outputs(small_patches):
    net = Network(
        {"one": 1, "two": 2, "a": 2, "b": 2, "first": 2, "second": 1},
        [
            Edge("c1", "one", "a", Convolution((1, 3, 3))),
            Edge("c2", "two", "a", Convolution((1, 3, 3))),
            Edge("m", "a", "b", MaxFilter((1, 2, 2), (1, 2, 2))),
            Edge("t", "b", "first", Transfer("tanh")),
            Edge("c3", "b", "second", Convolution((1, 1, 1))),
        ],
    )
    parameters = plain.random_parameters(net, RNG)
    volumes = {"one": VOLUME[np.newaxis], "two": np.stack([VOLUME, 2 * VOLUME])}
    with znn.Model(net, (2, 6, 6), num_workers=2) as model:
        model.load_parameters(parameters)
        found = model.predict(volumes, border=None)
    outputs = plain.run(net, parameters, {name: v[np.newaxis] for name, v in volumes.items()}).outputs
    assert list(found) == ["first", "second"]
    for name, array in found.items():
        np.testing.assert_allclose(array, outputs[name][0], atol=2e-5)


def test_inputs_of_different_fields_of_view_are_centred():
    net = Network(
        {"wide": 1, "narrow": 1, "output": 1},
        [
            Edge("c1", "wide", "output", Convolution((3, 3, 3))),
            Edge("c2", "narrow", "output", Convolution((1, 1, 1))),
        ],
    )
    parameters = {"c1/kernel": np.zeros((1, 1, 3, 3, 3)), "c2/kernel": np.ones((1, 1, 1, 1, 1))}
    with znn.Model(net, (4, 4, 4), num_workers=1) as model:
        model.load_parameters(parameters)
        found = model.predict({"wide": VOLUME, "narrow": VOLUME})
    np.testing.assert_allclose(found[0], VOLUME, atol=1e-5)
