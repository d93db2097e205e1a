"""Runs that overlap, forced updates and sums in order of arrival in every order of their threads.

What is watched is listed in `interleaved_run`.
"""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import CHAINS, UPDATES, MeantError, accept_failure, accepts, graph_of, results_in_a_row
from interleave import Abandoned
from interleaved_run import compiled, load, play, play_chain
from orders import Drawn, Search

from znn_dask.sched import verify
from znn_dask.sched.policies import POLICIES

INF = math.inf
pytestmark = pytest.mark.timeout(120)
SOURCE = load()


class Case:
    """A program with links, what its runs are given, and what should come of them."""

    def __init__(self, name, sums="tree", n_runs=3, policy="locality"):
        reads, keys, self.links = CHAINS[name]
        dsk, self.keys = graph_of(reads, sums), keys.split()
        self.tables = compiled(dsk, self.keys, policy, publish=tuple(dict.fromkeys(self.links.values())))
        verify(self.tables)
        own = [{"j": 10 + number} if "j" in self.tables.inputs else {} for number in range(n_runs)]
        self.given = [{**{name: i for i, name in enumerate(self.links)}, **own[0]}, *own[1:]]
        self.expected = results_in_a_row(dsk, self.keys, self.links, self.given)

    def play(self, n_workers, order, script, **options):
        return play_chain(SOURCE, self.tables, self.keys, self.links, n_workers, order, script, **options)

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
            number = 1
            chain.start(self.given[0])
            assert finish() == self.expected[0]

        script(0)


def search(case, n_workers, bound, script, **options):
    """Try all orders; how many there are."""
    orders = Search(bound)
    for order in orders:
        found = case.play(n_workers, order, script, **options)
        assert found is None, f"{found}, in the order {orders.path}"
    return orders.n_executions


ALL = [("counter", 2, 2), ("tail", 2, 2), ("head", 2, 1), ("apart", 2, 1), ("two", 2, 1), ("wide", 2, 1), ("sum", 2, 0)]


@pytest.mark.parametrize(("name", "n_runs", "bound"), ALL)
def test_two_runs_or_three_in_all_orders(name, n_runs, bound):
    case = Case(name, n_runs=n_runs)
    assert search(case, 2, bound, case.in_a_row) > 40
