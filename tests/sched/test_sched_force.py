"""Deferred tasks: run once, late if nobody needs them, at once for who does, and nobody waits for one."""

import operator
import random
import threading
import time

import pytest
from dask.task_spec import Task, TaskRef

import znn_dask as znn
from znn_dask.sched import Scheduler, get, verify
from znn_dask.sched.policies import POLICIES
from znn_dask.tasks import Reduce, deferred

pytestmark = pytest.mark.timeout(120)
WORKERS = (1, 2, 4, 8)


def task(key, function, *reads):
    return Task(key, function, *map(TaskRef, reads))


class Noted:
    """Functions that note when they ran and on which thread."""

    def __init__(self):
        self.ran = []

    def plain(self, name, function=lambda *values: sum(values) + 1):
        def run(*values):
            self.ran.append((name, threading.get_ident()))
            return function(*values)

        return run

    def late(self, name, function=lambda *values: sum(values) + 1):
        return deferred(self.plain(name, function))

    @property
    def names(self):
        return [name for name, _ in self.ran]


def low(key):
    """Return priorities with which updates come last and what reads them first."""
    return {"u": 0, "r": 2}.get(key[0], 1)


def test_it_is_run_when_its_reader_has_everything_else():
    """One worker: the update goes before the rest, as soon as the other argument of its reader is there."""
    noted = Noted()
    dsk = {("x", 0): Task(("x", 0), noted.plain("x"))}
    dsk |= {("a", i): task(("a", i), noted.plain(f"a{i}"), ("x", 0)) for i in range(4)}
    dsk |= {("u", i): Task(("u", i), noted.late(f"u{i}"), 10 * i) for i in range(3)}
    dsk["r", 0] = task(("r", 0), noted.plain("r"), ("u", 1), ("x", 0))
    with Scheduler(1) as scheduler:
        program = scheduler.compile(dsk, [("r", 0), *dsk], low)
        verify(program)
        assert program.run()[0] == 13
    assert noted.names[:3] == ["x", "u1", "r"]
    assert sorted(noted.names) == sorted(["x", "r", *(f"a{i}" for i in range(4)), *(f"u{i}" for i in range(3))])


def test_a_reader_of_several_forces_them_all():
    """As a convolution that reads a kernel and a bias: neither waits at its own priority for the other."""
    noted = Noted()
    dsk = {("x", 0): Task(("x", 0), noted.plain("x"))}
    dsk |= {("a", i): task(("a", i), noted.plain("a"), ("x", 0)) for i in range(4)}
    dsk |= {("u", i): Task(("u", i), noted.late("u"), 10 * i) for i in range(3)}
    dsk["r", 0] = task(("r", 0), noted.plain("r"), ("u", 1), ("x", 0), ("u", 2))
    with Scheduler(1) as scheduler:
        program = scheduler.compile(dsk, [("r", 0), *dsk], low)
        verify(program)
        assert program.run()[0] == 34
    assert noted.names == ["x", "u", "u", "r", *["a"] * 4, "u"]


def test_it_waits_at_its_own_priority_until_then():
    noted = Noted()
    dsk = {("u", 0): Task(("u", 0), noted.late("u"))}
    dsk |= {("a", i): Task(("a", i), noted.plain(f"a{i}")) for i in range(4)}
    dsk["b", 0] = task(("b", 0), noted.plain("b"), *[("a", i) for i in range(4)])
    dsk["r", 0] = task(("r", 0), noted.plain("r"), ("u", 0), ("b", 0))
    with Scheduler(1) as scheduler:
        scheduler.compile(dsk, [("r", 0)], low).run()
    assert noted.names[-3:] == ["b", "u", "r"]


def test_an_update_of_an_update_forces_both():
    """The kernel of two steps on: its reader runs what its update still waits for as well, before any other work."""
    noted = Noted()
    dsk = {("x", 0): Task(("x", 0), noted.plain("x"))}
    dsk |= {("a", i): task(("a", i), noted.plain("a"), ("x", 0)) for i in range(4)}
    dsk["u", 0] = Task(("u", 0), noted.late("u0"), 10)
    dsk["u", 1] = task(("u", 1), noted.late("u1"), ("u", 0), ("x", 0))
    dsk["u", 2] = task(("u", 2), noted.late("u2"), ("u", 1))
    dsk["r", 0] = task(("r", 0), noted.plain("r"), ("u", 2), ("x", 0))
    with Scheduler(1) as scheduler:
        program = scheduler.compile(dsk, [("r", 0), *dsk], low)
        verify(program)
        assert program.run()[0] == 11 + 1 + 1 + 1 + 1 + 1
    assert noted.names == ["x", "u0", "u1", "u2", "r", *["a"] * 4]


