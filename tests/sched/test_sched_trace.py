"""Traces: every task once with honest stamps, results untouched, files and pictures that say the same."""

import gc
import itertools
import json
import operator
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from dask.diagnostics import Profiler
from dask.task_spec import Task, TaskRef

import znn_dask
from znn_dask.errors import ParameterError
from znn_dask.sched import Scheduler, Trace, get, recording
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.policies import lifo
from znn_dask.tasks import Reduce, fresh, overwrites

pytestmark = pytest.mark.timeout(60)
WORKERS = (1, 2, 4, 8)


@pytest.fixture(scope="module", params=WORKERS)
def scheduler(request):
    with Scheduler(num_workers=request.param) as scheduler:
        yield scheduler


@fresh
def make(number):
    return np.full(1000, number, np.float32)


@fresh
@overwrites(0)
def double(value, out=None):
    return np.multiply(value, 2, out=out)


@fresh
def halves(value):
    return value[:600].copy(), value[600:].copy()


def join(first, second):
    return np.concatenate([second, first])


def branches(n_terms):
    """Arrays that are made, changed where they are, cut, joined the other way round and summed; one is given."""
    dsk = {}
    for i in range(n_terms):
        dsk["make", i] = Task(("make", i), make, i)
        dsk["double", i] = Task(("double", i), double, TaskRef(("make", i)))
        dsk["halves", i] = Task(("halves", i), halves, TaskRef(("double", i)))
        for part in (0, 1):
            dsk["part", i, part] = Task(("part", i, part), operator.getitem, TaskRef(("halves", i)), part)
        dsk["join", i] = Task(("join", i), join, TaskRef(("part", i, 0)), TaskRef(("part", i, 1)))
    dsk["sum"] = Reduce("sum", *(("join", i) for i in range(n_terms)))
    dsk["end"] = Task("end", np.add, TaskRef("sum"), TaskRef("given"))
    return dsk


def expected_keys(n_terms):
    kinds = ("make", "double", "halves", "join")
    return sorted([*((kind, i) for kind in kinds for i in range(n_terms)), *["sum"] * (n_terms - 1), "end"], key=str)


def check_stamps(trace):
    tasks = trace.tasks
    assert [task.start_ns for task in tasks] == sorted(task.start_ns for task in tasks)
    for task in tasks:
        assert task.start_ns <= task.end_ns
        assert all(tasks[read].end_ns <= task.start_ns and tasks[read].run == task.run for read in task.reads)
    for worker in {task.worker for task in tasks}:
        own = [task for task in tasks if task.worker == worker]
        assert len({task.thread for task in own}) == 1
        assert all(a.end_ns <= b.start_ns for a, b in itertools.pairwise(own))


def test_every_task_is_traced_once_and_results_are_the_same(scheduler):
    program = scheduler.compile(branches(20), ["end", ("join", 3)])
    given = np.ones(1000, np.float32)
    plain = program.run({"given": given})
    with Trace() as trace:
        traced = [program.run({"given": given}) for _ in range(3)]
    after = program.run({"given": given})
    for result in [*traced, after]:
        assert [part.tobytes() for part in result] == [part.tobytes() for part in plain]
    assert given.tobytes() == np.ones(1000, np.float32).tobytes()
    tasks = trace.tasks
    assert [task.run for task in tasks] == sorted(task.run for task in tasks)
    for run in range(3):
        assert sorted((t.key for t in tasks if t.run == run), key=str) == expected_keys(20)
    assert {task.worker for task in tasks} == set(range(1 + max(task.worker for task in tasks)))
    assert len({task.worker for task in tasks}) <= scheduler.num_workers
    assert len(trace.runs) == 3
    check_stamps(trace)


def test_a_task_names_its_kind_its_bytes_and_what_it_read(scheduler):
    with Trace() as trace:
        scheduler.get({**branches(3), "given": 1}, "end")
    tasks = trace.tasks
    named = {task.key: task for task in tasks if task.key != "sum"}
    assert {task.kind for task in tasks} == {"make", "double", "halves", "join", "sum", "end"}
    assert all(task.n_bytes == 4000 and not task.failed and task.cpu_ns is None for task in tasks)
    assert named["make", 0].reads == ()
    assert [tasks[read].key for read in named["join", 1].reads] == [("halves", 1)], "two parts, one task"
    assert sorted(tasks[r].key for t in tasks if t.key == "sum" for r in t.reads if tasks[r].key != "sum") == [
        ("join", i) for i in range(3)
    ]
    assert [tasks[read].key for read in named["end"].reads] == ["sum"]


