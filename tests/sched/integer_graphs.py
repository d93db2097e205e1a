"""Small graphs of integers, and what should come of them: Dask's answer, or a failure that names its task."""

import operator

import dask
from dask.task_spec import Task, TaskRef

from znn_dask.tasks import Reduce


class MeantError(Exception):
    """What tasks that fail raise."""


SUMS = {"tree": Reduce}
"""From a name to what makes a task that sums others, from its key and theirs."""

HIDDEN = frozenset[str]()
"""The sums that keep more than the tables and values show, so that no state can be known again."""


def plus_one(key, *values):
    if key.startswith("bad"):
        raise MeantError(key)
    return 1 + sum(values)


def pair(*values):
    return 1 + sum(values), 2 + sum(values)


def graph_of(reads, sums="tree"):
    """Return tasks of integers; the first letter of a key says which: s adds, p is a part of two, bad fails."""
    dsk = {}
    for key, needs in reads.items():
        refs = map(TaskRef, needs.split())
        if key[0] == "s":
            dsk[key] = SUMS[sums](key, *needs.split())
        elif key[0] == "p":
            dsk["w" + key] = Task("w" + key, pair, *refs)
            dsk[key] = Task(key, operator.getitem, TaskRef("w" + key), 1)
        else:
            dsk[key] = Task(key, plus_one, key, *refs)
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
