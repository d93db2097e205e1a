"""Ctrl-C between any two bytecodes of the caller: no thread is lost and the scheduler goes on to work."""

import dis
import operator
import sys
import threading
import time

import pytest
from dask.task_spec import Task, TaskRef

from znn_dask.sched import Scheduler, chain, crew, run, team

pytestmark = pytest.mark.timeout(120)
FILES = {each.__file__ for each in (chain, crew, run, team)}
CHECKS = ("CALL", "JUMP_BACKWARD", "RESUME")
"""Beginnings of the names of the instructions after which the interpreter looks for signals."""


def finalizes(frame):
    """Whether this is `__del__` or called by it, where Python ignores exceptions."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


class Interrupt:
    """Raises in the calling thread before the so-manieth bytecode where a signal could arrive."""

    def __init__(self, number):
        self.left, self.before = number, {}

    def trace(self, frame, event, _):
        if frame.f_code.co_filename not in FILES or finalizes(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.opcode

    def opcode(self, frame, event, _):
        if event == "opcode":
            after = self.before.get(id(frame), "RESUME")
            self.before[id(frame)] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            self.left -= after.startswith(CHECKS)
            if not self.left:
                self.left = -1
                raise KeyboardInterrupt
        return self.opcode

    def __call__(self, function):
        """Call a function; whether it was interrupted."""
        sys.settrace(self.trace)
        try:
            function()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return self.left < 0


def n_threads():
    """Return how many workers there are, once all that were dismissed have ended."""
    return sum(thread.name == "znn-dask-worker" for thread in threading.enumerate())


def settles(scheduler, n_before):
    """Wait until every thread is idle in the crew."""
    end = time.monotonic() + 20
    while n_threads() - n_before != len(scheduler._crew._idle):
        assert time.monotonic() < end, f"{n_threads() - n_before} threads, {len(scheduler._crew._idle)} of them idle"
        time.sleep(0.001)


def interrupt_everywhere(scheduler, act, check):
    """Interrupt an action at its first bytecode, then at its second, and so on to the last."""
    n_before, number = n_threads() - len(scheduler._crew._idle), 0
    interrupted = True
    while interrupted:
        number += 1
        interrupted = Interrupt(number)(act)
        settles(scheduler, n_before)
        check()
    return number


@pytest.mark.parametrize("n_workers", [1, 2, 4])
@pytest.mark.parametrize("fresh", [True, False], ids=["new threads", "idle threads"])
def test_a_run_that_is_interrupted_anywhere_loses_no_thread(n_workers, fresh):
    with Scheduler(n_workers) as scheduler:
        dsk = {i: Task(i, operator.pos, i) for i in range(4)}
        dsk["end"] = Task("end", max, *map(TaskRef, range(4)))
        program = scheduler.compile(dsk, "end")

        def act():
            program.run()

        def check():
            assert program.run() == 3
            if fresh:
                scheduler._crew.dismiss_idle()

        check()
        assert interrupt_everywhere(scheduler, act, check) > 40


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_chain_that_is_interrupted_anywhere_loses_no_thread(n_workers):
    with Scheduler(n_workers) as scheduler:
        dsk = {"new": Task("new", operator.neg, TaskRef("state")), "more": Task("more", operator.pos, TaskRef("new"))}
        program = scheduler.compile(dsk, ["new", "more"])

        def act():
            with program.chain({"state": "new"}) as chain:
                chain.start({"state": 1})
                chain.start({})
                assert chain.result() == (-1, -1)
                assert chain.result() == (1, 1)

        act()
        assert interrupt_everywhere(scheduler, act, act) > 60
