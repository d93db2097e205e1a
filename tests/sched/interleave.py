"""Threads of which one runs at a time, in an order that a test chooses.

A `World` is one execution. Its threads are real, but only the one whose turn it is goes on; wherever it could meet
another (it takes a lock, sends, waits, works on a task) it makes a `step`, and there the order decides whose turn
comes next. So an execution can be repeated, and all of them can be tried one after the other. `cooperative` stands in
for the module `threading`, `Mailbox` for `SimpleQueue`.

Code between two steps runs as if nothing could come between. That loses nothing as long as whatever threads share
there is ordered by locks and messages, and `World.come_after` finds what is not: each thread has a vector clock, locks
and messages carry clocks along, and an access that does not come after the last one of another thread is a race, also
where this execution did no harm. With `opcodes_of` every bytecode of some files is a step as well.

An order may ask for the `state`: where every thread is and all that they share, so that executions which come to a
state that was seen before need not be followed further.
"""

import _thread
import sys
from collections import deque
from contextlib import suppress
from types import SimpleNamespace

MOST_STEPS = 50_000
LONGEST_S = 60.0
DECIDED = {
    "work": ("run", "task", "following", "helper", "unread"),
    "__call__": ("run", "ended", "following"),
    "leave": ("ended", "following"),
    "cancel": ("ended",),
    "add": ("term", "other", "owned"),
    "attempt": ("values",),
    "_hand_on": ("key",),
    "_receive": ("key",),
    "dismiss_idle": ("seats", "seat"),
    "script": ("number",),
}
"""Per function, what it keeps to itself of what has been decided; lines tell the rest."""


class Abandoned(BaseException):
    """Ends the threads of a world that is over."""


class Logical:
    """One thread of a world.

    `ready` tells whether it could go on, None if it always could; `waits_for` says on what. Who rests is in the
    middle of a task or of a wait that may end at any time. `ended_runs` and `fills` are notes of those who watch.
    """

    def __init__(self, number, name, starter=None):
        self.number, self.name, self.starter = number, name, starter
        self.turn, self.gone = _thread.allocate_lock(), _thread.allocate_lock()
        self.turn.acquire()
        self.gone.acquire()
        self.ready = None
        self.waits_for = ""
        self.rests = self.ended = False
        self.clock = {} if starter is None else dict(starter.clock)
        self.clock[number] = 0
        self.ended_runs, self.position, self.thread, self.fills = set(), (), None, None
        self.task, self.readings = -1, []

    def can_go(self):
        return not self.ended and (self.ready is None or self.ready())

    def learn(self, clock):
        """Come after all that a clock has seen."""
        mine = self.clock
        for number, time in clock.items():
            if mine.get(number, -1) < time:
                mine[number] = time

    def tell(self):
        """Return a copy of the clock for whoever is to come after all up to here."""
        told = dict(self.clock)
        self.clock[self.number] += 1
        return told


