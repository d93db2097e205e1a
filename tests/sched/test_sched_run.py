"""Runs: every task once, sums exact, errors told, threads reused, and nobody sleeps while there is work."""

import gc
import operator
import random
import threading
import time
import traceback
import weakref
from collections import Counter

import numpy as np
import pytest
from dask.task_spec import List, Task, TaskRef
from hypothesis import given, settings
from hypothesis import strategies as st

from znn_dask.sched import Scheduler, verify
from znn_dask.tasks import Reduce, fresh, tree_sum

pytestmark = pytest.mark.timeout(120)
WORKERS = (1, 2, 4, 8)


@pytest.fixture(scope="module", params=WORKERS)
def scheduler(request):
    with Scheduler(num_workers=request.param) as scheduler:
        yield scheduler


@pytest.fixture(scope="module")
def schedulers():
    made = [Scheduler(num_workers=n) for n in WORKERS]
    yield made
    for scheduler in made:
        scheduler.close()


def layers(rng, n_layers, width, task):
    """A random layered graph; `task(key, refs)` makes each node."""
    dsk, before = {}, []
    for layer in range(n_layers):
        keys = [("k", layer, i) for i in range(rng.randint(1, width))]
        for key in keys:
            reads = rng.sample(before, rng.randint(0, min(4, len(before))))
            dsk[key] = task(key, [TaskRef(r) for r in reads])
        before += keys
    return dsk, before[-width:]


def test_every_task_runs_once_after_what_it_needs(schedulers, nervous):
    rng = random.Random(1)
    for _ in range(15):
        ran = Counter()

        def check(key, *values, ran=ran):
            assert all(ran[v] == 1 for v in values)
            ran[key] += 1
            return key

        dsk, keys = layers(rng, 8, 12, lambda key, refs, check=check: Task(key, check, key, *refs))
        for scheduler in schedulers:
            ran.clear()
            program = scheduler.compile(dsk, keys)
            verify(program)
            assert program.run() == tuple(keys)
            assert set(ran.values()) == {1}
            assert sum(ran.values()) == program.n_tasks


def test_many_runs_of_sums_are_exact(schedulers, nervous):
    rng = random.Random(2)

    def node(key, refs):
        if len(refs) > 1 and rng.random() < 0.7:
            return Reduce(key, *refs)
        return Task(key, lambda *v: 1 + sum(v), *refs)

    dsk, keys = layers(rng, 10, 10, node)
    programs = [scheduler.compile(dsk, keys) for scheduler in schedulers]
    expected = programs[0].run()
    for program in programs:
        for _ in range(60):
            assert program.run() == expected


class Term:
    """Something with `+` that remembers how it was added, and who was asked to add."""

    added = 0
    lock = threading.Lock()

    def __init__(self, name):
        self.name = name

    def __add__(self, other):
        with Term.lock:
            Term.added += 1
        time.sleep(random.random() * 2e-4)
        return Term(f"({self.name}+{other.name})")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.randoms(use_true_random=True))
def test_sums_with_random_delays_follow_the_tree_and_end_once(schedulers, n_terms, rng):
    ended = []

    def term(name, delay):
        time.sleep(delay)
        return Term(name)

    delays = [rng.random() * 1e-3 * (rng.random() < 0.5) for _ in range(n_terms)]
    dsk = {f"t{i}": Task(f"t{i}", term, f"t{i}", d) for i, d in enumerate(delays)}
    dsk["s"] = Reduce("s", *(f"t{i}" for i in range(n_terms)))
    dsk["end"] = Task("end", lambda s: ended.append(s.name), TaskRef("s"))
    expected = tree_sum(*(Term(f"t{i}") for i in range(n_terms))).name
    for scheduler in schedulers:
        Term.added = 0
        ended.clear()
        scheduler.get(dsk, "end")
        assert ended == [expected]
        assert Term.added == n_terms - 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_sums_of_floats_are_bitwise_those_of_the_tree(schedulers, n_terms, seed):
    rng = np.random.default_rng(seed)
    terms = [(rng.standard_normal(5) * 10.0 ** rng.integers(-8, 8)).astype("f4") for _ in range(n_terms)]

    @fresh
    def slow(i):
        time.sleep(random.random() * 3e-4)
        return terms[i].copy()

    dsk = {f"t{i}": Task(f"t{i}", slow if i % 3 else terms.__getitem__, i) for i in range(n_terms)}
    dsk["s"] = Reduce("s", *dsk)
    expected = tree_sum(*terms).tobytes()
    before = [term.tobytes() for term in terms]
    for scheduler in schedulers:
        assert scheduler.get(dsk, "s").tobytes() == expected
    assert [term.tobytes() for term in terms] == before


def test_no_addition_waits_for_another():
    first_may_end = threading.Event()

    class Slow:
        def __init__(self, names):
            self.names = names

        def __add__(self, other):
            names = self.names + other.names
            if names == "ab":
                assert first_may_end.wait(20)
            if names == "cd":
                first_may_end.set()
            return Slow(names)

    dsk = {name: Task(name, Slow, name) for name in "abcd"}
    with Scheduler(num_workers=2) as scheduler:
        assert scheduler.get({**dsk, "s": Reduce("s", *"abcd")}, "s").names == "abcd"


def test_no_worker_sleeps_while_a_task_is_ready(scheduler):
    barrier = threading.Barrier(scheduler.num_workers)

    def meet(_):
        return barrier.wait(timeout=20)

    dsk = {"start": Task("start", int)}
    for i in range(scheduler.num_workers):
        dsk[f"first{i}"] = Task(f"first{i}", meet, TaskRef("start"))
    dsk["between"] = Task("between", sum, List(*(TaskRef(f"first{i}") for i in range(len(dsk) - 1))))
    for i in range(scheduler.num_workers):
        dsk[f"second{i}"] = Task(f"second{i}", meet, TaskRef("between"))
    keys = [f"second{i}" for i in range(scheduler.num_workers)]
    for _ in range(10):
        assert sorted(scheduler.get(dsk, keys)) == list(range(scheduler.num_workers))


