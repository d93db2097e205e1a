"""What Dask's schedulers agree on beside results: where settings come from, the cache, tracebacks, forks.

Tests of what Dask does too run on Dask's own scheduler as well.
"""

import multiprocessing
import operator
import os
import signal
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dask
import dask.threaded
import pytest
from dask.callbacks import Callback
from dask.task_spec import Alias, Task, TaskRef

from znn_dask.sched import get
from znn_dask.sched.scheduler import FRAMES, hide_frames, resolve_workers

pytestmark = pytest.mark.timeout(60)
GETS = {"dask": dask.threaded.get, **{f"ours-{n}": partial(get, num_workers=n) for n in (1, 2, 4, 8)}}


@pytest.fixture(params=GETS)
def any_get(request):
    return GETS[request.param]


def test_a_number_in_the_call_goes_before_a_pool_and_a_pool_before_a_number_in_the_settings():
    with ThreadPoolExecutor(3) as three, ThreadPoolExecutor(5) as five, dask.config.set(num_workers=7):
        assert resolve_workers(None) == 7
        assert resolve_workers(None, three) == 3
        with dask.config.set(pool=five):
            assert resolve_workers(None) == 5
            assert resolve_workers(None, three) == 3
            assert resolve_workers(2, three) == 2


class Seen:
    """Values by key, remembering every key that was ever put in."""

    def __init__(self, **values):
        self.values = values
        self.put = set(values)

    def __setitem__(self, key, value):
        self.values[key] = value
        self.put.add(key)

    def __getitem__(self, key):
        return self.values[key]

    def __delitem__(self, key):
        del self.values[key]

    def __contains__(self, key):
        return key in self.values

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)

    def get(self, key, default=None):
        return self.values.get(key, default)


CHAIN = {
    "data": 1,
    "a": Task("a", operator.add, TaskRef("data"), TaskRef("given")),
    "b": Task("b", operator.neg, TaskRef("a")),
    "c": Alias("c", "b"),
    "unneeded": Task("unneeded", operator.truediv, 1, 0),
}


@pytest.mark.parametrize("how", ["argument", "setting"])
def test_a_cache_gives_what_the_graph_lacks_and_holds_values_while_they_are_needed(any_get, how):
    cache = Seen(given=4, other=9)
    if how == "argument":
        assert any_get(CHAIN, ["c", ["b"]], cache=cache) == (-5, (-5,))
    else:
        with dask.config.set(cache=cache):
            assert any_get(CHAIN, ["c", ["b"]]) == (-5, (-5,))
    assert cache.values == {"b": -5, "c": -5, "other": 9}
    assert cache.put == {"data", "given", "a", "b", "c", "other"}


def test_a_cache_may_be_empty_or_give_the_result_itself(any_get):
    cache = {}
    assert any_get({"x": Task("x", abs, -3)}, "x", cache=cache) == 3
    assert cache == {"x": 3}
    assert any_get({}, ["x"], cache=cache) == (3,)


def test_what_the_graph_gives_is_computed_though_the_cache_has_a_value(any_get):
    cache = {"x": 100, "y": 200}
    assert any_get({"x": Task("x", abs, -3)}, "x", cache=cache) == 3
    assert cache == {"x": 3, "y": 200}


@pytest.mark.parametrize("n_workers", [1, 2, 4, 8])
def test_readers_wait_for_what_the_graph_gives_though_the_cache_has_a_value(n_workers):
    # Dask's schedulers may run the reader first, on the old value.
    cache = {"x": 100, "y": 200}
    dsk = {"x": Task("x", abs, -3), "y": Task("y", operator.neg, TaskRef("x"))}
    assert get(dsk, "y", num_workers=n_workers, cache=cache) == -3
    assert cache == {"y": -3}


def test_a_failed_run_tells_callbacks_and_leaves_the_cache_usable(any_get):
    cache, finished = {"given": "text"}, []
    with Callback(finish=lambda dsk, state, failed: finished.append(failed)), pytest.raises(TypeError):
        any_get(CHAIN, "b", cache=cache)
    assert finished == [True]
    assert any_get(CHAIN, "b", cache={**cache, "given": 2}) == -3


def fails():
    return 1 / 0


def calls_what_fails():
    return fails()


def names_of_frames(compute, **settings):
    with dask.config.set(settings), pytest.raises(ZeroDivisionError) as caught:
        compute()
    return [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][1:]


def test_tracebacks_of_computations_hold_no_frame_of_the_scheduler(any_get):
    value = dask.delayed(calls_what_fails)()
    expected = ["compute", "compute", "calls_what_fails", "fails"]
    assert names_of_frames(lambda: value.compute(scheduler=any_get))[1:] == expected
    assert names_of_frames(lambda: value.persist(scheduler=any_get))[1:] == ["persist", "persist", *expected[2:]]


def test_whole_tracebacks_for_those_who_want_them():
    value = dask.delayed(calls_what_fails)()
    names = names_of_frames(lambda: value.compute(scheduler=get), **{"admin.traceback.shorten": []})
    assert "evaluate" in names
    with dask.config.set({"admin.traceback.shorten": None}):
        hide_frames()
        assert dask.config.get("admin.traceback.shorten") is None
    with dask.config.set({"admin.traceback.shorten": ["theirs"]}):
        hide_frames()
        hide_frames()
        assert dask.config.get("admin.traceback.shorten") == ["theirs", FRAMES]


def computed_elsewhere(queue):
    queue.put(get({i: Task(i, abs, -i) for i in range(9)}, [7, 8], num_workers=2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of forks
@pytest.mark.parametrize("n_workers", [1, 2, 4, 8])
def test_a_task_may_fork_and_the_child_may_compute(n_workers):
    context = multiprocessing.get_context("fork")

    def fork(_):
        queue = context.SimpleQueue()
        child = context.Process(target=computed_elsewhere, args=(queue,))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        return queue.get()

    dsk = {f"x{i}": Task(f"x{i}", fork, i) for i in range(3)}
    assert get(dsk, list(dsk), num_workers=n_workers) == ((7, 8),) * 3


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("n_workers", [1, 2, 4, 8])
def test_callbacks_hear_nothing_after_the_end_of_an_interrupted_run(n_workers):
    running, go_on, ended, events = threading.Event(), threading.Event(), threading.Event(), []

    def slow():
        running.set()
        assert go_on.wait(30)
        ended.set()

    def interrupt():
        running.wait(30)
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    dsk = {"slow": Task("slow", slow), "after": Task("after", repr, TaskRef("slow"))}
    sender = threading.Thread(target=interrupt)
    sender.start()
    watch = Callback(
        pretask=lambda key, *_: events.append(key),
        posttask=lambda key, *_: events.append(key),
        finish=lambda dsk, state, failed: events.append(failed),
    )
    with watch, pytest.raises(KeyboardInterrupt):
        get(dsk, "after", num_workers=n_workers)
    sender.join()
    go_on.set()
    assert ended.wait(30)
    # The worker that ran the slow task is free again.
    assert get({"x": Task("x", abs, -3)}, "x", num_workers=n_workers) == 3
    time.sleep(0.05)
    assert events == ["slow", True]
