"""Segments of held-out regions: the same numbers as `znn-dask evaluate`, for every target that has cells."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import znn_dask as znn
from znn_dask.cli import main
from znn_dask.train.heldout import Segments, evaluate_regions
from znn_dask.train.phantom import make_phantom
from znn_dask.train.volumes import Volume

pytestmark = pytest.mark.timeout(120)
TARGETS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "boundary": ({"label": "ids.npy", "target": "boundary"}, ["--ids"]),
    "inverted": ({"label": "ids.npy", "target": "boundary", "invert": True}, ["--ids", "--invert"]),
    "sections": ({"label": "ids.npy", "target": "boundary", "in_plane": True}, ["--ids", "--in-plane"]),
    "affinity": ({"label": "ids.npy", "target": "affinity"}, ["--ids", "--affinities"]),
    "ids": ({"label": "ids.npy", "target": "ids"}, ["--ids", "--affinities"]),
    "binary": ({"label": "inside.npy", "target": "binary"}, ["--binary"]),
    "membranes": ({"label": "inside.npy", "target": "binary", "invert": True}, ["--binary", "--invert"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a phantom of a few cells."""
    place = tmp_path_factory.mktemp("phantom")
    tissue = make_phantom((20, 36, 36), seed=1)
    np.save(place / "image.npy", tissue.image)
    np.save(place / "ids.npy", tissue.ids)
    np.save(place / "inside.npy", 1 - tissue.boundary)
    return place


def settings(folder: Path, name: str, method: str = "watershed", updates: int = 20) -> dict[str, Any]:
    data = TARGETS[name][0] | {"image": str(folder / "image.npy"), "label": str(folder / TARGETS[name][0]["label"])}
    three = name in ("affinity", "ids")
    return {
        "network": {"letters": "CTC", "width": 4, "out_channels": 3 if three else 1},
        "training": {
            "output_size": 8,
            "updates": updates,
            "learning_rate": 0.05,
            "loss": "malis" if name == "ids" else "logistic",
        },
        "data": {**data, "train": [{"z": [0, 10]}], "test": [{"z": [10, 20], "reach": "volume"}]},
        "log": {"validate_every": 20, "segmentation": method, "report": False},
        "compute": {"workers": 1, "convolution": "direct"},
    }


@pytest.mark.parametrize(("name", "method"), [*((name, "watershed") for name in TARGETS), ("boundary", "components")])
def test_training_and_evaluate_say_the_same_of_a_prediction(
    name: str, method: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with znn.Trainer(None, settings(folder, name, method), folder=tmp_path, progress=False) as trainer:
        found = trainer.run().held_out
        image = trainer._test[0].image[:]
        values = np.asarray(trainer.model.predict(image, border="mirror", probabilities=True))
        assert found is not None
        assert found.segments is not None
        assert trainer.curve[-1].rand_error == found.segments.rand_error
    np.testing.assert_allclose(values.min(axis=0)[10:], found.predictions[0], atol=1e-5)
    np.save(tmp_path / "p.npy", values)
    label = folder / TARGETS[name][0]["label"]
    arguments = [str(tmp_path / "p.npy"), str(label), *TARGETS[name][1], "--region", "10:20", "--method", method]
    assert main(["evaluate", *arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["segments"]
    assert report["rand_error"] == pytest.approx(found.segments.rand_error, abs=1e-4)
    assert report["voi_split"] == pytest.approx(found.segments.voi_split, abs=1e-3)
    assert report["cells"] == found.segments.cells > 3
    assert found.chosen is not None
    assert main(["evaluate", *arguments, "--threshold", str(found.chosen.threshold), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["segments"]
    assert report["rand_error"] == pytest.approx(found.chosen.rand_error, abs=1e-4)
    assert found.figures()["chosen_voi_split"] == pytest.approx(report["voi_split"], abs=1e-3)


class Faint:
    """A model that thinks boundaries a little probable where the image is 1."""

    net = znn.Network.parse("C", kernel=1)
    loss = "square"

    def predict(self, image: np.ndarray, border: None) -> np.ndarray:
        return np.asarray(0.15 * image)


FAINT: Any = Faint()  # in the place of a Model


def walls(z: int, learnt: bool = False) -> Volume:
    """Cells of 8 sections with walls of one between them; what was learnt from has wrong labels but for its middle."""
    wall = np.zeros((z, 40, 40), np.uint8)
    wall[::9] = wall[:, ::10] = wall[:, :, ::10] = 1
    labels = wall.copy()
    if learnt:
        labels[: z // 4] = labels[-z // 4 :] = 0
    box = (0, z), (0, 40), (0, 40)
    return Volume(wall[None].astype(np.float32), labels, box, box, "walls")


def test_the_threshold_of_segments_is_chosen_where_was_learnt_from() -> None:
    how, held_out = Segments("background", method="components"), [walls(28)]
    plain = evaluate_regions(FAINT, held_out, how)
    assert plain.chosen is None
    assert plain.segments is not None
    assert plain.segments.rand_error > 0.9
    found = evaluate_regions(FAINT, held_out, how, learnt=[walls(400, learnt=True)])
    assert found.segments == plain.segments
    assert found.chosen is not None
    assert found.chosen.threshold in (0.05, 0.1)
    assert found.chosen.rand_error < 0.01


def test_nothing_is_chosen_where_there_are_no_cells() -> None:
    learnt = walls(28)
    learnt.target[:] = 1
    found = evaluate_regions(FAINT, [walls(28)], Segments("background"), learnt=[learnt])
    assert found.segments is not None
    assert found.chosen is None


def test_the_best_model_of_malis_has_the_smallest_rand_error(folder: Path, tmp_path: Path) -> None:
    raw = settings(folder, "ids", updates=60)
    raw["log"]["validate_every"] = 10
    with znn.Trainer(None, raw, folder=tmp_path, progress=False) as trainer:
        result = trainer.run()
        errors = {row.step: row.rand_error for row in trainer.curve if row.rand_error is not None}
        position = trainer._loop.position
    assert len(errors) == 6
    assert position.best_error == min(errors.values())
    assert errors[position.best_step or 0] == position.best_error
    assert result.held_out is not None
    # What a threshold reaches is measured against the same map as is drawn: 1 inside cells.
    assert 0 < result.held_out.baseline.error < 0.5


def test_ids_may_be_given_to_a_trainer(folder: Path, tmp_path: Path) -> None:
    net = znn.Network.parse("CTC", width=4, out_channels=3)
    image, ids = np.load(folder / "image.npy"), np.load(folder / "ids.npy")

    def sample(step: int) -> tuple[np.ndarray, np.ndarray]:
        return image[None, :12, :12, :12].astype(np.float32), ids[2:10, 2:10, 2:10]

    with znn.Model(net, 8, loss="malis", num_workers=1, tune=False) as model:
        more: dict[str, Any] = {"updates": 3, "progress": False, "folder": tmp_path / "run"}
        found = znn.Trainer(model, sample, test=[(image, ids)], **more).run().held_out
        assert found is not None
        assert found.segments is not None
        with pytest.raises(znn.ParameterError, match="test volume 0 must hold ids"):
            znn.Trainer(model, sample, test=[(image, -ids)], folder=tmp_path / "other")
