"""Policies: each its own order, all the same results, and no worker sleeps while a task is ready."""

import operator
import threading

import dask
import pytest
from dask.callbacks import Callback
from dask.order import order as dask_order
from dask.task_spec import List, Task, TaskRef
from hypothesis import given
from hypothesis import strategies as st

from znn_dask.errors import ParameterError
from znn_dask.sched import Scheduler, get, simulate, verify
from znn_dask.sched.compile import compile_tables
from znn_dask.sched.policies import POLICIES, Dependants, critical_path, distances, locality_depth, policy_named
from znn_dask.sched.queues import fill, own_first, push
from znn_dask.tasks import Need, Reduce

pytestmark = pytest.mark.timeout(120)
WORKERS = (1, 2, 4, 8)
NAMES = ("locality", "locality-depth", "critical-path", "fifo", "lifo", "steal", "dask")


@pytest.fixture(scope="module")
def schedulers():
    made = [Scheduler(num_workers=n, policy=p) for n in WORKERS for p in NAMES]
    yield made
    for scheduler in made:
        scheduler.close()


@pytest.fixture(scope="module", params=NAMES)
def of_policy(request, schedulers):
    """The schedulers of one policy."""
    return [scheduler for scheduler in schedulers if scheduler.policy == request.param]


def graph_of(dsk, function):
    """Return tasks that call a function with their own key and what they read."""
    return {key: Task(key, function, key, *map(TaskRef, reads)) for key, reads in dsk.items()}


def order_of(dsk, keys, policy, priority=None, seconds=None):
    """Return the keys in the order in which one worker runs them."""
    ran = []
    with Scheduler(num_workers=1, policy=policy) as scheduler:
        scheduler.compile(graph_of(dsk, lambda key, *_: ran.append(key)), keys, priority, seconds).run()
    return "".join(ran)


def test_the_names_are_those_promised():
    assert tuple(POLICIES) == NAMES
    assert all(policy_named(name) is POLICIES[name] for name in NAMES)
    with pytest.raises(ParameterError, match=r"got 'critical_path'\. Did you mean 'critical-path'\?"):
        get({"x": 1}, "x", policy="critical_path")


# --- the order of one worker ---

CHAINS = {"a": "", "d": "", "f": "", "b": "a", "e": "d", "c": "b", "z": "cef"}
r"""
a - b - c -.
    d - e - z
        f -'
"""


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # b belongs to c, d to e, and e comes before c: both are newest first under z.
        ("locality", "adbcefz"),
        # What is begun is carried on, and the nearest to z begins: its consumer is the deepest.
        ("locality-depth", "fdeabcz"),
        ("critical-path", "abdecfz"),
        ("fifo", "adfbecz"),
        ("lifo", "abcdefz"),
        ("steal", "abcdefz"),
    ],
)
def test_the_order_of_chains_that_meet(policy, expected):
    assert order_of(CHAINS, "z", policy) == expected


TREE = {"r": "", "a": "r", "b": "r", "c": "r", "d": "a", "e": "a", "f": "b", "z": "cdef"}
r"""
    r
  / | \
 a  b  c
 |\  \  \
 d e  f  \
  \ \  \  z
"""


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # a reads for d, which comes before the f of b.
        ("locality", "rabfedcz"),
        # c is nearest to the deepest, then come a and all that follows it.
        ("locality-depth", "rcaedbfz"),
        ("critical-path", "rbaedfcz"),
        ("fifo", "rabcdefz"),
        ("lifo", "rcbfaedz"),
        ("steal", "rcbfaedz"),
    ],
)
def test_the_order_of_what_is_released_together(policy, expected):
    assert order_of(TREE, "z", policy) == expected


@pytest.mark.parametrize("dsk", [CHAINS, TREE])
def test_dasks_order_is_that_of_dask(dsk):
    place = dask_order(graph_of(dsk, max))
    assert order_of(dsk, "z", "dask") == "".join(sorted(dsk, key=place.__getitem__))


def test_dasks_order_of_graphs_with_inputs_parts_and_sums():
    item = operator.getitem
    dsk = {"t": Task("t", lambda x: (x, 2 * x), TaskRef("x")), "data": 5}
    dsk |= {f"p{i}": Task(f"p{i}", item, TaskRef("t"), i) for i in range(2)}
    dsk |= {"s": Reduce("s", "p0", "p1", "data"), "again": TaskRef("s"), "out": (max, "again", 7)}
    with Scheduler(num_workers=1, policy="dask") as scheduler:
        program = scheduler.compile(dsk, "out")
        verify(program)
        assert program.run({"x": 3}) == 14


def test_additions_come_at_once_under_every_policy(of_policy):
    """The sum is ready with its second term, so what follows it is released before the other tasks run."""
    order = []

    def note(key, *_):
        order.append(key)
        return 1

    dsk = graph_of(dict.fromkeys("abcd", ""), note)
    dsk |= {"s": Reduce("s", "a", "b"), "t": Task("t", note, "t", TaskRef("s"))}
    dsk["z"] = Task("z", note, "z", *map(TaskRef, "tcd"))
    scheduler = of_policy[0]
    scheduler.get(dsk, "z")
    place = dask_order(dsk)
    expected = dict.fromkeys(NAMES, "abtcdz") | {"fifo": "abcdtz", "locality-depth": "cdabtz"}
    expected["dask"] = "".join(sorted("abcdtz", key=place.__getitem__))
    assert "".join(order) == expected[scheduler.policy]


