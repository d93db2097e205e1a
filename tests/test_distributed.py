"""A step on the scheduler of `distributed`: the same answer, our priorities, its report, the page about it."""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest
from dask.optimization import cull
from dask.task_spec import DataNode, Task, TaskRef
from dask.utils import key_split

import znn_dask as znn
from znn_dask.net import Network

distributed = pytest.importorskip("distributed", reason="distributed is not installed")

pytestmark = pytest.mark.timeout(120)

NET = Network.parse("CTMCT", width=8, kernel=3)
SIZE = (3, 4, 5)
RNG = np.random.default_rng(0)
X, TARGET = (RNG.standard_normal(shape, np.float32) for shape in ((1, *NET.input_size(SIZE)), (1, *SIZE)))
# Any free port of this machine: others may test here too.
ADDRESS = "127.0.0.1:0"
# Many small tasks: blocks of two channels, a task per pair of them.
PLAN = {"convolution": "fft", "granularity": "edge", "block": 2, "num_workers": 1}


@pytest.fixture
def model():
    """A model that has made a step, so that updates of it are pending."""
    with znn.Model(NET, SIZE, **PLAN) as made:
        made.step(X, TARGET)
        yield made


@pytest.fixture
def cluster(request, tmp_path):
    """A client of threads of this process, as many as the test says; it hands ready tasks to them at once."""
    config = {"temporary-directory": str(tmp_path), "distributed.scheduler.worker-saturation": "inf"}
    options = {"processes": False, "n_workers": 1, "threads_per_worker": request.param, "dashboard_address": ADDRESS}
    with dask.config.set(config), distributed.Client(**options) as client:
        yield client


@pytest.mark.parametrize("cluster", [1, 2, 4, 8], indirect=True)
def test_a_step_is_the_same_step(cluster, model):
    results = model.graph("step", X, TARGET).run(cluster.get)
    graph = model.graph("step")
    sample = {"input": X[np.newaxis], "target": TARGET[np.newaxis]}
    later = graph.run(cluster.get, sample)
    loss = model.step(X, TARGET)
    for found in (results, later):
        assert float(found.pop("loss")) == loss
        assert found.keys() == model.parameters.keys()
        for name, array in model.parameters.items():
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("given", [{}, {"input": X}, {"input": X, "target": TARGET, "weight": TARGET}])
def test_inputs_must_be_those_of_the_graph(model, given):
    with pytest.raises(znn.ParameterError, match=r"must be given for input, target, got (none|input.*); Model\.graph"):
        model.graph("step").run(dask.get, given)


def needed(graph):
    """The part of a graph that its outputs need: velocities after the step are not asked for."""
    return cull(graph.dask, list(graph.outputs.values()))[0]


# --- priorities ---

order = []
"""Keys in the order in which their tasks ran. In a module of its own name, since graphs are pickled on their way."""


def visit(key, *_):
    """Stand for a task that takes a while, during which the scheduler hears of the one before."""
    order.append(key)
    time.sleep(0.004)


def in_place_of(graph):
    """The same graph, but its tasks only say that they ran."""
    tasks = {
        key: task if isinstance(task, DataNode) else Task(key, visit, key, *map(TaskRef, task.dependencies))
        for key, task in graph.dask.items()
    }
    return dataclasses.replace(graph, dask=tasks)


def share_outranked(graph, lag):
    """Return the share of tasks that ran while one of a higher priority had been ready for longer than some starts."""
    place = {key: i for i, key in enumerate(order)}
    ready = {
        key: max((place.get(other, -1) for other in graph.dask[key].dependencies), default=-1) + lag for key in order
    }
    outranked = [
        any(ready[other] < i and graph.priority[other] > graph.priority[key] for other in order[i + 1 :])
        for i, key in enumerate(order)
    ]
    return sum(outranked) / len(order)


def run_with_annotations(graph, client):
    graph.run(client.get)


def run_without(graph, client):
    client.get(graph.dask, list(graph.outputs.values()))


@pytest.mark.parametrize("cluster", [1], indirect=True)
@pytest.mark.parametrize(("run", "low", "high"), [(run_with_annotations, 0, 0.02), (run_without, 0.2, 1)])
def test_priorities_are_followed(cluster, model, run, low, high):
    """The worker learns what a task released a few starts later; until then it takes the best of what it knows."""
    graph = in_place_of(model.graph("step", X, TARGET))
    order.clear()
    run(graph, cluster)
    tasks = [key for key, task in needed(graph).items() if not isinstance(task, DataNode)]
    assert sorted(map(str, order)) == sorted(map(str, tasks))
    assert low <= share_outranked(graph, lag=4) <= high


def test_every_key_has_a_priority_and_values_that_of_their_first_reader(model):
    graph = model.graph("step")
    priorities = graph.all_priorities()
    assert priorities.keys() == graph.dask.keys() | set(graph.inputs.values())
    assert graph.priority.items() <= priorities.items()
    for key in priorities.keys() - graph.priority.keys():
        readers = [other for other, task in graph.dask.items() if key in task.dependencies]
        assert priorities[key] == max(graph.priority[other] for other in readers)


# --- what it shows ---


@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_the_performance_report_knows_the_kinds(cluster, model, tmp_path):
    graph = model.graph("step", X, TARGET)
    path = tmp_path / "report.html"
    with distributed.performance_report(str(path)):
        graph.run(cluster.get)
    text = path.read_text()
    kinds = {key_split(key) for key in needed(graph)}
    assert {"fft-image", "conv-forward", "backward-conv", "conv-gradient", "update", "update-after"} <= kinds
    assert [kind for kind in sorted(kinds) if f'"{kind}"' not in text] == []


PAGE = (Path(__file__).resolve().parent.parent / "docs" / "dashboard.md").read_text(encoding="utf-8")


def test_the_page_about_the_dashboard_works(tmp_path):
    """Its examples run as they stand, one after the other."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    code = "".join([*blocks, "print('end', len(results))"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:Couldn't detect:RuntimeWarning", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(line) for line in done.stdout.splitlines()[1:4]]
    assert losses[0] > losses[1] > losses[2], "it learns"
    assert done.stdout.endswith("end 8\n"), "the loss, four kernels and three biases"
    assert "backward-conv" in (tmp_path / "step.html").read_text()
