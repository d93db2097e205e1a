"""A Dask citizen: collections, configuration, callbacks, context variables, computing inside a task."""

import contextvars
import io
import operator
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask.callbacks import Callback
from dask.diagnostics import CacheProfiler, Profiler, ProgressBar, ResourceProfiler
from dask.task_spec import Alias, DataNode, Task, TaskRef

from znn_dask.sched import Scheduler, get
from znn_dask.sched.blas import one_thread_per_worker
from znn_dask.tasks import Reduce

pytestmark = pytest.mark.timeout(120)
WORKERS = (1, 2, 4, 8)


@pytest.fixture(params=WORKERS)
def n_workers(request):
    with dask.config.set(scheduler=get, num_workers=request.param):
        yield request.param


def test_arrays(n_workers):
    x = da.random.default_rng(0).random((60, 50), chunks=(13, 17))
    y = ((x @ x.T).sum(axis=0) + x[:, 3] - x.mean()).rechunk(7)[::-1]
    np.testing.assert_array_equal(y.compute(), y.compute(scheduler="synchronous"))
    stored = np.zeros((60, 50))
    da.store(x, stored)
    np.testing.assert_array_equal(stored, x.compute())
    assert x.persist().sum().compute() == x.sum().compute(scheduler="synchronous")


def test_bags(n_workers):
    bag = db.from_sequence(range(200), npartitions=7)
    words = bag.map(lambda i: f"{i % 9}").frequencies(sort=True)
    assert words.compute() == words.compute(scheduler="synchronous")
    assert bag.filter(lambda i: i % 2).fold(operator.add).compute() == 100 * 100


def test_delayed_and_several_results(n_workers):
    @dask.delayed(nout=2)
    def split(x):
        return x, x + 1

    a, b = split(3)
    total = dask.delayed(sum)([a, b, {"k": a}["k"]])
    assert dask.compute(total, {"x": [a, b]}, 5) == (10, {"x": [3, 4]}, 5)


def test_frames(n_workers):
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = dd.from_pandas(pd.DataFrame({"a": range(30), "b": [1, 2, 3] * 10}), npartitions=4)
    result = frame.groupby("b").a.sum()
    pd.testing.assert_series_equal(result.compute(), result.compute(scheduler="synchronous"))


def test_computing_inside_a_task(n_workers):
    def inner(x):
        return da.ones((4, x), chunks=2).sum().compute()

    def deeper(x):
        return dask.delayed(inner)(x).compute() + 1

    tasks = [dask.delayed(deeper)(i) for i in range(1, 9)]
    assert sum(dask.compute(*tasks)) == sum(4 * i + 1 for i in range(1, 9))


def test_errors_inside_an_inner_computation_name_both_keys(n_workers):
    def inner():
        return get({"low": Task("low", operator.truediv, 1, 0)}, "low")

    with pytest.raises(ZeroDivisionError) as caught:
        get({"high": Task("high", inner)}, "high")
    assert caught.value.__notes__ == ["while running task 'low'", "while running task 'high'"]


def meet(n):
    """Return a graph that ends only if n of its tasks run at the same time."""
    barrier = threading.Barrier(n)
    return {f"x{i}": Task(f"x{i}", barrier.wait, timeout=20) for i in range(n)}


def test_the_number_of_workers_comes_from_the_call_then_settings():
    three, four = meet(3), meet(4)
    with dask.config.set(num_workers=1):
        assert sorted(get(three, list(three), num_workers=3)) == [0, 1, 2]
    with dask.config.set(num_workers=4):
        assert sorted(get(four, list(four))) == [0, 1, 2, 3]
        assert Scheduler().num_workers == 4


@pytest.mark.parametrize("make", [ThreadPoolExecutor, ThreadPool])
def test_of_a_pool_only_the_size_is_used(make):
    pool = make(3)
    try:
        graph = meet(3)
        assert sorted(get(graph, list(graph), pool=pool)) == [0, 1, 2]
        with dask.config.set(pool=pool):
            graph = meet(3)
            assert sorted(get(graph, list(graph))) == [0, 1, 2]
    finally:
        (pool.shutdown if make is ThreadPoolExecutor else pool.terminate)()