def test_deepest_first_on_a_table():
    # 0 and 1 feed 2; 2 and 3 feed 4; 5 feeds 4 and 2
    table = Dependants(of=[[2], [2], [4], [4], [], [4, 2]], order=[0, 1, 3, 5, 2, 4])
    # 3 and 5 belong to 4, which goes first; 0 and 1 to 2.
    assert locality_depth(table) == [1, 1, 3, 2, 4, 2]
    assert locality_depth(Dependants([], [])) == []


def test_the_longest_way_in_seconds_where_they_are_known():
    dsk = {"b": "", "a": "", "c": "b", "z": "ac"}
    assert order_of(dsk, "z", "critical-path") == "bcaz"
    assert order_of(dsk, "z", "critical-path", seconds={"a": 2.5, "c": 1}) == "abcz"
    assert order_of(dsk, "z", "lifo", seconds={"a": 2.5}) == "bcaz"
    table = Dependants(of=[[2], [3], [3], []], order=[0, 1, 2, 3], seconds=[1.0, 2.5, 1.0, 3.0])
    assert critical_path(table) == [5.0, 5.5, 4.0, 3.0]
    assert critical_path(Dependants(table.of, table.order)) == distances(table)


@pytest.mark.parametrize("taken", [-1, float("nan"), float("inf")])
def test_seconds_that_cannot_be(taken):
    with Scheduler(1, "critical-path") as scheduler, pytest.raises(ParameterError, match="task 'b' must be a finite"):
        scheduler.compile(graph_of({"a": "", "b": "a"}, max), "b", seconds={"b": taken})


@pytest.mark.parametrize("policy", NAMES)
def test_given_priorities_are_the_whole_order(policy):
    priority = dict.fromkeys("adfbecz", 0) | {"d": 5, "c": 1}
    assert order_of(CHAINS, "z", policy, priority) == "deabcfz"
    assert order_of(CHAINS, "z", policy, lambda key: -ord(key)) == "abcdefz"


# --- queues of several workers ---


@pytest.mark.parametrize(
    ("policy", "meet", "last"),
    [("fifo", "ab", "c"), ("lifo", "bc", "a"), ("steal", "ac", "b"), ("locality", "bc", "a")],
)
def test_which_task_the_second_worker_takes(policy, meet, last):
    """Three tasks are released at once; two of them wait for each other, so the third cannot come between."""
    barrier, started = threading.Barrier(2), []

    def run(key, *_):
        started.append(key)
        if key in meet:
            barrier.wait(timeout=20)

    dsk = graph_of({"r": "", "a": "r", "b": "r", "c": "r", "z": "abc"}, run)
    with Scheduler(num_workers=2, policy=policy) as scheduler:
        program = scheduler.compile(dsk, "z")
        for _ in range(20):
            started.clear()
            program.run()
            assert started[3] == last


def test_deques_give_the_owner_the_newest_and_thieves_the_oldest():
    heap, stacks = [], own_first(3, 3)
    fill(heap, stacks, [1] * 7, range(7))
    assert heap == [1]
    assert [len(theirs[1]) for theirs in stacks] == [7] * 3
    # Dealt out: 0 1 to the first, 2 3 to the second, 4 5 6 to the third; each the first of its piece on top.
    push(heap, stacks[0], 1, 7)
    taken = [stacks[0][1].pop() for _ in range(5)]
    assert taken == [7, 0, 1, 3, 2], "its own, newest first, then the oldest of the next"
    assert stacks[1][1].pop() == 6
    assert [stacks[2][1].pop() for _ in range(2)] == [4, 5]
    assert not any(theirs[1] for theirs in stacks)


def test_no_worker_sleeps_while_a_task_is_ready(of_policy):
    """As many tasks as workers meet at a barrier, thrice; they are ready at the start, then released by one task."""
    for scheduler in of_policy:
        n = scheduler.num_workers
        barrier = threading.Barrier(n)

        def meet(*_, barrier=barrier):
            return barrier.wait(timeout=20)

        first = {f"a{i}": Task(f"a{i}", meet) for i in range(3 * n)}
        between = Task("b", sum, List(*map(TaskRef, first)))
        second = {f"c{i}": Task(f"c{i}", meet, TaskRef("b")) for i in range(3 * n)}
        chained = {f"d{i}": Task(f"d{i}", meet, TaskRef(f"c{i}")) for i in range(3 * n)}
        program = scheduler.compile({**first, "b": between, **second, **chained}, list(chained))
        for _ in range(5):
            assert sum(program.run()) == 3 * sum(range(n))


# --- whatever the policy ---


