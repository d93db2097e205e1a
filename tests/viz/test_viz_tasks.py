"""The picture of a graph: every task once, to the right of what it reads, coloured by its part of the step."""

import matplotlib
import pytest
from dask.task_spec import DataNode, Task, TaskRef

import znn_dask as znn
from znn_dask.viz.tasks import PHASES, draw_tasks, phase_of

matplotlib.use("Agg")


@pytest.fixture
def graph():
    net = znn.Network.parse("CTMCTC", width=2, kernel=2, window=2)
    with znn.Model(net, 2, granularity="edge", block=1, tune=False) as model:
        return model.graph("step")


def points(ax):
    return [tuple(point) for drawn in ax.collections for point in drawn.get_offsets()]


def test_every_task_has_a_place_of_its_own_right_of_what_it_reads(graph):
    tasks = {key: node for key, node in graph.dask.items() if isinstance(node, Task)}
    ax = draw_tasks(graph.dask)
    assert len(points(ax)) == len(set(points(ax))) == len(tasks)
    lines = [line.get_xdata() for line in ax.lines]
    assert len(lines) == sum(len(node.dependencies & tasks.keys()) for node in tasks.values())
    assert all(start < end for start, end in lines)
    assert f"{len(tasks):,} tasks" in ax.get_title()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == list(PHASES)


def test_values_become_colours(graph):
    ax = draw_tasks(graph.dask, title="order", values=graph.priority.__getitem__)
    assert ax.get_title() == "order"
    (drawn,) = ax.collections
    assert drawn.get_array().max() == max(v for k, v in graph.priority.items() if isinstance(graph.dask[k], Task))


def test_pyplot_knows_nothing_of_the_picture(graph):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = draw_tasks(graph.dask).figure
    assert pyplot.get_fignums() == before
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_data_is_not_drawn_and_an_empty_graph_is_an_empty_picture():
    dsk = {"x": DataNode("x", 1), "y": Task("y", abs, TaskRef("x"))}
    assert len(points(draw_tasks(dsk))) == 1
    assert points(draw_tasks({})) == []


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        ("conv-forward", "forward"),
        ("loss-value", "loss"),
        ("backward-conv", "backward"),
        ("transfer-gradient", "backward"),
        ("conv-gradient", "gradient and update"),
        ("kernel-gradient", "gradient and update"),
        ("update-after", "gradient and update"),
    ],
)
def test_kinds_belong_to_parts_of_the_step(kind, phase):
    assert phase_of(kind) == phase
