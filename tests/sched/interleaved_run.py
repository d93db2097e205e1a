"""The scheduler's own run and crew in a `World`, under watch.

`load` executes the sources of `run` and `crew` once more, with stand-ins for locks, threads and mailboxes, and, to see
that defects are found, with parts of the text replaced. `play` lets a caller compute a graph there in a given order.
What is watched while it runs: every task runs once and after all it needs; none starts after a failure; nobody sleeps
while a task is ready; values are read after they were filled and before they were dropped; whatever belongs to the
holder of the lock is touched in turn. What is looked at when it has ended: the results; that every value nobody asked
for was dropped; that the caller was told once; that the threads came back, serve the next run, and end.
"""

from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

from dask.task_spec import Task
from interleave import Abandoned, Mailbox, World, cooperative

from znn_dask.sched import crew, run, sums
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.graph import read
from znn_dask.sched.policies import policy_named
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
        if world is not None:
            world.come_after(self.last, self.name)
            self.last = world.access()
        return plain(self, *args)

    return access


for _method in ("__getitem__", "__setitem__", "__len__", "append", "pop", "clear"):
    setattr(Owned, _method, _watched(_method))


class Stop(list):
    """What any thread may append to and look at, at any time; so each access is a step."""

    def append(self, item):
        World.now.step()
        super().append(item)

    def __len__(self):
        if World.now is not None and not World.now.over:
            World.now.step()
        return super().__len__()


class Values(list):
    """The slots of one run, and what its tasks did."""

    def __init__(self, tables):
        super().__init__(tables.initial)
        filled = set(range(tables.n_tasks)) | {slot for split in tables.splits for _, slot in split or ()}
        self.state = [EMPTY if slot in filled else FULL for slot in range(len(self))]
        self.written = [None for _ in self]
        self.read = [{} for _ in self]
        self.tables, self.sources = tables, sources_of(tables)
        self.kept = set(tables.results.values()) | ({*range(len(self))} - filled - set(tables.inputs.values()))
        self.began, self.finished, self.run = Counter(), set(), None

    def __getitem__(self, slot):
        world = World.now
        if self.state[slot] is not FULL:
            world.fail(f"slot {slot} is read, but {self.state[slot]}")
        world.come_after(self.written[slot], f"slot {slot}")
        self.read[slot].update([world.access()])
        return super().__getitem__(slot)

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
        self.state = [DROPPED] * len(self.state)

    def _comes_after_all(self, world, slot):
        for access in (self.written[slot], *self.read[slot].items()):
            world.come_after(access, f"slot {slot}")

    def begin(self, task):
        world = World.now
        self.began[task] += 1
        key = self.tables.keys[task]
        if self.began[task] > 1:
            world.fail(f"task {key!r} runs twice")
        if not self.finished.issuperset(self.sources[task]):
            world.fail(f"task {key!r} runs before what it needs")
        if world.runs.index(self.run) in world.current.ended_runs:
            world.fail(f"task {key!r} starts although the run has ended")

    def instrumented(self):
        """Return the tables with calls that tell when they begin and end, between which others may go on."""

        def watch(task, call):
            def watched_call(*values):
                self.begin(task)
                World.now.step(free=True, rests=True)
                result = call(*values)
                self.finished.add(task)
                World.now.current.fills = id(self), task
                return result

            return watched_call

        n = self.tables.n_tasks
        return replace(
            self.tables, calls=[watch(t, c) for t, c in enumerate(self.tables.calls[:n])] + self.tables.calls[n:]
        )


def _owned(name):
    """Return an attribute that belongs to one thread at a time."""

    def note(self):
        if World.now is not None:
            World.now.come_after(self.__dict__.get("last " + name), name)
            self.__dict__["last " + name] = World.now.access()

    def get(self):
        note(self)
        return self.__dict__["its " + name]

    def put(self, value):
        note(self)
        self.__dict__["its " + name] = value

    return property(get, put)


def watch_run(plain):
    """Return the class `Run` with fields that know who may touch them."""

    class Lock(cooperative.Lock):
        def acquire(self, *args, **kwargs):
            taken = super().acquire(*args, **kwargs)
            if list.__len__(self.run.stop):
                World.now.current.ended_runs.add(World.now.runs.index(self.run))
            return taken

    class Watched(plain):
        active, error, failed = _owned("active"), _owned("error"), _owned("failed")

        def __init__(self, *args):
            super().__init__(*args)
            for name in ("counts", "readers", "heap", "idle"):
                setattr(self, name, Owned(getattr(self, name), name))
            self.stop, self.lock = Stop(), Lock()
            self.lock.run = self.values.run = self
            World.now.runs.append(self)

    return Watched


