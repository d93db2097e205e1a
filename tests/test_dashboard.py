"""Dask's dashboard during steps, seen in Chromium: every kind of task has its name there, and Dask's colour for it."""

import struct
import time

import pytest
from dask.optimization import cull
from dask.utils import key_split

import znn_dask as znn

pytest.importorskip("distributed", reason="distributed is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from dashboard_page import browser, dashboard, missing, plots, running
from distributed.utils import color_of

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

NET = znn.Network.parse("CTMCT", width=8, kernel=3)
MODEL = {"output_size": (4, 4, 4), "convolution": "fft", "granularity": "edge", "block": 4, "num_workers": 1}
# What every step has, whatever its plan.
EXPECTED = {"fft-image", "conv-forward", "ifft-image", "max-filter", "loss", "backward-conv", "conv-gradient"}
EXPECTED |= {"backward-transfer", "backward-max-filter", "kernel-gradient", "bias-gradient", "update-after"}


def kinds_of(model):
    """The kinds of the tasks of a step: those that its outputs need."""
    graph = model.graph("step")
    return {key_split(key) for key in cull(graph.dask, list(graph.outputs.values()))[0]}


def wait_for(read, enough, seconds):
    """Read until it is enough, and return the last that was read."""
    end = time.monotonic() + seconds
    while not enough(found := read()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def test_the_kinds_of_task_are_on_the_dashboard(tmp_path):
    with (
        znn.Model(NET, **MODEL) as model,
        dashboard(2, tmp_path / "workers") as (client, address),
        browser(tmp_path / "browser") as driver,
        running(model, client),
    ):
        kinds = kinds_of(model)
        assert kinds >= EXPECTED
        driver.get(f"{address}/status")
        found = wait_for(lambda: plots(driver), lambda found: kinds <= found.get("Task Stream", {}).keys(), 40)
        stream = found.get("Task Stream", {})
        assert kinds - stream.keys() == set()
        assert {kind: stream[kind] for kind in kinds} == {kind: color_of(kind) for kind in kinds}
        assert driver.title == "Dask: Status"
        assert driver.save_screenshot(str(tmp_path / "status.png"))
    header = (tmp_path / "status.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", header[16:])) > 500, "pixels, x and y"