def test_unknown_keywords_and_a_cache_of_known_values():
    assert get({"x": Task("x", abs, TaskRef("y"))}, "x", cache={"y": -4}, optimize_graph=True) == 4


def test_context_variables_of_the_caller_are_visible(n_workers):
    variable = contextvars.ContextVar("variable", default="unset")
    dsk = {i: Task(i, variable.get) for i in range(9)}
    assert get(dsk, list(dsk)) == ("unset",) * 9
    variable.set("outer")
    assert get(dsk, list(dsk)) == ("outer",) * 9
    assert get({"s": Task("s", variable.set, "inner")}, "s") is not None
    assert variable.get() == "outer"
    assert get(dsk, list(dsk)) == ("outer",) * 9


class Incomparable:
    def __eq__(self, other):
        raise ValueError("as arrays do")

    __hash__ = None


@pytest.mark.parametrize(("before", "inner"), [(None, 1), ("outer", "inner"), (Incomparable(), Incomparable()), (0, 0)])
def test_what_a_task_sets_no_other_task_sees(n_workers, before, inner):
    """Every task runs in the context of the call, whoever ran on its thread before; also where it sets a variable."""
    variable, second = (contextvars.ContextVar(name, default="unset") for name in ("variable", "second"))
    if before is not None:
        variable.set(before)

    def see_and_set(*_):
        seen = variable.get(), second.get()
        variable.set(inner)
        second.set(inner)
        return seen

    def see(*_):
        return variable.get(), second.get()

    # Long ways from task to task on one thread, between them tasks that set nothing.
    dsk = {i: Task(i, see_and_set if i % 3 else see, *([TaskRef(i - 4)] if i > 3 else [])) for i in range(48)}
    expected = variable.get(), "unset"
    for seen in get(dsk, list(dsk), num_workers=n_workers):
        assert seen[0] is expected[0]
        assert seen[1] == "unset"
    assert (variable.get(), second.get()) == expected


GRAPH = {
    "data": DataNode("data", 1),
    "a": Task("a", operator.add, TaskRef("data"), 1),
    "t": Task("t", divmod, TaskRef("a"), 2),
    "p": Task("p", operator.getitem, TaskRef("t"), 0),
    "r": Reduce("r", "a", "p", "p2"),
    "p2": Alias("p2", "p"),
    "out": Task("out", operator.neg, TaskRef("r")),
    "unneeded": Task("unneeded", abs, 1),
}
EVENTS = {"a", "t", "p", "p2", "r", "out"}


class Recorder(Callback):
    """Checks what Dask promises to callbacks."""

    def __init__(self):
        self.events = []

    def _start(self, dsk):
        self.events.append("start")

    def _start_state(self, dsk, state):
        assert set(state["ready"]) == {"a"}
        assert set(state["waiting"]) == EVENTS - {"a"}
        self.events.append("state")

    def _pretask(self, key, dsk, state):
        assert key in state["running"]
        assert key not in state["ready"]
        assert state["dependencies"][key] <= state["cache"].keys()
        self.events.append(("pre", key, dsk[key].key))

    def _posttask(self, key, result, dsk, state, worker_id):
        assert key in state["finished"]
        assert state["cache"][key] is result
        assert isinstance(worker_id, int)
        assert len(state["ready"]) + len(state["waiting"]) + len(state["running"]) + len(state["finished"]) == 6
        self.events.append(("post", key, result))

    def _finish(self, dsk, state, failed):
        self.events.append(("finish", failed))


def test_callbacks_see_every_key_once_in_order(n_workers):
    expected = dask.get(GRAPH, ["out", "p"])
    with Recorder() as seen:
        assert get(GRAPH, ["out", "p"]) == expected
    assert seen.events[:2] == ["start", "state"]
    assert seen.events[-1] == ("finish", False)
    middle = seen.events[2:-1]
    assert {key for what, key, _ in middle if what == "pre"} == EVENTS
    results = {key: result for what, key, result in middle if what == "post"}
    assert results == {key: dask.get(GRAPH, key) for key in EVENTS}
    assert len(middle) == 12
    place = {(what, key): i for i, (what, key, _) in enumerate(middle)}
    for key in EVENTS:
        for before in GRAPH[key].dependencies & EVENTS:
            assert place["post", before] < place["pre", key]


