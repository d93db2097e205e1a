"""The tables: what is fused, who may overwrite what, in which order tasks run; the verifier."""

import operator
from dataclasses import replace

import numpy as np
import pytest
from dask.task_spec import Alias, DataNode, List, Task, TaskRef

from znn_dask.errors import ParameterError
from znn_dask.sched import Scheduler, get, verify
from znn_dask.sched.policies import Dependants, distances, locality
from znn_dask.tasks import Reduce, fresh, overwrites

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def scheduler():
    with Scheduler(num_workers=2) as scheduler:
        yield scheduler


@fresh
def make(value, dtype="f8", shape=3):
    return np.full(shape, value, dtype)


@fresh
def two(value):
    return make(value), make(value + 1)


@fresh
@overwrites(0)
def bump(array, by=1.0, out=None):
    given = out is array
    result = np.add(array, by, out=out)
    result[0] = 1000.0 * given
    return result


@overwrites(1)
def told(first, second, more=(), out=None):
    return out is second


def was_given(dsk, key, *also):
    """Whether the task `key`, which calls `bump` or `told`, was given its argument to overwrite."""
    with Scheduler(num_workers=1) as scheduler:
        program = scheduler.compile(dsk, [key, *also])
        verify(program)
        value = program.run()[0]
    return bool(value) if isinstance(value, bool) else value[0] == 1000.0


def test_aliases_parts_and_data_cost_no_task(scheduler):
    dsk = {
        "t": Task("t", two, 1.0),
        "a": Task("a", operator.getitem, TaskRef("t"), 0),
        "b": Alias("b", "a"),
        "c": Reduce("c", "b"),
        "d": DataNode("d", 2),
        "e": Task("e", operator.add, TaskRef("c"), TaskRef("d")),
    }
    program = scheduler.compile(dsk, "e")
    verify(program)
    assert program.n_tasks == 2
    np.testing.assert_array_equal(program.run(), make(3.0))
    assert "2 tasks, 0 inputs, 2 workers" in repr(program)


def test_only_what_is_needed_is_compiled(scheduler):
    dsk = {"x": 1, "y": Task("y", abs, TaskRef("x")), "z": Task("z", abs, TaskRef("missing"))}
    program = scheduler.compile(dsk, "y")
    assert program.n_tasks == 1
    assert program.inputs == ()


def test_the_same_graph_gives_the_same_tables(scheduler):
    dsk = {f"k{i}": Task(f"k{i}", combine, *(TaskRef(f"k{j}") for j in range(i))) for i in range(8)}
    first, second = (scheduler.compile(dsk, "k7").tables for _ in range(2))
    assert (first.reads, first.rank, first.dependants) == (second.reads, second.rank, second.dependants)


def combine(*values):
    return len(values)


BASE = {"x": Task("x", make, 1.0), "y": Task("y", bump, TaskRef("x"))}


def test_a_fresh_value_is_given_to_its_only_reader():
    assert was_given(BASE, "y")


def test_a_chain_works_in_one_array():
    dsk = {**BASE, **{f"y{i}": Task(f"y{i}", bump, TaskRef(f"y{i - 1}" if i else "y")) for i in range(3)}}
    assert was_given(dsk, "y2")


@pytest.mark.parametrize(
    ("change", "also"),
    [
        pytest.param({}, ["x"], id="requested"),
        pytest.param({"x2": Alias("x2", "x")}, ["x2"], id="requested by another name"),
        pytest.param({"z": Task("z", abs, TaskRef("x"))}, ["z"], id="another reader"),
        pytest.param({"x2": Alias("x2", "x"), "z": Task("z", abs, TaskRef("x2"))}, ["z"], id="by an alias"),
        pytest.param({"y": Task("y", bump, TaskRef("x"), TaskRef("x"))}, [], id="read twice by one task"),
        pytest.param({"x": DataNode("x", make(1.0))}, [], id="data"),
        pytest.param({"x": Task("x", np.ones, 3)}, [], id="not marked as fresh"),
        pytest.param({"x": Task("x", np.asarray, TaskRef("w")), "w": Task("w", make, 1.0)}, [], id="view"),
        pytest.param({"z": Reduce("z", "x", "x")}, ["z"], id="sum reads it too"),
    ],
)  # fmt: skip
def test_a_value_that_others_may_see_is_not_given(change, also):
    assert not was_given({**BASE, **change}, "y", *also)


