"""What a notebook shows of models, plans, traces, simulations and results."""

import re
from html import unescape

import numpy as np
import pytest

import znn_dask as znn
from znn_dask.train.trainer import Result

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def model():
    net = znn.Network.parse("CTMCTC", width=3, kernel=3)
    with znn.Model(net, 4, num_workers=1, tune=False) as made:
        yield made


def text(page: str) -> str:
    """The page without its tags, each of which must be closed."""
    opened = [name for name in re.findall(r"<(\w+)", page) if name != "img"]
    assert sorted(opened) == sorted(re.findall(r"</(\w+)>", page))
    return unescape(re.sub(r"<[^>]*>", "", page))


def step(model) -> None:
    model.step(np.zeros((1, *model.input_size)), np.zeros((1, *model.output_size)))


def test_a_model_shows_its_network_and_how_it_is_computed(model):
    shown = text(model._repr_html_())
    assert f"{model.net.n_parameters:,} parameters" in shown
    assert "conv3" in shown
    assert str(model.plan) in shown


def test_a_plan_shows_its_table_and_its_peak(model):
    shown = text(model.plan._repr_html_())
    assert "Plan for an output of 4x4x4" in shown
    assert str(model.plan) in shown


def test_a_trace_shows_its_summary_and_its_timeline(model):
    step(model)
    with znn.Trace() as trace:
        step(model)
    assert str(trace.summary()) in text(trace._repr_html_())
    assert 'src="data:image/png;base64,iVBOR' in trace._repr_html_()
    with znn.Trace() as empty:
        pass
    assert "Nothing was traced" in text(empty._repr_html_())


def test_a_simulation_shows_its_table(model):
    with znn.Trace() as trace:
        step(model)
    simulation = znn.simulate(trace, num_workers=[1, 2])
    assert text(simulation._repr_html_()) == str(simulation)


def test_a_result_shows_its_lines(tmp_path):
    result = Result("updates", 5, 60.0, None, tmp_path / "<run>", ("model.safetensors",))
    assert text(result._repr_html_()) == str(result)
    assert "5 updates in 1.0 minutes" in str(result)
