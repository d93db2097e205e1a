"""`Trainer`: from Python what the command does; callbacks are told in order and may stop a run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_cases import settings, write_config

import znn_dask as znn
from znn_dask.cli import main
from znn_dask.errors import CheckpointError, ConfigError, ParameterError, ShapeError
from znn_dask.io.checkpoint import read_checkpoint
from znn_dask.train import pictures
from znn_dask.train import trainer as trainer_module
from znn_dask.train.config_file import make_config
from znn_dask.train.curve import Row, read_rows
from znn_dask.train.heldout import Segments, validate
from znn_dask.train.loop import Loop
from znn_dask.train.run import BEST, CURVE, METRICS, MODEL, REPORT
from znn_dask.train.samples import Volume
from znn_dask.train.session import segments_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is tested elsewhere, and takes longer than these runs."""
    for draw in ("curve_picture", "prediction_picture"):
        monkeypatch.setattr(pictures, draw, lambda *_: b"picture")
    monkeypatch.setattr(trainer_module, "write_report", lambda run, _: (run.folder / REPORT).write_text("page"))


class Notes(znn.Callback):
    """Notes what it is told."""

    def __init__(self, stop_at: int = -1) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.stop_at = stop_at

    def on_start(self, run: Loop) -> None:
        self.told.append(("start", run.step))

    def on_step(self, run: Loop, loss: float) -> None:
        assert run.model.step_count == run.step
        self.told.append(("step", run.step, loss))
        if run.step == self.stop_at:
            run.stop()

    def on_log(self, run: Loop, row: Row) -> None:
        self.told.append(("log", row.step))

    def on_test(self, run: Loop, row: Row) -> None:
        self.told.append(("test", row.step))

    def on_checkpoint(self, run: Loop, path: Path) -> None:
        assert path.exists()
        self.told.append(("checkpoint", run.step))

    def on_end(self, run: Loop, reason: str) -> None:
        self.told.append(("end", reason))

    def steps(self, what: str) -> list[int]:
        return [told[1] for told in self.told if told[0] == what]


def tensors(path: Path) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in read_checkpoint(path)[0].items()}


def new_model(seed: int = 3) -> znn.Model:
    net = znn.Network.parse("CTMCTC", ndim=2, width=4, kernel=3)
    optimizer = znn.SGD(learning_rate=0.05)
    return znn.Model(net, 8, loss="logistic", optimizer=optimizer, seed=seed, num_workers=1, tune=False)