def test_an_input_is_never_given(scheduler):
    program = scheduler.compile({"y": Task("y", bump, TaskRef("x"))}, "y")
    verify(program)
    x = make(1.0)
    assert program.run({"x": x})[0] == 0.0
    np.testing.assert_array_equal(x, make(1.0))


def test_a_sum_is_given_and_uses_what_it_is_given():
    dsk = {f"x{i}": Task(f"x{i}", make, float(i)) for i in range(5)}
    dsk["s"] = Reduce("s", *dsk)
    dsk["y"] = Task("y", bump, TaskRef("s"))
    assert was_given(dsk, "y")


def parts(*indices):
    dsk = {"t": Task("t", two, 1.0)}
    for i, index in enumerate(indices):
        dsk[f"p{i}"] = Task(f"p{i}", operator.getitem, TaskRef("t"), index)
    dsk["y"] = Task("y", bump, TaskRef("p0"))
    return dsk


def test_a_part_of_a_fresh_tuple_is_given():
    assert was_given(parts(1), "y")
    assert was_given(parts(0, 1), "y", "p1")


def test_a_part_that_may_be_seen_otherwise_is_not_given():
    assert not was_given(parts(0, 0), "y", "p1")
    assert not was_given(parts(0, -2), "y", "p1")
    assert not was_given(parts(0), "y", "t")
    assert not was_given({**parts(0), "z": Task("z", len, TaskRef("t"))}, "y", "z")


def test_arguments_put_together_by_a_template_are_given_too():
    ref = TaskRef("x")
    dsk = {"x": BASE["x"], "w": 1, "y": Task("y", told, List(TaskRef("w")), ref, more=TaskRef("w"))}
    assert was_given(dsk, "y")
    assert not was_given({**dsk, "y": Task("y", told, List(TaskRef("x")), ref)}, "y")
    assert not was_given({**dsk, "y": Task("y", told, List(TaskRef("w")), ref, more=List(ref))}, "y")
    assert not was_given({**dsk, "y": Task("y", told, TaskRef("w"), ref, more=ref)}, "y")
    assert not was_given({**dsk, "y": Task("y", told, 1, ref, out=None)}, "y")
    assert not was_given({**dsk, "y": Task("y", told, 1, List(ref))}, "y")
    assert was_given({**dsk, "y": Task("y", told, 1, Alias("x"), more=2)}, "y")


def test_sums_add_in_place_only_into_what_they_own(scheduler):
    made = []

    def remember(value):
        made.append(make(value))
        return made[-1]

    kept = [make(float(i)) for i in range(4)]
    owned = {f"o{i}": Task(f"o{i}", fresh(lambda v: remember(v)), float(i)) for i in range(4)}
    total = scheduler.get({**owned, "s": Reduce("s", *owned)}, "s")
    assert any(total is array for array in made)
    given = {f"k{i}": array for i, array in enumerate(kept)}
    total = scheduler.get({**given, **owned, "s": Reduce("s", *given, *owned)}, "s")
    np.testing.assert_array_equal(total, make(12.0))
    for i, array in enumerate(kept):
        np.testing.assert_array_equal(array, make(float(i)))


