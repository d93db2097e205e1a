"""What a trace says of stamps made by hand: idle shares, the longest path, locality and peak, worked out on paper."""

import operator
from dataclasses import replace

import pytest
from dask.task_spec import Task, TaskRef

from znn_dask.sched.compile import compile_tables
from znn_dask.sched.policies import lifo
from znn_dask.sched.recording import Recording
from znn_dask.sched.summary import summarize
from znn_dask.sched.traced import sources_of
from znn_dask.tasks import fresh, overwrites

pytestmark = pytest.mark.timeout(30)
MS = 1_000_000


@fresh
def make(*_):
    """Never called: only the tables matter."""


@fresh
@overwrites(0)
def double(value, out=None):
    """Never called."""


def made_by_hand():
    """Two workers; times in ms, bytes in brackets::

        worker 0   a 0-2 [100]   b 2-5 [10]         d 8-9 [1]
        worker 1                 c 3-7 [1000]

    b and c read a, c may overwrite nothing, d reads b and c and is asked for.
    """
    dsk = {
        "a": Task("a", make, 1),
        "b": Task("b", make, TaskRef("a")),
        ("c", 1): Task(("c", 1), make, TaskRef("a")),
        "d": Task("d", make, TaskRef("b"), TaskRef(("c", 1))),
    }
    tables = compile_tables(dsk, "d", lifo)
    number = {key: task for task, key in enumerate(tables.keys)}
    stamps = {
        11: [("a", 0, 2, 100), ("b", 2, 5, 10), ("d", 8, 9, 1)],
        12: [(("c", 1), 3, 7, 1000)],
    }
    rows = {
        thread: [value for key, start, end, size in own for value in (number[key], start * MS, end * MS, size, -1)]
        for thread, own in stamps.items()
    }
    return Recording(tables, 2, rows)


def test_figures_of_a_trace_made_by_hand():
    found = summarize([made_by_hand()])
    assert (found.n_runs, found.n_tasks, found.n_workers, found.n_reads) == (1, 4, 2, 4)
    assert found.span_s == pytest.approx(0.009)
    assert found.busy_s == pytest.approx(0.010)
    assert found.idle_share == pytest.approx(1 - 10 / 18)
    assert [(w.number, w.count, w.seconds, w.idle_share) for w in found.workers] == [
        (0, 3, pytest.approx(0.006), pytest.approx(3 / 9)),
        (1, 1, pytest.approx(0.004), pytest.approx(5 / 9)),
    ]
    assert [(k.name, k.count, k.seconds, k.share) for k in found.kinds] == [
        ("c", 1, pytest.approx(0.004), pytest.approx(0.4)),
        ("b", 1, pytest.approx(0.003), pytest.approx(0.3)),
        ("a", 1, pytest.approx(0.002), pytest.approx(0.2)),
        ("d", 1, pytest.approx(0.001), pytest.approx(0.1)),
    ]
    assert found.path_s == pytest.approx(0.007), "a, c, d"
    assert {k.name: k.share for k in found.path_kinds} == pytest.approx({"a": 2 / 7, "c": 4 / 7, "d": 1 / 7})
    # On worker 0: b read a, one task ago, and d read b, one task ago. a to c and c to d went over.
    assert found.same_worker == 0.5
    assert found.recent == {1: 0.5, 2: 0.5, 4: 0.5}
    # a, b and c from 3 to 7, while c runs; then b and c, and d in the end.
    assert found.peak_bytes == 1110


def moved(run, ms, threads=(11, 12)):
    """Return the same run later, perhaps on other threads."""
    rows = {
        thread: [v + ms * MS * (i % 5 in (1, 2)) for i, v in enumerate(row)]
        for thread, row in zip(threads, run.rows.values(), strict=True)
    }
    return replace(run, rows=rows)


def test_figures_of_several_runs_add_up():
    once = made_by_hand()
    later = moved(once, 20)
    one, two = summarize([once]), summarize([once, later])
    assert two.span_s == pytest.approx(2 * one.span_s)
    assert two.path_s == pytest.approx(2 * one.path_s)
    assert two.idle_share == pytest.approx(one.idle_share)
    assert [w.idle_share for w in two.workers] == pytest.approx([w.idle_share for w in one.workers])
    assert two.peak_bytes == one.peak_bytes, "one run after the other"
    assert summarize([once, replace(once)]).peak_bytes == 2 * one.peak_bytes, "both at once"
    assert summarize([replace(once, n_workers=4)]).idle_share == pytest.approx(1 - 10 / 36), "two without a task"