def sample(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares in noise, as a function of the update."""
    random = np.random.default_rng(step)
    label = np.kron(random.integers(0, 2, (1, 4, 4)), np.ones((1, 5, 5)))[:, :19, :19]
    image = label + 0.5 * random.standard_normal(label.shape)
    margin = (19 - 8) // 2
    return image[None].astype(np.float32), label[None, :, margin : margin + 8, margin : margin + 8]


def test_it_is_what_the_command_does(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert main(["train", str(config), "--quiet", "--out", str(tmp_path / "command")]) == 0
    with znn.Trainer(None, config, folder=tmp_path / "python", progress=False) as trainer:
        result = trainer.run()
    assert {p.name for p in (tmp_path / "command").iterdir()} == {p.name for p in (tmp_path / "python").iterdir()}
    assert {MODEL, BEST, CURVE, METRICS, REPORT} <= set(result.files)
    assert tensors(tmp_path / "command" / MODEL) == tensors(tmp_path / "python" / MODEL)
    assert (result.reason, result.step) == ("updates", 30)
    assert result.held_out is not None
    figures = json.loads((tmp_path / "python" / METRICS).read_text())
    assert figures["rand_error"] == result.held_out.segments.rand_error  # type: ignore[union-attr]
    assert figures["error"] == result.held_out.scores.error == trainer.curve[-1].region_error
    assert f"held-out error {figures['error']:.4f}" in str(result)


def test_callbacks_are_told_in_order(tmp_path: Path) -> None:
    notes = Notes()
    with znn.Trainer(None, settings(tmp_path, 12), folder=tmp_path / "a", callbacks=[notes], progress=False) as trainer:
        trainer.run()
    assert notes.told[0] == ("start", 0)
    assert notes.told[-1] == ("end", "updates")
    assert notes.steps("step") == list(range(1, 13))
    assert notes.steps("log") == [5, 10, 12]
    assert notes.steps("test") == [10, 12]
    assert notes.steps("checkpoint")[-1] == 12
    where = [told[:2] for told in notes.told]
    assert where.index(("step", 10)) < where.index(("log", 10)) < where.index(("test", 10))
    rows = read_rows(tmp_path / "a" / CURVE)
    assert rows[0].loss == pytest.approx(np.mean([told[2] for told in notes.told if told[0] == "step"][:5]))


def test_a_callback_stops_a_run_after_its_update_and_another_call_goes_on(tmp_path: Path) -> None:
    raw = settings(tmp_path, 20)
    with znn.Trainer(None, raw, folder=tmp_path / "a", callbacks=[Notes(stop_at=7)], progress=False) as trainer:
        first = trainer.run()
        assert (first.reason, first.step, trainer.step, trainer.model.step_count) == ("stopped", 7, 7, 7)
        assert first.held_out is not None
        assert trainer.run().step == 20
    with znn.Trainer(None, raw, folder=tmp_path / "b", progress=False) as trainer:
        trainer.run()
    assert tensors(tmp_path / "a" / MODEL) == tensors(tmp_path / "b" / MODEL)


def test_an_exception_in_a_callback_ends_the_run_and_is_told(tmp_path: Path) -> None:
    class Failing(znn.Callback):
        def on_step(self, run: Loop, loss: float) -> None:
            if run.step == 15:
                raise RuntimeError("the callback's own")

    notes = Notes()
    trainer = znn.Trainer(None, settings(tmp_path), folder=tmp_path / "a", callbacks=[Failing(), notes], progress=False)
    with trainer, pytest.raises(RuntimeError, match="the callback's own"):
        trainer.run()
    assert notes.told[-1] == ("end", "failed")
    with znn.Trainer(None, settings(tmp_path), folder=tmp_path / "a", progress=False) as again:
        assert again.step == 10


def test_a_model_and_a_function_of_the_update(tmp_path: Path) -> None:
    with new_model() as model, new_model() as other:
        trainer = znn.Trainer(model, sample, folder=tmp_path / "a", updates=40, progress=False, log={"every": 10})
        result = trainer.run()
        for step in range(40):
            other.step(*sample(step))
        assert result.held_out is None
        assert [row.step for row in trainer.curve] == [10, 20, 30, 40]
        for name, values in model.parameters.items():
            assert np.array_equal(values, other.parameters[name]), name


def test_samples_that_are_given_resume_into_the_given_model(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples = [sample(step) for step in range(7)]
    label = np.kron(random.integers(0, 2, (2, 6, 6)), np.ones((1, 5, 5), int))
    test = [(label + 0.5 * random.standard_normal(label.shape), label)]
    more: dict[str, Any] = {"updates": 30, "test": test, "log": {"test_every": 10, "segments": "foreground"}}
    with new_model() as model:
        whole = znn.Trainer(model, samples, folder=tmp_path / "whole", progress=False, **more).run()
    with new_model() as model:
        notes = Notes(stop_at=13)
        znn.Trainer(model, samples, folder=tmp_path / "parts", callbacks=[notes], progress=False, **more).run()
    with new_model(seed=3) as model:
        trainer = znn.Trainer(model, samples, folder=tmp_path / "parts", progress=False, **more)
        assert trainer.model is model
        assert trainer.step == model.step_count == 13
        parts = trainer.run()
        assert model.step_count == 30
    assert tensors(tmp_path / "whole" / MODEL) == tensors(tmp_path / "parts" / MODEL)
    assert whole.held_out is not None
    assert parts.held_out is not None
    assert whole.held_out.figures() == parts.held_out.figures()
    assert {"rand_error", "voi_split"} <= whole.held_out.figures().keys()


def test_a_trained_model_goes_on_from_where_it_is(tmp_path: Path) -> None:
    with new_model() as model:
        for step in range(5):
            model.step(*sample(step))
        znn.Trainer(model, sample, folder=tmp_path / "a", updates=10, progress=False).run()
        assert model.step_count == 15
        again = znn.Trainer(model, sample, folder=tmp_path / "a", updates=12, progress=False)
        assert again.step == 10
        again.run()
        assert model.step_count == 17


def test_a_model_with_a_configuration_keeps_its_network_and_size(tmp_path: Path) -> None:
    with new_model() as model:
        trainer = znn.Trainer(model, settings(tmp_path, 10), folder=tmp_path / "a", progress=False)
        assert trainer.config.training.output_size == [1, 8, 8]
        trainer.run()
        assert model.step_count == 10
        trainer.close()
        model.step(*sample(0))


def test_a_schedule_decides_the_learning_rate(tmp_path: Path) -> None:
    with new_model() as model:
        trainer = znn.Trainer(
            model,
            sample,
            folder=tmp_path / "a",
            updates=20,
            training={"rate_every": 5},
            log={"every": 5},
            schedule=lambda step: 0.1 / (1 + step),
            progress=False,
        )
        trainer.run()
        assert [row.learning_rate for row in trainer.curve] == [0.1, 0.1 / 6, 0.1 / 11, 0.1 / 16]


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with new_model() as model:
        for arguments, more, error, message in [
            ((model, 5), {}, ParameterError, "samples must be a configuration, a function"),
            ((model, iter([sample(0)])), {}, ParameterError, "Of an iterator a resumed run could not tell"),
            ((model, sample(0)), {}, ParameterError, r"one sample alone is \[\(x, target\)\]"),
            ((model, []), {}, ParameterError, "sequence of these that is not empty"),
            (("net", sample), {}, ParameterError, "model must be a Model"),
            ((None, sample), {}, ParameterError, "samples need a model"),
            ((model, sample), {"callbacks": [print]}, ParameterError, "derive from Callback"),
            ((model, sample), {"updates": 0}, ConfigError, r"training\.updates"),
            ((model, sample), {"log": {"evry": 3}}, ConfigError, r"unknown key 'log\.evry'\. Did you mean 'every'"),
            ((None, settings(tmp_path)), {"test": [(1, 2)]}, ParameterError, "names its own held-out volumes"),
            ((model, sample), {"test": [(np.zeros((3, 9)), 0)]}, ShapeError, "test volume 0: image"),
            ((model, sample), {"test": [(np.zeros((1, 9, 9)), np.full((1, 9, 9), 2))]}, ParameterError, "0 and 1"),
        ]:
            with pytest.raises(error, match=message):
                znn.Trainer(*arguments, folder=tmp_path / "run", **more)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_another_network_is_not_put_into_the_model(tmp_path: Path) -> None:
    with new_model() as model:
        znn.Trainer(model, sample, folder=tmp_path / "a", updates=3, progress=False).run()
        net = znn.Network.parse("CTMCTC", ndim=2, width=5, kernel=3)
        with znn.Model(net, 8, loss="logistic", seed=3, num_workers=1, tune=False) as other:
            other.learning_rate = 0.05
            before = {name: values.tobytes() for name, values in other.parameters.items()}
            with pytest.raises(CheckpointError, match="holds another network"):
                znn.Trainer(other, sample, folder=tmp_path / "a", updates=3)
            assert {name: values.tobytes() for name, values in other.parameters.items()} == before


def test_the_second_ctrl_c_stops_at_once_and_leaves_checkpoint_and_model(tmp_path: Path) -> None:
    started: list[float] = []

    def slow(step: int) -> tuple[np.ndarray, np.ndarray]:
        if step == 12:
            started.append(time.monotonic())
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.2)
            time.sleep(1.0)
        return sample(step)

    notes = Notes()
    handler = signal.getsignal(signal.SIGINT)
    with new_model() as model:
        trainer = znn.Trainer(
            model,
            slow,
            folder=tmp_path / "a",
            updates=10**6,
            callbacks=[notes],
            progress=False,
            log={"checkpoint_every": 5},
        )
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
        assert notes.told[-1] == ("end", "interrupted")
        assert 10 <= model.step_count <= 12
        model.step(*sample(0))
    assert signal.getsignal(signal.SIGINT) is handler
    with new_model() as model:
        assert znn.Trainer(model, sample, folder=tmp_path / "a", updates=10**6).step == 10


@pytest.mark.parametrize(
    ("how", "in_plane", "best"), [("background", False, 0.0), ("foreground", False, 0.0), ("background", True, 0.0)]
)
def test_segments_of_a_perfect_prediction_have_no_error(how: str, in_plane: bool, best: float) -> None:
    """Three cells of 10 by 10 by 10 with a wall of two between them; the prediction is the target."""
    wall = np.zeros((10, 10, 34), np.uint8)
    wall[:, :, [10, 11, 22, 23]] = 1
    target = wall if how == "background" else 1 - wall
    box = (0, 10), (0, 10), (0, 34)

    class Perfect:
        net = znn.Network.parse("C", kernel=1)
        loss = "square"

        def predict(self, image: np.ndarray, border: None) -> np.ndarray:
            return image

    volume = Volume(target[None].astype(np.float32), target, box, box, "perfect")
    found = validate(Perfect(), [volume, volume], Segments(how, in_plane)).segments  # type: ignore[arg-type]
    assert found is not None
    assert (found.rand_error, found.voi_split, found.voi_merge) == pytest.approx((best, 0, 0))
    assert found.cells == found.segments == (60 if in_plane else 6)


def test_what_is_masked_has_no_segments_and_affinities_are_1_inside_cells() -> None:
    """The wall between the first two cells is missing in the prediction; the mask hides the second cell."""
    affinity = np.ones((3, 10, 10, 34), np.uint8)
    affinity[0, :, :, [0, 11, 23]] = 0
    box = (0, 10), (0, 10), (0, 34)
    image = affinity.astype(np.float32)
    image[0, :, :, 11] = 1
    mask = np.ones((10, 10, 34), np.uint8)
    mask[:, :, 11:23] = 0

    class Leaking:
        net = znn.Network.parse("C", kernel=1, in_channels=3, out_channels=3)
        loss = "square"

        def predict(self, image: np.ndarray, border: None) -> np.ndarray:
            return image

    scores = []
    for hidden in (None, mask):
        volume = Volume(image, affinity, box, box, "leaking", hidden)
        found = validate(Leaking(), [volume], Segments("foreground")).segments  # type: ignore[arg-type]
        assert found is not None
        scores.append((found.cells, round(found.voi_merge, 3) > 0))
    assert scores == [(3, True), (2, False)]


@pytest.mark.parametrize(
    ("data", "given", "wanted"),
    [
        ({"target": "boundary"}, "auto", "background ids"),
        ({"target": "boundary", "invert": True}, "auto", "foreground ids"),
        ({"target": "boundary"}, "background", "background"),
        ({"target": "binary"}, "auto", "foreground"),
        ({"target": "binary", "invert": True}, "auto", "background"),
        ({"target": "affinity"}, "auto", "foreground ids"),
        ({"target": "ids"}, "auto", "foreground ids"),
        ({"target": "classes"}, "auto", "none"),
        ({"target": "binary"}, "background", "background"),
    ],
)
def test_which_voxels_form_segments(data: dict[str, Any], given: str, wanted: str) -> None:
    of, _, ids = wanted.partition(" ")
    flat, deep = (znn.Network.parse("CTC", ndim=ndim, width=2) for ndim in (2, 3))
    config = make_config({"data": data, "log": {"segments": given, "segmentation": "components"}})
    assert segments_of(config, deep) == Segments(of, False, ids == "ids", "components")
    assert segments_of(config, flat) == Segments(of, True, ids == "ids", "components")


def test_importing_the_package_draws_nothing() -> None:
    """matplotlib would cost every program half a second at its start."""
    assert {"Trainer", "Callback"} <= set(dir(znn))
    with pytest.raises(AttributeError, match="no attribute 'Trainr'"):
        _ = znn.Trainr  # type: ignore[attr-defined]
    code = "import sys, znn_dask; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