@pytest.mark.parametrize(
    "terms",
    [
        pytest.param([make(1, "i4"), make(0.5, "f4")], id="types"),
        pytest.param([make(1.0, shape=(3, 1)), make(2.0, shape=3)], id="shapes"),
        pytest.param([np.float32(1.5), make(2.0)], id="scalar first"),
        pytest.param([make(2.0), 1], id="scalar last"),
        pytest.param([np.broadcast_to(np.ones(1), 3), make(2.0)], id="read-only"),
        pytest.param([np.ma.masked_array([1.0, 2.0], [True, False]), np.ones(2)], id="subclass"),
        pytest.param([(1, 2), (3,)], id="tuples"),
        pytest.param([make(1.0, shape=()), make(2.0, shape=())], id="no axes"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_sums_of_what_does_not_fit_are_plain_sums(scheduler, terms, turned):
    terms = terms[::-1] if turned else terms
    dsk = {f"x{i}": Task(f"x{i}", fresh(lambda v=term: v)) for i, term in enumerate(terms)}
    expected = terms[0] + terms[1]
    total = scheduler.get({**dsk, "s": Reduce("s", *dsk)}, "s")
    assert type(total) is type(expected)
    np.testing.assert_array_equal(total, expected)
    assert getattr(total, "dtype", None) == getattr(expected, "dtype", None)


def order_of(dsk, keys, policy="locality", priority=None):
    """Return the keys in the order in which one worker runs them."""
    ran = []

    def note(key, *_):
        ran.append(key)

    noted = {key: Task(key, note, key, *(TaskRef(r) for r in reads)) for key, reads in dsk.items()}
    with Scheduler(num_workers=1, policy=policy) as scheduler:
        scheduler.compile(noted, keys, priority=priority).run()
    return "".join(ran)


def test_locality_runs_the_farthest_first():
    r"""
    a - b - c - out
          d - /
    """
    dsk = {"d": "", "a": "", "b": "a", "c": "b", "o": "cd"}
    assert order_of(dsk, "o") == "abcdo" or order_of(dsk, "o") == "abdco"


def test_locality_keeps_together_what_converges():
    r"""
    a   b   c   d   e   f
     \   \ /   / \ /   /
      \   x    |  y    |
       `--|----|--|----'
    x reads a, c, e; y reads b, d, f; z reads both
    """
    dsk = dict.fromkeys("abcdef", "") | {"x": "ace", "y": "bdf", "z": "xy"}
    order = order_of(dsk, "z")
    assert {frozenset(order[:3]), frozenset(order[3:6])} == {frozenset("ace"), frozenset("bdf")}
    with Scheduler(num_workers=1) as scheduler:
        tables = scheduler.compile({k: Task(k, combine, *map(TaskRef, r)) for k, r in dsk.items()}, "z").tables
    rank = dict(zip(tables.keys, tables.rank, strict=False))
    assert rank["a"] == rank["c"] == rank["e"] != rank["b"] == rank["d"] == rank["f"]
    assert max(rank["a"], rank["b"]) < min(rank["x"], rank["y"]) < rank["z"]


def test_locality_on_a_table():
    # 0 and 1 feed 2; 2 and 3 feed 4; 5 feeds 4 and 2
    table = Dependants(of=[[2], [2], [4], [4], [], [4, 2]], order=[0, 1, 3, 5, 2, 4])
    assert distances(table) == [2, 2, 1, 1, 0, 2]
    assert locality(table) == [3, 3, 2, 2, 1, 3]


def test_equal_priorities_run_newest_first():
    dsk = {"a": "", "b": "", "p": "a", "q": "b", "z": "pq"}
    assert order_of(dsk, "z", policy="lifo") == "apbqz"
    released_together = {"a": "", "b": "a", "c": "a", "d": "a", "z": "bcd"}
    assert order_of(released_together, "z", policy="lifo") == "adcbz"


def test_given_priorities_rule():
    dsk = {"a": "", "b": "", "c": "", "z": "abc"}
    assert order_of(dsk, "z", priority={"a": 1, "b": 3, "c": 2, "z": -7}) == "bcaz"
    assert order_of(dsk, "z", priority=lambda key: ord(key)) == "cbaz"
    with pytest.raises(ParameterError, match="no entry for the task 'c'"):
        order_of(dsk, "z", priority={"a": 1, "b": 3})


def test_an_urgent_task_of_the_queue_goes_before_one_just_released():
    dsk = {"a": "", "b": "", "c": "a", "z": "bc"}
    assert order_of(dsk, "z", priority={"a": 9, "b": 5, "c": 1, "z": 0}) == "abcz"
    assert order_of(dsk, "z", priority={"a": 9, "b": 5, "c": 5, "z": 0}) == "acbz"


def test_unknown_policies_are_refused_with_the_valid_ones():
    names = "'locality', 'locality-depth', 'critical-path', 'fifo', 'lifo', 'steal', 'dask'"
    with pytest.raises(ParameterError, match=rf"one of {names}, got 'localty'.* mean 'locality'"):
        get({"x": 1}, "x", policy="localty")
    with pytest.raises(ParameterError, match="got 3"):
        Scheduler(policy=3)


@pytest.mark.parametrize("n", [0, -1, True, 1.5, "2"])
def test_invalid_numbers_of_workers_are_refused(n):
    with pytest.raises(ParameterError, match="at least 1"):
        Scheduler(num_workers=n)


def test_inputs_are_checked(scheduler):
    program = scheduler.compile({"y": Task("y", operator.add, TaskRef("left"), TaskRef("right"))}, "y")
    assert program.inputs == ("left", "right")
    assert program.run({"left": 1, "right": 2}) == 3
    with pytest.raises(ParameterError, match="Missing dependency 'right' of task 'y'"):
        program.run({"left": 1})
    with pytest.raises(ParameterError, match=r"'rihgt' is no input .* Did you mean 'right'\?"):
        program.run({"left": 1, "right": 2, "rihgt": 2})
    through = scheduler.compile({"z": Alias("z", "param")}, ["z"])
    assert through.run({"param": 5}) == (5,)


def damaged(tables):
    """Yield the name of each damage and tables that have it."""
    first = next(t for t in range(tables.n_tasks) if tables.reads[t] and tables.drops[t])
    last = tables.n_tasks

    def changed(name, at, value):
        table = list(getattr(tables, name))
        table[at] = value
        return name, replace(tables, **{name: table})

    yield changed("counts", first, tables.counts[first] + 1)
    yield changed("counts", last, tables.counts[last] + 1)
    yield changed("dependants", 0, ())
    yield changed("dependants", 0, tables.dependants[0] * 2)
    yield changed("drops", first, ())
    yield changed("drops", first, (*tables.drops[first], *tables.results.values()))
    sharing = next(t for t in range(last) if tables.shared[t])
    yield changed("shared", sharing, ())
    yield changed("readers", tables.shared[sharing][0], 1)
    yield changed("donated", first, tuple(tables.inputs.values()))
    yield changed("donated", sharing, tables.shared[sharing])
    yield changed("rank", 0, tables.n_ranks)
    yield changed("ready", 0, last - 1)
    yield "keys", replace(tables, keys=tables.keys[1:])
    split = next(t for t in range(last) if tables.splits[t])
    yield changed("splits", split, (*tables.splits[split], (7, 0)))


def notices(tables):
    try:
        verify(tables)
    except AssertionError:
        return True
    return False


def test_the_verifier_notices_every_damage(scheduler):
    dsk = {
        "t": Task("t", two, TaskRef("in")),
        "a": Task("a", operator.getitem, TaskRef("t"), 0),
        "b": Task("b", operator.getitem, TaskRef("t"), 1),
        "c": Task("c", bump, TaskRef("a")),
        "d": Task("d", operator.add, TaskRef("b"), TaskRef("c")),
        "e": Reduce("e", "b", "d", "c"),
    }
    tables = scheduler.compile(dsk, ["e", "d"]).tables
    verify(tables)
    seen = 0
    for name, worse in damaged(tables):
        assert notices(worse), f"damage in {name} was not noticed"
        seen += 1
    assert seen == 14
