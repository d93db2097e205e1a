"""Every promise of a run in every order of its threads: all orders of tiny graphs, drawn orders of random ones.

The runs are those of `interleaved_run.play`, which lists what is watched.
"""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import GRAPHS, SUMS, MeantError, accept_failure, accepts, graph_of
from interleaved_run import compiled, load, play
from orders import Drawn, Search

from znn_dask.sched import verify
from znn_dask.sched.policies import POLICIES

INF = math.inf
pytestmark = pytest.mark.timeout(120)
SOURCE = load()


def search(tables, n_workers, bound, accept, **options):
    """Try all orders; how many there are."""
    orders = Search(bound)
    for order in orders:
        found = play(SOURCE, tables, n_workers, order, accept, **options)
        assert found is None, f"{found}, in the order {orders.path}"
    return orders.n_executions


@pytest.mark.parametrize(
    ("sums", "most"), [("tree", INF), ("arrival", 0), pytest.param("arrival", INF, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("name", "n_workers", "bound", "policy"),
    [
        ("diamond", 2, INF, "locality"),
        ("diamond", 3, INF, "steal"),
        ("alone", 2, INF, "locality"),
        ("shared", 2, INF, "locality"),
        ("shared", 3, 0, "fifo"),
        ("parts", 2, INF, "locality"),
        ("parts", 3, INF, "lifo"),
        ("sum of 3", 2, INF, "locality"),
        ("sum of 3", 3, 0, "steal"),
        ("sum of 4", 2, INF, "locality"),
        ("two sums", 2, INF, "locality"),
    ],
)
def test_all_orders_of_a_tiny_graph(name, n_workers, bound, policy, sums, most):
    reads, keys = GRAPHS[name]
    dsk = graph_of(reads, sums)
    tables = compiled(dsk, keys.split(), policy)
    verify(tables)
    assert search(tables, n_workers, min(bound, most), accepts(dsk, keys.split())) > (40 if most else 10)


@pytest.mark.parametrize(("name", "n_workers"), [("diamond", 2), ("sum of 3", 1)])
def test_executions_that_are_cut_would_have_shown_no_other_state(name, n_workers):
    reads, keys = GRAPHS[name]
    dsk = graph_of(reads)
    tables = compiled(dsk, keys.split())
    searches = [Search(cuts=cuts) for cuts in (True, False)]
    for orders in searches:
        for order in orders:
            assert play(SOURCE, tables, n_workers, order, accepts(dsk, keys.split())) is None
    cut, whole = searches
    assert cut.seen == whole.seen
    assert (cut.n_executions < whole.n_executions) == (n_workers > 1)


@pytest.mark.parametrize(
    ("reads", "n_workers", "bound"),
    [
        ({"a": "", "bad": "a", "c": "a", "d": "bad c"}, 2, INF),
        ({"bad1": "", "bad2": "", "c": "", "d": "bad1 bad2 c"}, 2, INF),
        pytest.param({"a": "", "bad": "a", "c": "a", "d": "a", "e": "bad c d"}, 3, 0, marks=pytest.mark.slow),
    ],
)
def test_a_failure_ends_the_run_in_all_orders_and_the_threads_serve_the_next(reads, n_workers, bound):
    tables = compiled(graph_of(reads), list(reads)[-1:])
    accept = accept_failure(*[key for key in reads if key.startswith("bad")])
    assert search(tables, n_workers, bound, accept, again=True) > 40


@pytest.mark.parametrize(("name", "bound"), [("diamond", 1), ("alone", 0)])
def test_ctrl_c_at_any_time_in_all_orders(name, bound):
    reads, keys = GRAPHS[name]
    dsk = graph_of(reads)
    results = accepts(dsk, keys.split())
    interrupted = []

    def accept(outcome):
        interrupted.append(isinstance(outcome, KeyboardInterrupt))
        if not interrupted[-1]:
            results(outcome)

    search(compiled(dsk, keys.split()), 2, bound, accept, interrupt=True)
    assert {True, False} == set(interrupted)


def test_two_callers_at_once():
    dsk = graph_of({"a": "", "b": "a"})
    assert search(compiled(dsk, ["b"]), 1, 1, accepts(dsk, ["b"]), beside=True) > 40


@st.composite
def graphs(draw):
    """Up to 15 tasks of every kind, and the keys to ask for; at most two fail."""
    kinds = draw(st.lists(st.sampled_from("aaasssp"), min_size=1, max_size=15))
    reads = {}
    for i, kind in enumerate(kinds):
        needs = draw(st.lists(st.sampled_from(list(reads)), max_size=4)) if reads else []
        reads[f"{kind if needs or kind != 's' else 'a'}{i}"] = " ".join(needs)
    return reads, draw(st.lists(st.sampled_from(list(reads)), min_size=1, max_size=3, unique=True))


def turns(longest):
    return st.lists(st.tuples(st.integers(0, longest), st.integers(0, 3)), max_size=40)


WORKERS = st.sampled_from((1, 2, 3, 4))
NAMES = st.sampled_from(list(POLICIES))


@settings(max_examples=100)
@given(graphs(), turns(12), WORKERS, NAMES, st.sampled_from(list(SUMS)), st.booleans())
def test_drawn_orders_of_random_graphs(graph, order, n_workers, policy, sums, beside):
    reads, keys = graph
    dsk = graph_of(reads, sums)
    tables = compiled(dsk, keys, policy)
    assert play(SOURCE, tables, n_workers, Drawn(order), accepts(dsk, keys), beside=beside) is None


@settings(max_examples=40)
@given(graphs(), turns(150), WORKERS, NAMES, st.sampled_from(list(SUMS)))
def test_drawn_orders_of_bytecodes(graph, order, n_workers, policy, sums):
    reads, keys = graph
    dsk = graph_of(reads, sums)
    tables = compiled(dsk, keys, policy)
    assert play(SOURCE, tables, n_workers, Drawn(order), accepts(dsk, keys), opcodes=True) is None


@settings(max_examples=60)
@given(graphs(), turns(12), WORKERS, NAMES, st.data())
def test_drawn_orders_in_which_tasks_fail_or_ctrl_c_comes(graph, order, n_workers, policy, data):
    reads, keys = graph
    interrupt = data.draw(st.booleans())
    bad = set() if interrupt else data.draw(st.sets(st.sampled_from(list(reads)), min_size=1, max_size=2))
    name = {key: f"bad{key}" if key in bad else key for key in reads}
    dsk = graph_of({name[key]: " ".join(name[need] for need in needs.split()) for key, needs in reads.items()})
    keys = [name[key] for key in keys]
    failure = accept_failure(*map(name.get, bad))

    def accept(outcome):
        if isinstance(outcome, MeantError):
            failure(outcome)
        elif not (interrupt and isinstance(outcome, KeyboardInterrupt)):
            accepts(dsk, keys)(outcome)

    tables = compiled(dsk, keys, policy)
    assert play(SOURCE, tables, n_workers, Drawn(order), accept, again=True, interrupt=interrupt) is None