def test_a_traced_run_gives_arrays_away_and_keeps_none(scheduler):
    seen, alive = [], []

    @fresh
    @overwrites(0)
    def change(value, out=None):
        seen.append(out is value)
        return value

    @fresh
    def watched():
        array = np.zeros(10)
        alive.append(weakref.ref(array))
        return array

    constant = np.zeros(10)
    alive.append(weakref.ref(constant))
    dsk = {"a": Task("a", watched), "b": Task("b", change, TaskRef("a")), "c": Task("c", join, TaskRef("b"), constant)}
    dsk["d"] = Task("d", len, TaskRef("c"))
    with Trace() as trace:
        assert scheduler.get(dsk, "d") == 20
    del dsk, constant
    gc.collect()
    assert seen == [True]
    assert len(trace.tasks) == 4
    assert [ref() for ref in alive] == [None, None]


def test_without_a_trace_the_tables_are_run_as_they_are():
    tables = compile_tables(branches(2), "end", lifo)
    assert recording.recorded(tables, 2) is tables
    with Trace() as trace:
        assert recording.recorded(tables, 2) is not tables
        recording.recorded(tables, 100)
    assert recording.recorded(tables, 2) is tables
    assert [run.n_workers for run in trace.runs] == [2, tables.n_tasks], "more than tasks are not started"


def test_cpu_time_tells_waiting_from_work(scheduler):
    def spin():
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass

    with Trace(cpu=True) as trace:
        scheduler.get({"wait-0": Task("wait-0", time.sleep, 0.02), "spin": Task("spin", spin)}, ["wait-0", "spin"])
    cpu = {task.key: task.cpu_ns for task in trace.tasks}
    assert cpu["spin"] >= 10_000_000
    assert cpu["wait-0"] < 10_000_000
    assert "CPU ms" in str(trace.summary())


def test_nested_traces_record_what_starts_in_them(scheduler):
    def one(name):
        return scheduler.get({name: Task(name, abs, -1)}, name)

    with Trace() as outer:
        one("before")
        with Trace() as inner:
            one("inside")
        one("after")
        with inner:
            one("again")
    one("outside")
    assert [task.key for task in outer.tasks] == ["before", "inside", "after", "again"]
    assert [task.key for task in inner.tasks] == ["inside", "again"]


def test_runs_of_all_threads_and_of_tasks_are_traced(scheduler):
    def compute(i):
        return get({("inner", i): Task(("inner", i), abs, -i)}, ("inner", i), num_workers=2)

    program = scheduler.compile({**{i: Task(i, compute, i) for i in range(4)}, "s": Reduce("s", *range(4))}, "s")
    failed = []

    def run():
        try:
            for _ in range(5):
                assert program.run() == 6
        except BaseException as error:
            failed.append(error)

    with Trace() as trace:
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        with Trace() as other:
            run()
        for thread in threads:
            thread.join(30)
    assert not failed
    check_stamps(trace)
    check_stamps(other)
    keys = [task.key for task in trace.tasks]
    assert sum(isinstance(key, tuple) for key in keys) == 4 * 5 * 4
    assert len(keys) == 4 * 5 * (4 + 4 + 3)
    assert len(other.tasks) >= 5 * 11
    assert len(trace.runs) == 4 * 5 * 5


def test_a_failing_task_leaves_a_trace(scheduler):
    def fail(value):
        raise ValueError("no")

    dsk = {"a": Task("a", make, 1), "b": Task("b", fail, TaskRef("a")), "c": Task("c", abs, TaskRef("b"))}
    for cpu in (False, True):
        with pytest.raises(ValueError, match="no"), Trace(cpu) as trace:
            scheduler.get(dsk, "c")
        assert [(task.key, task.failed) for task in trace.tasks] == [("a", False), ("b", True)]
        assert trace.summary().n_tasks == 2
        assert trace.summary().peak_bytes == 4000
        assert scheduler.get({"x": Task("x", abs, -1)}, "x") == 1
    assert len(trace.runs) == 1, "after an error the block is left"


