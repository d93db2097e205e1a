"""Sums in order of arrival: exact for integers, one last, nobody waits, memory taken over where it may be."""

import operator
import threading

import dask
import numpy as np
import pytest
from dask.diagnostics import Profiler
from dask.task_spec import Task, TaskRef
from hypothesis import given
from hypothesis import strategies as st

from znn_dask.sched import Scheduler, verify
from znn_dask.sched.sums import ArrivalSum
from znn_dask.tasks import ArrivalReduce, Reduce, fresh

pytestmark = pytest.mark.timeout(120)
WORKERS = (1, 2, 4, 8)


@pytest.fixture(scope="module", params=WORKERS)
def scheduler(request):
    with Scheduler(num_workers=request.param) as made:
        yield made


@fresh
def new_array(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("n_threads", WORKERS)
def test_any_number_of_adders_get_the_sum_and_exactly_one_is_the_last(n_threads):
    n_each = 50
    for _ in range(20):
        total = ArrivalSum(n_threads * n_each)
        last = []
        gate = threading.Barrier(n_threads)

        def add(first, total=total, last=last, gate=gate):
            gate.wait()
            last.extend([total.add(first + i) for i in range(n_each)])

        threads = [threading.Thread(target=add, args=(n * n_each,)) for n in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert last.count(True) == 1
        assert total.take() == sum(range(n_threads * n_each))


class Slow:
    """A number whose additions wait until they are let go."""

    def __init__(self, value, started=None, go=None):
        self.value, self.started, self.go = value, started, go

    def __add__(self, other):
        if self.started is not None:
            self.started.set()
            assert self.go.wait(60)
        return Slow(self.value + other.value)


def test_nobody_waits_for_an_addition():
    total = ArrivalSum(3)
    started, go = threading.Event(), threading.Event()
    total.add(Slow(1, started, go))
    adding = threading.Thread(target=total.add, args=(Slow(2),))
    adding.start()
    assert started.wait(60)
    # The addition of 1 and 2 goes on; the third term is put down and its bringer is free.
    assert total.add(Slow(4)) is False
    go.set()
    adding.join(60)
    assert total.take().value == 7


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=20), st.data())
def test_sums_of_integers_are_those_of_a_tree(numbers, data):
    owned = data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    dsk = {
        ("t", i): Task(("t", i), new_array, n, 2 * n) if own else Task(("t", i), np.array, [n, 2 * n])
        for i, (n, own) in enumerate(zip(numbers, owned, strict=True))
    }
    dsk["first"] = Task("first", np.copy, TaskRef(("t", 0)))  # reads a term too
    with Scheduler(num_workers=4) as scheduler:
        found = []
        for sort in (Reduce, ArrivalReduce):
            program = scheduler.compile(
                {**dsk, "sum": sort("sum", *[k for k in dsk if k != "first"])}, ["sum", "first"]
            )
            verify(program)
            found.append(program.run())
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[1][0], [sum(numbers), 2 * sum(numbers)])
    np.testing.assert_array_equal(found[1][1], [numbers[0], 2 * numbers[0]])


def test_terms_that_nobody_else_reads_are_added_in_place(scheduler):
    made = {}

    @fresh
    def make(i):
        made[i] = np.full(4, i)
        return made[i]

    dsk = {("t", i): Task(("t", i), make, i) for i in range(6)}
    dsk["sum"] = ArrivalReduce("sum", *dsk)
    total = scheduler.get(dsk, "sum")
    assert any(total is array for array in made.values())
    np.testing.assert_array_equal(total, 15)


def test_terms_that_others_have_are_left_as_they_are(scheduler):
    kept = [np.arange(3) for _ in range(4)]
    dsk = {("t", i): Task(("t", i), kept.__getitem__, i) for i in range(4)}
    program = scheduler.compile({**dsk, "sum": ArrivalReduce("sum", *dsk, "x")}, ["sum", ("t", 1)])
    given_array = np.arange(3)
    total, second = program.run({"x": given_array})
    np.testing.assert_array_equal(total, 5 * np.arange(3))
    for array in (*kept, given_array, second):
        np.testing.assert_array_equal(array, np.arange(3))


def test_terms_die_as_they_are_added():
    """With one worker never more than two terms of six are alive; a tree of eight keeps more."""
    alive, most = 0, 0

    class Counted:
        def __init__(self, value):
            nonlocal alive, most
            self.value = value
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

        def __add__(self, other):
            return Counted(self.value + other.value)

    dsk = {("t", i): Task(("t", i), Counted, i) for i in range(8)}
    with Scheduler(num_workers=1) as scheduler:
        assert scheduler.get({**dsk, "sum": ArrivalReduce("sum", *dsk)}, "sum").value == 28
        arrival, most = most, 0
        assert scheduler.get({**dsk, "sum": Reduce("sum", *dsk)}, "sum").value == 28
    assert arrival == 3  # the sum so far, the new term, and their sum
    assert most > 3


def test_a_failing_addition_names_the_sum_and_leaves_the_scheduler_usable(scheduler):
    dsk = {("t", i): Task(("t", i), operator.pos, i) for i in range(5)}
    dsk["text"] = Task("text", str, "word")
    with pytest.raises(TypeError) as caught:
        scheduler.get({**dsk, "sum": ArrivalReduce("sum", *dsk)}, "sum")
    assert caught.value.__notes__ == ["while running task 'sum'"]
    del dsk["text"]
    assert scheduler.get({**dsk, "sum": ArrivalReduce("sum", *dsk)}, "sum") == 10


def test_a_foreign_scheduler_and_callbacks_compute_it_too():
    dsk = {("t", i): Task(("t", i), operator.pos, i) for i in range(5)}
    dsk["sum"] = ArrivalReduce("sum", *dsk)
    assert dask.get(dsk, "sum") == 10
    with Scheduler(num_workers=2) as scheduler, Profiler() as profiler:
        assert scheduler.get(dsk, "sum") == 10
    assert len(profiler.results) == 6


def test_copies_stay_sums_in_order_of_arrival():
    total = ArrivalReduce("sum", "a", "b")
    assert type(total.copy()) is ArrivalReduce
    assert type(total.substitute({"a": "c"})) is ArrivalReduce
