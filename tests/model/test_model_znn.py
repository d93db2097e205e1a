"""Networks that ZNN trained: what their groups mean, exact round trips, and complaints that name the group."""

import warnings

import numpy as np
import pytest
import reference_network as plain

import znn_dask as znn
from znn_dask.io.checkpoint import read_checkpoint, write_checkpoint
from znn_dask.io.znn_hdf5 import ZnnFile, read_znn, write_znn
from znn_dask.model.znn_file import compose, interpret
from znn_dask.net import Crop, Identity

pytestmark = pytest.mark.timeout(100)

RANDOM = np.random.default_rng(1)
ETA = "1.827902e-06"


def node(name, kind, maps, **keys):
    return {"name": name, "group_type": "node", "type": kind, "size": np.array([maps]), **keys}


def edge(name, kind, source, target, **keys):
    return {"name": name, "group_type": "edge", "type": kind, "input": source, "output": target, **keys}


def learning(key, shape, eta=ETA):
    values, moved = (RANDOM.standard_normal(shape).astype(np.float32) for _ in range(2))
    rates = {"eta": eta, "momentum": "0.899999976", "weight_decay": "0"}
    return {**rates, key: values, "momentum_vol": 1e-5 * moved}


def groups():
    """A network as ZNN writes it: alphabetical, sizes as integers, the rest as text."""
    flat = np.array([1, 2, 2])
    conv = {"stride": np.array([1, 1, 1]), "init": "uniform", "init_args": "0.05", "fft": "1"}
    found = {
        "conv1": edge("conv1", "conv", "input", "nconv1", size=flat, **conv, **learning("filters", (1, 3, 1, 2, 2))),
        "convx": edge(
            "convx", "conv", "ndrop", "output", size=np.array([1, 3, 2]), **conv, **learning("filters", (3, 2, 1, 3, 2))
        ),
        "drop": edge("drop", "dropout", "npool", "ndrop", ratio="0.8"),
        "input": node("input", "input", 1),
        "nconv1": node(
            "nconv1",
            "transfer",
            3,
            function="tanh",
            function_args="1.7159,0.6666",
            **learning("biases", (3,)),
        ),
        "ndrop": node("ndrop", "sum", 3),
        "npool": node("npool", "sum", 3),
        "output": node("output", "transfer", 2, function="linear", **learning("biases", (2,))),
        "pool": edge("pool", "max_filter", "nconv1", "npool", size=flat, stride=flat),
    }
    return dict(sorted(found.items()))


CURVES = {
    "train/it": np.array([0, 100, 200], np.int64),
    "train/err": np.array([0.7, 0.5, 0.25]),
    "train/cls": np.array([0.5, 0.25, 0.125]),
    "test/it": np.array([200], np.int64),
    "test/err": np.array([0.3]),
    "test/cls": np.array([0.2]),
}


def equal(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def same_file(one, other):
    """Whether two files hold the same groups, keys, values and types."""
    if one.nested != other.nested or list(one.groups) != list(other.groups):
        return False
    pairs = [(one.groups[name], other.groups[name]) for name in one.groups] + [(one.statistics, other.statistics)]
    return all(a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a) for a, b in pairs)


@pytest.fixture(params=[False, True], ids=["root", "nested"])
def file(request, tmp_path):
    """The path of a file, at its root or as in ZNN's later files, and what it holds."""
    found = ZnnFile(groups(), CURVES, request.param)
    write_znn(tmp_path / "net.h5", found)
    return tmp_path / "net.h5", found


def test_a_file_comes_back_as_it_was(file):
    path, found = file
    assert same_file(read_znn(path), found)


def test_a_model_of_it_is_written_as_it_was(file, tmp_path):
    path, found = file
    with znn.Model.load(path, output_size=(1, 4, 4), num_workers=1) as model:
        model.save(tmp_path / "again.h5")
        model.save(tmp_path / "ours.safetensors")
    assert same_file(read_znn(tmp_path / "again.h5"), found)
    with znn.Model.load(tmp_path / "ours.safetensors", num_workers=1) as ours:
        ours.save(tmp_path / "back.h5")
    assert same_file(read_znn(tmp_path / "back.h5"), found)


def test_what_it_computes_is_true_convolution(file):
    """Filters are (in, out, z, y, x) and reflected: compared with numpy's own convolution."""
    path, found = file
    x = RANDOM.standard_normal((9, 10)).astype(np.float32)
    with znn.Model.load(path, output_size=(1, 2, 2), num_workers=1) as model:
        assert model.loss == "softmax"
        kernel = found.groups["conv1"]["filters"][0, 1, 0]
        hidden = sum(
            kernel[a, b] * x[1 - a : 9 - a, 1 - b : 10 - b].astype(np.float64) for a in range(2) for b in range(2)
        )
        bias = found.groups["nconv1"]["biases"][1]
        np.testing.assert_allclose(model.parameters["conv1/kernel"][1, 0, 0], kernel[::-1, ::-1])
        # The whole network, with kernels turned, by the plain reference.
        expected = plain.run(model.net, model.parameters, {"input": x[None, None, None]})
        np.testing.assert_allclose(model.predict(x[None], border=None), expected.outputs["output"][0], atol=1e-5)
        # And the first layer, by hand.
        kernels, biases = model.parameters["conv1/kernel"], model.parameters["nconv1/bias"]
    layer = znn.Network.parse("CT", ndim=2, kernel=2, out_channels=3, transfer="tanh(1.7159, 0.6666)")
    first = plain.run(layer, {"conv1/kernel": kernels, "transfer1/bias": biases}, {"input": x[None, None, None]})
    by_hand = 1.7159 * np.tanh(0.6666 * (hidden + bias))
    np.testing.assert_allclose(first.outputs["output"][0, 1, 0], by_hand, atol=1e-5)