def test_callbacks_and_traces_go_together(scheduler):
    with Profiler() as profiler, Trace() as trace:
        scheduler.get({**branches(2), "given": 1}, "end")
    assert {task.key for task in trace.tasks} == {result.key for result in profiler.results}


def test_a_trace_without_runs_says_so(tmp_path):
    with Trace() as trace:
        pass
    assert "Nothing was traced" in str(trace.summary())
    assert trace.tasks == []
    assert trace.summary().idle_share == 0
    trace.to_chrome(tmp_path / "empty.json")
    assert [event["ph"] for event in json.loads((tmp_path / "empty.json").read_text())["traceEvents"]] == ["M"]
    assert trace.plot().axes[0].get_legend() is None
    with pytest.raises(ParameterError, match=r"cpu .* must be True or False, got 3"):
        Trace(cpu=3)
    assert znn_dask.Trace is Trace


def test_a_chrome_trace_is_well_formed(scheduler, tmp_path):
    path = tmp_path / "trace.json"
    path.write_text("an old one")
    with Trace(cpu=True) as trace:
        scheduler.get({**branches(10), "given": 1}, "end")
    trace.to_chrome(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.json"]
    found = json.loads(path.read_text())
    assert found["displayTimeUnit"] == "ms"
    names = [event for event in found["traceEvents"] if event["ph"] == "M"]
    events = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert len(names) + len(events) == len(found["traceEvents"])
    workers = {event["tid"] for event in events}
    assert {e["tid"]: e["args"]["name"] for e in names if e["name"] == "thread_name"} == {
        worker: f"worker {worker}" for worker in workers
    }
    assert [e["args"] for e in names if e["name"] == "process_name"] == [{"name": "znn-dask"}]
    tasks = trace.tasks
    assert [(e["cat"], e["tid"], e["args"]["key"]) for e in events] == [(t.kind, t.worker, str(t.key)) for t in tasks]
    assert {e["pid"] for e in found["traceEvents"]} == {events[0]["pid"]}
    assert events[0]["ts"] == 0
    for event, task in zip(events, tasks, strict=True):
        assert event["dur"] == pytest.approx((task.end_ns - task.start_ns) / 1e3, abs=1e-3)
        assert event["ts"] == pytest.approx((task.start_ns - tasks[0].start_ns) / 1e3, abs=1e-3)
    for worker in workers:
        own = [event for event in events if event["tid"] == worker]
        assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-3 for a, b in itertools.pairwise(own))


def test_the_timeline_shows_workers_and_kinds(scheduler, tmp_path):
    with Trace() as trace:
        scheduler.get({**branches(10), "given": 1}, "end")
    figure = trace.plot(tmp_path / "trace.png")
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    assert figure._repr_png_().startswith(b"\x89PNG")
    (axes,) = figure.axes
    summary = trace.summary()
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"worker {w.number}" for w in summary.workers]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.split()[0] for label in labels] == [kind.name for kind in summary.kinds]
    assert sum(len(bars.get_paths()) for bars in axes.collections) == summary.n_tasks
    assert axes.get_xlabel() == "ms"
    assert trace.plot(ax=axes) is figure


def test_many_kinds_share_a_grey():
    kinds = [f"kind{chr(97 + i)}" for i in range(22)]
    with Trace() as trace:
        get({kind: Task(kind, abs, -1) for kind in kinds}, kinds, num_workers=1)
    (axes,) = trace.plot().axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(labels) == 17
    assert labels[-1] == "6 other kinds"


def run_script(script):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_starting_does_not_load_matplotlib():
    assert run_script("import sys, znn_dask; print('matplotlib' in sys.modules)") == ["False"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_not_traced_but_can_trace():
    out = run_script(
        "import os\n"
        "from znn_dask.sched import Trace, get\n"
        "from dask.task_spec import Task\n"
        "run = lambda: get({'x': Task('x', abs, -1)}, 'x', num_workers=2)\n"
        "with Trace() as trace:\n"
        "    run()\n"
        "    if not os.fork():\n"
        "        run()\n"
        "        with Trace() as other:\n"
        "            run()\n"
        "        print(len(trace.tasks), len(other.tasks), flush=True)\n"
        "        os._exit(0)\n"
        "    assert os.wait()[1] == 0\n"
        "    run()\n"
        "print(len(trace.tasks))\n"
    )
    assert out == ["1", "1", "2"]
