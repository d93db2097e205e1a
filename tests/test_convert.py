"""`znn-dask convert` from end to end, and predictions of parts of a volume."""

from pathlib import Path

import numpy as np
import pytest

import znn_dask as znn
from znn_dask.cli import main
from znn_dask.commands.convert import CONVERSIONS, KINDS, NAMES
from znn_dask.io.znn_hdf5 import ZnnFile, read_znn, write_znn

pytestmark = pytest.mark.timeout(100)

NET = znn.Network.parse(
    "CTMCT", width=3, kernel=[(1, 3, 2), (1, 2, 2)], ndim=2, out_channels=2, transfer=["relu", "linear"]
)
RANDOM = np.random.default_rng(0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    with znn.Model(NET, 4, num_workers=1, loss="softmax", tune=False) as made:
        made.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def convert(*arguments: object) -> None:
    assert main(["convert", *map(str, arguments)]) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert "Traceback" not in err + out
    return err


def test_weights_survive_both_ways(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "net.h5")
    convert(tmp_path / "net.h5", tmp_path / "again.safetensors", "--output-size", "1,6,6")
    with znn.Model.load(model) as one, znn.Model.load(tmp_path / "again.safetensors") as other:
        assert other.net == NET
        assert other.loss == "softmax"
        assert other.output_size == (1, 6, 6)
        assert all(np.array_equal(one.parameters[n], other.parameters[n]) for n in NET.parameters)


@pytest.mark.parametrize("source", ["model.safetensors", "net.h5", "net.znn", "config.yaml"])
def test_everything_has_a_text_form(model: Path, tmp_path: Path, source: str) -> None:
    convert(model, tmp_path / "net.h5")
    NET.save(tmp_path / "net.znn")
    (tmp_path / "config.yaml").write_text(f"network:\n  file: {tmp_path / 'net.znn'}\n")
    convert(tmp_path / source, tmp_path / "out.znn")
    assert znn.Network.load(tmp_path / "out.znn") == NET


def test_networks_of_the_zoo_have_names(tmp_path: Path) -> None:
    convert("n4", tmp_path / "n4.znn")
    assert znn.Network.load(tmp_path / "n4.znn") == znn.zoo.n4()


def test_learning_curves(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(model, tmp_path / "net.h5")
    assert "a second file with them is named by --curves" in refused(
        capsys, "convert", tmp_path / "net.h5", tmp_path / "curve.csv"
    )
    file = read_znn(tmp_path / "net.h5")
    write_znn(tmp_path / "net.h5", ZnnFile(file.groups, {"train/it": np.arange(3), "train/err": np.ones(3)}))
    convert(tmp_path / "net.h5", tmp_path / "curve.csv")
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == 4


def test_what_cannot_be_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    NET.save(tmp_path / "net.znn")
    assert "has no weights; znn-dask train makes a model" in refused(
        capsys, "convert", tmp_path / "net.znn", tmp_path / "m.h5"
    )
    assert "OUT 'a.pickle' has the ending '.pickle'; known are .znn" in refused(capsys, "convert", model, "a.pickle")
    assert "cannot become the configuration" in refused(capsys, "convert", model, tmp_path / "c.yaml")
    assert "exists" in refused(capsys, "convert", model, tmp_path / "net.znn")
    assert "--curves goes with" in refused(capsys, "convert", model, tmp_path / "a.h5", "--curves", "x.h5")
    assert "no model file" in refused(capsys, "convert", tmp_path / "absent.h5", tmp_path / "a.safetensors")
    convert(model, tmp_path / "net.znn", "--overwrite")


def test_warnings_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = NET.to_text().replace("type conv\n", "type conv\neta 0.1\n", 1)
    (tmp_path / "net.znn").write_text(text)
    convert(tmp_path / "net.znn", tmp_path / "out.znn")
    assert "warning: training options are no part of a network" in capsys.readouterr().err


def test_every_kind_has_a_name() -> None:
    assert {kind for pair in CONVERSIONS for kind in pair} <= set(NAMES)
    assert set(KINDS.values()) <= set(NAMES)


@pytest.mark.parametrize("border", ["mirror", "constant"])
@pytest.mark.parametrize("region", ["1:2", ":,0:1,0:1", "0:2,3:9,5:12", ":,8:,10:", "2:"])
def test_a_region_is_the_part_of_the_whole(
    model: Path, tmp_path: Path, border: str, region: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "image.npy", RANDOM.standard_normal((3, 9, 12)).astype(np.float32))
    arguments = ["predict", str(model), str(tmp_path / "image.npy")]
    options = ["--preprocess", "standard2D", "--border", border, "--quiet"]
    assert main([*arguments, str(tmp_path / "whole.npy"), *options]) == 0
    assert main([*arguments, str(tmp_path / "part.npy"), *options, "--region", region]) == 0
    box = tuple(slice(*(int(n) if n else None for n in part.split(":"))) for part in region.split(","))
    np.save(tmp_path / "label.npy", RANDOM.integers(0, 2, (3, 9, 12)))
    reports = []
    for name in ("whole", "part"):
        assert main(["evaluate", str(tmp_path / f"{name}.npy"), str(tmp_path / "label.npy"), "--region", region]) == 0
        reports.append(capsys.readouterr().out.partition("pixel error")[2])
    assert reports[0] == reports[1] != ""
    whole = np.load(tmp_path / "whole.npy")[(slice(None), *box)]
    np.testing.assert_allclose(np.load(tmp_path / "part.npy"), whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(0), 1, atol=1e-6)


def test_predicting_with_a_network_of_the_old_form(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(model, tmp_path / "net.h5")
    np.save(tmp_path / "image.npy", RANDOM.standard_normal((1, 9, 12)).astype(np.float32))
    arguments = ["predict", tmp_path / "net.h5", tmp_path / "image.npy"]
    assert "give --preprocess as pp_types in ZNN's .spec" in refused(capsys, *arguments, tmp_path / "a.npy")
    for name, more in (("a", []), ("b", ["--loss", "square"])):
        command = [*arguments, tmp_path / f"{name}.npy", "--preprocess", "none", "--quiet", *more]
        assert main(list(map(str, command))) == 0
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(a, np.exp(b) / np.exp(b).sum(0), rtol=1e-5)
