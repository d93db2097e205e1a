"""Every form of graph that Dask makes gives Dask's answer, for any number of workers and any policy."""

import operator

import dask
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Alias, DataNode, GraphNode, List, Task, TaskRef
from dask.utils_test import GetFunctionTestMixin
from hypothesis import given, settings
from hypothesis import strategies as st

from znn_dask.errors import ParameterError
from znn_dask.sched import Scheduler, get, verify
from znn_dask.sched.policies import POLICIES
from znn_dask.tasks import Reduce, fresh, overwrites

pytestmark = pytest.mark.timeout(120)
WORKERS = (1, 2, 4, 8)


class TestDasksOwnExpectations(GetFunctionTestMixin):
    """What Dask expects of any ``get``."""

    get = staticmethod(get)


@pytest.fixture(scope="module", params=WORKERS)
def scheduler(request):
    with Scheduler(num_workers=request.param) as scheduler:
        yield scheduler


@pytest.fixture(scope="module")
def schedulers():
    made = [Scheduler(num_workers=n, policy=p) for n in WORKERS for p in ("locality", "lifo")]
    made += [Scheduler(num_workers=4, policy=p) for p in POLICIES if p not in ("locality", "lifo")]
    yield made
    for scheduler in made:
        scheduler.close()


def combine(*args, **kwargs):
    return args, sorted(kwargs.items())


def test_arguments_of_every_kind(scheduler):
    dsk = {
        "data": DataNode("data", [1, 2]),
        "raw": 7,
        "alias": Alias("alias", "data"),
        "legacy-alias": "raw",
        "list": List(TaskRef("data"), List(TaskRef("raw"), 3)),
        "flat": Task("flat", combine, TaskRef("data"), 5, TaskRef("raw"), TaskRef("raw"), key="literal"),
        "keyword": Task("keyword", combine, TaskRef("raw"), a=TaskRef("alias"), b=List(TaskRef("flat"))),
        "nested": Task("nested", combine, [TaskRef], {"a": 1}, List(1, (2,), TaskRef("list")), None),
        "inner": Task("inner", combine, Task(None, combine, TaskRef("raw"), x=TaskRef("raw"))),
        "legacy": (combine, "raw", ["raw", (combine, "alias")], {"k": "raw"}, ("raw", 1)),
        "inline-data": Task("inline-data", combine, DataNode(None, 4), Alias("raw")),
        "dict": Task("dict", combine, dask._task_spec.Dict({"a": TaskRef("raw"), "b": 2})),
        "set": Task("set", combine, dask._task_spec.Set(TaskRef("raw"), 2)),
        "reduce": Reduce("reduce", "raw", "raw", "legacy-alias"),
        "reduce-one": Reduce("reduce-one", "list"),
        "reduce-inline": Reduce("reduce-inline", "raw", Task(None, operator.neg, TaskRef("raw"))),
    }
    keys = [list(dsk), [["flat"], "nested"]]
    expected = dask.get(dsk, keys)
    assert scheduler.get(dsk, keys) == expected
    program = scheduler.compile(dsk, keys)
    verify(program)
    assert program.run() == program.run() == expected


def test_a_node_of_unknown_kind_evaluates_itself(scheduler):
    class Twice(GraphNode):
        __slots__ = ("target",)

        def __init__(self, key, target):
            self.key, self.target, self._dependencies = key, target, frozenset((target,))

        def __call__(self, values=()):
            return 2 * values[self.target]

    dsk = {"x": 4, "top": Twice("top", "x"), "in": Task("in", combine, Twice(None, "top"), TaskRef("x"))}
    assert scheduler.get(dsk, ["top", "in"]) == (8, ((16, 4), []))


def test_parts_of_results(scheduler):
    def triple(x):
        return x, (x + 1, x + 2), {0: x + 3}

    item = operator.getitem
    dsk = {
        "t": Task("t", triple, 10),
        "again": Alias("again", "t"),
        "first": Task("first", item, TaskRef("t"), 0),
        "pair": Task("pair", item, TaskRef("again"), 1),
        "pair-too": (item, "t", -2),
        "deep": Task("deep", item, TaskRef("pair"), 1),
        "slice": Task("slice", item, TaskRef("pair"), slice(0, 1)),
        "of-data": (item, [5, 6], 1),
        "of-input": (item, "numbers", 1),
        "numbers": [7, 8],
        "sum": Reduce("sum", "first", "deep", "first"),
    }
    keys = ["deep", "slice", "first", "pair-too", "of-data", "of-input", "sum"]
    expected = dask.get(dsk, keys)
    program = scheduler.compile(dsk, keys)
    verify(program)
    assert program.run() == scheduler.get(dsk, keys) == expected == (12, (11,), 10, (11, 12), 6, 8, 32)
    assert scheduler.get(dsk, ["t", "pair"]) == dask.get(dsk, ["t", "pair"])


def test_high_level_graphs_and_expressions(scheduler):
    graph = HighLevelGraph(
        {"a": {"x": 1, "y": (operator.neg, "x")}, "b": {"z": (operator.add, "x", "y")}},
        {"a": set(), "b": {"a"}},
    )
    assert scheduler.get(graph, [["z"], "y"]) == ((0,), -1)
    value = dask.delayed(operator.add)(1, dask.delayed(operator.mul)(2, 3))
    assert scheduler.get(value.__dask_graph__(), list(value.__dask_keys__())) == (7,)


