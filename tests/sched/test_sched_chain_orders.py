"""Runs that overlap, forced updates and sums in order of arrival in every order of their threads.

What is watched is listed in `interleaved_run`.
"""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import CHAINS, UPDATES, MeantError, accept_failure, accepts, graph_of, results_in_a_row
from interleaved_run import compiled, load, play, play_chain
from orders import Drawn, Search

from znn_dask.sched import verify
from znn_dask.sched.policies import POLICIES

INF = math.inf
pytestmark = pytest.mark.timeout(120)
SOURCE = load()


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


class Case:
    """A program with links, what its runs are given, and what should come of them."""

    def __init__(self, name, sums="tree", n_runs=3, policy="locality", expects=True):
        reads, keys, self.links = CHAINS[name] if isinstance(name, str) else name
        dsk, self.keys = graph_of(reads, sums), keys.split()
        self.tables = compiled(dsk, self.keys, policy, publish=tuple(dict.fromkeys(self.links.values())))
        verify(self.tables)
        own = [{"j": 10 + number} if "j" in self.tables.inputs else {} for number in range(n_runs)]
        self.given = [{**{name: i for i, name in enumerate(self.links)}, **own[0]}, *own[1:]]
        if expects:
            self.expected = results_in_a_row(dsk, self.keys, self.links, self.given)

    def play(self, n_workers, order, script, code=SOURCE, **options):
        return play_chain(code, self.tables, self.keys, self.links, n_workers, order, script, **options)

    def in_a_row(self, chain, finish):
        """Begin each run before the one before it is asked for."""

        def script(number):
            chain.start(self.given[0])
            for number in range(1, len(self.given)):
                chain.start(self.given[number])
                assert finish() == self.expected[number - 1]
            assert finish() == self.expected[-1]

        script(0)

    def cancelled(self, chain, finish):
        """Cancel two runs at any time, then run again."""

        def script(number):
            chain.start(self.given[0])
            chain.start(self.given[1])
            chain.cancel()
            chain.start(self.given[0])
            assert finish() == self.expected[0]

        script(0)

    def fails(self, chain, finish):
        """Begin two runs of which the first fails."""

        def script(number):
            chain.start(self.given[0])
            chain.start(self.given[1])
            with pytest.raises(MeantError) as caught:
                finish()
            accept_failure("bad")(caught.value)
            assert not chain._under_way, "the run after it was not cancelled"

        script(0)

    def interrupted(self, chain, finish):
        """Begin runs until Ctrl-C comes, then run again."""

        def script(number):
            try:
                self.in_a_row(chain, finish)
            except KeyboardInterrupt:
                chain.cancel()
                chain.start(self.given[0])
                assert finish() == self.expected[0]

        script(0)


CHAINS["fails late"] = {"n": "i", "bad": "n"}, "n bad", {"i": "n"}
CHAINS["fails first"] = {"bad": "i j", "n": "bad", "o": "j"}, "n o", {"i": "n"}


def search(case, n_workers, bound, script, **options):
    """Try all orders; how many there are."""
    orders = Search(bound)
    for order in orders:
        found = case.play(n_workers, order, script, **options)
        assert found is None, f"{found}, in the order {orders.path}"
    return orders.n_executions


@pytest.mark.parametrize(
    ("name", "n_workers", "n_runs", "bound"),
    [
        ("counter", 2, 2, 1),
        ("counter", 2, 3, 0),
        ("tail", 2, 2, 0),
        ("head", 2, 2, 0),
        ("head", 3, 2, 0),
        ("apart", 2, 2, 0),
        ("two", 2, 2, 0),
        ("wide", 2, 3, 0),
        ("update", 2, 2, 0),
        ("pending", 2, 2, 0),
        ("sum", 2, 2, 0),
        slow("counter", 2, 2, INF),
        slow("counter", 2, 3, 2),
        slow("tail", 2, 2, 1),
        slow("head", 2, 2, 2),
        slow("apart", 2, 3, 0),
        slow("two", 2, 2, 1),
        slow("wide", 2, 2, 1),
        slow("update", 2, 2, 1),
        slow("pending", 2, 2, 1),
        slow("pending twice", 2, 2, 0),
        slow("pending", 3, 2, 0),
        slow("tail", 3, 2, 0),
    ],
)
def test_runs_that_overlap_in_all_orders(name, n_workers, n_runs, bound):
    case = Case(name, n_runs=n_runs)
    assert search(case, n_workers, bound, case.in_a_row) > 20