def test_training_goes_on_with_momentum(file):
    """One step is what ZNN would do: m = momentum*m - eta*g, w += m."""
    path, found = file
    groups = {name: dict(keys) for name, keys in found.groups.items()}
    groups["drop"]["ratio"] = "1"
    write_znn(path, ZnnFile(groups, CURVES, found.nested))
    with znn.Model.load(path, output_size=(1, 4, 4), num_workers=1) as model:
        assert model.step_count == 200
        assert model.optimizer == znn.SGD(1.827902e-06, 0.899999976, 0.0)
        x = RANDOM.standard_normal(model.input_size).astype(np.float32)
        target = RANDOM.integers(0, 2, (1, 4, 4))
        _, gradient = model.gradients(x, target)
        model.step(x, target)
        moved = model.parameters
    for group, name in (("conv1", "conv1/kernel"), ("output", "output/bias")):
        keys = found.groups[group]
        old = keys["filters"] if "filters" in keys else keys["biases"]
        g = gradient[name]
        if g.ndim == 5:
            g = g.swapaxes(0, 1)[:, :, ::-1, ::-1, ::-1]
        momentum = 0.899999976 * keys["momentum_vol"].astype(np.float64) - 1.827902e-06 * g
        new = moved[name].swapaxes(0, 1)[:, :, ::-1, ::-1, ::-1] if moved[name].ndim == 5 else moved[name]
        np.testing.assert_allclose(new, old + momentum, rtol=1e-6, atol=1e-7)
        assert np.abs(momentum).max() > 1e-6, "nothing that could be seen moves"


def test_a_trained_model_is_written_as_it_is_now(file, tmp_path):
    path, found = file
    with znn.Model.load(path, output_size=(1, 4, 4), num_workers=1) as model:
        model.learning_rate = 0.02
        x = RANDOM.standard_normal(model.input_size).astype(np.float32)
        model.step(x, np.zeros((1, 4, 4), int))
        model.save(tmp_path / "new.h5")
        model.save(tmp_path / "new.safetensors")
        parameters = model.parameters
    again = read_znn(tmp_path / "new.h5")
    assert again.groups["conv1"]["eta"] == "0.02"
    assert again.groups["conv1"]["fft"] == "1"
    assert not np.array_equal(again.groups["conv1"]["momentum_vol"], found.groups["conv1"]["momentum_vol"])
    with znn.Model.load(tmp_path / "new.h5", num_workers=1) as model:
        assert model.learning_rate == 0.02
        assert all(np.array_equal(model.parameters[name], parameters[name]) for name in parameters)
    with znn.Model.load(tmp_path / "new.safetensors", num_workers=1) as model:
        model.save(tmp_path / "newer.h5")
    assert same_file(read_znn(tmp_path / "newer.h5"), again)


@pytest.mark.parametrize(
    "net", [znn.Network.parse("CTMDCTC", width=3, kernel=2), znn.zoo.vd2d3d()], ids=["ours", "zoo"]
)
def test_networks_of_ours_can_be_written(tmp_path, net):
    optimizer = znn.SGD(0.03, 0.8, 1e-4)
    with znn.Model(net, (1, 1, 1), optimizer=optimizer, num_workers=1, tune=False) as model:
        model.save(tmp_path / "ours.h5")
        with znn.Model.load(tmp_path / "ours.h5", num_workers=1) as again:
            assert again.net == net
            assert again.optimizer == optimizer
            assert again.loss == ("softmax" if net.outputs["output"] > 1 else "square")
            assert all(np.array_equal(model.parameters[n], again.parameters[n]) for n in net.parameters)


