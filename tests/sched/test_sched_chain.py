"""Runs that begin while the one before ends: same answers, the older first, nothing lost when one fails."""

import operator
import random
import threading
import time

import pytest
from dask.task_spec import Alias, Task, TaskRef
from hypothesis import given
from hypothesis import strategies as st

import znn_dask as znn
from znn_dask.errors import ParameterError
from znn_dask.sched import Scheduler, verify
from znn_dask.sched.policies import POLICIES
from znn_dask.tasks import ArrivalReduce, Reduce

pytestmark = pytest.mark.timeout(120)
WORKERS = (1, 2, 4, 8)


@pytest.fixture(scope="module", params=WORKERS)
def scheduler(request):
    with Scheduler(num_workers=request.param) as made:
        yield made


def task(key, function, *reads):
    return Task(key, function, *map(TaskRef, reads))


def random_program(scheduler, seed):
    """Return a program of three states and a sample, and the links from new states to old."""
    rng = random.Random(seed)
    known = ["state0", "state1", "state2", "sample"]
    dsk = {}
    for i in range(30):
        reads = rng.sample(known, rng.choice((1, 2, 2, 3)))
        dsk["task", i] = rng.choice((Reduce, ArrivalReduce))(("task", i), *reads)
        known.append(("task", i))
    for i in range(3):
        dsk["new", i] = task(("new", i), lambda a, b: (a + b) % 1009, rng.choice(known), rng.choice(known))
    outputs = [("new", i) for i in range(3)]
    program = scheduler.compile(dsk, outputs)
    links = {f"state{i}": ("new", i) for i in range(3) if f"state{i}" in program.inputs}
    return program, links


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n_workers", WORKERS)
def test_a_chain_gives_what_one_run_after_the_other_gives(policy, n_workers):
    n_steps = 8
    with Scheduler(n_workers, policy) as scheduler:
        for seed in range(12):
            program, links = random_program(scheduler, seed)
            own = [{"sample": i} if "sample" in program.inputs else {} for i in range(n_steps)]
            state = {name: i for i, name in enumerate(links)}
            expected, found = [], []
            for sample in own:
                expected.append(program.run({**state, **sample}))
                state = {name: expected[-1][key[1]] for name, key in links.items()}
            with program.chain(links) as chain:
                chain.start({**{name: i for i, name in enumerate(links)}, **own[0]})
                for sample in own[1:]:
                    chain.start(sample)
                    found.append(chain.result())
                found.append(chain.result())
            assert found == expected


def test_the_tables_of_a_chain_are_sound(scheduler):
    for seed in range(20):
        program, links = random_program(scheduler, seed)
        with program.chain(links) as chain:
            verify(chain.tables)


def counter(scheduler, step):
    """Return a program whose runs add one to a state."""
    return scheduler.compile({"new": task("new", step, "state")}, ["new"])


def test_the_next_run_begins_before_this_one_has_ended():
    begun, ended = threading.Event(), []

    def last(state):
        # The tail of the first run waits for the head of the second.
        if state == 1:
            assert begun.wait(60)
            ended.append(True)
        return state

    def head(sample):
        if sample == 2:
            assert not ended
            begun.set()
        return sample

    with Scheduler(2) as scheduler:
        dsk = {
            "head": task("head", head, "sample"),
            "new": task("new", lambda state: state + 1, "state"),
            "tail": task("tail", last, "new"),
            "out": task("out", max, "head", "tail"),
        }
        program = scheduler.compile(dsk, ["new", "out"])
        with program.chain({"state": "new"}) as chain:
            chain.start({"state": 0, "sample": 0})
            chain.start({"sample": 2})
            assert chain.result() == (1, 1)
            assert chain.result() == (2, 2)


def test_the_older_run_goes_first():
    """One worker: no task of the second run comes before a task of the first that is ready."""
    ran = []
    gate = threading.Event()

    def note(what):
        def run(run_number, *_):
            ran.append((run_number, what))
            if what == "first":
                assert gate.wait(60)
            return run_number

        return run

    with Scheduler(1) as scheduler:
        dsk = {"first": task("first", note("first"), "number")}
        for i in range(20):
            dsk["more", i] = task(("more", i), note(i), "number", "first")
        dsk["new"] = task("new", lambda *_: 0, *[("more", i) for i in range(20)])
        dsk["out"] = task("out", lambda *_: 0, "new", "state")
        program = scheduler.compile(dsk, ["out", "new"])
        with program.chain({"state": "new"}) as chain:
            chain.start({"state": 0, "number": 0})
            chain.start({"number": 1})
            gate.set()
            chain.result(), chain.result()
    assert [number for number, _ in ran] == [0] * 21 + [1] * 21


def test_a_worker_comes_back_to_the_older_run_after_the_task_at_hand():
    """What the older run has ready again is not left to wait for the younger one's queue."""
    ran, gate, lock = [], threading.Event(), threading.Lock()

    def note(number, what):
        with lock:
            ran.append((number, what))

    def slow(number):
        if number == 0:
            assert gate.wait(60)
        return number

    def filler(number):
        if number == 1:
            gate.set()
            time.sleep(0.01)
        note(number, "filler")
        return number

    def after(number, *_):
        note(number, "after")
        return number

    with Scheduler(2) as scheduler:
        dsk = {"slow": task("slow", slow, "number")}
        for i in range(40):
            dsk["filler", i] = task(("filler", i), filler, "number")
        for i in range(4):
            dsk["after", i] = task(("after", i), after, "slow")
        dsk["new"] = task("new", lambda *_: 0, *[("after", i) for i in range(4)])
        dsk["out"] = task("out", lambda *_: 0, "state", *[("filler", i) for i in range(40)])
        program = scheduler.compile(dsk, ["out", "new"])
        with program.chain({"state": "new"}) as chain:
            chain.start({"state": 0, "number": 0})
            chain.start({"number": 1})
            chain.result(), chain.result()
    done = [ran.index((0, "after")), ran.index((1, "filler"))]
    n_before = sum(each == (1, "filler") for each in ran[: done[0]])
    assert n_before <= 4, "a worker stayed with the younger run while the older had something ready"


