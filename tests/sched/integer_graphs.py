"""Small graphs of integers, and what should come of them: Dask's answer, or a failure that names its task."""

import operator

import dask
from dask.task_spec import DataNode, Task, TaskRef
from interleave import World

from znn_dask.tasks import ArrivalReduce, Reduce, deferred


class MeantError(Exception):
    """What tasks that fail raise."""


SUMS = {"tree": Reduce, "arrival": ArrivalReduce}
"""From a name to what makes a task that sums others, from its key and theirs."""


class Term(int):
    """An integer whose additions take a while, in which others may go on."""

    def __add__(self, other):
        if World.now is not None:
            World.now.step(free=True, rests=True)
        return Term(int(self) + int(other))


def plus_one(key, *values):
    if key.startswith("bad"):
        raise MeantError(key)
    return 1 + sum(map(int, values))


def term(key, *values):
    return Term(plus_one(key, *values))


@deferred
def late(key, *values):
    return plus_one(key, *values)


def pair(*values):
    return plus_one("", *values), plus_one("", *values) + 1


def graph_of(reads, sums="tree"):
    """Return tasks of integers; the first letter of a key says which.

    s adds, p is a part of two, u is deferred, what begins with bad fails; what is read and not there is an input.
    """
    plain = term if sums == "arrival" else plus_one
    dsk = {}
    for key, needs in reads.items():
        refs = map(TaskRef, needs.split())
        if key[0] == "s":
            dsk[key] = SUMS[sums](key, *needs.split())
        elif key[0] == "p":
            dsk["w" + key] = Task("w" + key, pair, *refs)
            dsk[key] = Task(key, operator.getitem, TaskRef("w" + key), 1)
        else:
            dsk[key] = Task(key, late if key[0] == "u" else plain, key, *refs)
    return dsk


GRAPHS = {
    "diamond": ({"a": "", "b": "a", "c": "a", "d": "b c"}, "d"),
    "alone": ({"a": "", "b": "a", "c": "b", "x": ""}, "c x"),
    "shared": ({"a": "", "b": "a", "c": "a", "d": "a", "s": "b c d"}, "s"),
    "parts": ({"p": "", "q": "p", "r": "p", "z": "q r"}, "z"),
    "sum of 3": ({"a": "", "b": "", "c": "", "s": "a b c", "z": "s"}, "z"),
    "sum of 4": ({"a": "", "b": "", "c": "", "d": "", "s": "a b c d"}, "s"),
    "two sums": ({"a": "", "b": "", "s1": "a b", "s2": "a b", "z": "s1 s2"}, "z s1"),
}


UPDATES = {
    "read once": ({"a": "", "u": "", "b": "u a"}, "b"),
    "read twice": ({"a": "", "u": "a", "b": "u", "c": "u a"}, "b c"),
    "two of one": ({"a": "", "u": "", "ub": "a", "b": "u a ub"}, "b"),
    "one of the other": ({"u": "", "ub": "u", "b": "ub"}, "b u"),
    "shared": ({"a": "", "u": "a", "b": "u", "s": "a b"}, "s"),
    "one after the other": ({"a": "", "u": "", "ub": "u", "b": "ub a"}, "b"),
    "each with a gradient": ({"g": "", "u": "g", "h": "g", "ub": "u h", "b": "ub g"}, "b u"),
    "three in a row": ({"a": "", "u": "", "ub": "u", "uc": "ub a", "b": "uc"}, "b"),
    "two of the other": ({"a": "", "u": "", "ub": "u", "uc": "u", "b": "ub a uc"}, "b"),
}
"""Graphs with deferred tasks."""

CHAINS = {
    "counter": ({"n": "i"}, "n", {"i": "n"}),
    "tail": ({"n": "i", "t": "n"}, "n t", {"i": "n"}),
    "head": ({"h": "j", "n": "i h"}, "n", {"i": "n"}),
    "apart": ({"n": "i", "o": "j"}, "n o", {"i": "n"}),
    "two": ({"n": "i", "m": "i k"}, "n m", {"i": "n", "k": "m"}),
    "wide": ({"a": "i", "b": "i", "n": "a b"}, "n", {"i": "n"}),
    "update": ({"u": "i", "n": "u j"}, "n", {"i": "n"}),
    "pending": ({"u": "i j", "n": "u j"}, "u n", {"i": "u"}),
    "pending twice": ({"u": "i j", "ub": "u", "n": "ub j"}, "ub n", {"i": "ub"}),
    "long": ({"h": "j", "g": "h", "n": "i", "y": "n", "z": "n"}, "g n y z", {"i": "n"}),
    "sum": ({"a": "i", "b": "j", "s": "a b i"}, "s", {"i": "s"}),
}
"""Graphs with inputs, and from those that are handed on to where they come from."""


def results_in_a_row(dsk, keys, links, given):
    """Return what runs give that are fed by the one before, by Dask.

    Parameters
    ----------
    given : for each run the inputs that are not handed on; those of the first have all
    """
    results = []
    for own in given:
        handed_on = {name: results[-1][keys.index(key)] for name, key in links.items()} if results else {}
        inputs = {key: DataNode(key, value) for key, value in {**handed_on, **own}.items()}
        results.append(tuple(dask.get({**dsk, **inputs}, keys)))
    return results


def accepts(dsk, keys):
    """Return a check that results are those of Dask."""
    expected = dict(zip(keys, dask.get(dsk, keys), strict=True))

    def accept(outcome):
        assert outcome == expected, f"{outcome!r} instead of {expected}"

    return accept


def accept_failure(*keys):
    """Return a check that one of the tasks is named as the one that failed."""
    notes = [f"while running task {key!r}" for key in keys]

    def accept(outcome):
        assert isinstance(outcome, MeantError), repr(outcome)
        assert outcome.__notes__ == [note for note in notes if note.endswith(f"{outcome.args[0]!r}")]

    return accept
