"""What `docs/data.md` shows works: configurations are valid, Python runs, every kind of augmentation is named."""

import re
from pathlib import Path

import pytest
import yaml

from znn_dask.train.augment import KINDS
from znn_dask.train.config import DataSection
from znn_dask.train.config_file import flat, make_config

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
YAML = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", YAML)
def test_configurations_are_valid(text: str) -> None:
    values = yaml.safe_load(text)
    named = flat(make_config(values))
    assert values["data"].keys() <= {key.split(".")[1] for key in named if key.startswith("data.")}


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/data.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(2, 3, 4) [[12 13 14 15]")


def test_everything_is_named() -> None:
    for kind in KINDS:
        assert f"`{kind}`" in PAGE
    for key in ("target", "offsets", "classes", "ignore", "invert", "in_plane", "clip", "in_memory", "augment"):
        assert key in DataSection.__struct_fields__
        assert re.search(rf"\b{key}\b", PAGE)
