"""The last few checkpoints and the best are kept; a full disk stops a run and leaves the last one readable."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from train_cases import settings, write_config

from znn_dask.cli import main
from znn_dask.errors import DivergenceError, SaveError
from znn_dask.io import atomic
from znn_dask.io.checkpoint import read_checkpoint
from znn_dask.model import Model
from znn_dask.train import checkpoints, divergence
from znn_dask.train.callbacks import Callback
from znn_dask.train.checkpoints import kept_checkpoints, tidy, write_checkpoint_files
from znn_dask.train.config_file import make_config
from znn_dask.train.curve import read_rows
from znn_dask.train.loop import Loop
from znn_dask.train.run import BEST, CURVE, KEPT, MODEL, Position, read_stored
from znn_dask.train.session import open_run
from znn_dask.train.trainer import Trainer

pytestmark = pytest.mark.timeout(120)


def config(folder: Path, updates: int = 30, **log: object):
    raw = settings(folder, updates)
    raw["log"] = {**raw["log"], **log}  # type: ignore[dict-item]
    return make_config(raw)


def train(config, folder: Path, restart: bool = False):
    loop, _ = open_run(config, folder, restart)
    with loop.model:
        loop.run(progress=False)
    return loop


def tensors(path: Path) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in read_checkpoint(path)[0].items()}


@pytest.mark.parametrize(("keep", "steps"), [(1, []), (2, [40, 50]), (4, [20, 30, 40, 50])])
def test_the_last_few_are_kept(tmp_path: Path, keep: int, steps: list[int]) -> None:
    train(config(tmp_path, 50, keep=keep, test_every=1000), tmp_path / "run")
    assert list(kept_checkpoints(tmp_path / "run")) == steps
    for step, path in kept_checkpoints(tmp_path / "run").items():
        assert read_stored(path).position.step == step
    if steps:
        assert tensors(kept_checkpoints(tmp_path / "run")[50]) == tensors(tmp_path / "run" / MODEL)


def test_fewer_are_kept_from_then_on(tmp_path: Path) -> None:
    train(config(tmp_path, 30, keep=3), tmp_path / "run")
    train(config(tmp_path, 40, keep=1), tmp_path / "run")
    assert not (tmp_path / "run" / KEPT).exists()


@pytest.mark.parametrize("validate_every", [0, 15])
def test_the_best_is_that_of_the_smallest_held_out_error(tmp_path: Path, validate_every: int) -> None:
    """By the regions where they are predicted, else by the fixed patches."""
    loop = train(config(tmp_path, 60, validate_every=validate_every), tmp_path / "run")
    rows = read_rows(tmp_path / "run" / CURVE)
    errors = {r.step: r.region_error if validate_every else r.test_error for r in rows}
    known = {step: error for step, error in errors.items() if error is not None}
    assert len(known) >= 4
    best = min(known, key=lambda step: (known[step], step))
    stored = read_stored(tmp_path / "run" / BEST).position
    assert (stored.step, stored.best_step, stored.best_error) == (best, best, known[best])
    assert (loop.position.best_step, loop.position.best_error) == (best, known[best])
    with Model.load(tmp_path / "run" / BEST) as model:
        assert model.step_count == best


def test_the_best_survives_worse_ones_after_a_resume(tmp_path: Path) -> None:
    loop = train(config(tmp_path, 30), tmp_path / "run")
    before = tensors(tmp_path / "run" / BEST)
    again, _ = open_run(config(tmp_path, 40), tmp_path / "run")
    assert again.position.best_error == loop.position.best_error
    with again.model:
        again.measure = lambda samples: (9.0, 0.9)  # type: ignore[method-assign]
        again.validate = lambda: (_ for _ in ()).throw(AssertionError)  # type: ignore[method-assign]
        again.regions = ()
        again.run(progress=False)
    assert tensors(tmp_path / "run" / BEST) == before


def test_starting_over_forgets_the_kept_and_the_best(tmp_path: Path) -> None:
    train(config(tmp_path, 30), tmp_path / "run")
    loop, _ = open_run(config(tmp_path, 30), tmp_path / "run", restart=True)
    loop.model.close()
    assert not kept_checkpoints(tmp_path / "run")
    assert not (tmp_path / "run" / BEST).exists()
    assert not (tmp_path / "run" / MODEL).exists()


def test_what_is_of_after_the_checkpoint_goes(tmp_path: Path) -> None:
    def save(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("model")

    for step in (10, 20, 30):
        write_checkpoint_files(save, tmp_path, step, keep=5, best=False)
    (tmp_path / KEPT / "other.txt").touch()
    tidy(tmp_path, 20)
    assert list(kept_checkpoints(tmp_path)) == [10, 20]
    assert (tmp_path / KEPT / "other.txt").exists()


@pytest.mark.parametrize("keep", [1, 3])
def test_who_dies_before_the_best_has_its_name_has_not_changed_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """Else the run would go on from a checkpoint that says that there is a better best one than there is."""
    original, named = checkpoints._link, []

    def link(source: Path, path: Path) -> None:
        named.append(path.name)
        if path.name == MODEL:
            raise KeyboardInterrupt
        original(source, path)

    def save(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("new")

    (tmp_path / MODEL).write_text("old")
    monkeypatch.setattr(checkpoints, "_link", link)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint_files(save, tmp_path, 10, keep=keep, best=True)
    assert named == [BEST, MODEL][keep == 1 :]
    assert ((tmp_path / MODEL).read_text(), (tmp_path / BEST).read_text()) == ("old", "new")


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(checkpoints.os, "link", refuse)
    train(config(tmp_path, 20), tmp_path / "run")
    whole = tensors(tmp_path / "run" / MODEL)
    assert whole == tensors(kept_checkpoints(tmp_path / "run")[20])


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of 2 MB; None where mounting is not permitted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


class Filling(Callback):
    """Fills the disk after update 25."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "other"

    def on_step(self, run: Loop, loss: float) -> None:
        if run.step == 25:
            with self.path.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(1024))


