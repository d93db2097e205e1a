"""The hints on tasks: marks, the fixed tree of additions, and `Reduce` as a plain Dask task."""

import pickle
from functools import reduce

import dask
import dask.threaded
import numpy as np
import pytest
from dask.task_spec import Alias, DataNode, Task, TaskRef
from hypothesis import given
from hypothesis import strategies as st

from znn_dask.errors import ParameterError
from znn_dask.tasks import Reduce, fresh, overwrites, tree_pairs, tree_sum


def test_marks_leave_the_function_as_it_is():
    def make(n, out=None):
        return n

    assert fresh(make) is make
    assert overwrites(0)(make) is make
    assert make.__znn_fresh__ is True
    assert make.__znn_overwrites__ == 0


def test_a_function_that_cannot_be_marked_is_refused():
    with pytest.raises(ParameterError, match="wrap it in a function"):
        fresh(len)


@pytest.mark.parametrize("position", [-1, True, "x", 1.0])
def test_overwrites_refuses_what_is_no_position(position):
    with pytest.raises(ParameterError, match="position of an argument"):
        overwrites(position)


def test_overwrites_needs_a_function_that_takes_out():
    with pytest.raises(ParameterError, match="must take a keyword out"):
        overwrites(0)(lambda x: x)


@pytest.mark.parametrize(
    ("n_terms", "pairs"),
    [
        (1, ()),
        (2, ((0, 1),)),
        (3, ((0, 1), (3, 2))),
        (5, ((0, 1), (2, 3), (5, 6), (7, 4))),
        (6, ((0, 1), (2, 3), (4, 5), (6, 7), (9, 8))),
    ],
)
def test_the_tree_pairs_neighbours_level_by_level(n_terms, pairs):
    assert tree_pairs(n_terms) == pairs


@given(st.integers(1, 200))
def test_the_tree_uses_every_number_once_and_is_balanced(n_terms):
    pairs = tree_pairs(n_terms)
    used = [number for pair in pairs for number in pair]
    assert sorted(used) == list(range(2 * n_terms - 2))
    depth = [0] * n_terms
    for left, right in pairs:
        assert max(left, right) < len(depth)
        depth.append(1 + max(depth[left], depth[right]))
    assert depth[-1] == (n_terms - 1).bit_length()


@given(st.lists(st.integers(), min_size=1, max_size=40))
def test_tree_sum_of_integers_is_their_sum(terms):
    assert tree_sum(*terms) == sum(terms)


def test_tree_sum_rounds_as_its_tree_says():
    a, b, c, d, e = (np.float32(x) for x in (1e8, 3.0, -1e8, 1.0, 0.25))
    assert tree_sum(a, b, c, d, e) == ((a + b) + (c + d)) + e
    assert tree_sum(a, b, c, d, e) != reduce(lambda x, y: x + y, (a, b, c, d, e))


def test_tree_sum_leaves_its_terms_alone():
    terms = [np.full(3, float(i)) for i in range(5)]
    tree_sum(*terms)
    for i, term in enumerate(terms):
        np.testing.assert_array_equal(term, i)


def test_tree_sum_of_nothing_is_refused():
    with pytest.raises(ParameterError, match="at least one term"):
        tree_sum()


def test_reduce_is_a_task_to_other_schedulers():
    dsk = {"a": 1, "b": Task("b", abs, -2), "s": Reduce("s", "a", TaskRef("b"), Alias("a"))}
    assert dask.get(dsk, "s") == dask.threaded.get(dsk, "s") == 4


def test_reduce_survives_pickling_copying_and_renaming():
    task = Reduce("s", "a", ("b", 1))
    again = pickle.loads(pickle.dumps(task))
    assert type(again) is type(task.copy()) is Reduce
    assert again == task
    assert again.dependencies == {"a", ("b", 1)}
    assert again({"a": 1, ("b", 1): 2}) == 3
    renamed = task.substitute({"a": "z"}, key="t")
    assert type(renamed) is Reduce
    assert renamed.key == "t"
    assert renamed.dependencies == {"z", ("b", 1)}
    assert task.substitute({"other": "z"}) is task


def test_reduce_takes_inlined_nodes():
    task = Reduce("s", "a", "b").substitute({"a": DataNode("a", 5), "b": Task("b", abs, TaskRef("c"))})
    assert type(task) is Reduce
    assert task.dependencies == {"c"}
    assert task({"c": -2}) == 7


def test_reduce_refuses_what_is_no_task():
    with pytest.raises(ParameterError, match="give keys or TaskRefs, got list"):
        Reduce("s", [1])
    with pytest.raises(ParameterError, match="at least one contribution"):
        Reduce("s")
