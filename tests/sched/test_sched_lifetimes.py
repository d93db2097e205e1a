"""Values are dropped as soon as their last reader has finished, for any number of workers."""

import operator
import weakref

import pytest
from dask.task_spec import Alias, Task, TaskRef

from znn_dask.sched import Scheduler
from znn_dask.tasks import fresh, overwrites

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", params=(1, 2, 4, 8))
def scheduler(request):
    with Scheduler(num_workers=request.param) as scheduler:
        yield scheduler


class Value:
    """Something that can be watched by a weak reference."""


def test_values_are_dropped_after_their_last_reader(scheduler):
    alive = weakref.WeakSet()
    most = []

    def step(*_):
        value = Value()
        alive.add(value)
        most.append(len(alive))
        return value

    dsk = {0: Task(0, step)}
    for i in range(1, 30):
        dsk[i] = Task(i, step, TaskRef(i - 1))
    del_check = scheduler.get({**dsk, "end": Task("end", lambda _: len(alive), TaskRef(29))}, "end")
    assert del_check == 1
    assert max(most) == 2
    assert not alive


def test_shared_values_live_until_the_last_of_their_readers(scheduler):
    made = {}
    lived = {}

    def make():
        value = Value()
        made["x"] = weakref.ref(value)
        return value

    def read(_, name):
        lived[name] = made["x"]() is not None
        return name

    dsk = {"x": Task("x", make)}
    before = TaskRef("x")
    for i in range(5):
        dsk[f"r{i}"] = Task(f"r{i}", lambda x, b, n=i: read(b, n), TaskRef("x"), before)
        before = TaskRef(f"r{i}")
    dsk["after"] = Task("after", read, before, "after")
    assert scheduler.get(dsk, "after") == "after"
    assert lived == {0: True, 1: True, 2: True, 3: True, 4: True, "after": False}


def test_each_part_lives_only_as_long_as_its_own_readers(scheduler):
    made = []
    lived = []

    def pair():
        values = Value(), Value()
        made[:] = [weakref.ref(v) for v in values]
        return values

    def look(*_):
        lived.append([ref() is not None for ref in made])

    item = operator.getitem
    dsk = {
        "t": Task("t", pair),
        "a": Task("a", item, TaskRef("t"), 0),
        "b": Task("b", item, TaskRef("t"), 1),
        "ra": Task("ra", look, TaskRef("a")),
        "then": Task("then", look, TaskRef("ra")),
        "rb": Task("rb", look, TaskRef("b"), TaskRef("then")),
        "end": Task("end", look, TaskRef("rb")),
    }
    scheduler.get(dsk, "end")
    assert lived == [[True, True], [False, True], [False, True], [False, False]]


def test_requested_values_and_inputs_survive_and_nothing_else_does(scheduler):
    alive = weakref.WeakSet()

    def step(*_):
        value = Value()
        alive.add(value)
        return value

    dsk = {
        "a": Task("a", step, TaskRef("in")),
        "b": Task("b", step, TaskRef("a")),
        "c": Task("c", step, TaskRef("b")),
        "alias": Alias("alias", "b"),
    }
    program = scheduler.compile(dsk, ["c", "alias"])
    given = Value()
    for _ in range(3):
        c, b = program.run({"in": given})
        assert set(alive) == {b, c}
        del b, c
        assert not alive


def test_an_overwritten_value_is_not_kept(scheduler):
    alive = weakref.WeakSet()

    @fresh
    def make():
        value = Value()
        alive.add(value)
        return value

    @overwrites(0)
    def use(value, out=None):
        assert out is value

    dsk = {
        "x": Task("x", make),
        "y": Task("y", use, TaskRef("x")),
        "z": Task("z", lambda y: len(alive), TaskRef("y")),
    }
    assert scheduler.get(dsk, "z") == 0