@pytest.mark.parametrize(
    ("name", "n_workers", "bound"),
    [("counter", 2, 1), ("tail", 2, 0), ("apart", 2, 0), ("head", 3, 0), slow("head", 2, 1), slow("counter", 2, INF)],
)
def test_cancelled_at_any_time(name, n_workers, bound):
    case = Case(name, n_runs=2)
    assert search(case, n_workers, bound, case.cancelled) > 10


@pytest.mark.parametrize(
    ("name", "n_workers", "bound"), [("fails late", 2, 0), ("fails first", 2, 0), slow("fails late", 2, 1)]
)
def test_a_run_that_fails_leaves_the_chain_and_the_threads_usable(name, n_workers, bound):
    case = Case(name, expects=False)
    assert search(case, n_workers, bound, case.fails) > 20


@pytest.mark.parametrize(("name", "bound"), [("counter", 0), slow("counter", 1), slow("tail", 0)])
def test_ctrl_c_at_any_time(name, bound):
    case = Case(name, n_runs=2)
    assert search(case, 2, bound, case.interrupted, interrupt=True) > 10


def test_executions_that_are_cut_would_have_shown_no_other_state():
    case = Case("counter", n_runs=2)
    searches = [Search(0, cuts=cuts) for cuts in (True, False)]
    for orders in searches:
        for order in orders:
            assert case.play(2, order, case.in_a_row) is None
    assert searches[0].seen == searches[1].seen
    assert searches[0].n_executions < searches[1].n_executions


@pytest.mark.parametrize(
    ("name", "n_workers", "bound"),
    [
        ("read once", 2, INF),
        ("read twice", 2, 0),
        ("two of one", 2, 0),
        ("one of the other", 2, 0),
        ("shared", 2, 0),
        ("one after the other", 2, 1),
        ("each with a gradient", 2, 0),
        ("three in a row", 2, 0),
        ("two of the other", 2, 0),
        ("read once", 3, 0),
        slow("read once", 3, 1),
        slow("read twice", 2, 2),
        slow("two of one", 2, 2),
        slow("one of the other", 2, INF),
        slow("shared", 2, 1),
        slow("one after the other", 2, INF),
        slow("one after the other", 3, 0),
        slow("each with a gradient", 2, 1),
        slow("three in a row", 2, 1),
    ],
)
@pytest.mark.parametrize("late", [True, False], ids=["low priority", "no priority"])
def test_forced_updates_in_all_orders(name, n_workers, bound, late):
    reads, keys = UPDATES[name]
    dsk = graph_of(reads)
    priority = {key: 0 if key[0] == "u" else 1 + i for i, key in enumerate(dsk)} if late else None
    tables = compiled(dsk, keys.split(), priority=priority)
    verify(tables)
    orders = Search(bound)
    for order in orders:
        assert play(SOURCE, tables, n_workers, order, accepts(dsk, keys.split())) is None
    assert orders.n_executions > 5


SCRIPTS = st.sampled_from(("in_a_row", "cancelled", "interrupted"))
TURNS = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), max_size=60)
WORKERS = st.sampled_from((1, 2, 3, 4))


@st.composite
def chains(draw):
    """Return up to 9 tasks of every kind that read two inputs, one handed on, from any of them; none fails."""
    reads = {"a": "i j"}
    for i, kind in enumerate(draw(st.lists(st.sampled_from("aaspuu"), max_size=8))):
        needs = draw(st.lists(st.sampled_from([*reads, "i", "j"]), min_size=1, max_size=3))
        reads[f"{kind}{i}"] = " ".join(needs)
    keys = draw(st.lists(st.sampled_from(list(reads)), max_size=2, unique=True))
    new = draw(st.sampled_from(list(reads)))
    return reads, " ".join(dict.fromkeys(["a", *keys, new])), {"i": new}


@settings(max_examples=80)
@given(chains(), TURNS, WORKERS, st.sampled_from(list(POLICIES)), st.sampled_from(("tree", "arrival")), SCRIPTS)
def test_drawn_orders_of_random_chains(chain, order, n_workers, policy, sums, script):
    case = Case(chain, sums, policy=policy)
    found = case.play(n_workers, Drawn(order), getattr(case, script), interrupt=script == "interrupted")
    assert found is None


@settings(max_examples=25)
@given(chains(), TURNS, WORKERS, st.sampled_from(list(POLICIES)), st.sampled_from(("tree", "arrival")))
def test_drawn_orders_of_bytecodes(chain, order, n_workers, policy, sums):
    case = Case(chain, sums, 2, policy)
    order = [(10 * gap, other) for gap, other in order]
    assert case.play(n_workers, Drawn(order), case.in_a_row, opcodes=True) is None
