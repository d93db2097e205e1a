"""The page about describing networks does what it says."""

import re
from pathlib import Path

import pytest

import znn_dask as znn
from znn_dask.net import zoo
from znn_dask.net.blocks import EDGE_TYPES, NODE_TYPES
from znn_dask.net.functional import Builder

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "networks.md").read_text()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The names that the snippets leave, and what they print."""
    lines, names = [], {"print": lambda *values: lines.append(" ".join(str(value) for value in values))}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(code, "networks.md", "exec"), names)
    return names, lines


def test_the_snippets_run(ran):
    names, lines = ran
    assert lines[1] == "(26, 26, 26) (37, 37, 37)"
    assert lines[3] == "(3, 64, 64)"
    assert lines[4].endswith("Sizes near it that fit along y: 62 and 64")
    assert lines[5] == ", ".join(zoo.names())
    assert names["net"].outputs == {"out": 5}


def test_the_unet_is_what_the_page_says(ran):
    unet = ran[0]["unet"]
    assert (unet.inputs, unet.outputs) == ({"image": 1}, {"label": 2})
    assert {"conv1/kernel", "transfer1/bias", "norm1/scale", "norm1/shift"} <= set(unet.parameters)
    assert {edge.op.kind for edge in unet.incoming("sum1")} == {"identity", "convolution"}


def test_the_text_is_read():
    (text,) = re.findall(r"```\n(nodes image.*?)```", PAGE, re.DOTALL)
    net = znn.Network.from_text(text)
    assert net.outputs == {"both": 9}
    assert [edge.name for edge in net.incoming("both")] == ["on", "skip"]


def test_every_method_and_network_is_on_the_page():
    methods = {name for name in vars(Builder) if not name.startswith("_")} - {"activate"}
    words = set(re.findall(r"\w+", PAGE))
    assert methods | set(zoo.names()) <= words


def test_every_word_of_the_text_form_is_on_the_other_page():
    words = set(re.findall(r"\w+", (DOCS / "formats.md").read_text()))
    for types in (NODE_TYPES, EDGE_TYPES):
        for kind, keys in types.items():
            assert {kind, *keys} <= words, kind
