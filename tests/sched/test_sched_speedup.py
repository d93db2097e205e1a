"""Speedups that are only played: makespans worked out by hand, and bounds that hold for every graph."""

import itertools
import time

import pytest
from dask.task_spec import Task, TaskRef
from hypothesis import given
from hypothesis import strategies as st

import znn_dask as znn
from znn_dask.errors import ParameterError
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.contention import Memory
from znn_dask.sched.costs import costs_by_key, costs_of
from znn_dask.sched.dispatch import DISPATCHES
from znn_dask.sched.policies import POLICIES, lifo
from znn_dask.sched.recording import Recording
from znn_dask.sched.speedup import Played, path_s
from znn_dask.tasks import Reduce, deferred

pytestmark = pytest.mark.timeout(60)
WORKERS = (1, 2, 4, 8)
FREE = znn.Dispatch()
GOLDEN = (1 + 5**0.5) / 2


def nothing(*_):
    return None


def tables_of(reads, outputs=None, policy=lifo, sums=()):
    """Compile a graph given as {task: tasks it reads}; all that nobody reads is asked for."""
    nodes = {
        key: Reduce(key, *map(TaskRef, read)) if key in sums else Task(key, nothing, *map(TaskRef, read))
        for key, read in reads.items()
    }
    if outputs is None:
        outputs = sorted(set(reads) - set(itertools.chain(*reads.values())))
    return compile_tables(nodes, list(outputs), policy)


def row(reads, seconds, n_workers, dispatch=FREE, n_bytes=None, **memory):
    """Return the figures of one simulation; one number stands for the seconds of every task."""
    seconds = seconds if isinstance(seconds, dict) else dict.fromkeys(reads, seconds)
    found = znn.simulate(tables_of(reads), n_workers, seconds=seconds, dispatch=dispatch, n_bytes=n_bytes, **memory)
    (curve,) = found.curves
    (only,) = curve.rows
    return only


CHAIN = {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}
FAN = {"in": [], "a": ["in"], "b": ["in"], "c": ["in"], "d": ["in"], "out": ["a", "b", "c", "d"]}
FAN_S = {"in": 1, "a": 2, "b": 2, "c": 2, "d": 2, "out": 1}
APART = {"a": [], "b": [], "c": [], "d": []}


@pytest.mark.parametrize("n_workers", WORKERS)
def test_a_chain_takes_its_length(n_workers):
    assert row(CHAIN, 1.0, n_workers).makespan_s == 4
    assert row(CHAIN, 1.0, n_workers, znn.Dispatch(seconds=0.5)).makespan_s == 6
    found = row(CHAIN, 1.0, n_workers)
    assert (found.speedup, found.efficiency, found.idle) == (1, 1 / n_workers, 1 - 1 / n_workers)
    assert found.binds == ("workers" if n_workers == 1 else "dependencies")


@pytest.mark.parametrize(("n_workers", "expected"), [(1, 10), (2, 6), (3, 6), (4, 4), (8, 4)])
def test_a_fan_takes_its_rounds(n_workers, expected):
    assert row(FAN, FAN_S, n_workers).makespan_s == expected


def test_a_sleeping_worker_takes_a_moment_to_wake():
    """The second begins at 1.25 and does b and d, the first a and c at 1 and 3; d ends at 5.25, then "out"."""
    assert row(FAN, FAN_S, 2, znn.Dispatch(wake=0.25)).makespan_s == 6.25


def test_workers_line_up_for_the_lock():
    assert row(APART, 1.0, 4, znn.Dispatch(serial=1.0)).makespan_s == 4
    # Starts at 0, 0.5, 1 and 1.5; each holds the lock for its first half.
    half = row(APART, 1.0, 2, znn.Dispatch(serial=0.5))
    assert (half.makespan_s, half.waiting) == (2.5, 0.5 / 5)
    four = row(APART, 1.0, 4, znn.Dispatch(serial=0.5))
    # The first two, who end at 1 and 1.5, stand behind the last two, to learn at 2 that nothing is left.
    assert (four.makespan_s, four.waiting) == (2.5, (0.5 + 1 + 1.5 + 1 + 0.5) / 10)
    # Of tasks that take less than the lock is asked for, all is under it.
    short = {"a": 0.25, "b": 0.25, "c": 1.0, "d": 1.0}
    assert row(APART, short, 4, znn.Dispatch(serial=0.5)).makespan_s == pytest.approx(0.25 + 0.25 + 0.5 + 1.0)


