"""Weights against unequal classes, alone and in a run; optimisers, losses and schedules of a configuration."""

from pathlib import Path

import numpy as np
import pytest
from train_cases import settings

import znn_dask as znn
from znn_dask.errors import ConfigError, ParameterError
from znn_dask.model import SGD, Adam, AdamW
from znn_dask.ops.balance import balanced_weights, class_counts
from znn_dask.train.balance import Balance, make_balance
from znn_dask.train.config_file import from_json, make_config, to_json
from znn_dask.train.resolve import make_optimizer
from znn_dask.train.schedules import Schedule
from znn_dask.train.session import open_run
from znn_dask.train.targets import boundary_map


def test_both_classes_count_the_same_as_in_znn() -> None:
    target = np.array([1, 0, 0, 0], np.float32).reshape(1, 1, 1, 4)
    np.testing.assert_allclose(balanced_weights(target).ravel(), [2, 2 / 3, 2 / 3, 2 / 3])
    np.testing.assert_array_equal(balanced_weights(0 * target), 1)
    np.testing.assert_array_equal(balanced_weights(0 * target + 1), 1)


def test_every_patch_and_channel_by_itself() -> None:
    rng = np.random.default_rng(0)
    target = (rng.random((3, 2, 4, 5, 6)) < 0.2).astype(np.float32)
    weights = balanced_weights(target)
    assert weights.dtype == np.float32
    for example, channel in np.ndindex(3, 2):
        t, w = target[example, channel], weights[example, channel]
        assert w[t > 0.5].sum() == pytest.approx(w[t < 0.5].sum(), rel=1e-5)
        assert w.mean() == pytest.approx(1, rel=1e-5)
    counted = class_counts(target).sum(axis=0)
    everywhere = balanced_weights(target, counts=counted)
    np.testing.assert_allclose((everywhere * target).sum(), (everywhere * (1 - target)).sum(), rtol=1e-5)
    assert not np.allclose(everywhere, weights)


def test_what_does_not_count_is_not_counted() -> None:
    target = np.array([1, 0, 0, 0], np.float32).reshape(1, 1, 1, 4)
    mask = np.array([1, 1, 0, 0.5], np.float32).reshape(1, 1, 1, 4)
    np.testing.assert_allclose(balanced_weights(target, mask).ravel(), [1.5, 0.75, 0, 0.375])


def test_several_classes_of_which_one_is_absent() -> None:
    target = np.array([0, 0, 0, 2, 2, 2, 2, 2, 3, 3], np.int64).reshape(1, 1, 1, 10)
    weights = balanced_weights(target, classes=4).ravel()
    np.testing.assert_allclose(weights[[0, 3, 8]], [10 / 9, 10 / 15, 10 / 6], rtol=1e-6)
    with pytest.raises(ParameterError, match="axes \\(channel, z, y, x\\)"):
        balanced_weights(target[0])


def test_a_sample_gets_weights_by_output() -> None:
    rng = np.random.default_rng(0)
    targets = {"a": (rng.random((1, 2, 2, 3, 4)) < 0.3).astype(np.float32), "b": rng.integers(0, 3, (1, 2, 3, 4))}
    balance = make_balance("patch", {"a": ("dice", 1.0), "b": ("softmax", 1.0)}, {"a": 2, "b": 3}, None)
    x, found, weights = balance.apply((None, targets))
    assert x is None
    assert found is targets
    np.testing.assert_array_equal(weights["a"], balanced_weights(targets["a"]))
    np.testing.assert_array_equal(weights["b"], balanced_weights(targets["b"][:, None], classes=3))
    assert Balance().apply((1, 2)) == (1, 2)


@pytest.mark.parametrize(("mode", "loss"), [("global", "logistic"), ("patch", "malis")])
def test_what_cannot_be_balanced(mode: str, loss: str) -> None:
    with pytest.raises(ConfigError, match=f"training.rebalance: {mode}"):
        make_balance(mode, loss, {"output": 3}, None)  # type: ignore[arg-type]