def test_time_that_overlapping_runs_share_counts_once():
    """Steps that begin while the one before ends: 0 to 9, 6 to 15 and 12 to 21 ms, 10 ms of work in each."""
    once = made_by_hand()
    found = summarize([once, moved(once, 6), moved(once, 12)])
    assert found.span_s == pytest.approx(0.021)
    assert found.idle_share == pytest.approx(1 - 30 / 42)
    assert [w.idle_share for w in found.workers] == pytest.approx([1 - 18 / 21, 1 - 12 / 21])
    # In whatever order they are told; those that touch the last two make one of all.
    other = summarize([moved(once, 12), once, moved(once, 6)])
    assert (other.span_s, other.idle_share) == pytest.approx((found.span_s, found.idle_share))
    # Runs of other workers have time of their own.
    apart = summarize([once, moved(once, 6, (13, 14))])
    assert apart.span_s == pytest.approx(0.018)
    assert apart.idle_share == pytest.approx(1 - 20 / 36)


def test_the_distance_of_an_input_counts_the_tasks_of_its_worker():
    """One worker: p, q, r, then s, which reads all three."""
    dsk = {key: Task(key, make, 1) for key in "pqr"}
    dsk["s"] = Task("s", max, *map(TaskRef, "pqr"))
    rows = [v for task in range(4) for v in (task, task * MS, (task + 1) * MS, 8, -1)]
    found = summarize([Recording(compile_tables(dsk, "s", lifo), 1, {1: rows})])
    assert found.same_worker == 1
    assert found.recent == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3), 4: 1}
    assert found.idle_share == 0
    assert found.peak_bytes == 32


def test_what_is_given_away_and_what_is_cut_counts_once():
    """a is overwritten by b; halves of b are read by c and d one after the other; times in ms."""
    dsk = {
        "a": Task("a", make, 1),
        "b": Task("b", double, TaskRef("a")),
        "h": Task("h", make, TaskRef("b")),
        "h0": Task("h0", operator.getitem, TaskRef("h"), 0),
        "h1": Task("h1", operator.getitem, TaskRef("h"), 1),
        "c": Task("c", len, TaskRef("h0")),
        "d": Task("d", max, TaskRef("h1"), TaskRef("c")),
    }
    tables = compile_tables(dsk, "d", lifo)
    sizes = {"a": 100, "b": 100, "h": (60, 40), "c": 200, "d": 300}
    order = [tables.keys.index(key) for key in "abhcd"]
    rows = [v for i, t in enumerate(order) for v in (t, i * MS, i * MS + MS, sizes[tables.keys[t]], -1)]
    peaks = [summarize([Recording(tables, 1, {1: rows[: 5 * n]})]).peak_bytes for n in range(1, 6)]
    # b in the place of a; b and its halves; both halves and c; the second half, c and d.
    assert peaks == [100, 100, 200, 300, 540]


def test_a_value_lives_until_its_last_reader_has_ended():
    """a(100) -> b(10) -> c(1000) -> d(1), and a once more for d, on one worker."""
    dsk = {
        "a": Task("a", make, 1),
        "b": Task("b", make, TaskRef("a")),
        "c": Task("c", make, TaskRef("b")),
        "d": Task("d", make, TaskRef("c"), TaskRef("a")),
    }
    tables = compile_tables(dsk, "d", lifo)
    assert tables.keys == [*"abcd", None]
    rows = [v for t, size in enumerate((100, 10, 1000, 1)) for v in (t, t * MS, t * MS + MS, size, -1)]
    assert summarize([Recording(tables, 1, {1: rows})]).peak_bytes == 1110
    assert sources_of(tables) == [(), (0,), (1,), (2, 0), ()]


def test_a_summary_prints_as_a_table():
    text = str(summarize([made_by_hand()]))
    assert text.splitlines()[0] == "1 run, 4 tasks, 2 workers: 9.000 ms, 44.4% idle"
    assert text.splitlines()[2:4] == [
        "kind         tasks          ms   share",
        "c                1       4.000   40.0%",
    ]
    assert "worker 1         1       4.000   55.6% idle" in text
    assert "longest path: 7.000 ms (c 57%, a 29%, d 14%)" in text
    assert "inputs made by the same worker: 50% of 4 (50% in its last 1" in text
    assert "peak of results: 1.08 kiB" in text
    assert summarize([made_by_hand()])._repr_html_().startswith("<pre>1 run")
