"""The scheduler's own run, team, chain and crew in a `World`, under watch.

`load` executes their sources once more, with stand-ins for locks, threads, mailboxes and futures, and, to see
that defects are found, with parts of the text replaced. `play` lets a caller compute a graph there in a given order,
`play_chain` lets it go through a script of runs that overlap.
What is watched while it runs: every task runs once and after all it needs; none starts after a failure; nobody sleeps
while a task is ready, or waits for a lock until a task ends; the older run goes first; values are read after they were
filled and before they were dropped; whatever belongs to the
holder of the lock is touched in turn. What is looked at when it has ended: the results; that every value nobody asked
for was dropped; that the caller was told once; that the threads came back, serve the next run, and end.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

from dask.task_spec import Task
from interleave import Abandoned, Mailbox, World, cooperative
from interleaved_values import Owned, Stop, Values, owned

from znn_dask.sched import chain, crew, force, run, sums, team
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.graph import read
from znn_dask.sched.policies import policy_named


class Future:
    """Stands in for `concurrent.futures.Future`."""

    def __init__(self):
        self._gate = cooperative.Lock()
        self._gate.what = "the end"
        self._gate.acquire()

    def set_running_or_notify_cancel(self):
        return True

    def set_result(self, _):
        self._gate.release()

    def result(self):
        self._gate.acquire()
        self._gate.release()

    def exception(self, timeout):
        if not self._gate.acquire(timeout=timeout):
            raise TimeoutError
        self._gate.release()


def watch_team(plain):
    """Return the class `Team` with fields that know who may touch them."""

    class Lock(cooperative.Lock):
        def acquire(self, *args, **kwargs):
            taken = super().acquire(*args, **kwargs)
            for number, each in enumerate(World.now.runs):
                if each.team is self.team and list.__len__(each.stop):
                    World.now.current.ended_runs.add(number)
            return taken

        def release(self):
            _check_age(sys._getframe(1), self.team)
            super().release()

    class Watched(plain):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.idle, self.runs, self.lock = Owned(self.idle, "idle"), Owned(self.runs, "runs"), Lock()
            self.lock.team = self
            World.now.teams.append(self)

        def __del__(self):  # what is lost shall be seen
            pass

    return Watched


def _check_age(frame, its_team):
    """Complain if a worker decides to run a task while an older run has one."""
    while frame.f_code.co_name == "__exit__":
        frame = frame.f_back
    names = frame.f_locals if frame.f_code.co_name == "work" else {}
    if names and names.get("following", names["last"]) < names["last"]:
        for older in list.copy(its_team.runs):
            if older is names["run"]:
                return
            if list.__len__(older.heap) and not list.__len__(older.stop):
                World.now.fail("a task of the younger run goes before one of the older")


def watch_run(plain):
    """Return the class `Run` with fields that know who may touch them."""

    class Watched(plain):
        active, error, failed, n_awaited = owned("active"), owned("error"), owned("failed"), owned("n_awaited")

        def __init__(self, *args):
            self.n_told = 0
            super().__init__(*args)
            for name in ("counts", "readers", "heap"):
                setattr(self, name, Owned(getattr(self, name), name))
            self.stop, self.values.run = Stop(), self
            self.done.what = "the end"
            World.now.runs.append(self)

        @property
        def tell(self):
            def counted():
                self.n_told += 1
                self._tell()

            return counted

        @tell.setter
        def tell(self, tell):
            self._tell = tell

    return Watched


def known(plain, where):
    """Return a class of which the world knows every object."""

    class Watched(plain):
        def __init__(self, *args):
            super().__init__(*args)
            getattr(World.now, where).append(self)

    return Watched


def watch_sum(plain):
    """Return the class `ArrivalSum` with fields that know who may touch them."""

    class Watched(plain):
        _slot, _n_missing, _owned = owned("_slot"), owned("_n_missing"), owned("_owned")
        n_last = 0

        def add(self, *args):
            is_last = super().add(*args)
            self.n_last += is_last
            if self.n_last > 1:
                World.now.fail("two were the last to add to a sum")
            return is_last

        def take(self):
            if self.n_last != 1:
                World.now.fail("nobody was the last to add to a sum")
            return super().take()

        def hidden(self):
            fields = [self.__dict__["its " + name] for name in ("_slot", "_n_missing", "_owned")]
            return (World.now.plain(fields[0]), *fields[1:], self.n_last)

    return Watched


def watch_deferred(plain):
    """Return the class `Deferred` with a result that knows who may touch it."""

    class Watched(plain):
        result = owned("result")

        def hidden(self):
            return len(self._open), World.now.plain(self.__dict__["its result"])

    return Watched


def load(*replacements):
    """Execute the sources with stand-ins; each replacement is a pair of texts, the first is there once.

    Returns
    -------
    Names `execute`, `Chain`, `Crew`, `new_state`, and `files`, by which the world knows the code.
    """
    modules = {each.__name__.rpartition(".")[2]: each for each in (crew, team, force, sums, run, chain)}
    sources = {name: Path(each.__file__).read_text(encoding="utf-8") for name, each in modules.items()}
    for old, new in replacements:
        counts = {name: source.count(old) for name, source in sources.items()}
        assert sum(counts.values()) == 1, f"{sum(counts.values())} times in the sources: {old!r}"
        name = max(counts, key=counts.get)
        sources[name] = sources[name].replace(old, new)
    code = SimpleNamespace()
    for name, source in sources.items():
        copy = ModuleType(f"interleaved_{name}")
        exec(compile(source, f"<{copy.__name__}>", "exec"), copy.__dict__)
        copy.threading, copy.Future = cooperative, Future
        copy.one_thread_per_worker = lambda _: nullcontext()
        setattr(code, name, copy)
    code.crew.SimpleQueue = Mailbox
    code.run.wait = lambda done: done.acquire()  # looking up now and then is for signals alone
    code.team.Team = code.run.Team = code.chain.Team = watch_team(code.team.Team)
    code.run.Run = code.chain.Run = watch_run(code.run.Run)
    code.run.ClaimedError = code.force.ClaimedError
    code.chain.fail, code.chain.Link = code.run.fail, known(code.chain.Link, "links")
    code.crew.Crew = known(code.crew.Crew, "crews")
    late, total = watch_deferred(code.force.Deferred), watch_sum(code.sums.ArrivalSum)

    def new_state(make):
        return late() if make is force.Deferred else total(*make.args)

    code.chain.recorded = lambda tables, *_: Values(tables, new_state).instrumented()
    files = [f"<interleaved_{name}>" for name in ("team", "force", "sums", "run", "chain")]
    return SimpleNamespace(
        execute=code.run.execute, Chain=code.chain.Chain, Crew=code.crew.Crew, new_state=new_state, files=files
    )


def compiled(dsk, keys, policy="locality", priority=None, publish=()):
    return compile_tables(read(dsk), keys, policy_named(policy), priority, publish=publish)


THEN = compiled({"then": Task("then", abs, -7)}, "then")


def _compute(code, crew, tables, n_workers):
    """Execute as `evaluate` does; the values of the requested keys, or the error."""
    values = Values(tables, code.new_state)
    try:
        code.execute(values.instrumented(), values, crew, n_workers)
    except Abandoned:
        raise
    except BaseException as error:
        return error
    World.now.current.task = -1
    values.check_end(values.state)
    return {key: values[slot] for key, slot in tables.results.items()}


def _all_rest():
    """Complain if all threads that could go on are in tasks, and somebody sleeps while another task is ready."""
    for each in World.now.runs:
        if all(map(list.__len__, (each.heap, each.team.idle))) and not list.__len__(each.stop):
            World.now.fail("a worker sleeps while a task is ready")
    for thread in World.now.threads:
        if not thread.ended and not thread.can_go() and thread.waits_for == "a lock":
            World.now.fail("somebody waits for a lock until a task ends")


def _shared():
    """Return what threads share: the fields of the runs and what has become of their tasks and values."""
    world = World.now
    states = []
    for each in world.runs:
        stacks = [getattr(stack, "_own", stack) for theirs in each.stacks.values() for stack in theirs]
        lists = [*map(list.copy, (each.counts, each.readers, each.heap)), *stacks]
        own = each.__dict__
        fields = own["its active"], own["its failed"], own["its n_awaited"], each.cancelled, list.__len__(each.stop)
        values = each.values
        done = *values.state, *sorted(values.finished), *sorted(values.began), *values.hidden()
        states.append((fields, *map(tuple, lists), done, each.n_told))
    teams = [(world.plain(each.idle), world.plain(each.runs), each.closing) for each in world.teams]
    links = [(*sorted(each.outlet.values), each.outlet.receive is None) for each in world.links]
    return tuple(states), tuple(teams), tuple(links), *[world.plain(each._idle) for each in world.crews]


def _end(world, found):
    """Return what was found, or what is wrong at the end."""
    if found is None and not world.cut:
        told = [each.n_told for each in world.runs]
        if told != [1] * len(told):
            found = f"callers were told {told} times"
    return found


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
        Whether every bytecode of the sources is a step.
    interrupt : bool
        Whether Ctrl-C comes while the caller waits, at a time that the order chooses.

    Returns
    -------
    What was found wrong, or None.
    """
    world = _world(code, order, opcodes, races, interrupt)

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

    return _end(world, world.play(call))


def _world(code, order, opcodes, races, interrupt):
    """Return a world in which nothing has happened."""
    world = World(order, code.files if opcodes else (), races)
    world.all_rest, world.shared = _all_rest, _shared
    world.interrupts = interrupt
    return world


def play_chain(code, tables, keys, links, n_workers, order, script, opcodes=False, races=True, interrupt=False):
    """Let a caller go through a script with a chain, then compute something else with the same threads, then end them.

    Parameters
    ----------
    tables : compiled with what the links publish
    script : callable(chain, finish), `finish` being `chain.result` under watch
        Raises an AssertionError if what comes is not what should come.

    Returns
    -------
    What was found wrong, or None.
    """
    world = _world(code, order, opcodes, races, interrupt)

    def call():
        crew = code.Crew()
        chain = code.Chain(tables, keys, links, crew, n_workers)

        def finish():
            values = chain._under_way[0].run.values
            result = chain.result()
            values.check_end(values.final)
            return result

        script(chain, finish)
        world.interrupts = False
        chain.close()
        outcome = _compute(code, crew, THEN, n_workers)
        assert outcome == {"then": 7}, f"the next run gave {outcome!r}"
        crew.close()

    return _end(world, world.play(call))