def test_dispatch_adds_and_saves():
    assert row(APART, 1.0, 1, znn.Dispatch(seconds=0.5)).makespan_s == 6
    assert row(APART, 1.0, 1, znn.Dispatch(seconds=0.5, saved=0.75)).makespan_s == 3
    assert row(APART, 1.0, 1, znn.Dispatch(saved=2)).makespan_s == 0
    # The lock may cover less than the dispatch: 4 tasks of 1.5 s, of which a quarter is serial.
    assert row(APART, 1.0, 4, znn.Dispatch(seconds=0.5, serial=0.25)).makespan_s == 0.75 + 1.5


def test_several_workers_share_at_a_price():
    """A quarter of a second more for every task, under the lock too, but not for one worker alone."""
    dear = znn.Dispatch(shared=0.25)
    assert row(APART, 1.0, 1, dear).makespan_s == 4
    found = row(APART, 1.0, 2, dear)
    assert (found.makespan_s, found.shared, found.idle) == (2.5, 1 / 5, 0)
    # The lock for 0.5, the tasks for 1.25: starts at 0 and 0.5, 1.25 and 1.75; at 2.5 and 3 nothing is left.
    assert row(APART, 1.0, 2, znn.Dispatch(serial=0.25, shared=0.25)).makespan_s == 3


def test_a_worker_that_finds_nothing_holds_the_lock_too():
    """At 1.5 both end; the one who comes second waits until the first has seen that nothing is left for it."""
    reads = {"a": [], "b": [], "c": ["a", "b"]}
    found = row(reads, {"a": 1.0, "b": 0.5, "c": 1.0}, 2, znn.Dispatch(seconds=0.5, serial=0.5))
    # b: lock 0.5 to 1, ends at 1.5. a: lock 0 to 0.5, ends at 1.5, comes first, finds nothing until 2. c: 2 to 3.5.
    assert found.makespan_s == 3.5


def test_memory_is_shared():
    ten = dict.fromkeys(APART, 10)
    assert row(APART, 1.0, 2, n_bytes=ten, bandwidth=20).makespan_s == 2
    assert row(APART, 1.0, 4, n_bytes=ten, bandwidth=20).makespan_s == pytest.approx(2)
    tight = row(APART, 1.0, 2, n_bytes=ten, bandwidth=10)
    assert tight.makespan_s == pytest.approx(4)
    assert (tight.stalled, tight.idle) == (pytest.approx(0.5), pytest.approx(0))
    # No core draws more than its own share, whatever its caches hold.
    assert row(APART, 1.0, 2, n_bytes=ten, bandwidth=10, core_bandwidth=5).makespan_s == 2
    assert row(APART, 1.0, 1, n_bytes=dict.fromkeys(APART, 1000), bandwidth=10).makespan_s == 4


def test_tasks_that_mostly_compute_are_slowed_less():
    """a draws 10 a second and is all memory's, b 5 and half: 10 / m + 5 / (1 + (m - 1) / 2) = 10 at m = 1.618...

    a ends at m; meanwhile b has run 0.764 of every second, and then runs alone.
    """
    found = row({"a": [], "b": []}, {"a": 1, "b": 3}, 2, n_bytes={"a": 10, "b": 15}, bandwidth=10)
    assert found.makespan_s == pytest.approx(GOLDEN + 3 - GOLDEN / (1 + (GOLDEN - 1) / 2), rel=1e-5)


