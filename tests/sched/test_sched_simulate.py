"""Runs that are only played: orders, lives and gifts worked out by hand."""

import operator

import pytest
from dask.task_spec import Task, TaskRef

from znn_dask.sched import simulate
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.policies import lifo
from znn_dask.tasks import Need, Reduce, deferred, fresh, overwrites

pytestmark = pytest.mark.timeout(30)


@fresh
def make(*_):
    return object()


@fresh
@overwrites(0)
def change(value, out=None):
    return value if out is None else out


def task(key, *reads, func=make):
    return Task(key, func, *(TaskRef(read) for read in reads))


def peak(tasks, outputs, needs, n_workers=1, priority=None):
    nodes = {each.key: each for each in tasks}
    tables = compile_tables(nodes, outputs, lifo, priority)
    return simulate.peak_bytes(tables, needs, n_workers)


def test_values_live_until_their_last_reader():
    """a(1) -> b(10) -> c(100) -> d(1000), and a once more for d: a + c + d at the end."""
    tasks = [task("a"), task("b", "a"), task("c", "b"), task("d", "c", "a")]
    needs = {key: Need(n) for key, n in zip("abcd", (1, 10, 100, 1000), strict=True)}
    assert peak(tasks, ["d"], needs) == 1 + 100 + 1000
    assert peak(tasks, ["d", "b"], needs) == 1 + 10 + 100 + 1000
    assert peak(tasks, ["c"], needs) == 10 + 100


def test_what_a_task_holds_while_it_runs():
    tasks = [task("a"), task("b", "a"), task("c", "b")]
    assert peak(tasks, ["c"], {"a": Need(1, extra=50), "b": Need(2), "c": Need(4)}) == 51
    assert peak(tasks, ["c"], {"a": Need(1), "b": Need(2, extra=50), "c": Need(4)}) == 53


def test_arrays_given_away_count_once():
    tasks = [task("a"), task("b", "a", func=change), task("c", "b", func=change)]
    needs = dict.fromkeys("abc", Need(8))
    assert peak(tasks, ["c"], needs) == 8
    assert peak(tasks, ["c", "a"], needs) == 16, "a is asked for, so nobody may write into it"


def test_sums_write_into_one_of_their_terms():
    terms = [task(f"t{i}") for i in range(4)]
    needs = {key: Need(8) for key in ("t0", "t1", "t2", "t3", "sum")}
    total = Reduce("sum", *(TaskRef(term.key) for term in terms))
    assert peak([*terms, total], ["sum"], needs) == 24, "two sums of two at most wait for each other"
    assert peak([*terms, total], ["sum", *(t.key for t in terms)], needs) == 48


def test_parts_live_by_themselves():
    parts = [Task(f"p{i}", operator.getitem, TaskRef("whole"), i) for i in range(3)]
    tasks = [task("whole"), *parts, task("first", "p0"), task("last", "p1", "first")]
    needs = {"whole": Need(111, {0: 1, 1: 10, 2: 100}), "first": Need(1000), "last": Need(10000)}
    # Nobody reads the third part: it dies with the whole.
    assert peak(tasks, ["last"], needs) == 10 + 1000 + 10000
    assert peak(tasks, ["first"], needs) == 1001
    assert peak(tasks, ["last", "p2"], needs) == 110 + 1000 + 10000


@pytest.mark.parametrize(("n_workers", "expected"), [(1, 11), (2, 22), (3, 33), (8, 44)])
def test_workers_hold_values_at_once(n_workers, expected):
    """Four chains of a large value and a small one."""
    tasks, needs, priority = [], {}, {}
    for i in range(4):
        tasks += [task(f"a{i}"), task(f"b{i}", f"a{i}"), task(f"c{i}", f"b{i}")]
        needs |= {f"a{i}": Need(1, seconds=1.0), f"b{i}": Need(10, seconds=1.0), f"c{i}": Need(0, seconds=1.0)}
        priority |= {f"a{i}": 0, f"b{i}": 1, f"c{i}": 2}
    assert peak(tasks, [f"c{i}" for i in range(4)], needs, n_workers, priority) == expected


def test_durations_decide_who_meets():
    """The long task keeps its array while the other worker runs through the chain."""
    tasks = [task("long"), task("a"), task("b", "a"), task("end", "long", "b")]
    needs = {"long": Need(1), "a": Need(10), "b": Need(100)}
    slow = {**needs, "long": Need(1, extra=1000, seconds=9.0), "a": Need(10, seconds=1.0), "b": Need(100, seconds=1.0)}
    quick = {**slow, "long": Need(1, extra=1000, seconds=0.1)}
    assert peak(tasks, ["end"], slow, 2) == 1111
    assert peak(tasks, ["end"], quick, 2) == 1011


def test_deferred_tasks_are_run_once_and_their_result_counts_once():
    """One attempt waits in the queue, one is made as soon as the reader has x."""
    late = Task("u", deferred(lambda *_: object()))
    tasks = [late, task("x"), task("r", "u", "x"), task("end", "r")]
    needs = {"u": Need(8, extra=4), "x": Need(16), "r": Need(32), "end": Need(1)}
    priority = {"u": 0, "x": 1, "r": 2, "end": 3}
    for n_workers in (1, 2, 4):
        assert peak(tasks, ["end"], needs, n_workers, priority) == 8 + 16 + 32
        assert peak(tasks, ["end", "u"], needs, n_workers, priority) == 8 + 16 + 32
    assert peak(tasks, ["end"], needs | {"u": Need(8, extra=100)}, 1, priority) == 100 + 16
