"""Files of PyTorch: modules of torch.export, state dicts, ONNX; `znn-dask convert`; files from strangers."""

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from exchange_zoo import LARGE, SMALL  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from parity import by_name, random_parameters, random_sample  # noqa: E402

import znn_dask as znn  # noqa: E402
from znn_dask.cli import main  # noqa: E402
from znn_dask.exchange import read_pt2, read_state, to_module, write_onnx, write_pt2, write_state  # noqa: E402
from znn_dask.net import Network  # noqa: E402

pytestmark = pytest.mark.timeout(200)
NET = Network.parse("CTMCTDC", width=3, kernel=2, out_channels=2, transfer=["tanh(1.5,0.5)", "relu"])
SIZE = (2, 3, 4)
PARAMETERS = random_parameters(NET, np.random.default_rng(0))
INPUTS = {name: NET.node_sizes(SIZE)[name] for name in NET.inputs}


@pytest.fixture(scope="module")
def pt2(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    write_pt2(NET, PARAMETERS, path, INPUTS)
    return path.read_bytes()


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], values) for name, values in other.items())


def test_a_module_of_torch_export(pt2, tmp_path):
    (tmp_path / "a.pt2").write_bytes(pt2)
    found = read_pt2(tmp_path / "a.pt2")
    assert same(found.parameters, PARAMETERS)
    assert found.output_size == {"output": SIZE}
    module = torch.export.load(tmp_path / "a.pt2").module()
    x = torch.randn(1, 1, *INPUTS["input"])
    torch.testing.assert_close(module(x), to_module(found.net, found.parameters)(x))


def test_a_state_dict(tmp_path):
    write_state(NET, PARAMETERS, tmp_path / "a.pt")
    assert same(read_state(tmp_path / "a.pt", NET), PARAMETERS)
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert list(state)[:2] == ["conv1.weight", "transfer1.bias"]
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": values for key, values in state.items()}}, tmp_path / "b.pt"
    )
    assert same(read_state(tmp_path / "b.pt", NET), PARAMETERS)
    for change, words in (
        (lambda s: s.pop("conv2.weight"), "a.pt: there is no 'conv2.weight' for parameter 'conv2/kernel'"),
        (lambda s: s.update({"conv2.weight": torch.zeros(3, 3, 1, 2, 2)}), "has shape .*needs"),
        (lambda s: s.update({"more": torch.zeros(1)}), "nothing for 'more'"),
    ):
        changed = dict(state)
        change(changed)
        torch.save(changed, tmp_path / "a.pt")
        with pytest.raises(znn.ParameterError, match=words):
            read_state(tmp_path / "a.pt", NET)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_state_dicts_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Bomb()}, "a.pt")
    Path("b.pt").write_bytes(pickle.dumps(Bomb()))
    Path("c.pt").write_bytes(b"PK nothing")
    for name in ("a.pt", "b.pt", "c.pt"):
        with pytest.raises(znn.CheckpointError, match=f"{name} is damaged, or no state dict") as caught:
            read_state(name, NET)
        assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


