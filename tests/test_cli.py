"""The commands from end to end: what they write, what they say, and how they refuse bad input."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from skimage.io import imread

from znn_dask.cli import COMMANDS, main
from znn_dask.commands import predict as predict_module
from znn_dask.infer.metrics import components
from znn_dask.io.checkpoint import read_checkpoint, write_checkpoint
from znn_dask.io.volumes import read_volume
from znn_dask.io.writing import write_volume
from znn_dask.model import Model
from znn_dask.net import Network
from znn_dask.train.preprocess import preprocess
from znn_dask.train.run import MODEL

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with volumes, a configuration and a trained model in ``run``."""
    folder = tmp_path_factory.mktemp("cli")
    random = np.random.default_rng(0)
    label = np.kron(random.integers(0, 2, (4, 6, 7)), np.ones((1, 5, 5), int)).astype(np.uint8)
    np.save(folder / "image.npy", (label + 0.5 * random.standard_normal(label.shape)).astype(np.float32))
    np.save(folder / "label.npy", label)
    raw = {
        "network": {"letters": "CTMCTC", "ndim": 2, "width": 4, "init": ["he", "he", "gaussian(0, 0.1)"]},
        "training": {"output_size": 8, "updates": 120, "learning_rate": 0.05},
        "data": {"preprocess": "section", "train": [{"z": [0, 3]}], "test": [{"z": [3, 4]}]},
        "log": {"every": 20, "test_every": 40, "test_patches": 4},
        "compute": {"workers": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    assert main(training(folder, folder / "run")) == 0
    return folder


def training(folder: Path, out: Path, *more: str) -> list[str]:
    files = [f"data.image={folder / 'image.npy'}", f"data.label={folder / 'label.npy'}"]
    return ["train", str(folder / "config.yaml"), *files, *more, "--out", str(out), "--quiet"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("znn-dask: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err + out
    return err


def test_training_leaves_model_curve_pictures_and_figures(trained: Path) -> None:
    run = trained / "run"
    assert {p.name for p in run.iterdir()} == {
        "model.safetensors",
        "best.safetensors",
        "checkpoints",
        "report.html",
        "learning_curve.csv",
        "learning_curve.png",
        "prediction.png",
        "metrics.json",
        "config.yaml",
    }
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["updates"] == 120
    assert figures["error"] < figures["majority_error"]
    assert figures["error_over_majority"] == pytest.approx(figures["error"] / figures["majority_error"])
    for name in ("learning_curve.png", "prediction.png"):
        assert imread(run / name).std() > 10, "a picture, not one colour"


def test_training_again_says_it_is_done(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "run" / MODEL).read_bytes()
    assert main(training(trained, trained / "run")) == 0
    assert "continuing after update 120 of 120" in capsys.readouterr().out
    assert (trained / "run" / MODEL).read_bytes() == before


def test_models_saved_by_hand_need_the_preprocessing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Model.load(trained / "run" / MODEL) as model:
        model.save(tmp_path / "m.safetensors")
    arguments = ["predict", str(tmp_path / "m.safetensors"), str(trained / "image.npy"), str(tmp_path / "p.npy")]
    assert "To predict with it, give --preprocess" in refused(capsys, *arguments)
    assert main([*arguments, "--preprocess", "section", "--quiet"]) == 0
    assert main(["predict", str(trained / "run" / MODEL), arguments[2], str(tmp_path / "q.npy"), "--quiet"]) == 0
    assert np.array_equal(np.load(tmp_path / "p.npy"), np.load(tmp_path / "q.npy"))


def test_the_demo_spares_other_runs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {str(p): p.read_bytes() for p in (trained / "run").rglob("*") if p.is_file()}
    assert "holds another run" in refused(capsys, "demo", "--out", trained / "run")
    assert {str(p): p.read_bytes() for p in (trained / "run").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.h5:/boundary", "a.zarr"])
def test_predictions_have_the_size_of_the_image(trained: Path, tmp_path: Path, name: str) -> None:
    model = trained / "run" / MODEL
    assert main(["predict", str(model), str(trained / "image.npy"), str(tmp_path / name), "--quiet"]) == 0
    got = read_volume(tmp_path / name)
    image = np.load(trained / "image.npy")
    assert got.shape == image.shape
    assert got.dtype == np.float32
    with Model.load(model) as loaded:
        output = loaded.predict(preprocess(image[None], "section"))[0]
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-output.astype(np.float64))), rtol=1e-4, atol=1e-6)


def test_without_a_border_the_output_is_smaller(trained: Path, tmp_path: Path) -> None:
    arguments = ["predict", trained / "run" / MODEL, trained / "image.npy", tmp_path / "a.npy", "--border", "none"]
    assert main([*map(str, arguments), "--workers", "2", "--quiet"]) == 0
    with Model.load(trained / "run" / MODEL) as model:
        view = model.net.field_of_view
    expected = tuple(n - v + 1 for n, v in zip((4, 30, 35), view, strict=True))
    assert np.load(tmp_path / "a.npy").shape == expected


def test_evaluate_prints_and_counts(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", str(trained / "run" / MODEL), str(trained / "image.npy"), str(tmp_path / "p.tif"), "--quiet"])
    capsys.readouterr()
    arguments = ["evaluate", str(tmp_path / "p.tif"), str(trained / "label.npy"), "--region", "3:4"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    truth = np.load(trained / "label.npy")[3:4]
    error = np.mean((read_volume(tmp_path / "p.tif")[3:4] > 0.5) != (truth > 0))
    found, metrics = report["pixels"]["error"], json.loads((trained / "run/metrics.json").read_text())
    assert (found, metrics["error"]) == (pytest.approx(error), pytest.approx(error, abs=0.05))
    assert report["voxels"] == 30 * 35
    assert report["segments"]["cells"] == components(truth).max(), "objects, as in training"
    assert main([*arguments, "--segments", "none", "--json"]) == 0
    assert "segments" not in json.loads(capsys.readouterr().out)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert re.search(rf"pixel error +{error:.4f}  at threshold 0.5", text)
    assert "majority's error" in text


def test_evaluate_against_cell_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = np.zeros((3, 10, 22), np.int32)
    ids[:, :, :7], ids[:, :, 8:15], ids[:, :, 16:] = 5, 9, 3
    np.save(tmp_path / "ids.npy", ids)
    padded = np.pad(ids, 1, mode="edge")
    touching = (ids == 0) | (padded[1:-1, 1:-1, :-2] != ids) | (padded[1:-1, 1:-1, 2:] != ids)
    np.save(tmp_path / "p.npy", touching.astype(np.float32))
    assert main(["evaluate", str(tmp_path / "p.npy"), str(tmp_path / "ids.npy"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["label"] == "cell ids"
    assert report["pixels"]["error"] == 0
    assert report["segments"]["rand_error"] == pytest.approx(0)
    assert report["segments"]["voi_split"] + report["segments"]["voi_merge"] == pytest.approx(0)
    assert report["best_segments"]["cells"] == 3
    assert main(["evaluate", str(tmp_path / "p.npy"), str(tmp_path / "ids.npy")]) == 0
    text = capsys.readouterr().out
    assert "adapted Rand error" in text
    assert "split 0.0000, merge 0.0000" in text
    assert main(["evaluate", str(tmp_path / "p.npy"), str(tmp_path / "ids.npy"), "--binary", "--invert", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pixels"]["recall"] == 1
    assert report["pixels"]["precision"] == pytest.approx((ids == 0).mean() / touching.mean())


def test_show(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Network.parse("CTMCT", width=[7], kernel=3)
    net.save(tmp_path / "a.znn")
    shown = []
    for arguments in (
        ["CTMCT", "--width", "7", "--output-size", "4"],
        [str(tmp_path / "a.znn"), "--output-size", "4,4,4"],
    ):
        assert main(["show", *arguments]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == net.table((4, 4, 4)) + "\n"
    assert main(["show", str(trained / "run" / MODEL)]) == 0
    assert "max_filter1" in capsys.readouterr().out
    assert main(["show", "n4"]) == 0
    assert "1x95x95" in capsys.readouterr().out


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_command_has_help_with_an_example(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*([command] if command else []), "--help"]) == 0
    out = capsys.readouterr().out
    assert f"znn-dask {command or ''}".strip() in out.split("Example:")[1]


# ---- bad input


def test_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such command 'trian'" in refused(capsys, "trian")
    assert "Missing argument 'CONFIG.yaml'" in refused(capsys, "train")
    assert "Missing argument 'SOURCE'" in refused(capsys, "predict", "a")
    assert "No such option" in refused(capsys, "demo", "--sed", "1")
    assert "'zero' is not a valid integer" in refused(capsys, "demo", "--seed", "zero")


def test_bad_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown letter 'X'" in refused(capsys, "show", "CTX")
    assert "there is no file 'missing'" in refused(capsys, "show", "missing")
    assert "cannot read the network file" in refused(capsys, "show", "missing.znn")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.image={0}/absent.npy", r"there is no file .*absent\.npy"),
        ("data.image={0}/volume.h5:/stak", r"has no dataset '/stak'; it has /stack\. Did you mean '/stack'"),
        ("data.image={0}/other.npy", r"label\.npy has size \(4, 30, 35\) .*, but its image has \(4, 30, 34\)"),
        ("data.image={0}/nan.npy", r"nan\.npy is nan at \(2, 3, 4\) \(z, y, x\)"),
        ("data.train.0.y=[0,5]", "less than the network's field of view"),
        ("training.lerning_rate=1", r"unknown key 'training\.lerning_rate'\. Did you mean 'learning_rate'"),
        ("training.output_size=[1, 50, 8]", "no output patch of"),
        ("network.kernel=[3,3]", "kernel"),
        ("compute.convolution=fast", "fast"),
        ("network.transfer=rel", "rel"),
    ],
)
def test_bad_input_of_train(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    image = np.load(trained / "image.npy")
    write_volume(tmp_path / "volume.h5:/stack", image)
    np.save(tmp_path / "other.npy", image[:, :, :-1])
    image[2, 3, 4] = np.nan
    np.save(tmp_path / "nan.npy", image)
    err = refused(capsys, *training(trained, tmp_path / "run", override.format(tmp_path)))
    assert re.search(message, err)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_network(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {str(p): p.read_bytes() for p in (trained / "run").rglob("*") if p.is_file()}
    err = refused(capsys, *training(trained, trained / "run", "network.width=5"))
    assert "belongs to another run: network.width is 4 there and 5 here" in err
    assert {str(p): p.read_bytes() for p in (trained / "run").rglob("*") if p.is_file()} == before


def test_bad_input_of_predict(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, image, out = trained / "run" / MODEL, trained / "image.npy", tmp_path / "p.npy"
    assert "there is no model file" in refused(capsys, "predict", tmp_path / "no.safetensors", image, out)
    assert "damaged or no model" in refused(capsys, "predict", image, image, out)
    assert "there is no file" in refused(capsys, "predict", model, tmp_path / "absent.tif", out)
    assert "give the name of a local file ending in .npy" in refused(
        capsys, "predict", model, image, tmp_path / "p.jpg"
    )
    np.save(tmp_path / "small.npy", np.zeros((4, 3, 30), np.float32))
    assert "less than the network's field of view" in refused(capsys, "predict", model, tmp_path / "small.npy", out)
    np.save(tmp_path / "two.npy", np.zeros((2, 4, 30, 30), np.float32))
    assert "has 2 channels, but the network reads 1" in refused(capsys, "predict", model, tmp_path / "two.npy", out)
    write_checkpoint(tmp_path / "foreign.safetensors", {"a": np.ones(1, np.float32)}, {"format": "other"})
    assert "was not made by" in refused(capsys, "predict", tmp_path / "foreign.safetensors", image, out)
    assert not out.exists()


def test_outputs_that_exist_are_kept(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.npy"
    out.write_bytes(b"mine")
    arguments = ["predict", trained / "run" / MODEL, trained / "image.npy", out]
    with monkeypatch.context() as patch:
        patch.setattr(predict_module, "Model", None)  # it is refused before any work
        assert f"{out} exists. Choose another name, or give --overwrite" in refused(capsys, *arguments)
    assert out.read_bytes() == b"mine"
    assert main([*map(str, arguments), "--overwrite", "--quiet"]) == 0
    assert np.load(out).shape == (4, 30, 35)


def test_a_diverged_model_writes_nothing(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, metadata = read_checkpoint(trained / "run" / MODEL)
    tensors["parameters/conv3/kernel"][:] = np.nan
    write_checkpoint(tmp_path / "bad.safetensors", tensors, metadata)
    err = refused(capsys, "predict", tmp_path / "bad.safetensors", trained / "image.npy", tmp_path / "p.npy", "--quiet")
    assert "gives values that are not finite" in err
    assert not (tmp_path / "p.npy").exists()


def test_bad_input_of_evaluate(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = trained / "label.npy"
    np.save(tmp_path / "p.npy", np.zeros((4, 30, 34), np.float32))
    assert "(4, 30, 34) (z, y, x), but" in refused(capsys, "evaluate", tmp_path / "p.npy", label)
    np.save(tmp_path / "p.npy", np.zeros((4, 30, 35), np.float32))
    for region, message in (
        ("0:9", "0 to 9 along z"),
        ("1", "must be FROM:TO"),
        ("::,:", "must be"),
        (":,:,:,:", "4 parts"),
    ):
        assert message in refused(capsys, "evaluate", tmp_path / "p.npy", label, "--region", region)
    assert "--channel 3 is none" in refused(capsys, "evaluate", tmp_path / "p.npy", label, "--channel", "3")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="there is no model file"):
        main(["predict", "absent.safetensors", "a.npy", "b.npy", "--debug"])


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict_module, "check_destination", interrupted)
    assert main(["predict", "a", "b", "c.npy"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    err = refused(capsys, *training(trained, tmp_path / "file" / "run"))
    assert str(tmp_path / "file") in err


def test_the_module_is_the_program() -> None:
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "znn_dask", "show", "CTX"], capture_output=True, text=True, timeout=100, env=os.environ
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_the_demo_keeps_its_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--quiet"]) == 0
    figures = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert figures["error_over_majority"] <= 1 / 3
    assert figures["error_over_smoothed_threshold"] <= 0.7
    assert "prediction.png" in capsys.readouterr().out


def test_a_short_demo_writes_everything_and_repeats(tmp_path: Path) -> None:
    figures = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        assert main(["demo", "--out", str(out), "--updates", "4", "--workers", workers, "--quiet"]) == 0
        found = json.loads((out / "metrics.json").read_text())
        assert {"learning_curve.png", "prediction.png", "metrics.json", "model.safetensors"} <= {
            p.name for p in out.iterdir()
        }
        figures.append({k: v for k, v in found.items() if k != "seconds"})
    assert figures[0] == figures[1]


# --- tune ---

TUNED = ["tune", "CTC", "--width", "40", "--kernel", "5", "--output-size", "12,12,12", "--quiet"]


def test_tune_prints_candidates_the_choice_and_the_plan(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ZNN_DASK_CACHE_DIR", str(tmp_path))
    assert main(TUNED) == 0
    first = capsys.readouterr().out
    for line in ("conv1: 20x20x20 by 5x5x5, 1 -> 24+16 maps", "conv2: 16x16x16 by 5x5x5, 24+16 -> 1 maps"):
        assert line in first
    for words in ("direct", "fft ", "gradient-spectrum", "transform", "convolutions of a step:", "tasks were measured"):
        assert words in first
    # Every layer's choice is marked for each of its passes.
    for part in first.split("\n\n")[:2]:
        assert part.count("*") >= 2
    assert main(TUNED) == 0
    again = capsys.readouterr().out
    assert "nothing had to be measured" in again
    assert again.splitlines()[:-1] == first.splitlines()[:-1]
    assert main([*TUNED, "--again"]) == 0
    assert "tasks were measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CTC"], "Missing option '--output-size'"),
        (["CTX", "--output-size", "12"], "X"),
        (["CTC", "--output-size", "12,large"], "a size is an integer or 'z,y,x'"),
        (["CTC", "--output-size", "12,12"], "output_size must be"),
        (["nowhere", "--output-size", "12"], "there is no file 'nowhere'"),
    ],
)
def test_tune_refuses(capsys, arguments, words):
    assert words in refused(capsys, "tune", *arguments)