class World:
    """One execution.

    Parameters
    ----------
    order : object with a method `choose`
        Called with the threads that can go on, with the one that would simply continue, and with the function `state`;
        returns one of the threads, or None to end here. The second is None where the current one waits, has ended, or
        is in the middle of a task; the threads are then in the order in which they would be taken without a reason.
    opcodes_of : file names of the code of which every bytecode is a step
    races : whether to look for accesses that nothing orders
    """

    now = None

    def __init__(self, order, opcodes_of=(), races=True):
        self.order, self.opcodes_of, self.races = order, frozenset(opcodes_of), races
        self.threads, self.runs, self.locks, self.mailboxes, self.current = [], [], [], [], None
        self.crews, self.teams, self.links = [], [], []
        self.found, self.over, self.cut, self.n_steps = None, False, False, 0
        self.interrupts = False
        self.all_rest, self.shared = (lambda: None), (lambda: ())
        self.finished = _thread.allocate_lock()
        self.finished.acquire()

    def play(self, body):
        """Run a function on the first thread and return when every thread has ended; what was found, or None."""
        assert World.now is None
        World.now = self
        try:
            self.current = self.spawn(body, "caller")
            self.current.turn.release()
            if not self.finished.acquire(timeout=LONGEST_S):
                self.found = f"{self.current.name} never came to its next step"
            self.over = True
            for thread in self.threads:
                if not thread.ended:
                    thread.turn.release()
                assert thread.gone.acquire(timeout=LONGEST_S), f"{thread.name} cannot be ended"
        finally:
            World.now = None
        return self.found

    def spawn(self, body, name, starter=None):
        thread = Logical(len(self.threads), name, starter)
        self.threads.append(thread)
        _thread.start_new_thread(self._live, (thread, body))
        return thread

    def fail(self, message):
        """End the world with what was found."""
        if not self.over:
            self.found, self.over = message, True
            self.finished.release()
        raise Abandoned

    def step(self, ready=None, free=False, rests=False, waits_for=""):
        """Let the order decide who goes on, this thread not before it is ready.

        Parameters
        ----------
        ready : callable, optional
            Whether this thread can go on.
        free : bool
            Whether the others would go first without a reason.
        """
        if self.over:
            raise Abandoned
        me = self.current
        self.n_steps += 1
        if self.n_steps > MOST_STEPS:
            self.fail("it goes on for ever")
        me.ready, me.rests, me.waits_for = ready, rests, waits_for
        if self.order.remembers:
            me.position = self._position(sys._getframe(1))
        able = [thread for thread in self.threads if thread.can_go()]
        chosen = self._next(me, able, free)
        if chosen is not me:
            self._pass_to(chosen, me)
        me.ready, me.rests = None, False

    def _next(self, me, able, free):
        if me.starter is not None and me.ready is not None:
            # Up to its first wait a new thread does nothing that another could see.
            chosen, me.starter = me.starter, None
            return chosen
        if not able:
            self.fail(self._who_waits())
        if all(thread.rests for thread in able):
            self.all_rest()
        if len(able) == 1:
            return able[0]
        if me in able and not free:
            return self._chosen(able, me)
        return self._chosen(self._others_first(me, able), None)

    def _chosen(self, able, stays):
        chosen = self.order.choose(able, stays, self.state)
        if chosen is None:
            self.cut = True
            self.fail(None)
        return chosen

    def _others_first(self, me, able):
        n = me.number
        return [t for t in able if t.number > n] + [t for t in able if t.number <= n]

    def _pass_to(self, chosen, me):
        self.current = chosen
        chosen.turn.release()
        me.turn.acquire()
        if self.over:
            raise Abandoned

    def _who_waits(self):
        waits = [f"{t.name} {t.number} for {t.waits_for}" for t in self.threads if not t.ended]
        return "all wait for ever: " + ", ".join(waits)

    def _live(self, me, body):
        me.turn.acquire()
        try:
            if not self.over:
                if self.opcodes_of:
                    sys.settrace(self._trace)
                body()
        except Abandoned:
            pass
        except BaseException as error:
            if not self.over:
                self.found, self.over = f"{me.name} ended with {error!r}", True
                self.finished.release()
        finally:
            sys.settrace(None)
            with suppress(Abandoned):
                self._end(me)
            me.gone.release()

    def _end(self, me):
        me.ended, me.position = True, ()
        if self.over:
            return
        able = [thread for thread in self.threads if thread.can_go()]
        if able:
            self.current = able[0] if len(able) == 1 else self._chosen(self._others_first(me, able), None)
            self.current.turn.release()
            return
        if not all(thread.ended for thread in self.threads):
            self.found = self._who_waits()
        self.over = True
        self.finished.release()

    def _position(self, frame):
        """Return where the current thread is: its calls, and what is not yet seen of what the loop has decided."""
        position = []
        while frame.f_code is not World._live.__code__:
            position.append((id(frame.f_code), frame.f_lineno))
            decided = DECIDED.get(frame.f_code.co_name)
            if decided is not None:
                names = frame.f_locals
                position.append(tuple([self.plain(names.get(name)) for name in decided]))
            frame = frame.f_back
        return tuple(position)

    def plain(self, value):
        """Return what a value is in terms that can be compared: a run or a seat is a number."""
        if isinstance(value, (list, tuple)):
            return tuple([self.plain(each) for each in list.copy(value)] if isinstance(value, list) else value)
        if isinstance(value, (int, str)) or value is None:
            return value
        if value in self.runs:
            return "run", self.runs.index(value)
        thread = getattr(value, "thread", None)
        return type(value).__name__, thread and thread.logical and thread.logical.number

    def state(self):
        """Return all that decides how it can go on; of clocks, which decide only what is seen of it, nothing."""
        return (
            self.shared(),
            self.interrupts,
            tuple([(thread.position, *thread.ended_runs) for thread in self.threads]),
            tuple([lock.held for lock in self.locks]),
            tuple([tuple([self.plain(item) for item, _ in mailbox.items]) for mailbox in self.mailboxes]),
        )

    def _trace(self, frame, event, _):
        if frame.f_code.co_filename not in self.opcodes_of:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._opcode

    def _opcode(self, frame, event, _):
        if event == "opcode" and not self.over:
            self.step()
        return self._opcode

    def come_after(self, access, name):
        """Complain if the current thread does not know of an access, a (thread, time) of another or None."""
        if not self.knows(access):
            self.fail(f"a race on {name} between threads {access[0]} and {self.current.number}")

    def knows(self, access):
        """Return whether the current thread knows of an access, or races are not looked for."""
        return access is None or not self.races or self.current.clock.get(access[0], -1) >= access[1]

    def access(self):
        """Return what the next access has to come after."""
        me = self.current
        return me.number, me.clock[me.number]


