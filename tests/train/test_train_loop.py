"""The loop: rows, checkpoints and ends where they belong; a resumed run is the undisturbed one."""

import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_cases import settings

from znn_dask.errors import CheckpointError, DivergenceError, ShapeError
from znn_dask.io.checkpoint import read_checkpoint
from znn_dask.train.callbacks import Callback
from znn_dask.train.config import Config
from znn_dask.train.config_file import make_config
from znn_dask.train.curve import Row, read_rows
from znn_dask.train.heldout import evaluate_regions
from znn_dask.train.loop import Loop, as_step
from znn_dask.train.run import BEST, CURVE, MODEL, read_stored
from znn_dask.train.samples import Sample
from znn_dask.train.session import open_run

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(settings(tmp_path))


class Steps(Callback):
    """Notes the updates after which there was a checkpoint."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def on_checkpoint(self, run: Loop, path: Path) -> None:
        self.seen.append(run.step)


def train(config: Config, folder: Path, restart: bool = False) -> Loop:
    loop, _ = open_run(config, folder, restart)
    with loop.model:
        loop.run(progress=False)
    return loop


def curve(folder: Path) -> list[tuple[object, ...]]:
    """The learning curve without the seconds."""
    return [
        (r.step, r.learning_rate, r.loss, r.train_error, r.test_loss, r.test_error) for r in read_rows(folder / CURVE)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same_model(one: Path, other: Path) -> None:
    first, _ = read_checkpoint(one / MODEL)
    second, _ = read_checkpoint(other / MODEL)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.tobytes() == second[name].tobytes(), name


def test_a_run_learns_and_leaves_its_files(config: Config, tmp_path: Path) -> None:
    config = make_config(settings(tmp_path, updates=150))
    loop, test = open_run(config, tmp_path / "run")
    with loop.model:
        loop.run(progress=False)
        found = evaluate_regions(loop.model, test)
    rows = read_rows(tmp_path / "run" / CURVE)
    assert [row.step for row in rows] == list(range(5, 151, 5))
    assert [row.step for row in rows if row.test_error is not None] == list(range(10, 151, 10))
    assert rows[-1].loss < 0.7 * rows[0].loss
    assert found.scores.error < 0.8 * found.scores.majority_error
    assert found.figures()["error"] == found.scores.error
    assert found.predictions[0].shape == (1, 40, 40)
    stored = read_stored(tmp_path / "run" / MODEL)
    assert stored.config == config
    assert stored.position.step == 150
    assert (tmp_path / "run" / "config.yaml").exists()


def test_rows_are_means_over_the_updates_since_the_last(config: Config, tmp_path: Path) -> None:
    loop, _ = open_run(config, tmp_path / "run")
    losses: list[float] = []
    with loop.model as model:
        original = model.steps

        def noted(samples: Iterable[tuple[Any, ...]]) -> Iterator[float]:
            for loss in original(samples):
                losses.append(loss)
                yield loss

        model.steps = noted  # type: ignore[method-assign]
        loop.run(progress=False)
    rows = read_rows(tmp_path / "run" / CURVE)
    means = [np.mean(losses[start : start + 5]) for start in range(0, 30, 5)]
    np.testing.assert_allclose([row.loss for row in rows], means, rtol=1e-12)


@pytest.mark.parametrize("stop", [1, 7, 10, 15, 28])
def test_a_run_that_was_stopped_ends_as_the_undisturbed_one(config: Config, tmp_path: Path, stop: int) -> None:
    train(config, tmp_path / "whole")
    loop, _ = open_run(config, tmp_path / "parts")
    with loop.model as model:
        original = loop.samples.sample

        def sample(step: int) -> Sample:
            if step == stop:
                loop.stopped_by = signal.SIGINT
            return original(step)

        loop.samples.sample = sample  # type: ignore[method-assign]
        loop.run(progress=False)
        assert stop <= model.step_count < 30
    again = train(config, tmp_path / "parts")
    assert again.position.step == 30
    assert_same_model(tmp_path / "whole", tmp_path / "parts")
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")


def test_more_updates_continue_a_finished_run(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path / "long")
    train(make_config(settings(tmp_path, updates=15)), tmp_path / "parts")
    train(config, tmp_path / "parts")
    assert_same_model(tmp_path / "long", tmp_path / "parts")


def test_a_finished_run_stays_as_it_is(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path / "run")
    before = (tmp_path / "run" / MODEL).read_bytes()
    train(config, tmp_path / "run")
    assert (tmp_path / "run" / MODEL).read_bytes() == before


def test_restarting_gives_the_same_again(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path / "run")
    first = curve(tmp_path / "run")
    loop = train(config, tmp_path / "run", restart=True)
    assert loop.position.step == 30
    assert curve(tmp_path / "run") == first


def test_time_ends_a_run_after_a_checkpoint(tmp_path: Path) -> None:
    raw = settings(tmp_path, updates=10**6)
    raw["training"]["max_minutes"] = 0.01  # type: ignore[index]
    loop = train(make_config(raw), tmp_path / "run")
    assert 1 <= loop.position.step < 10**6
    assert read_stored(tmp_path / "run" / MODEL).position.step == loop.position.step
    assert train(make_config(raw), tmp_path / "run").position.step == loop.position.step


def test_a_run_that_time_ends_is_measured_and_leaves_its_best(tmp_path: Path) -> None:
    raw = settings(tmp_path, updates=10**6)
    raw["training"]["max_minutes"] = 0.01  # type: ignore[index]
    raw["log"] |= {"every": 10**6, "test_every": 10**6, "validate_every": 10**6}  # type: ignore[operator]
    loop = train(make_config(raw), tmp_path / "run")
    (row,) = loop.rows
    assert row.step == loop.position.step
    assert row.measured
    assert (tmp_path / "run" / BEST).exists()


def test_checkpoints_by_the_clock_do_not_starve_the_run(config: Config, tmp_path: Path) -> None:
    raw = settings(tmp_path, updates=12)
    raw["log"]["checkpoint_minutes"] = 1e-9  # type: ignore[index]
    loop, _ = open_run(make_config(raw), tmp_path / "run")
    seen: list[int] = []
    loop.callbacks.append(Steps(seen))
    with loop.model:
        loop.run(progress=False)
    assert seen == sorted(set(seen))
    assert seen[-1] == 12
    assert len(seen) > 3


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("network", "width", 5, r"network\.width is 4 there and 5 here"),
        ("training", "seed", 6, r"training\.seed is 5 there and 6 here"),
        ("training", "batch", 2, r"training\.batch is 1 there"),
        ("data", "flip", "zy", r"data\.flip is 'zyx' there and 'zy' here"),
        ("data", "train", [{"z": [0, 2]}], r"data\.train\.0\.z is "),
    ],
)
def test_another_run_is_refused_and_left_alone(
    config: Config, tmp_path: Path, section: str, key: str, value: object, message: str
) -> None:
    train(config, tmp_path / "run")
    before = contents(tmp_path / "run")
    raw = settings(tmp_path)
    raw[section][key] = value  # type: ignore[index]
    with pytest.raises(CheckpointError, match=f"belongs to another run: .*{message}.*Give --restart"):
        open_run(make_config(raw), tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_what_does_not_shape_a_run_may_change(config: Config, tmp_path: Path) -> None:
    train(config, tmp_path / "run")
    raw = settings(tmp_path)
    raw["log"]["every"] = 3  # type: ignore[index]
    raw["compute"]["workers"] = 2  # type: ignore[index]
    train(make_config(raw), tmp_path / "run")


def test_a_schedule_that_ends_binds_the_number_of_updates(tmp_path: Path) -> None:
    raw = settings(tmp_path)
    raw["training"]["schedule"] = "cosine"  # type: ignore[index]
    train(make_config(raw), tmp_path / "run")
    raw["training"]["updates"] = 40  # type: ignore[index]
    with pytest.raises(CheckpointError, match=r"training\.updates is 30 there and 40 here"):
        open_run(make_config(raw), tmp_path / "run")


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(config: Config, tmp_path: Path) -> None:
    loop, _ = open_run(config, tmp_path / "run")
    with loop.model:
        original = loop.samples.sample

        def sample(step: int) -> Sample:
            if step == 12:
                loop.model.learning_rate = 1e30
            return original(step)

        loop.samples.sample = sample  # type: ignore[method-assign]
        with pytest.raises(
            DivergenceError, match=r"the loss is (nan|inf) at update 1\d\. The checkpoint of update 10 is kept"
        ):
            loop.run(progress=False)
    stored, _ = read_checkpoint(tmp_path / "run" / MODEL)
    assert all(np.isfinite(values).all() for values in stored.values())
    assert read_stored(tmp_path / "run" / MODEL).position.step == 10


def test_a_model_changed_after_training_is_refused(config: Config, tmp_path: Path) -> None:
    loop = train(config, tmp_path / "run")
    loop.position.step += 1
    loop.checkpoint()
    with pytest.raises(CheckpointError, match="is of update 30, but its run says 31"):
        open_run(config, tmp_path / "run")


def test_a_volume_smaller_than_the_field_of_view_is_refused(config: Config, tmp_path: Path) -> None:
    raw = settings(tmp_path)
    raw["data"]["train"] = [{"y": [0, 7]}]  # type: ignore[index]
    with pytest.raises(ShapeError, match="less than the network's field of view"):
        open_run(make_config(raw), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_small_held_out_regions_are_measured_whole(tmp_path: Path) -> None:
    raw = settings(tmp_path)
    raw["data"]["test"] = [{"z": [3, 4], "y": [0, 3], "reach": "volume"}]  # type: ignore[index]
    loop, _ = open_run(make_config(raw), tmp_path / "run")
    with loop.model:
        assert loop.test[0].target.shape == (1, 1, 1, 3, 8)
        loop.run(progress=False)
    assert read_rows(tmp_path / "run" / CURVE)[-1].test_error is not None


@pytest.mark.parametrize(("loss", "channels"), [("softmax", 2), ("square", 1)])
def test_other_losses_learn(tmp_path: Path, loss: str, channels: int) -> None:
    raw = settings(tmp_path, updates=100)
    raw["training"]["loss"] = loss  # type: ignore[index]
    raw["training"]["batch"] = 2  # type: ignore[index]
    raw["network"]["out_channels"] = channels  # type: ignore[index]
    loop = train(make_config(raw), tmp_path / "run")
    rows = read_rows(tmp_path / "run" / CURVE)
    assert rows[-1].loss < 0.9 * rows[0].loss
    assert loop.last_test_error is not None
    assert loop.last_test_error < 0.45


def test_softmax_wants_classes() -> None:
    sample = Sample(np.zeros((1, 1, 2, 2, 2), np.float32), np.ones((1, 1, 2, 2, 2), np.float32))
    assert as_step(sample, "logistic")[1] is sample.target
    classes = as_step(sample, "softmax")[1]
    assert classes.shape == (1, 2, 2, 2)
    assert classes.dtype == np.int64


def test_the_sample_after_a_stretch_is_made_while_the_run_tests_and_saves(config: Config, tmp_path: Path) -> None:
    loop, _ = open_run(config, tmp_path / "run")
    asked: list[int] = []
    made = {step: threading.Event() for step in range(31)}
    original = loop.samples.sample

    def sample(step: int) -> Sample:
        asked.append(step)
        made[step].set()
        return original(step)

    class Waits(Callback):
        def on_log(self, run: Loop, row: Row) -> None:
            waited.append(run.step == 30 or made[run.step].wait(30))

    waited: list[bool] = []
    loop.samples.sample = sample  # type: ignore[method-assign]
    loop.callbacks.append(Waits())
    with loop.model:
        loop.run(progress=False)
    assert waited == [True] * 6
    assert asked == list(range(30))


def test_an_error_of_a_sample_made_ahead_comes_when_it_is_due(config: Config, tmp_path: Path) -> None:
    loop, _ = open_run(config, tmp_path / "run")
    original = loop.samples.sample

    def sample(step: int) -> Sample:
        if step == 10:
            raise RuntimeError("no such sample")
        return original(step)

    loop.samples.sample = sample  # type: ignore[method-assign]
    with loop.model, pytest.raises(RuntimeError, match="no such sample"):
        loop.run(progress=False)
    assert read_stored(tmp_path / "run" / MODEL).position.step == 10