def test_two_updates_of_one_that_a_reader_needs():
    noted = Noted()
    dsk = {("x", 0): Task(("x", 0), noted.plain("x"))}
    dsk |= {("a", i): task(("a", i), noted.plain("a"), ("x", 0)) for i in range(4)}
    dsk["u", 0] = Task(("u", 0), noted.late("u"), 10)
    dsk |= {("u", i): task(("u", i), noted.late("v"), ("u", 0)) for i in (1, 2)}
    dsk["r", 0] = task(("r", 0), noted.plain("r"), ("u", 1), ("x", 0), ("u", 2))
    with Scheduler(1) as scheduler:
        program = scheduler.compile(dsk, [("r", 0), *dsk], low)
        verify(program)
        assert program.run()[0] == 12 + 12 + 1 + 1
    assert noted.names == ["x", "u", "v", "v", "r", *["a"] * 4]


def test_an_update_waits_while_the_update_that_needs_it_lacks_something_else():
    """Running it sooner would not bring its reader any nearer."""
    noted = Noted()
    dsk = {("x", 0): Task(("x", 0), noted.plain("x"))}
    dsk["a", 0] = task(("a", 0), noted.plain("a0"), ("x", 0))
    dsk["a", 1] = task(("a", 1), noted.plain("a1"), ("a", 0))
    dsk["u", 0] = Task(("u", 0), noted.late("u0"), 10)
    dsk["u", 1] = task(("u", 1), noted.late("u1"), ("u", 0), ("a", 1))
    dsk["r", 0] = task(("r", 0), noted.plain("r"), ("u", 1), ("x", 0))
    with Scheduler(1) as scheduler:
        scheduler.compile(dsk, [("r", 0)], low).run()
    assert noted.names == ["x", "a0", "a1", "u0", "u1", "r"]


def held_up():
    """Return an update that ends when an event is set, what returns when it runs, and that event."""
    running, go = threading.Event(), threading.Event()

    def slow():
        running.set()
        assert go.wait(60)
        return 5

    def after_it_runs():
        assert running.wait(60)
        return 7

    return slow, after_it_runs, go


def test_an_update_runs_elsewhere_while_that_of_the_next_step_waits_for_it():
    """Who wants the reader finds the first update running: it takes other work, and the reader follows both updates."""
    slow, after_it_runs, go = held_up()
    noted = Noted()

    def elsewhere(_):
        go.set()

    dsk = {
        ("u", 0): Task(("u", 0), noted.late("u0", slow)),
        ("x", 0): Task(("x", 0), after_it_runs),
        ("u", 1): task(("u", 1), noted.late("u1"), ("u", 0), ("x", 0)),
        ("r", 0): task(("r", 0), noted.plain("r"), ("u", 1), ("x", 0)),
        ("z", 0): task(("z", 0), noted.plain("z", elsewhere), ("x", 0)),
        ("y", 0): task(("y", 0), noted.plain("y", lambda _: time.sleep(0.1)), ("z", 0)),
    }
    dsk |= {("a", i): task(("a", i), noted.plain("a", lambda _: 0), ("z", 0)) for i in range(3)}
    with Scheduler(2) as scheduler:
        priority = {("u", 0): 9, ("x", 0): 8, ("r", 0): 8, ("z", 0): 7, ("y", 0): 6, ("u", 1): 0}
        program = scheduler.compile(dsk, list(dsk), lambda key: priority.get(key, 1))
        assert program.run()[3] == 5 + 7 + 1 + 7 + 1
    names = noted.names
    assert names.index("z") < names.index("u1") < names.index("r") < names.index("a")
    threads = dict(noted.ran)
    assert threads["u0"] == threads["u1"] == threads["r"], "who finished the update goes on with what waited for it"


