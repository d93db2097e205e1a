"""Orders for `interleave.World`: all of a kind one after the other, or one that was drawn."""

import math
import random


class Search:
    """All executions, or all with at most so many preemptions, depth first; an order for each.

    A preemption takes the turn from a thread that would simply go on. Who comes next when a thread waits or is in the
    middle of a task is tried in every way and costs nothing. Most defects of threads need one or two preemptions
    (Musuvathi and Qadeer, "Iterative Context Bounding for Systematic Testing of Multithreaded Programs", 2007).
    An execution that comes to a state from which all was tried before, with as many preemptions left, ends there.
    """

    def __init__(self, bound=math.inf, remembers=True, cuts=True):
        self.bound, self.remembers, self.cuts = bound, remembers, cuts
        self.path = []  # (how many ways there are, which is taken) at each choice
        self.seen = {}  # from a state to the preemptions that were left
        self.n_executions = 0

    def __iter__(self):
        while True:
            self.depth, self.left = 0, self.bound
            self.n_executions += 1
            yield self
            del self.path[self.depth :]
            while self.path and self.path[-1][0] == self.path[-1][1] + 1:
                self.path.pop()
            if not self.path:
                return
            n, taken = self.path[-1]
            self.path[-1] = n, taken + 1

    def choose(self, able, stays, state):
        if stays is not None:
            if not self.left:
                return stays
            able = [stays, *(thread for thread in able if thread is not stays)]
        if self.depth == len(self.path):
            if self.remembers:
                now = (able[0].number, stays is None, state())
                if self.cuts and self.seen.get(now, -1) >= self.left:
                    return None
                self.seen[now] = self.left
            self.path.append((len(able), 0))
        n, taken = self.path[self.depth]
        assert n == len(able), "the same order gave another execution"
        self.depth += 1
        if stays is not None and taken:
            self.left -= 1
        return able[taken]


class Drawn:
    """One execution from pairs of numbers: after so many choices, take the so-manieth of the other threads."""

    remembers = False

    def __init__(self, turns):
        self.turns = iter(turns)
        self._draw()

    def _draw(self):
        self.gap, self.other = next(self.turns, (-1, 0))

    def choose(self, able, stays, _):
        self.gap -= 1
        if self.gap != -1:
            return able[0] if stays is None else stays
        others = [thread for thread in able if thread is not stays]
        chosen = others[self.other % len(others)]
        self._draw()
        return chosen


class Shaken:
    """One execution in which each choice is random, and a thread keeps its turn with a given probability."""

    remembers = False

    def __init__(self, rng, keeps):
        self.rng, self.keeps = rng, keeps

    def choose(self, able, stays, _):
        if stays is not None and self.rng.random() < self.keeps:
            return stays
        return self.rng.choice(able)


def mixed(n_rounds, opcodes=True):
    """Yield functions that make orders, and whether every bytecode is to be a step.

    Each function is called with nothing for every graph that is tried and returns the same order again.
    """
    for seed in range(n_rounds):
        for keeps in (0.5, 0.9):
            yield lambda seed=seed, keeps=keeps: Shaken(random.Random(seed), keeps), False
        if opcodes:
            yield lambda seed=seed: Shaken(random.Random(seed), 0.97), True