def test_memory_is_not_used_under_the_lock():
    """Each is alone while the other is in the lock: nobody slows down."""
    found = row({"a": [], "b": []}, 1.0, 2, znn.Dispatch(serial=0.5), {"a": 5, "b": 5}, bandwidth=10)
    assert (found.makespan_s, found.stalled) == (pytest.approx(1.5), pytest.approx(0))


def test_what_binds():
    wide = {i: [] for i in range(64)}
    ten = dict.fromkeys(wide, 10)
    assert row(wide, 1.0, 8).binds == "workers"
    assert row(wide, 1.0, 8, znn.Dispatch(serial=0.5)).binds == "dispatch lock"
    assert row(wide, 1.0, 8, n_bytes=ten, bandwidth=20).binds == "memory"
    assert row(CHAIN, 1.0, 8, n_bytes=dict.fromkeys(CHAIN, 10), bandwidth=20).binds == "dependencies"
    # Ten tasks on eight workers leave six without work in the second round; ten workers would do it in one.
    assert row({i: [] for i in range(10)}, 1.0, 8).binds == "workers"


def test_brents_bounds():
    found = znn.simulate(tables_of(FAN), [1, 2, 4], seconds=FAN_S, dispatch=[FREE])
    curve = found.curve("dispatch")
    assert (curve.work_s, curve.path_s, curve.parallelism) == (10, 4, 2.5)
    assert curve.guaranteed(2) == pytest.approx(2.5 / (1 + 1.5 / 2))
    assert [curve.at_most(n) for n in (1, 2, 4)] == [1, 2, 2.5]
    assert [row.n_workers for row in curve.rows] == [1, 2, 4]


def test_sums_take_their_seconds_for_each_addition():
    reads = {"a": [], "b": [], "c": [], "d": [], "sum": ["a", "b", "c", "d"]}
    tables = tables_of(reads, sums=("sum",))
    seconds = {**dict.fromkeys("abcd", 0.0), "sum": 1.0}
    found = znn.simulate(tables, [1, 2], seconds=seconds, dispatch=FREE)
    assert [row.makespan_s for row in found.curves[0].rows] == [3, 2]


def deferred_graph():
    """u may wait; r reads it and x, which is long; q follows r. All take what `DEFERRED_S` says."""
    late = deferred(lambda *_: None)
    nodes = {"u": Task("u", late), "x": Task("x", nothing)}
    nodes |= {"r": Task("r", nothing, TaskRef("u"), TaskRef("x")), "q": Task("q", nothing, TaskRef("r"))}
    return nodes, {"u": 0, "x": 1, "r": 2, "q": 3}


DEFERRED_S = {"u": 1.0, "x": 4.0, "r": 2.0, "q": 8.0}


@pytest.mark.parametrize(("n_workers", "expected"), [(1, 15), (2, 14), (4, 14)])
def test_of_a_deferred_task_one_attempt_is_played(n_workers, expected):
    nodes, priority = deferred_graph()
    tables = compile_tables(nodes, ["q", "u"], lifo, priority)
    assert len(tables.attempts) == 1
    found = znn.simulate(tables, n_workers, seconds=DEFERRED_S, dispatch=FREE, n_bytes=dict.fromkeys(nodes, 1))
    assert found.n_tasks == len(nodes) + 1, "the attempt, and the task that takes its result"
    (curve,) = found.curves
    assert (curve.work_s, curve.path_s, found.n_bytes) == (15, 14, 4)
    assert curve.rows[0].makespan_s == expected


def test_traces_of_deferred_tasks_know_who_ran_them():
    nodes, priority = deferred_graph()
    with znn.Scheduler(num_workers=1, policy="lifo") as scheduler, znn.Trace() as trace:
        scheduler.compile(nodes, ["q", "u"], priority).run()
    costs = costs_of(trace.runs)
    (attempts,) = costs.tables.attempts.values()
    assert len({costs.seconds[attempt] for attempt in attempts}) == 1
    assert len(costs.once) == costs.tables.n_tasks - len(attempts) + 1
    assert znn.simulate(trace, 2).n_tasks == len(costs.once)