def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a real small disk where one can be mounted; the test after this one needs none."""
    if small_disk is None:
        return
    filling = Filling(small_disk)
    trainer = Trainer(None, config(tmp_path, 60), folder=small_disk / "run", callbacks=[filling], progress=False)
    with trainer, pytest.raises(SaveError, match=r"No space left on device.*The checkpoint of update 20 is kept"):
        trainer.run()
    assert read_stored(small_disk / "run" / MODEL).position.step == 20
    assert not list(small_disk.rglob(".*tmp*"))
    command = ["train", str(write_config(tmp_path, 60)), "--quiet", "--out", str(small_disk / "run")]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("znn-dask: ")
    assert err.count("\n") == 1
    assert "No space left on device" in err
    assert read_stored(small_disk / "run" / MODEL).position.step == 20
    filling.path.unlink()
    assert main(command) == 0
    assert "continuing after update 20 of 60" in capsys.readouterr().out
    train(config(tmp_path, 60), tmp_path / "whole")
    assert tensors(small_disk / "run" / MODEL) == tensors(tmp_path / "whole" / MODEL)


def test_an_error_of_the_disk_names_file_reason_and_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _ = open_run(config(tmp_path, 60), tmp_path / "run")
    original = atomic.os.fsync

    def fsync(descriptor: int) -> None:
        if loop.step >= 20 and ".safetensors" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    with loop.model, pytest.raises(SaveError, match=r"No space left on device\. The checkpoint of update 10 is kept\."):
        loop.run(progress=False)
    assert loop.reason == "failed"
    assert read_stored(tmp_path / "run" / MODEL).position.step == 10
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    monkeypatch.undo()
    train(config(tmp_path, 60), tmp_path / "run")
    train(config(tmp_path, 60), tmp_path / "whole")
    assert tensors(tmp_path / "run" / MODEL) == tensors(tmp_path / "whole" / MODEL)


def test_before_the_first_checkpoint_it_says_that_there_is_none(tmp_path: Path) -> None:
    loop, _ = open_run(config(tmp_path, 20), tmp_path / "run")
    (tmp_path / "run" / CURVE).mkdir()
    with loop.model, pytest.raises(SaveError, match=r"learning_curve\.csv: Is a directory\. No checkpoint was written"):
        loop.run(progress=False)


# --- divergence


def position(first: float | None = None, total: float = 0.0, count: int = 0) -> Position:
    return Position(step=500, first_mean=first, window_sum=total, window_count=count)


def test_a_loss_that_grows_tenfold_is_found_at_the_end_of_a_window() -> None:
    where = position()
    for _ in range(divergence.WINDOW):
        assert divergence.watch(where, 0.5) is None
    assert where.first_mean == 0.5
    for _ in range(divergence.WINDOW):
        assert divergence.watch(where, 4.9) is None, "grown, but not tenfold"
    found = [divergence.watch(where, 6.0) for _ in range(divergence.WINDOW)]
    assert not any(found[:-1])
    assert found[-1] is not None
    assert "its mean over the last 100 updates is 6" in found[-1]
    assert "over the first 100 it was 0.5" in found[-1]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_found_at_once(loss: float) -> None:
    assert f"the loss is {loss} at update 501" in str(divergence.watch(position(), loss))


def test_a_few_losses_say_nothing_yet() -> None:
    assert divergence.grows(position(0.5, 9 * 6.0, 9)) is None
    assert divergence.grows(position(0.5, 10 * 6.0, 10)) is not None
    assert divergence.grows(position(None, 10 * 6.0, 10)) is None


def test_a_growing_loss_stops_the_run_with_advice_and_no_checkpoint_of_it(tmp_path: Path) -> None:
    raw = settings(tmp_path, 400)
    raw["training"]["loss"] = "square"  # type: ignore[index]
    loop, _ = open_run(make_config(raw), tmp_path / "run")
    original = loop.samples.sample

    def sample(step: int):
        image, target = original(step)
        return image, target + 100 * (step >= 200)

    loop.samples.sample = sample  # type: ignore[method-assign]
    loop.config = make_config({**raw, "training": {**raw["training"], "learning_rate": 1e-6}})  # type: ignore[dict-item]
    with loop.model, pytest.raises(DivergenceError, match=r"the loss grows.*is kept\. Lower training\.learning_rate"):
        loop.run(progress=False)
    assert read_stored(tmp_path / "run" / MODEL).position.step == 200


def test_parameters_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    loop = train(config(tmp_path, 10), tmp_path / "run")
    parameters = loop.model.parameters
    parameters["conv2/kernel"][0, 0, 0, 0, 0] = np.nan
    loop.model.load_parameters(parameters)
    with pytest.raises(DivergenceError, match="parameter conv2/kernel has values that are not finite"):
        loop.checkpoint()
    assert all(np.isfinite(values).all() for values in read_checkpoint(tmp_path / "run" / MODEL)[0].values())
