"""The page about a run: all there is to say, in one file that names no folder."""

import base64
import io
import re
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread
from train_cases import settings

import znn_dask as znn
from znn_dask.errors import MissingExtraError
from znn_dask.train.curve import read_rows
from znn_dask.train.report import without_folders
from znn_dask.train.run import BOARD, CURVE, REPORT
from znn_dask.train.tensorboard import TAGS

pytestmark = pytest.mark.timeout(120)
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Text, pictures and whether every tag that opens closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.pictures: list[np.ndarray] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert "href" not in values
        if tag == "img":
            kind, _, content = (values["src"] or "").partition(",")
            assert kind == "data:image/png;base64"
            assert values["alt"]
            self.pictures.append(np.asarray(imread(io.BytesIO(base64.b64decode(content)))))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a<b")
    raw = settings(folder, 20)
    raw["log"] = {**raw["log"], "tensorboard": True}  # type: ignore[dict-item]
    with znn.Trainer(None, raw, folder=folder / "mine", progress=False) as trainer:
        trainer.run()
    return folder / "mine"


def test_the_page_holds_everything_and_names_no_folder(run: Path) -> None:
    content = (run / REPORT).read_text(encoding="utf-8")
    page = Page(content)
    assert page.open == []
    assert [picture.std() > 10 for picture in page.pictures] == [True] * 3
    for words in ("mine", "20 updates", "all updates were made", "held-out error", "F1", "adapted Rand error"):
        assert words in page.text
    for words in ("updates per second", "output voxels per second", "processor", "numpy", "CTMCTC", "conv3"):
        assert words in page.text
    assert "data.imageimage.npy" in page.text
    for part in run.parts[1:-1]:
        assert part not in content.replace("image.npy", ""), "a folder is named"
    last = read_rows(run / CURVE)[-1]
    assert f"{last.region_error:.4f}" in page.text
    assert not re.search(r"(http|src=\"(?!data:))", content), "something from outside"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("image.npy", "image.npy"),
        ("a/b/image.npy", "image.npy"),
        ("/a/train.h5:/main/data", "train.h5:/main/data"),
        ("C:\\data\\image.tif", "image.tif"),
        ("s3://bucket/volume.zarr", "s3://bucket/volume.zarr"),
        ("file:///a/b/volume.zarr", "volume.zarr"),
        ("gaussian(0, 0.01)", "gaussian(0, 0.01)"),
    ],
)
def test_names_of_files_lose_their_folders(text: str, kept: str) -> None:
    assert without_folders(text) == kept


def test_a_run_on_given_samples_has_a_page_too(tmp_path: Path) -> None:
    net = znn.Network.parse("CTC", width=2, kernel=3)
    random = np.random.default_rng(0)
    with znn.Model(net, 4, num_workers=1, tune=False) as model:
        x, target = random.random((1, *model.input_size)), random.random((1, 4, 4, 4))
        znn.Trainer(model, [(x, target)], folder=tmp_path / "a", updates=2, progress=False).run()
    page = Page((tmp_path / "a" / REPORT).read_text(encoding="utf-8"))
    assert len(page.pictures) == 2
    assert "Prediction" not in page.text


# --- TensorBoard


def events(folder: Path) -> list[tuple[int, str, float | None]]:
    """Read step, tag and value of all events, in the order of the files."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                found.append((event.step, value.tag, None if value.HasField("image") else value.simple_value))
    return found


def test_tensorboard_shows_the_learning_curve_and_predictions(run: Path) -> None:
    shown = {(step, tag): value for step, tag, value in events(run / BOARD)}
    rows = read_rows(run / CURVE)
    assert len(rows) == 4
    for row in rows:
        for name, tag in TAGS.items():
            value = getattr(row, name)
            assert shown.pop((row.step, tag), None) == (None if value is None else pytest.approx(value, rel=1e-6))
    assert shown == {(20, "prediction"): None}


def test_without_tensorboardx_it_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'znn-dask\[tensorboard\]'"):
        znn.Trainer(None, settings(tmp_path), folder=tmp_path / "run", log={"tensorboard": True})
    assert not (tmp_path / "run").exists()