@st.composite
def graphs(draw):
    reads = {}
    for i in range(draw(st.integers(1, 16))):
        n_read = draw(st.integers(0, min(i, 3)))
        reads[i] = sorted({draw(st.integers(0, i - 1)) for _ in range(n_read)})
    return reads, {i: draw(st.integers(0, 8)) for i in reads}, {i: draw(st.integers(0, 8)) for i in reads}


@pytest.mark.parametrize("policy", POLICIES)
@given(graphs())
def test_makespans_keep_to_the_bounds(policy, graph):
    reads, seconds, n_bytes = graph
    tables = tables_of(reads, policy=POLICIES[policy])
    costs = costs_by_key(tables, seconds, n_bytes)
    work, path = sum(costs.seconds), path_s(costs, costs.seconds)
    locked, memory = znn.Dispatch(serial=1.0), Memory.of(2.0, 1.5)
    for n in WORKERS:
        free = Played(costs, FREE, n).makespan
        # Brent: greedy workers are idle only while the longest path that is left gets shorter.
        assert max(work / n, path) - 1e-9 <= free <= path + (work - path) / n + 1e-9
        assert Played(costs, locked, n).makespan >= max(free if n == 1 else 0, sum(min(1, s) for s in seconds.values()))
        shared = Played(costs, FREE, n, memory)
        assert shared.makespan >= max(work / n, path) - 1e-6
        drawn = sum(min(costs.n_bytes[t], 1.5 * s) for t, s in enumerate(costs.seconds))
        assert shared.makespan >= drawn / 2.0 * (1 - 1e-5) - 1e-6
        assert shared.stalled >= -1e-6
    assert Played(costs, FREE, 1, memory).makespan == pytest.approx(work)


def test_a_large_graph_on_many_workers_takes_seconds():
    layers = {(i, j): [(i - 1, (j + k) % 250) for k in range(3)] if i else [] for i in range(40) for j in range(250)}
    start = time.perf_counter()
    dispatch = znn.Dispatch(seconds=3e-6, serial=18e-6)
    found = row(layers, 1e-3, 240, dispatch, dict.fromkeys(layers, 4e6), bandwidth=300e9, core_bandwidth=10e9)
    assert time.perf_counter() - start < 20
    assert found.efficiency < 0.9
    assert found.waiting > 0
    assert found.stalled > 0


# --- traces ---


def spin(seconds, *_):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def graph_of(reads, seconds):
    return {key: Task(key, spin, seconds, *map(TaskRef, read)) for key, read in reads.items()}


def test_a_trace_is_played_by_the_medians_of_the_program_that_took_longest():
    """Three short runs of a chain, then three of a fan whose "a" took 1, 9 and 2 seconds; one run was not finished."""
    chain, fan = tables_of(CHAIN), tables_of(FAN)
    runs = [recording(chain, dict.fromkeys(CHAIN, 0.25)) for _ in range(4)]
    runs += [recording(fan, {**FAN_S, "a": seconds}) for seconds in (1, 9, 2)]
    unfinished = recording(fan, {**FAN_S, "a": 100})
    del unfinished.rows[7][-5:]
    costs = costs_of([*runs, unfinished])
    assert costs.tables is fan
    assert dict(zip(fan.keys, costs.seconds, strict=False)) == {**FAN_S, "a": 2}


def recording(tables, seconds):
    """Return the recording of a run in which tasks take these seconds, one after the other on thread 7."""
    rows = []
    for task, key in enumerate(tables.keys[:-1]):
        rows += [task, 10**9 * task, 10**9 * task + int(seconds[key] * 10**9), 0, -1]
    return Recording(tables, 1, {7: rows})


def test_real_runs_are_played():
    with znn.Scheduler(num_workers=1) as scheduler, znn.Trace() as trace:
        program = scheduler.compile(graph_of(FAN, 2e-3), ["out"])
        for _ in range(3):
            program.run()
    found = znn.simulate(trace, [1, 4], dispatch=FREE)
    assert found.n_tasks == len(FAN)
    assert found.seconds >= 6 * 2e-3
    assert found.curves[0].rows[1].speedup == pytest.approx(2, rel=0.5)


