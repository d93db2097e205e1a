"""Chains, teams, forced updates and sums in order of arrival with a defect put in: every one is found."""

import re

import pytest
from integer_graphs import GRAPHS, UPDATES, accepts, graph_of
from interleaved_run import compiled, load, play
from orders import mixed
from test_sched_chain_orders import Case

pytestmark = pytest.mark.timeout(120)

ADDED = """                other, self._slot = self._slot, _EMPTY
                if other is _EMPTY:
                    self._slot, self._owned = term, owned
                    self._n_missing -= 1
                    return not self._n_missing
"""
IN_SLOT = """            term, owned, other = addition(other_owned, owned)(other, term), True, None
"""
SUMS = {
    "terms are put down without the lock": (
        [("            with self._lock:\n                other", "            if True:\n                other")],
        "a race on _|nobody was the last|was skipped|ended with|waits? for",
    ),
    "a term is counted before it is added": (
        [
            (
                "        while True:\n            with self._lock",
                "        self._n_missing -= 1\n        while True:\n            with self._lock",
            ),
            ("                    self._n_missing -= 1\n", ""),
        ],
        "a race on _n_missing|two were the last",
    ),
    "a term is counted in its own turn before it is added": (
        [
            (
                "        while True:\n            with self._lock",
                "        with self._lock:\n            self._n_missing -= 1\n"
                "        while True:\n            with self._lock",
            ),
            ("                    self._n_missing -= 1\n", ""),
        ],
        "two were the last",
    ),
    "the addition is done in the lock": (
        [(IN_SLOT, "    " + IN_SLOT)],
        "somebody waits for a lock until a task ends",
    ),
    "the second of two terms is forgotten": (
        [(IN_SLOT, "            term, owned, other = other, True, None\n")],
        "ended with AssertionError",
    ),
}
CLAIM = """            self._open.pop()  # atomic: exactly one succeeds
        except IndexError:
            raise ClaimedError from None
"""
UPDATE = {
    "a task is tested and then taken": (
        [
            (
                CLAIM,
                CLAIM.replace("self._open.pop()", "self._open[0]").replace(
                    "None\n", "None\n        del self._open[:]\n"
                ),
            )
        ],
        "runs twice|a race on result",
    ),
    "who comes too late releases the task too": (
        [("            raise ClaimedError from None\n", "            return\n")],
        "runs before what it needs|runs twice|is to be filled|ended with",
    ),
    "who comes too late does it again": (
        [("            raise ClaimedError from None\n", "            pass\n")],
        "runs twice|a race on result",
    ),
    "who comes too late goes on as if it had done the task": (
        [("        except ClaimedError:\n            task = last\n", "        except ClaimedError:\n")],
        "runs before what it needs|runs twice|is to be filled|ended with",
    ),
    "who comes too late is taken for a failure": (
        [("        except ClaimedError:\n            task = last\n            continue\n", "")],
        "ClaimedError",
    ),
}
HANDED = """                for key, value in outlet.values.items():
                    self._receive(key, value)
"""
CHAIN = {
    "nobody is woken for what is handed on": (
        [("            run.team.wake(run, 1)\n", "            pass\n")],
        "all wait for ever|a worker sleeps while a task is ready",
    ),
    "the older run is never looked at": (
        [("            if elder:\n", "            if False:\n")],
        "a task of the younger run goes before one of the older",
    ),
    "what the younger run had in hand is lost on the way to the older": (
        [
            (
                "            if elder:\n                if following != nothing:\n",
                "            if elder:\n                if False:\n",
            )
        ],
        "ran out of tasks|wait for ever|younger run",
    ),
    "inputs to come are forgotten by who leaves": (
        [(" and not self.heap and not self.n_awaited:", " and not self.heap:")],
        "ran out of tasks",
    ),
    "what was handed on before the start is lost": ([(HANDED, "")], "all wait for ever"),
    "what is handed on is kept though there is a next run": (
        [("            if outlet.receive is None:\n", "            if True:\n")],
        "all wait for ever",
    ),
    "values are handed on without the lock": (
        [("        with team.lock:\n            if outlet", "        if True:\n            if outlet")],
        "a race on|wait for ever|changed size|ended with",
    ),
    "who leaves looks for no other run": (
        [("        following = self.team.next()\n", "        following = None\n")],
        "a worker sleeps while a task is ready|all wait for ever",
    ),
    "who turns to another run is not counted there": (
        [("            following.active += 1\n", "            pass\n")],
        "callers were told|a race on|wait for ever|ended with|not in list|ran out of tasks",
    ),
    "the seats of a team are forgotten": (
        [("                self._crew.give_back(self.idle)\n", "                pass\n")],
        "all wait for ever",
    ),
    "a run that was cancelled without workers stays in the team": (
        [("                if ended:\n                    self.team.runs.remove(self)\n", "")],
        "all wait for ever",
    ),
    "a run that was cancelled without workers is not ended": (
        [("                ended = not self.active\n", "                ended = False\n")],
        "all wait for ever|callers were told",
    ),
    "a cancelled run takes what is handed on": (
        [("        run = self.run\n        if run.stop:\n            return\n", "        run = self.run\n")],
        "is to be filled, but was dropped|a race on slot|IndexError|starts although|ended with",
    ),
    "the run before ends when it fails, the one after waits for ever": (
        [
            (
                "        except BaseException:\n            self.cancel()\n            raise\n        del",
                "        except BaseException:\n            raise\n        del",
            )
        ],
        "callers were told|all wait for ever|ended with",
    ),
}


def sums(code, order, **options):
    for name in ("sum of 3", "shared", "sum of 4"):
        reads, keys = GRAPHS[name]
        dsk = graph_of(reads, "arrival")
        for n_workers in (2, 3):
            yield play(code, compiled(dsk, keys.split()), n_workers, order(), accepts(dsk, keys.split()), **options)


def updates(code, order, **options):
    for reads, keys in UPDATES.values():
        dsk = graph_of(reads)
        tables = compiled(dsk, keys.split(), priority={key: key[0] != "u" for key in dsk})
        for n_workers in (2, 3):
            yield play(code, tables, n_workers, order(), accepts(dsk, keys.split()), **options)


def chains(code, order, **options):
    for name in ("long", "tail", "head", "two"):
        case = Case(name)
        for n_workers in (2, 3):
            for script in (case.in_a_row, case.cancelled):
                yield case.play(n_workers, order(), script, code=code, **options)
    case = Case("fails late", expects=False)
    yield case.play(2, order(), case.fails, code=code, **options)


def attempts(kind, code, races, n_rounds=12):
    for order, opcodes in mixed(n_rounds):
        yield from kind(code, order, races=races, opcodes=opcodes)


ALL = [(kind, name) for kind, damage in ((sums, SUMS), (updates, UPDATE), (chains, CHAIN)) for name in damage]


@pytest.mark.parametrize("races", [True, False], ids=["by clocks", "by what happens"])
@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_defect_is_found(kind, name, races):
    replacements, expected = {**SUMS, **UPDATE, **CHAIN}[name]
    found = next(filter(None, attempts(kind, load(*replacements), races)), None)
    assert found is not None
    assert re.search(expected, found), found


@pytest.mark.parametrize("kind", [sums, updates, chains])
def test_without_a_defect_nothing_is_found(kind):
    assert not any(attempts(kind, load(), True, 2))
