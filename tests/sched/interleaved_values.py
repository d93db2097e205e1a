"""What threads share in a `World`, under watch: lists and fields with an owner, and the slots of a run."""

from collections import Counter
from dataclasses import replace
from functools import partial

from interleave import World

from znn_dask.sched.tables import Tables
from znn_dask.sched.traced import sources_of

EMPTY, FULL, DROPPED = "was not filled yet", "is full", "was dropped"


class Owned(list):
    """A list of which any two accesses must be ordered."""

    def __init__(self, items, name):
        super().__init__(items)
        self.name, self.last = name, None


def _watched(method):
    plain = getattr(list, method)

    def access(self, *args):
        world = World.now
        if world is not None and not world.over:
            world.come_after(self.last, self.name)
            self.last = world.access()
        return plain(self, *args)

    return access


for _method in ("__getitem__", "__setitem__", "__len__", "__iter__", "append", "pop", "clear", "remove", "extend"):
    setattr(Owned, _method, _watched(_method))


def owned(name):
    """Return an attribute that belongs to one thread at a time."""

    def note(self):
        if World.now is not None and not World.now.over:
            World.now.come_after(self.__dict__.get("last " + name), name)
            self.__dict__["last " + name] = World.now.access()

    def get(self):
        note(self)
        return self.__dict__["its " + name]

    def put(self, value):
        note(self)
        self.__dict__["its " + name] = value

    return property(get, put)


class Stop(list):
    """What any thread may append to and look at, at any time; so each access is a step."""

    def append(self, item):
        World.now.step()
        super().append(item)

    def __len__(self):
        if World.now is not None and not World.now.over:
            World.now.step()
        return super().__len__()


class _Reads(list):
    """The slots of each task; whoever asks goes on with the task."""

    def __getitem__(self, task):
        World.now.current.task, World.now.current.readings = task, []
        return super().__getitem__(task)


class _Instrumented(Tables):
    """Tables of one run, whose values are watched."""

    def values(self):
        return self.watched


class Values(list):
    """The slots of one run, and what its tasks did."""

    def __init__(self, tables, new_state):
        super().__init__(tables.initial)
        for slot, make in tables.states.items():
            list.__setitem__(self, slot, new_state(make))
        filled = set(range(tables.n_tasks)) | {slot for split in tables.splits for _, slot in split or ()}
        given = {*tables.inputs.values(), tables.outlet}
        self.state = [EMPTY if slot in filled | given else FULL for slot in range(len(self))]
        self.written = [None for _ in self]
        self.read = [{} for _ in self]
        self.tables, self.sources = tables, sources_of(tables)
        self.kept = set(tables.results.values()) | ({*range(len(self))} - filled - set(tables.inputs.values()))
        self.deferred = {each: task for task, attempts in tables.attempts.items() for each in attempts}
        self.began, self.finished, self.run = Counter(), set(), None

    def hidden(self):
        """Return what the run's own states keep."""
        return [list.__getitem__(self, slot).hidden() for slot in self.tables.states]

    def __getitem__(self, slot):
        world = World.now
        me = world.current
        if me.task in self.deferred:  # an attempt that comes too late may read anything
            me.readings.append((slot, self.state[slot], world.knows(self.written[slot]), world.access()))
        else:
            self._check_read(slot, self.state[slot], world.knows(self.written[slot]), world.access())
        return super().__getitem__(slot)

    def _check_read(self, slot, state, known, access):
        if state is not FULL:
            World.now.fail(f"slot {slot} is read, but {state}")
        if not known:
            World.now.fail(f"a race on slot {slot}, which is read")
        self.read[slot].update([access])

    def __setitem__(self, slot, value):
        world = World.now
        drops = value is None and world.current.fills != (id(self), slot)
        before, after = (FULL, DROPPED) if drops else (EMPTY, FULL)
        if self.state[slot] is not before:
            world.fail(f"slot {slot} is to be {'dropped' if drops else 'filled'}, but {self.state[slot]}")
        world.current.fills = None
        self._comes_after_all(world, slot)
        self.written[slot], self.state[slot] = world.access(), after
        super().__setitem__(slot, value)

    def clear(self):
        if World.now is not None and not World.now.over:
            for slot in range(len(self)):
                self._comes_after_all(World.now, slot)
        self.final, self.state = self.state, [DROPPED] * len(self.state)

    def _comes_after_all(self, world, slot):
        for access in (self.written[slot], *self.read[slot].items()):
            world.come_after(access, f"slot {slot}")

    def check_end(self, state):
        """Complain unless every task ran and only what was asked for is still there."""
        world = World.now
        for task in range(self.tables.n_tasks):
            same = self.tables.attempts.get(self.deferred.get(task), (task,))
            if len(self.finished.intersection(same)) != 1:
                world.fail(f"task {self.tables.keys[task]!r} was skipped")
        for slot, each in enumerate(state):
            is_held = each is FULL and (slot in self.kept or list.__getitem__(self, slot) is not None)
            if is_held != (slot in self.kept):
                world.fail(f"at the end slot {slot} {each}")

    def begin(self, task):
        world = World.now
        self.began[task] += 1
        key = self.tables.keys[task]
        if self.began[task] > 1:
            world.fail(f"task {key!r} runs twice")
        sources = self.sources[task]
        if task in self.tables.attempts:
            sources = self.finished.intersection(sources) or sources
        if not self.finished.issuperset(sources):
            world.fail(f"task {key!r} runs before what it needs")
        if world.runs.index(self.run) in world.current.ended_runs:
            world.fail(f"task {key!r} starts although the run has ended")

    def _watch(self, task, call):
        def watched_call(*values):
            self.begin(task)
            World.now.step(free=True, rests=True)
            result = call(*values)
            self.finished.add(task)
            World.now.current.fills = id(self), task
            return result

        return watched_call

    def _watch_attempt(self, task, call):
        def update(*values):
            world = World.now
            if self.finished.intersection(self.tables.attempts[self.deferred[task]]):
                world.fail(f"the deferred task {self.tables.keys[task]!r} runs twice")
            for reading in world.current.readings:
                self._check_read(*reading)
            world.step(free=True, rests=True)
            result = call.args[0](*values)
            if self.finished.intersection(self.tables.attempts[self.deferred[task]]):
                world.fail(f"the deferred task {self.tables.keys[task]!r} runs twice")
            self.finished.add(task)
            return result

        attempt = partial(call.func, update)

        def watched_call(*values):
            self.begin(task)
            World.now.step()
            attempt(*values)
            World.now.current.fills = id(self), task

        return watched_call

    def instrumented(self):
        """Return the tables with calls that tell when they begin and end, between which others may go on."""
        n = self.tables.n_tasks
        calls = [
            (self._watch_attempt if task in self.deferred else self._watch)(task, call)
            for task, call in enumerate(self.tables.calls[:n])
        ]
        plain = replace(self.tables, calls=calls + self.tables.calls[n:], reads=_Reads(self.tables.reads))
        made = _Instrumented(**{name: getattr(plain, name) for name in Tables.__dataclass_fields__})
        object.__setattr__(made, "watched", self)
        return made