class Value:
    """Something that can be watched by a weak reference."""


class OddError(Exception):
    """Cannot be made from its message, as some libraries' errors."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def raise_odd(*_):
    raise OddError("this", "that")


def test_errors_keep_type_and_traceback_and_name_the_key(scheduler):
    ran = []
    dsk = {
        ("bad", 3): Task(("bad", 3), raise_odd),
        "after": Task("after", ran.append, TaskRef(("bad", 3))),
    }
    for _ in range(5):
        with pytest.raises(OddError, match="this and that") as caught:
            scheduler.get(dsk, "after")
        assert caught.value.__notes__ == ["while running task ('bad', 3)"]
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names[-1] == "raise_odd"
        assert "work" not in names
        assert not ran
        assert scheduler.get({"x": Task("x", abs, -1)}, "x") == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(1), GeneratorExit()])
def test_every_kind_of_error_reaches_the_caller(scheduler, error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        scheduler.get({"x": Task("x", fail)}, "x")
    assert caught.value is error
    assert scheduler.get({"x": Task("x", abs, -1)}, "x") == 1


def test_errors_of_bad_calls_and_missing_parts_are_told(scheduler):
    with pytest.raises(TypeError, match="argument") as caught:
        scheduler.get({"x": Task("x", raise_odd, nonsense=1)}, "x")
    assert caught.value.__notes__ == ["while running task 'x'"]
    with pytest.raises(IndexError) as caught:
        scheduler.get({"t": Task("t", tuple), "p": Task("p", operator.getitem, TaskRef("t"), 3)}, "p")
    assert caught.value.__notes__ == ["while running task 't'"]
    with pytest.raises(TypeError, match="unsupported operand") as caught:
        scheduler.get({"a": 1, "b": "x", "s": Reduce("s", "a", "b")}, "s")
    assert caught.value.__notes__ == ["while running task 's'"]


def test_after_an_error_nothing_of_the_run_runs_and_no_value_is_kept(scheduler):
    alive, running = weakref.WeakSet(), []

    def slow(i):
        running.append(i)
        value = Value()
        alive.add(value)
        time.sleep(0.02)
        running.remove(i)
        return value

    dsk = {f"s{i}": Task(f"s{i}", slow, i) for i in range(20)}
    dsk["bad"] = Task("bad", raise_odd, TaskRef("s0"))
    with pytest.raises(OddError) as caught:
        scheduler.get({**dsk, "end": Task("end", len, List(*map(TaskRef, dsk)))}, "end")
    assert not running
    assert len(alive) == 1, "the error keeps more of the run than the failing function's argument"
    error = weakref.ref(caught.value)
    gc.disable()
    try:
        del caught
        assert error() is None, "the error is part of a reference cycle"
        assert not alive
    finally:
        gc.enable()


def test_threads_are_reused_and_gone_after_close():
    seen = set()

    def here(_=None):
        seen.add(threading.current_thread())
        time.sleep(0.001)

    with Scheduler(num_workers=4) as scheduler:
        dsk = {f"t{i}": Task(f"t{i}", here) for i in range(12)}
        for _ in range(20):
            scheduler.get(dsk, list(dsk))
        with pytest.raises(OddError):
            scheduler.get({**dsk, "bad": Task("bad", raise_odd)}, [*dsk, "bad"])
        scheduler.get(dsk, list(dsk))
        program = scheduler.compile(dsk, list(dsk))
        assert 1 < len(seen) <= 4
        assert all(t.is_alive() and t.daemon for t in seen)
    assert not any(t.is_alive() for t in seen)
    for use in (lambda: scheduler.get(dsk, list(dsk)), program.run):
        with pytest.raises(RuntimeError, match="this Scheduler is closed; make a new one"):
            use()


def test_a_scheduler_that_is_forgotten_ends_its_threads():
    scheduler = Scheduler(num_workers=2)
    thread = scheduler.get({"x": Task("x", threading.current_thread)}, "x")
    del scheduler
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_closing_while_another_thread_computes_lets_it_finish():
    started, go_on = threading.Event(), threading.Event()

    def slow():
        started.set()
        return go_on.wait(20)

    scheduler = Scheduler(num_workers=2)
    dsk = {"x": Task("x", slow), "y": Task("y", lambda x: (x, threading.current_thread()), TaskRef("x"))}
    results = []
    caller = threading.Thread(target=lambda: results.append(scheduler.get(dsk, "y")))
    caller.start()
    assert started.wait(20)
    scheduler.close()
    go_on.set()
    caller.join(20)
    value, thread = results[0]
    assert value is True
    thread.join(10)
    assert not thread.is_alive()


def test_several_threads_may_use_one_scheduler_and_one_program(scheduler):
    dsk = {("k", i): Task(("k", i), lambda x, i=i: x + i, TaskRef("x")) for i in range(30)}
    dsk["s"] = Reduce("s", *dsk)
    program = scheduler.compile(dsk, "s")
    failures = []

    def use(x):
        for _ in range(20):
            if program.run({"x": x}) != 30 * x + 435 or scheduler.get({**dsk, "x": x}, "s") != 30 * x + 435:
                failures.append(x)

    callers = [threading.Thread(target=use, args=(x,)) for x in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not failures
    assert not any(caller.is_alive() for caller in callers)