def load(*replacements):
    """Execute `run` and `crew` with stand-ins; each replacement is a pair of texts of `run`, the first is there once.

    Returns
    -------
    Names `execute`, `Crew` and `file`, the name by which the world knows the code of `run`.
    """
    code = []
    for module in (run, crew):
        source = Path(module.__file__).read_text(encoding="utf-8")
        for old, new in replacements if module is run else ():
            assert source.count(old) == 1, f"{source.count(old)} times in run.py: {old!r}"
            source = source.replace(old, new)
        copy = ModuleType(f"interleaved_{module.__name__.rpartition('.')[2]}")
        exec(compile(source, f"<{copy.__name__}>", "exec"), copy.__dict__)
        copy.threading = cooperative
        code.append(copy)
    runs, crews = code
    runs.Run = watch_run(runs.Run)
    runs.one_thread_per_worker = lambda _: nullcontext()
    crews.SimpleQueue = Mailbox
    return SimpleNamespace(execute=runs.execute, Crew=crews.Crew, file=f"<{runs.__name__}>")


@contextmanager
def sums_in_turn():
    """Let the locks of sums, where they have some, be those of a world; only inside, for others run on real threads."""
    before = {name: getattr(sums, name) for name in ("threading", "Lock") if hasattr(sums, name)}
    try:
        for name in before:
            setattr(sums, name, {"threading": cooperative, "Lock": cooperative.Lock}[name])
        yield
    finally:
        for name, value in before.items():
            setattr(sums, name, value)


def compiled(dsk, keys, policy="locality", priority=None):
    with sums_in_turn():
        return compile_tables(read(dsk), keys, policy_named(policy), priority)


THEN = compiled({"then": Task("then", abs, -7)}, "then")


def _compute(code, crew, tables, n_workers):
    """Execute as `evaluate` does; the values of the requested keys, or the error."""
    values = Values(tables)
    try:
        code.execute(values.instrumented(), values, crew, n_workers)
    except Abandoned:
        raise
    except BaseException as error:
        return error
    world = World.now
    for task in range(tables.n_tasks):
        if task not in values.finished:
            world.fail(f"task {tables.keys[task]!r} was skipped")
    for slot, state in enumerate(values.state):
        is_held = state is FULL and (slot in values.kept or list.__getitem__(values, slot) is not None)
        if is_held != (slot in values.kept):
            world.fail(f"at the end slot {slot} {state}")
    return {key: values[slot] for key, slot in tables.results.items()}


def _all_rest():
    """Complain if all threads that could go on are in tasks, and somebody sleeps while another task is ready."""
    for each in World.now.runs:
        if all(map(list.__len__, (each.heap, each.idle))) and not list.__len__(each.stop):
            World.now.fail("a worker sleeps while a task is ready")


def _shared():
    """Return what threads share: the fields of the runs and what has become of their tasks and values."""
    states = []
    for each in World.now.runs:
        stacks = [getattr(stack, "_own", stack) for theirs in each.stacks.values() for stack in theirs]
        lists = [*map(list.copy, (each.counts, each.readers, each.heap)), map(_number, list.copy(each.idle)), *stacks]
        own = each.__dict__
        fields = own["its active"], own["its failed"], each.cancelled, list.__len__(each.stop)
        values = each.values
        states.append((fields, *map(tuple, lists), *values.state, *sorted(values.finished), *sorted(values.began)))
    return tuple(states)


def _number(seat):
    return seat.thread.logical.number


def play(code, tables, n_workers, order, accept, again=False, beside=False, opcodes=False, races=True, interrupt=False):
    """Let a caller compute tables, then perhaps something else with the same threads, then end them.

    Parameters
    ----------
    code : what `load` returned
    order : see `orders`
    accept : callable(results or error)
        Raises an AssertionError if this is not what should come.
    again, beside : bool
        Whether another run follows; whether a second caller does the same at the same time.
    opcodes : bool
        Whether every bytecode of `run` and `sums` is a step.
    interrupt : bool
        Whether Ctrl-C comes while the caller waits, at a time that the order chooses.

    Returns
    -------
    What was found wrong, or None.
    """
    world = World(order, [code.file, sums.__file__] if opcodes else (), races)
    world.all_rest, world.shared = _all_rest, _shared
    world.interrupts = interrupt

    def call():
        crew = code.Crew()
        other = cooperative.Thread(lambda: accept(_compute(code, crew, tables, n_workers)), name="other caller")
        if beside:
            other.start()
        accept(_compute(code, crew, tables, n_workers))
        world.interrupts = False
        if again:
            outcome = _compute(code, crew, THEN, n_workers)
            assert outcome == {"then": 7}, f"the next run gave {outcome!r}"
        if beside:
            other.join()
        crew.close()

    with sums_in_turn():
        found = world.play(call)
    if found is None and not world.cut:
        told = [each.done.n_releases for each in world.runs]
        if told != [1] * len(told):
            found = f"callers were told {told} times"
    return found