@st.composite
def graphs(draw):
    """A graph of numbers, sums and pairs; some keys to ask for."""
    reads, kinds = {}, {}
    for i in range(draw(st.integers(1, 18))):
        n_read = draw(st.integers(0, min(i, 4)))
        reads[i] = [draw(st.integers(0, i - 1)) for _ in range(n_read)]
        kinds[i] = draw(st.sampled_from(("task", "sum", "part"))) if n_read else "task"
    keys = draw(st.lists(st.integers(0, len(reads) - 1), min_size=1, max_size=4))
    return reads, kinds, keys


@given(graphs())
def test_every_task_once_after_its_needs_and_the_values_of_dask(schedulers, graph):
    reads, kinds, keys = graph
    started, ended = [], set()

    def run(key, needs, *values):
        assert ended.issuperset(needs)
        started.append(key)
        value = (key + sum(values)) % 1009
        ended.add(key)
        return (value, value + 1) if kinds[key] == "part" else value

    dsk, needs = {}, {}
    for i, read in reads.items():
        refs = [TaskRef(r) for r in read]
        # A sum or a part is no task that could tell when it runs.
        needs[i] = {n for r in read for n in (needs[r] if kinds[r] == "sum" else {r})}
        if kinds[i] == "sum":
            dsk[i] = Reduce(i, *refs)
        elif kinds[i] == "part":
            dsk["whole", i] = Task(("whole", i), run, i, needs[i], *refs)
            dsk[i] = Task(i, operator.getitem, TaskRef(("whole", i)), 1)
        else:
            dsk[i] = Task(i, run, i, needs[i], *refs)
    expected = dask.get(dsk, keys)
    ran = sorted(started)
    assert len(ran) == len(set(ran)), "Dask itself ran one twice"
    needed, todo = set(), list(keys)
    while todo:
        key = todo.pop()
        if key not in needed:
            needed.add(key)
            todo += reads[key]
    for scheduler in schedulers:
        program = scheduler.compile(dsk, keys)
        verify(program)
        for _ in range(2):
            started.clear()
            ended.clear()
            assert program.run() == expected
            assert sorted(started) == sorted(key for key in needed if kinds[key] != "sum")


class Block:
    """Something of a size that knows how much of its kind is alive."""

    alive = peak = 0

    def __init__(self, size):
        self.size = size
        Block.alive += size
        Block.peak = max(Block.peak, Block.alive)

    def __del__(self):
        Block.alive -= self.size


@pytest.mark.parametrize("policy", NAMES)
@given(graphs())
def test_the_simulation_plays_the_order_of_the_policy(policy, graph):
    """For one worker the predicted peak is the real one."""
    reads, _, keys = graph
    nodes = {i: Task(i, lambda size, *_: Block(size), 3**i, *map(TaskRef, read)) for i, read in reads.items()}
    tables = compile_tables(nodes, keys, policy_named(policy))
    Block.peak = 0
    assert not Block.alive
    with Scheduler(num_workers=1, policy=policy) as scheduler:
        scheduler.get(nodes, keys)
    assert simulate.peak_bytes(tables, {i: Need(3**i) for i in reads}) == Block.peak


@pytest.mark.parametrize("policy", NAMES)
def test_the_simulation_runs_every_task_for_any_number_of_workers(policy):
    """Nothing is dropped, so the peak is all there is."""
    nodes = {i: Task(i, max, *(TaskRef(r) for r in range(i) if i % (r + 2) == 0)) for i in range(40)}
    tables = compile_tables(nodes, list(nodes), policy_named(policy))
    needs = {i: Need(1, seconds=0.1 * (i % 7)) for i in nodes}
    for n in (*WORKERS, 100):
        assert simulate.peak_bytes(tables, needs, n) == 40


def test_a_failing_task_stops_the_run_and_the_scheduler_stays_usable(of_policy):
    for scheduler in of_policy:
        ran = []

        def run(key, *_, ran=ran):
            ran.append(key)
            if key == "bad":
                raise OSError("this one")

        reads = {f"a{i}": [] for i in range(20)} | {"bad": ["a3"], "after": ["bad"]}
        reads |= {f"b{i}": [f"a{i}"] for i in range(20)} | {"z": ["after", *(f"b{i}" for i in range(20))]}
        program = scheduler.compile(graph_of(reads, run), "z")
        for _ in range(3):
            ran.clear()
            with pytest.raises(OSError, match="this one") as caught:
                program.run()
            assert caught.value.__notes__ == ["while running task 'bad'"]
            assert "after" not in ran
            assert scheduler.num_workers > 1 or ran[-1] == "bad"
            assert scheduler.get({"x": Task("x", abs, -1)}, "x") == 1


def test_runs_that_are_watched_follow_the_policy(of_policy):
    seen = []
    with Callback(pretask=lambda key, *_: seen.append(key)):
        for scheduler in of_policy:
            seen.clear()
            scheduler.get(graph_of(CHAINS, lambda *_: None), "z")
            assert sorted(seen) == sorted(CHAINS)
            if scheduler.num_workers == 1:
                assert "".join(seen) == order_of(CHAINS, "z", scheduler.policy)