@given(st.integers(0, 10**6), st.sampled_from(WORKERS), st.integers(0, 5))
def test_a_failing_run_ends_the_chain_and_leaves_the_scheduler_usable(seed, n_workers, failing):
    def step(state):
        if state == failing:
            raise ValueError("no further")
        return state + 1

    with Scheduler(n_workers) as scheduler:
        program = counter(scheduler, step)
        with program.chain({"state": "new"}) as chain:
            chain.start({"state": 0})
            for number in range(failing):
                chain.start({})
                assert chain.result() == (number + 1,)
            chain.start({})
            with pytest.raises(ValueError, match="no further") as caught:
                chain.result()
        assert caught.value.__notes__ == ["while running task 'new'"]
        assert program.run({"state": 7}) == (8,)
        with program.chain({"state": "new"}) as chain:
            chain.start({"state": 10})
            assert chain.result() == (11,)


def test_cancelled_runs_do_not_go_on(scheduler):
    started, gate, ran = threading.Event(), threading.Event(), []

    def step(state):
        ran.append(state)
        started.set()
        assert gate.wait(60)
        return state + 1

    program = counter(scheduler, step)
    with program.chain({"state": "new"}) as chain:
        chain.start({"state": 0})
        ended = chain.start({})
        assert started.wait(60)
        threading.Timer(0.05, gate.set).start()
        chain.cancel()
        assert ended.done()
        assert ran == [0]
        chain.start({"state": 5})
        assert chain.result() == (6,)
    assert program.run({"state": 1}) == (2,)


def test_the_threads_go_back_and_end():
    scheduler = Scheduler(4)
    before = threading.active_count()
    program = counter(scheduler, lambda state: state + 1)
    for _ in range(20):
        with program.chain({"state": "new"}) as chain:
            chain.start({"state": 0})
            chain.start({})
            assert chain.result() == (1,)
    assert threading.active_count() <= before + 4
    scheduler.close()
    assert threading.active_count() <= before


def test_an_input_that_nobody_reads_is_awaited_too(scheduler):
    dsk = {"new": task("new", operator.pos, "sample"), "same": Alias("same", "state")}
    program = scheduler.compile(dsk, ["same", "new"])
    with program.chain({"state": "new"}) as chain:
        chain.start({"state": 0, "sample": 1})
        chain.start({"sample": 2})
        assert chain.result() == (0, 1)
        assert chain.result() == (1, 2)


def test_one_value_may_become_several_inputs(scheduler):
    dsk = {"new": task("new", operator.add, "a", "b"), "out": task("out", operator.sub, "a", "b")}
    program = scheduler.compile(dsk, ["new", "out"])
    with program.chain({"a": "new", "b": "new"}) as chain:
        chain.start({"a": 1, "b": 2})
        chain.start({})
        assert chain.result() == (3, -1)
        assert chain.result() == (6, 0)


def test_wrong_use_is_refused_with_what_is_wrong(scheduler):
    program = scheduler.compile({"new": task("new", operator.add, "state", "sample")}, ["new"])
    with pytest.raises(ParameterError, match="'stat' is no input of this program"):
        program.chain({"stat": "new"})
    with pytest.raises(ParameterError, match="'old' is not among the program's keys"):
        program.chain({"state": "old"})
    with program.chain({"state": "new"}) as chain:
        with pytest.raises(ParameterError, match="no run of this chain is under way"):
            chain.result()
        with pytest.raises(ParameterError, match="needs the input 'state'"):
            chain.start({"sample": 1})
        chain.start({"sample": 1, "state": 1})
        with pytest.raises(ParameterError, match="'state' is no input of this run"):
            chain.start({"sample": 1, "state": 1})
        chain.start({"sample": 1})
        with pytest.raises(ParameterError, match="at most two runs"):
            chain.start({"sample": 1})
        assert chain.result() == (2,)
        assert chain.result() == (3,)


def test_a_trace_sees_every_run_of_a_chain(scheduler):
    program = counter(scheduler, lambda state: state + 1)
    with znn.Trace() as trace, program.chain({"state": "new"}) as chain:
        chain.start({"state": 0})
        chain.start({})
        chain.result(), chain.result()
    assert [task.key for task in trace.tasks if not task.failed].count("new") >= 2
    assert len(trace.runs) == 2


@pytest.mark.parametrize("n_workers", WORKERS)
def test_a_thousand_short_runs_neither_hang_nor_lose_a_value(n_workers):
    with Scheduler(n_workers) as scheduler:
        dsk = {("part", i): task(("part", i), lambda s, i=i: s + i, "state") for i in range(8)}
        dsk["sum"] = ArrivalReduce("sum", *dsk)
        dsk["new"] = task("new", lambda total, sample: (total + sample) % 1009, "sum", "sample")
        program = scheduler.compile(dsk, ["new"])
        expected = state = 1
        with program.chain({"state": "new"}) as chain:
            chain.start({"state": state, "sample": 0})
            for number in range(1, 1000):
                chain.start({"sample": number})
                expected = (8 * expected + 28 + number - 1) % 1009
                assert chain.result() == (expected,)