def test_callbacks_work_with_programs_and_keywords(n_workers):
    with Scheduler(n_workers) as scheduler:
        program = scheduler.compile({"y": Task("y", operator.neg, TaskRef("x"))}, "y")
        seen = []
        with Callback(posttask=lambda key, result, *_: seen.append((key, result))):
            assert program.run({"x": 4}) == -4
        assert program.run({"x": 5}) == -5
        assert seen == [("y", -4)]
        given = scheduler.compile(GRAPH, "out", priority={"a": 4, "t": 3, "r": 2, "out": 1})
        with Callback(posttask=lambda key, *_: seen.append(key)):
            assert given.run() == dask.get(GRAPH, "out")
        assert set(seen[1:]) == EVENTS
        pre = []
        callbacks = [(None, None, lambda key, *_: pre.append(key), None, None)]
        assert scheduler.get({"y": Task("y", abs, -1)}, "y", callbacks=callbacks) == 1
        assert pre == ["y"]


def test_finish_is_told_of_failures(n_workers):
    dsk = {"x": Task("x", operator.truediv, 1, 0)}
    finished = []
    with Callback(finish=lambda dsk, state, failed: finished.append(failed)):
        with pytest.raises(ZeroDivisionError):
            get(dsk, "x")
        with pytest.raises(KeyError):
            get(dsk, "nowhere")
    assert finished == [True, True]


def test_only_the_outermost_computation_is_watched(n_workers):
    def inner():
        return get({"in": Task("in", abs, -1)}, "in")

    seen = []
    with Callback(pretask=lambda key, *_: seen.append(key)):
        assert get({"out": Task("out", inner)}, "out") == 1
    assert seen == ["out"]


def test_dasks_profilers_and_progress_bar(n_workers):
    out = io.StringIO()
    with Profiler() as prof, CacheProfiler() as cache, ProgressBar(dt=0.01, out=out):
        x = da.ones((20, 20), chunks=5).sum()
        assert x.compute() == 400
    assert len(prof.results) > 16
    assert all(r.start_time <= r.end_time for r in prof.results)
    assert len({r.worker_id for r in prof.results}) <= n_workers
    assert {r.key for r in prof.results} == {r.key for r in cache.results}
    assert all(r.cache_time <= r.free_time for r in cache.results)
    assert "100% Completed" in out.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it forks, which newer Pythons warn about
def test_dasks_resource_profiler():
    pytest.importorskip("psutil")
    with ResourceProfiler(dt=0.01) as resources:
        get({"x": Task("x", time.sleep, 0.1)}, "x")
    assert all(sample.mem > 0 for sample in resources.results)
    assert resources.results


def test_errors_can_be_run_again_locally_for_a_debugger():
    where = []

    def fail():
        where.append(threading.current_thread())
        raise ValueError("seen")

    with pytest.raises(ValueError, match="seen"), dask.config.set(rerun_exceptions_locally=True):
        get({"x": Task("x", fail)}, "x")
    assert len(where) == 2
    assert where[1] is threading.current_thread()


def blas_threads():
    from threadpoolctl import threadpool_info

    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_blas_keeps_to_one_thread_while_several_workers_run():
    before = blas_threads()
    dsk = {i: Task(i, blas_threads) for i in range(4)}
    with Scheduler(2) as scheduler:
        assert set(map(frozenset, scheduler.get(dsk, list(dsk)))) == {frozenset({1})}
        assert blas_threads() == before
        with pytest.raises(ZeroDivisionError):
            scheduler.get({**dsk, "bad": Task("bad", operator.truediv, 1, 0)}, [*dsk, "bad"])
    assert blas_threads() == before
    with Scheduler(1) as scheduler:
        assert scheduler.get(dsk, 0) == before


def test_the_limit_ends_with_the_last_of_the_runs_that_overlap():
    before = blas_threads()
    with one_thread_per_worker(2):
        with one_thread_per_worker(3):
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == before