def test_who_finds_it_running_elsewhere_takes_other_work():
    """The reader follows the update, whoever ran it; meanwhile the worker that wanted it does something else."""
    slow, after_it_runs, go = held_up()
    other, noted = threading.Event(), Noted()

    def elsewhere(_):
        other.set()
        go.set()

    dsk = {
        ("u", 0): Task(("u", 0), noted.late("u", slow)),
        ("x", 0): Task(("x", 0), after_it_runs),
        ("r", 0): task(("r", 0), noted.plain("r", operator.add), ("u", 0), ("x", 0)),
        ("z", 0): task(("z", 0), elsewhere, ("x", 0)),
    }
    with Scheduler(2) as scheduler:
        priority = {("u", 0): 3, ("x", 0): 2, ("r", 0): 2, ("z", 0): 1}
        assert scheduler.compile(dsk, [("r", 0), ("z", 0)], priority).run() == (12, None)
    assert other.is_set()
    assert noted.names == ["u", "r"]
    assert noted.ran[0][1] == noted.ran[1][1], "who finished the update goes on with its reader"


def random_graph(rng, count):
    """Return a graph of which some tasks are deferred; each counts its runs."""
    dsk, keys, lock = {}, [], threading.Lock()

    def counted(key, function):
        def run(*values):
            with lock:
                count[key] = count.get(key, 0) + 1
            return function(*values)

        return run

    for i in range(rng.randint(5, 40)):
        reads = rng.sample(keys, min(len(keys), rng.choice((0, 1, 2, 3))))
        if reads and rng.random() < 0.15:
            dsk[i] = Reduce(i, *reads)
        elif rng.random() < 0.4:
            dsk[i, "whole"] = task((i, "whole"), deferred(counted(i, lambda *v: (sum(v) + 1, sum(v) % 7))), *reads)
            dsk[i] = Task(i, operator.getitem, TaskRef((i, "whole")), rng.choice((0, 1)))
        else:
            make = deferred if rng.random() < 0.3 else lambda function: function
            dsk[i] = task(i, make(counted(i, lambda *v: (sum(v) + 1) % 1009)), *reads)
        keys.append(i)
    return dsk, rng.sample(keys, min(3, len(keys)))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n_workers", WORKERS)
def test_random_graphs_give_the_same_and_run_every_task_once(policy, n_workers):
    with Scheduler(n_workers, policy) as scheduler:
        for seed in range(40):
            count: dict[object, int] = {}
            dsk, keys = random_graph(random.Random(seed), count)
            expected = scheduler.get({k: plain(v) for k, v in dsk.items()}, keys)
            needed = dict(count)
            count.clear()
            program = scheduler.compile(dsk, keys)
            verify(program)
            for _ in range(3):
                count.clear()
                assert program.run() == expected
                assert count == needed


def plain(node):
    """Return the same task without the mark."""
    if type(node) is Task and hasattr(node.func, "__znn_deferred__"):
        function = node.func
        return Task(node.key, lambda *values: function(*values), *node.args)
    return node


@pytest.mark.parametrize("n_workers", WORKERS)
def test_one_that_fails_stops_the_run_and_names_its_key(n_workers):
    @deferred
    def broken():
        raise ValueError("broken")

    dsk = {"u": Task("u", broken), "x": Task("x", time.sleep, 0), "r": task("r", max, "u", "x")}
    with Scheduler(n_workers) as scheduler:
        for _ in range(20):
            with pytest.raises(ValueError, match="broken") as caught:
                scheduler.get(dsk, "r")
            assert caught.value.__notes__ == ["while running task 'u'"]
        assert scheduler.get({"u": Task("u", deferred(lambda: 3)), "r": task("r", operator.neg, "u")}, "r") == -3


def test_what_it_read_is_forgotten_once_it_is_done():
    forgotten = []

    class Value:
        def __del__(self):
            forgotten.append(True)

    dsk = {
        "x": Task("x", Value),
        "u": task("u", deferred(lambda x: 1), "x"),
        "y": Task("y", lambda: 2),
        "r": task("r", operator.add, "u", "y"),
        "end": task("end", lambda r: list(forgotten), "r"),
    }
    for n_workers in WORKERS:
        forgotten.clear()
        assert get(dsk, "end", num_workers=n_workers) == [True]


def test_a_trace_shows_it_once_and_on_the_way():
    dsk = {"u": Task("u", deferred(lambda: time.sleep(0.01))), "x": Task("x", operator.pos, 1)}
    dsk["r"] = task("r", lambda *_: 3, "u", "x")
    with znn.Trace() as trace:
        assert get(dsk, "r", num_workers=2) == 3
    assert not any(each.failed for each in trace.tasks)
    assert sum(each.seconds > 0.005 for each in trace.tasks if each.key == "u") == 1
    assert trace.summary().path_s > 0.005
