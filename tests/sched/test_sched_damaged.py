"""Runs with a defect put in: the orders that find nothing in the sources find every one of these."""

import re
from functools import cache
from itertools import islice

import pytest
from integer_graphs import GRAPHS, accept_failure, accepts, graph_of
from interleaved_run import compiled, load, play
from orders import Search, mixed

pytestmark = pytest.mark.timeout(120)

LOCKED = """            sleep(0)
        with lock:
"""
COUNTED = """            for slot in shared[task]:
                left = readers[slot] - 1
                readers[slot] = left
                if not left:
                    unread.append(slot)
"""
COUNTED_BEFORE = "\n".join(line[4:] for line in COUNTED.splitlines()) + "\n"
STOPPED = """            if stop:
                return run.leave(seat)
"""
WOKEN = """        if helper is not None:
            helper.send(run)
"""
DROPPED = """        for slot in drops[task]:
            values[slot] = None
"""
DAMAGE = {
    "tasks are counted down without the lock": (
        [(LOCKED, LOCKED.replace("with lock", "if True"))],
        "a race on (heap|counts)|pop from empty list|all wait for ever",
    ),
    "readers are counted down before the lock is taken": (
        [(COUNTED, ""), (LOCKED, LOCKED.replace("        with lock:\n", COUNTED_BEFORE + "        with lock:\n"))],
        "a race on readers|at the end slot . is full",
    ),
    "a helper is chosen and not told": ([(WOKEN, "")], "all wait for ever"),
    "no helper is woken": ([("if heap and idle:", "if False:")], "a worker sleeps while a task is ready"),
    "a helper is woken only when nothing is left to do": (
        [("                if heap and idle:", "                if not heap and idle:")],
        "a worker sleeps while a task is ready",
    ),
    "a worker sleeps before it has dropped what it read last": (
        [("elif following == nothing and not unread:", "elif following == nothing:")],
        "at the end slot . is full",
    ),
    "values are dropped one reader too early": (
        [
            (
                "                if not left:\n                    unread",
                "                if left <= 1:\n                    unread",
            )
        ],
        "a race on slot|to be dropped, but was dropped|is read, but was dropped",
    ),
    "a task starts one need too early": (
        [
            (
                "                if not left:\n                    if rank",
                "                if left <= 1:\n                    if rank",
            )
        ],
        "is read, but was not filled yet",
    ),
    "everyone who leaves an ended run thinks to be the last": (
        [
            ("ended = not self.active and bool(self.stop)", "ended = bool(self.stop)"),
            (
                "            self.team.runs.remove(self)\n            self.heap.clear()  #",
                "            self.heap.clear()  #",
            ),
        ],
        "a race on slot|is to be filled, but was dropped|callers were told|release unlocked lock",
    ),
    "who leaves is not counted": ([("        self.active -= 1\n", "")], "all wait for ever"),
    "a failure does not stop the run": ([(STOPPED, "")], "although the run has ended"),
    "a failure is not told to the others": (
        [("            self.stop.append(True)\n            self.heap.clear()\n\n    def cancel", "\n    def cancel")],
        "ran out of tasks",
    ),
    "the seats are kept": (
        [("                self._crew.give_back(self.idle)\n", "                pass\n")],
        "all wait for ever",
    ),
    "values are dropped before they are read": (
        [
            (DROPPED, ""),
            (
                "        try:\n            values[task] = calls",
                DROPPED + "        try:\n            values[task] = calls",
            ),
        ],
        "is read, but was dropped",
    ),
}
FAILING = {"a": "", "bad": "", "c": "a", "d": "a", "e": "c d bad"}, "e"


@cache
def cases():
    """Return tables, how many workers, and what should come: the graph that fails, and small ones."""
    made = []
    for reads, keys in (FAILING, *GRAPHS.values()):
        dsk = graph_of(reads)
        accept = accept_failure("bad") if "bad" in dsk else accepts(dsk, keys.split())
        made += [(compiled(dsk, keys.split()), n_workers, accept) for n_workers in (2, 3)]
    return made


def attempts(code, races, n_rounds=6):
    """Yield what is found: first in orders with at most one preemption, then in random ones."""
    for tables, n_workers, accept in cases():
        for order in islice(Search(1), 6):
            yield play(code, tables, n_workers, order, accept, races=races)
    for make, opcodes in mixed(n_rounds):
        for tables, n_workers, accept in cases():
            yield play(code, tables, n_workers, make(), accept, races=races, opcodes=opcodes)


@pytest.mark.parametrize("races", [True, False], ids=["by clocks", "by what happens"])
@pytest.mark.parametrize("name", DAMAGE)
def test_a_defect_is_found(name, races):
    replacements, expected = DAMAGE[name]
    found = next(filter(None, attempts(load(*replacements), races, 40)), None)
    assert found is not None
    assert re.search(expected, found), found


def test_without_a_defect_nothing_is_found():
    assert not any(attempts(load(), races=True))


def test_what_is_to_be_replaced_must_be_there_once():
    with pytest.raises(AssertionError, match="0 times in the sources"):
        load(("with rock:", ""))