def test_crop_maxout_and_dummy_come_back_as_they_were(tmp_path):
    filters = learning("filters", (1, 2, 1, 3, 3))
    found = {
        "a": node("a", "input", 1),
        "b": node("b", "sum", 2),
        "conv": edge("conv", "conv", "a", "b", size=np.array([1, 3, 3]), stride=np.array([1, 1, 1]), **filters),
        "crop": edge("crop", "crop", "b", "c", offset=np.array([0, 1, 2])),
        "c": node("c", "sum", 2),
        "d": node("d", "maxout", 2),
        "one": edge("one", "maxout", "c", "d"),
        "two": edge("two", "dummy", "c", "d"),
        "out": node("out", "transfer", 2, function="linear", **learning("biases", (2,))),
        "three": edge("three", "dummy", "d", "out"),
    }
    write_znn(tmp_path / "net.h5", ZnnFile(dict(sorted(found.items())), CURVES))
    file = read_znn(tmp_path / "net.h5")
    meaning = interpret(file, "net.h5")
    assert [meaning.net.edges[name].op for name in ("crop", "one", "two")] == [Crop((0, 1, 2)), Identity(), Identity()]
    assert meaning.net.nodes["d"].join == "max"
    assert meaning.net.input_size(1) == (1, 5, 7)
    velocities = meaning.velocities
    assert same_file(compose(meaning.net, meaning.parameters, velocities, meaning.optimizer, meaning.origin), file)
    ours = compose(meaning.net, meaning.parameters, velocities, meaning.optimizer)
    assert interpret(ours, "ours.h5").net == meaning.net
    assert ours.groups["crop"]["offset"].tolist() == [0, 1, 2]


def test_what_a_normalisation_learns_has_no_place():
    net = znn.zoo.unet3d(widths=(2, 4), norm="batch")
    with pytest.raises(znn.NetworkError, match=r"no place for what normalisation 'norm1' learns .*\.safetensors"):
        compose(net, {}, {}, znn.SGD())


def test_rates_that_differ_are_told(file):
    path, found = file
    found.groups["nconv1"]["eta"] = "0.5"
    with pytest.warns(UserWarning, match=r"net\.h5: eta is 1\.8279e-06 for the whole model; nconv1 had another"):
        interpret(found, path)


def test_another_loss(file):
    path, _ = file
    with znn.Model.load(path, num_workers=1, loss="logistic") as model:
        assert model.loss == "logistic"
    with pytest.raises(znn.ParameterError, match="loss must be one of"):
        znn.Model.load(path, loss="sqare")


DAMAGE = {
    "filters missing": (lambda g: g["conv1"].pop("filters"), r"group 'conv1' needs filters, an array of shape \(1, 3"),
    "biases of another shape": (
        lambda g: g["output"].update(biases=np.zeros(3, np.float32)),
        r"group 'output': biases has shape \(3,\); its keys say \(2,\)",
    ),
    "momentum of another shape": (
        lambda g: g["conv1"].update(momentum_vol=np.zeros(2, np.float32)),
        "group 'conv1': momentum_vol has shape",
    ),
    "filters where nothing learns": (
        lambda g: g["pool"].update(filters=np.zeros(2, np.float32)),
        "group 'pool' has filters, but 'max_filter' learns nothing",
    ),
    "unknown key": (lambda g: g["conv1"].update(wibble="1"), "group 'conv1': unknown key 'wibble'"),
    "unknown type": (lambda g: g["conv1"].update(type="convolve"), "group 'conv1': unknown type 'convolve'"),
    "no end": (lambda g: g["conv1"].pop("input"), "group 'conv1': edges 'conv1' needs the key 'input'"),
    "dangling": (lambda g: g["conv1"].update(output="x"), "group 'conv1': output of edges 'conv1' is node 'x', which"),
    "neither node nor edge": (lambda g: g["conv1"].update(group_type="x"), "it must be node or edge"),
    "two of one name": (lambda g: g["npool"].update(name="ndrop"), "groups 'ndrop' and 'npool' are both nodes 'ndrop'"),
    "maps that differ": (
        lambda g: g["npool"].update(size=np.array([4])),
        "group 'drop': edge 'drop' .* keeps the number",
    ),
    "rate": (lambda g: g["conv1"].update(eta="fast"), "group 'conv1': eta must be a number, got 'fast'"),
    "momentum above 1": (
        lambda g: [g[name].update(momentum="1.5") for name in ("conv1", "convx", "nconv1", "output")],
        "momentum must be below 1",
    ),
    "size of many numbers": (lambda g: g["conv1"].update(size=np.zeros((3, 3))), "group 'conv1': size has shape"),
    "eta of zero": (
        lambda g: [g[name].update(eta="0") for name in ("conv1", "convx", "nconv1", "output")],
        "momentum_vol is not zero although eta is 0",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_cannot_be_is_named(tmp_path, kind):
    change, message = DAMAGE[kind]
    found = groups()
    change(found)
    write_znn(tmp_path / "net.h5", ZnnFile(found))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(znn.CheckpointError, match=rf"net\.h5: .*{message}") as caught:
            znn.Model.load(tmp_path / "net.h5")
    assert "\n" not in str(caught.value)


def test_an_origin_that_was_tampered_with_is_refused(file, tmp_path):
    path, _ = file
    with znn.Model.load(path, num_workers=1) as model:
        model.save(tmp_path / "m.safetensors")
    tensors, metadata = read_checkpoint(tmp_path / "m.safetensors")
    for text in ("nonsense", "[1]", metadata["znn"].replace("nconv1", "elsewhere"), '{"groups": "[[]]"}'):
        write_checkpoint(tmp_path / "m.safetensors", tensors, metadata | {"znn": text})
        with pytest.raises(znn.CheckpointError, match=r"m\.safetensors is damaged"):
            znn.Model.load(tmp_path / "m.safetensors")