def test_nothing_requested_and_nothing_to_run(scheduler):
    assert scheduler.get({"x": 1}, []) == ()
    assert scheduler.get({"x": 1, "y": "x"}, ["y", ["x"]]) == (1, (1,))


def test_deep_graphs_need_no_recursion(scheduler):
    dsk = {("x", i + 1): Task(("x", i + 1), operator.add, TaskRef(("x", i)), 1) for i in range(5000)}
    dsk["x", 0] = 0
    assert scheduler.get(dsk, ("x", 5000)) == 5000
    aliases = {("x", i + 1): Alias(("x", i + 1), ("x", i)) for i in range(5000)}
    assert scheduler.get({("x", 0): 5, **aliases}, ("x", 5000)) == 5


def test_missing_keys_and_circles_are_named(scheduler):
    with pytest.raises(KeyError, match="nowhere"):
        scheduler.get({"x": 1}, ["x", ["nowhere"]])
    with pytest.raises(ParameterError, match=r"Missing dependency 'x' of task 'y'.*run\(inputs=\.\.\.\)"):
        scheduler.get({"y": Task("y", abs, TaskRef("x"))}, "y")
    neg = operator.neg
    with pytest.raises(ParameterError, match=r"Cycle detected .*'c'"):
        scheduler.get({"a": (neg, "c"), "b": (neg, "a"), "c": (neg, "b"), "d": (neg, "c")}, "d")
    with pytest.raises(ParameterError, match=r"'a' -> 'a'"):
        scheduler.get({"a": (neg, "a")}, "a")
    with pytest.raises(ParameterError, match="Cycle"):
        scheduler.get({"a": Reduce("a", "b", "c"), "b": (neg, "a"), "c": 1}, "a")
    with pytest.raises(ParameterError, match="Cycle"):
        scheduler.get({"a": Alias("a", "b"), "b": Alias("b", "a")}, "a")


# Random graphs. Every value is an array of three numbers, so that in-place work on the wrong one shows.


@fresh
def made(*arrays):
    return np.array([1.0, 2.0, 3.0]) + sum(arrays)


@fresh
@overwrites(0)
def accumulated(first, *others, out=None):
    result = np.multiply(first, 0.5, out=out)
    for other in others:
        result += other
    return result


@fresh
def halves(array):
    return array * 0.5, array + 0.25


def view(array):
    return array[::-1]


def same(array):
    return array


def pair(array):
    return array, array[:]


def stacked(arrays, more):
    return sum(arrays) - more["x"]


@st.composite
def graphs(draw):
    """A graph whose nodes read earlier ones, and some keys to ask for."""
    dsk = {"d0": DataNode("d0", np.array([0.1, 0.7, -0.3])), "d1": np.array([1e8, -3.0, 1e-8])}
    values = list(dsk)
    kinds = ("made", "accumulated", "split", "pair", "view", "same", "alias", "reduce", "nested", "legacy")
    for i in range(draw(st.integers(1, 14))):
        kind, key = draw(st.sampled_from(kinds)), f"k{i}"
        n_read = 1 if kind in ("split", "pair", "view", "same", "alias") else draw(st.integers(1, 5))
        read = [draw(st.sampled_from(values)) for _ in range(n_read)]
        refs = [TaskRef(r) for r in read]
        if kind in ("split", "pair"):
            dsk[key] = Task(key, halves if kind == "split" else pair, *refs)
            whole = draw(st.sampled_from([key, f"{key}-alias"]))
            if whole != key:
                dsk[whole] = Alias(whole, key)
            for index in draw(st.lists(st.sampled_from((0, 1, -1)), min_size=1, max_size=3)):
                part = f"{key}-{len(values)}"
                dsk[part] = Task(part, operator.getitem, TaskRef(whole), index)
                values.append(part)
            continue
        dsk[key] = {
            "made": lambda k, r=refs: Task(k, made, *r),
            "accumulated": lambda k, r=refs: Task(k, accumulated, *r),
            "view": lambda k, r=refs: Task(k, view, *r),
            "same": lambda k, r=refs: Task(k, same, *r),
            "alias": lambda k, r=read: Alias(k, r[0]),
            "reduce": lambda k, r=refs: Reduce(k, *r),
            "nested": lambda k, r=refs: Task(k, stacked, List(*r), more=dask._task_spec.Dict({"x": r[0]})),
            "legacy": lambda k, r=read: (stacked, [*r, (made, r[0])], {"x": 0.5}),
        }[kind](key)
        values.append(key)
    keys = draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))
    return dsk, [keys, keys[:1]]


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_random_graphs_give_dasks_answer_bitwise(schedulers, graph):
    dsk, keys = graph
    before = dsk["d0"].value.tobytes(), dsk["d1"].tobytes()
    expected = [[value.tobytes() for value in part] for part in dask.get(dsk, keys)]
    for scheduler in schedulers:
        program = scheduler.compile(dsk, keys)
        verify(program)
        for results in (program.run(), program.run(), scheduler.get(dsk, keys)):
            assert [[value.tobytes() for value in part] for part in results] == expected
    assert before == (dsk["d0"].value.tobytes(), dsk["d1"].tobytes())
