"""The benchmark of time to accuracy: both sides learn the same, step by step, and times are read off right."""

import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def accuracy(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import accuracy

    return accuracy


def run(accuracy, monkeypatch, *arguments):
    command = ["accuracy.py", "--data", "phantom", "--every", "4", "--patches", "3", "--pause", "0", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", [*command, *arguments])
    accuracy.main(accuracy.arguments())


@pytest.mark.parametrize("form", ["contiguous", "fragments channels-last"])
def test_both_sides_learn_the_same(accuracy, torch, monkeypatch, tmp_path, form):
    path = tmp_path / "report.json"
    run(accuracy, monkeypatch, "--updates", "8", "--form", form, "--json", str(path))
    report = json.loads(path.read_text())
    ours, theirs = (report["curves"][name] for name in ("znn-dask", "PyTorch"))
    assert ours["updates"] == theirs["updates"] == [0, 4, 8]
    assert len(ours["losses"]) == 8
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
    for mine, other in zip(ours["validation"], theirs["validation"], strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    assert theirs["validation"][0] != theirs["validation"][2], "something was learned"
    assert report["agree"]
    assert report["torch"]["form"] == form
    assert report["environment"]["workers"] == 1
    assert path.with_suffix(".png").stat().st_size > 1000


def test_another_update_is_noticed(accuracy, torch, monkeypatch):
    plain = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda parameters, lr, momentum: plain(parameters, lr=lr, momentum=0.8))
    with pytest.raises(SystemExit, match="do not train the same network"):
        run(accuracy, monkeypatch, "--updates", "4", "--form", "contiguous")


def test_only_what_can_be_compared_is(accuracy, torch, monkeypatch):
    with pytest.raises(SystemExit, match="plain SGD with momentum"):
        run(accuracy, monkeypatch, "--set", "training.nesterov=true")


def test_times_lie_between_validations(accuracy):
    curve = accuracy.Curve([], [0, 1, 2], [0.0, 10.0, 20.0], [[1.0], [0.5, 0.7], [0.2]])
    assert curve.means == [1.0, 0.6, 0.2]
    assert curve.when(0.8) == pytest.approx(5.0)
    assert curve.when(0.4) == pytest.approx(15.0)
    assert curve.when(0.2) == pytest.approx(20.0)
    assert curve.when(0.1) is None


def test_ours_is_late_or_within_noise(accuracy):
    def curves(last):
        mine = accuracy.Curve([1.0], [0, 1], [0.0, 3.0], [[1.0, 1.0], [last, last + 0.2]])
        return {"znn-dask": mine, "PyTorch": accuracy.Curve([1.0], [0, 1], [0.0, 6.0], [[1.0, 1.0], [0.4, 0.6]])}

    near = accuracy.verdict(curves(0.45), 2.0)
    assert near["reached_within_noise_only"]
    assert near["seconds_to_level"] == {"znn-dask": 3.0, "PyTorch": pytest.approx(6.0)}
    assert near["ratio"] == near["ratio_per_update"] == pytest.approx(2.0)
    assert near["agree"]
    far = accuracy.verdict(curves(0.7), 2.0)
    assert not far["agree"]
    assert far["seconds_to_level"]["znn-dask"] is None
    assert far["ratio"] is None