def changed(data: bytes, part: str, change) -> bytes:
    """Return an archive with a part replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith(part) else content)
    return out.getvalue()


def with_json(change):
    def changed_json(content):
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return changed_json


WEIGHTS, MODEL = "model_weights_config.json", "models/model.json"
DAMAGE = [
    (WEIGHTS, with_json(lambda c: c["config"]["conv1.weight"].update(use_pickle=True)), "'conv1.weight' is pickled"),
    (WEIGHTS, with_json(lambda c: c["config"]["conv1.weight"]["tensor_meta"].update(dtype=9)), "dtype 9"),
    (
        WEIGHTS,
        with_json(lambda c: c["config"]["conv1.weight"]["tensor_meta"]["sizes"].__setitem__(0, {"as_int": 2**40})),
        "larger than what is stored",
    ),
    (
        WEIGHTS,
        with_json(lambda c: c["config"]["conv1.weight"]["tensor_meta"]["strides"].__setitem__(0, {"as_int": 2**40})),
        "larger than what is stored",
    ),
    (
        WEIGHTS,
        with_json(lambda c: c["config"]["conv1.weight"]["tensor_meta"]["strides"].__setitem__(0, {"as_int": -8})),
        "whole numbers",
    ),
    (WEIGHTS, with_json(lambda c: c["config"].pop("conv1.weight")), "'conv1.weight' is missing"),
    (MODEL, with_json(lambda d: d["schema_version"].update(major=99)), "version 99"),
    (MODEL, with_json(lambda d: d["graph_module"]["graph"].pop("nodes")), "damaged"),
    (MODEL, lambda content: b"[" * 100_000, "damaged"),
    (
        MODEL,
        with_json(lambda d: d["graph_module"]["graph"]["nodes"][0].update(target="torch.ops.evil.run")),
        "'evil.run', which is not known",
    ),
]


@pytest.mark.parametrize(("part", "change", "words"), DAMAGE)
def test_damaged_modules_are_one_error(pt2, tmp_path, part, change, words):
    (tmp_path / "bad.pt2").write_bytes(changed(pt2, part, change))
    with pytest.raises((znn.CheckpointError, znn.NetworkError), match=words) as caught:
        read_pt2(tmp_path / "bad.pt2")
    assert "bad.pt2" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_mutated_modules_give_a_network_or_one_error(pt2, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("mutated") / "a.pt2"
    content = bytearray(pt2)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        told = str(read_pt2(path).net)
    except znn.ZnnError as error:
        told = str(error)
    assert "a.pt2" in told or "edge " in told


def test_reading_modules_needs_no_pytorch(pt2, tmp_path, monkeypatch):
    (tmp_path / "a.pt2").write_bytes(pt2)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert read_pt2(tmp_path / "a.pt2").net.n_parameters == NET.n_parameters
    with pytest.raises(znn.MissingExtraError, match=r"pip install 'znn-dask\[torch\]'"):
        to_module(NET, PARAMETERS)


def test_onnx_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(znn.MissingExtraError, match=r"pip install 'znn-dask\[onnx\]'"):
        write_onnx(NET, PARAMETERS, tmp_path / "a.onnx", INPUTS)


ONNX = {"chain": (lambda: NET, SIZE), **SMALL, **LARGE}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in ONNX])
def test_onnx_runs_elsewhere(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    make, size = ONNX[name]
    net = make()
    rng = np.random.default_rng(3)
    parameters, (images, _) = random_parameters(net, rng), random_sample(net, size, rng, batch=3)
    write_onnx(net, parameters, tmp_path / "a.onnx", {name: image.shape[2:] for name, image in images.items()})
    module = to_module(net, parameters)
    given_ = {name: image[:, :, 0] if module.ndim == 2 else image for name, image in images.items()}
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    assert [each.name for each in session.get_inputs()] == list(net.inputs)
    outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, given_), strict=True))
    with torch.no_grad():
        expected = by_name(net, module(*map(torch.tensor, given_.values())))
    assert list(outputs) == list(expected)
    for key, values in outputs.items():
        np.testing.assert_allclose(values, expected[key].numpy(), atol=1e-4, rtol=1e-4)


def run(*arguments) -> int:
    return main(["convert", *map(str, arguments)])


def test_convert_goes_both_ways(tmp_path, capsys):
    model, text = tmp_path / "model.safetensors", tmp_path / "net.znn"
    NET.save(text)
    with znn.Model(NET, SIZE, num_workers=1, tune=False) as made:
        made.load_parameters(PARAMETERS)
        made.save(model)
    assert run(model, tmp_path / "a.pt") == run(model, tmp_path / "a.pt2") == run(model, tmp_path / "a.onnx") == 0
    assert run(tmp_path / "a.pt", tmp_path / "b.safetensors", "--net", text, "--output-size", "2,3,4") == 0
    assert run(tmp_path / "a.pt2", tmp_path / "c.safetensors", "--loss", "softmax") == 0
    assert run(tmp_path / "a.pt2", tmp_path / "c.znn") == 0
    for name in "bc":
        with znn.Model.load(tmp_path / f"{name}.safetensors", num_workers=1) as again:
            assert same(again.parameters, PARAMETERS)
            assert again.output_size == SIZE
            assert again.loss == {"b": "square", "c": "softmax"}[name]
    assert Network.load(tmp_path / "c.znn").field_of_view == NET.field_of_view
    capsys.readouterr()
    for arguments, words in (
        ((tmp_path / "a.pt", tmp_path / "d.safetensors"), "give --net"),
        ((tmp_path / "a.pt", tmp_path / "d.safetensors", "--net", text), "give --output-size"),
        ((model, tmp_path / "d.pt", "--net", text), "--net goes with"),
        ((tmp_path / "a.onnx", tmp_path / "d.safetensors"), "cannot become a model of ours"),
        ((text, tmp_path / "d.pt2"), "cannot become a module of torch.export"),
    ):
        assert run(*arguments) == 2
        assert words in capsys.readouterr().err
