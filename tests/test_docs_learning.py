"""What the page about learning shows runs, and names what there is."""

import re
from pathlib import Path

import pytest

import znn_dask as znn
from znn_dask.ops.losses import LOSSES, parse_loss
from znn_dask.train.config import TrainingSection
from znn_dask.train.schedules import COURSES

PAGE = (Path(__file__).parents[1] / "docs" / "learning.md").read_text()


@pytest.mark.timeout(60)
def test_the_code_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec("".join(blocks), names)
    model = names["model"]
    assert isinstance(model, znn.Model)
    assert model.step_count == 1
    assert 0 < model.learning_rate < 0.001
    model.close()


def test_the_page_names_every_loss_course_and_key():
    assert all(f"`{name}" in PAGE for name in LOSSES)
    assert all(name in PAGE for name in COURSES)
    for text in re.findall(r"`(square_square\([\d.]+\)|dice\(\d\))`", PAGE):
        assert parse_loss(text) == parse_loss(text.partition("(")[0]), "the numbers are the defaults"
    elsewhere = {"output_size", "max_minutes", "seed", "learning_rate", "loss"}
    for key in TrainingSection.__struct_fields__:
        assert key in elsewhere or f"`{key}" in PAGE, key