def test_a_trace_knows_the_bytes():
    import numpy as np

    ones = np.ones(1000)
    dsk = {"a": Task("a", np.negative, TaskRef("given")), "b": Task("b", np.add, TaskRef("a"), TaskRef("a"))}
    with znn.Scheduler(num_workers=1) as scheduler, znn.Trace() as trace:
        scheduler.compile(dsk, ["b"]).run({"given": ones})
    # a reads 8000 bytes and makes 8000; so does b, which reads one array twice.
    assert znn.simulate(trace, 1).n_bytes == 32000


def test_traces_without_a_whole_run_are_refused():
    with pytest.raises(ParameterError, match="holds no complete run; let a graph run"):
        znn.simulate(znn.Trace())
    dsk = {"a": Task("a", nothing), "b": Task("b", lambda _: 1 / 0, TaskRef("a"))}
    with znn.Trace() as trace, pytest.raises(ZeroDivisionError):
        znn.get(dsk, ["b"], num_workers=1)
    with pytest.raises(ParameterError, match="no complete run"):
        znn.simulate(trace)


# --- what users see ---


def test_the_table_names_every_count_and_dispatch():
    found = znn.simulate(tables_of(FAN), [1, 240], seconds=FAN_S, n_bytes=dict.fromkeys(FAN, 1e9), bandwidth=1e9)
    text = str(found)
    assert [curve.dispatch.name for curve in found.curves] == list(DISPATCHES)
    for words in ("6 tasks", "memory gives 1 GB/s", "gil: ", "native: ", "S_inf 2.5", "binds"):
        assert words in text
    assert len([line for line in text.splitlines() if line.split()[:1] == ["240"]]) == 3


def test_the_picture_shows_every_speedup(tmp_path):
    found = znn.simulate(tables_of(FAN), [1, 2, 4], seconds=FAN_S)
    figure = found.plot(tmp_path / "speedup.png")
    assert (tmp_path / "speedup.png").read_bytes().startswith(b"\x89PNG")
    drawn = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    for curve in found.curves:
        assert drawn[curve.dispatch.name] == [row.speedup for row in curve.rows]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source": "CTC"}, "plays a Trace or a Program, got str; of a model, trace some steps"),
        ({"seconds": None}, r"nobody knows what the tasks of this program take; give seconds"),
        ({"seconds": {"in": 1}}, "seconds has no entry for the task"),
        ({"seconds": {**FAN_S, "a": -1}}, "seconds of the task 'a' must be a finite number from 0, got -1"),
        ({"n_bytes": {"a": float("inf")}}, "n_bytes of the task 'a' must be"),
        ({"num_workers": 0}, "num_workers must be ints of at least 1, got 0"),
        ({"num_workers": [2, 1.5]}, "num_workers must be ints of at least 1, got 1.5"),
        ({"num_workers": []}, "num_workers is empty"),
        ({"dispatch": "natif"}, "dispatch must be 'gil', .* got 'natif'. Did you mean 'native'"),
        ({"dispatch": []}, "dispatch names no model"),
        ({"dispatch": [FREE, FREE]}, "two models of the name 'dispatch'"),
        ({"bandwidth": 0}, "bandwidth must be bytes a second, a finite number above 0, or None, got 0"),
        ({"core_bandwidth": 1e9}, "core_bandwidth needs the bandwidth of all cores"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ParameterError, match=words):
        znn.simulate(**{"source": tables_of(FAN), "seconds": FAN_S, **arguments})


@pytest.mark.parametrize("value", [-1e-6, float("inf"), float("nan"), "1 us", True])
def test_dispatch_refuses_what_is_no_time(value):
    with pytest.raises(ParameterError, match="serial must be a finite number of seconds from 0"):
        znn.Dispatch(serial=value)


def test_measured_seconds_are_not_overruled():
    with pytest.raises(ParameterError, match="a trace has measured seconds and bytes"):
        znn.simulate(znn.Trace(), seconds={})