RUNS: dict[str, dict[str, object]] = {
    "global": {"rebalance": "global", "optimizer": "adam", "learning_rate": 0.01},
    "patch": {"rebalance": "patch", "nesterov": True, "clip_norm": 0.5, "loss": "dice"},
    "collecting": {"accumulate": 4, "optimizer": "adamw", "schedule": "step", "milestones": [10], "decay": 0.5},
    "several": {"loss": {"output": ["square_square(0.1)", 0.5]}, "rates": {"conv1": 0.1}, "clip_value": 0.1},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_with_a_break_ends_as_one_without(name: str, tmp_path: Path) -> None:
    raw = settings(tmp_path, 21)
    raw["training"] = {**raw["training"], **RUNS[name]}  # type: ignore[dict-item]
    config = make_config(raw)
    assert from_json(to_json(config)) == config
    found = []
    for stops in ((21,), (11, 21)):
        folder = tmp_path / str(len(stops))
        for stop in stops:
            part = make_config({**raw, "training": {**raw["training"], "updates": stop}})  # type: ignore[dict-item]
            loop, _ = open_run(part, folder)
            loop.run(progress=False)
            loop.model.close()
        found.append({name: values.tobytes() for name, values in loop.model.parameters.items()})
    assert found[0] == found[1]
    if name == "global":
        counts = loop.balance.counts["output"]
        assert counts.shape == (1, 2)
        label = np.load(raw["data"]["label"])[:3]  # type: ignore[index]
        assert counts.tolist() == [[int((label == 0).sum()), int((label == 1).sum())]]
        assert loop.position.counts == {"output": counts.tolist()}


def uneven() -> np.ndarray:
    """Labels of which 1 lies in a corner only, 2 nearly everywhere below it."""
    labels = np.zeros((30, 40, 50), np.uint8)
    labels[20:, 30:, 40:] = 1
    labels[:15, ::2] = 2
    return labels


@pytest.mark.parametrize("most", [1 << 28, 12_000])
def test_classes_are_counted_over_the_whole_training_data(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("znn_dask.train.balance.BLOCK", (4, 8, 8))
    monkeypatch.setattr("znn_dask.train.balance.MOST", most)
    raw, labels = settings(tmp_path), uneven()
    mask = np.ones(labels.shape, np.uint8)
    mask[:, :5] = 0
    for name, values in (("image", labels.astype(np.float32)), ("label", labels), ("mask", mask)):
        np.save(tmp_path / f"{name}.npy", values)
    raw["network"]["out_channels"] = 3  # type: ignore[index]
    raw["training"] |= {"rebalance": "global", "loss": "softmax", "output_size": 4}  # type: ignore[operator]
    regions = [{"z": [0, 17]}, {"z": [18, 30], "x": [1, 50]}]
    raw["data"] |= {"target": "classes", "mask": str(tmp_path / "mask.npy"), "train": regions, "test": []}  # type: ignore[operator]
    loop, _ = open_run(make_config(raw), tmp_path / "run")
    with loop.model:
        found = loop.balance.counts["output"][0]
        text = str(loop.balance)
        loop.run(progress=False)
    parts = labels[:17, 5:], labels[18:, 5:, 1:]
    exact = sum(np.bincount(part.ravel(), minlength=3) for part in parts)
    if most > exact.sum():
        assert found.tolist() == exact.tolist()
        assert text.startswith(f"{exact.sum():,} voxels: 0: {exact[0] / exact.sum():.2%}, 1:")
    else:
        assert 0.7 * most < found.sum() < 1.1 * most
        np.testing.assert_allclose(found / found.sum(), exact / exact.sum(), atol=0.03)
    # A run that goes on has the same numbers, whatever may have become of the files.
    np.save(tmp_path / "label.npy", np.zeros_like(labels))
    again, _ = open_run(make_config(raw), tmp_path / "run")
    again.model.close()
    assert again.balance.counts["output"][0].tolist() == found.tolist()


def test_a_boundary_is_counted_across_the_faces_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("znn_dask.train.balance.BLOCK", (3, 5, 5))
    ids = np.repeat(np.arange(1, 9), 5).reshape(1, 1, 40) * np.ones((6, 20, 1), int)
    np.save(tmp_path / "ids.npy", ids)
    raw = settings(tmp_path)
    np.save(tmp_path / "image.npy", ids.astype(np.float32))
    raw["training"]["rebalance"] = "global"  # type: ignore[index]
    region = {"z": [1, 5], "x": [5, 40]}
    raw["data"] |= {"label": str(tmp_path / "ids.npy"), "target": "boundary", "train": [region], "test": []}  # type: ignore[operator]
    loop, _ = open_run(make_config(raw), tmp_path / "run")
    loop.model.close()
    expected = boundary_map(ids)[1:5, :, 5:]
    assert loop.balance.counts["output"].tolist() == [[int((~expected).sum()), int(expected.sum())]]


def test_optimisers_of_a_configuration(tmp_path: Path) -> None:
    def made(**training: object) -> object:
        return make_optimizer(make_config({"training": training}).training)

    assert made() == SGD(0.01, 0.9, 0.0)
    assert made(nesterov=True, accumulate=2, rates={"conv1": 0.5}) == SGD(
        nesterov=True, accumulate=2, rates={"conv1": 0.5}
    )
    assert made(optimizer="adam", betas=[0.5, 0.9], epsilon=1e-6) == Adam(0.01, (0.5, 0.9), 1e-6)
    assert made(optimizer="adamw", weight_decay=0.1, clip_norm=1) == AdamW(0.01, weight_decay=0.1, clip_norm=1)
    with pytest.raises(ParameterError, match="not both"):
        made(clip_norm=1, clip_value=1)


def test_schedules_are_callable_and_checked() -> None:
    schedule = Schedule(0.1, "cosine", updates=100, warmup=10)
    assert [schedule(0), schedule(9), schedule(100)] == pytest.approx(
        [0.01, 0.1 * (0.5 + 0.5 * np.cos(0.09 * np.pi)), 0]
    )
    assert [Schedule(1.0, "step", milestones=[3, 5])(n) for n in (2, 3, 5)] == pytest.approx([1, 0.1, 0.01])
    for wrong, message in (
        (lambda: Schedule(0.1, "cosin"), "Did you mean 'cosine'"),  # type: ignore[arg-type]
        (lambda: Schedule(0.1, "linear"), "needs updates"),
        (lambda: Schedule(0.1, "step"), "needs milestones"),
        (lambda: Schedule(-0.1), "finite rate"),
    ):
        with pytest.raises(ParameterError, match=message):
            wrong()
    assert znn.Schedule is Schedule
    assert znn.balanced_weights is balanced_weights