class Lock:
    """Stands in for `threading.Lock`; outside of a world it only keeps count."""

    what = "a lock"

    def __init__(self):
        self.world = None
        self._begin(World.now)

    def _begin(self, world):
        if world is not self.world or world is None:
            self.world, self.held, self.clock, self.n_releases = world, False, {}, 0
            if world is not None:
                world.locks.append(self)

    def locked(self):
        """Say that it is free: looking before one waits changes how soon one goes on, never what may happen."""
        return False

    def acquire(self, blocking=True, timeout=-1):
        world = World.now
        self._begin(world)
        if world is not None:
            if not self._wait(world, blocking, timeout):
                return False
            world.current.learn(self.clock)
        self.held = True
        return True

    def _wait(self, world, blocking, timeout):
        if not blocking or timeout >= 0:  # the time may be up at once or much later
            world.step(free=blocking, rests=blocking)
            return not self.held
        if world.interrupts and self.held and world.current.number == 0:
            world.step(free=True, rests=True)
            if self.held:
                world.interrupts = False
                raise KeyboardInterrupt
            return True
        world.step(ready=lambda: not self.held, waits_for=self.what)
        return True

    def release(self):
        world = World.now
        if world is not None and not world.over:
            if not self.held:
                raise RuntimeError("release unlocked lock")
            self.clock = world.current.tell()
            self.n_releases += 1
        self.held = False

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()


class Mailbox:
    """Stands in for `queue.SimpleQueue`."""

    def __init__(self):
        self.world, self.items = World.now, deque()
        self.world.mailboxes.append(self)

    def put(self, item):
        world = self.world
        if world is None or world.over:  # a crew that is collected says good-bye
            return
        world.step()
        self.items.append((item, world.current.tell()))

    def get(self):
        world = self.world
        world.step(ready=lambda: bool(self.items), waits_for="a message")
        item, clock = self.items.popleft()
        world.current.learn(clock)
        return item


class Thread:
    """Stands in for `threading.Thread`; it runs up to its first wait as it is started."""

    def __init__(self, target, args=(), name="thread", daemon=None):
        self.body, self.name, self.logical = (lambda: target(*args)), name, None

    def start(self):
        world = World.now
        world.step()
        me = world.current
        self.logical = world.spawn(self.body, self.name, me)
        me.clock[me.number] += 1
        self.logical.thread = self
        world._pass_to(self.logical, me)

    def join(self, timeout=None):
        world = World.now
        if world is None or self not in [thread.thread for thread in world.threads]:  # of a world that is over
            return
        world.step(ready=lambda: self.logical.ended, waits_for="the end of a thread")
        world.current.learn(self.logical.clock)


def current_thread():
    return None if World.now is None else World.now.current.thread


cooperative = SimpleNamespace(Lock=Lock, Thread=Thread, current_thread=current_thread)
