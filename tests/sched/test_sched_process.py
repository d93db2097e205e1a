"""The scheduler and the process: Ctrl-C, fork, exit, CPUs granted, other processes."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import dask
import numpy as np
import pytest
from dask.task_spec import Task, TaskRef

from znn_dask.cpus import available_cpus, cgroup_quota
from znn_dask.sched import Scheduler, run
from znn_dask.tasks import Reduce, fresh, tree_sum

pytestmark = pytest.mark.timeout(120)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("n_workers", [1, 2, 4, 8])
def test_ctrl_c_reaches_the_caller_drops_the_rest_and_leaves_all_usable(n_workers):
    started, go_on, ran = threading.Event(), threading.Event(), []

    def slow(i):
        ran.append(i)
        started.set()
        assert go_on.wait(30)

    def interrupt():
        started.wait(30)
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    dsk = {i: Task(i, slow, i) for i in range(20)}
    with Scheduler(n_workers) as scheduler:
        sender = threading.Thread(target=interrupt)
        sender.start()
        begin = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            scheduler.get(dsk, list(dsk))
        assert time.perf_counter() - begin < 10
        sender.join()
        assert len(ran) <= n_workers
        assert scheduler.get({"x": Task("x", abs, -3)}, "x") == 3
        go_on.set()
        time.sleep(0.05)
        assert len(ran) <= n_workers
        assert scheduler.get({"x": Task("x", abs, -3)}, "x") == 3


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("n_workers", [1, 2, 4, 8])
def test_ctrl_c_just_as_the_caller_goes_to_sleep_is_not_lost(n_workers, monkeypatch):
    monkeypatch.setattr(run, "GRACE_S", 0.0)
    with Scheduler(n_workers) as scheduler:
        for _ in range(20):
            go_on = threading.Event()
            dsk = {"interrupt": Task("interrupt", signal.pthread_kill, threading.main_thread().ident, signal.SIGINT)}
            dsk |= {i: Task(i, go_on.wait, 20) for i in range(n_workers)}
            begin = time.perf_counter()
            with pytest.raises(KeyboardInterrupt):
                scheduler.get(dsk, list(dsk))
            assert time.perf_counter() - begin < 10
            go_on.set()


def run_script(script, timeout=60):
    """Run Python code in a new process; return its output, and how long it took in seconds."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split(), time.perf_counter() - begin


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_compute():
    out, _ = run_script("""
        import os, sys, threading
        from dask.task_spec import Task
        from znn_dask.sched import Scheduler, get
        dsk = {i: Task(i, abs, -i) for i in range(20)}
        scheduler = Scheduler(2)
        def use():
            return scheduler.get(dsk, 7) + get(dsk, 8, num_workers=2)
        assert use() == 15
        # fork while another thread computes
        started, go_on = threading.Event(), threading.Event()
        slow = {i: Task(i, lambda: (started.set(), go_on.wait(30))) for i in range(2)}
        other = threading.Thread(target=lambda: scheduler.get(slow, [0, 1]))
        other.start()
        started.wait(30)
        pid = os.fork()
        if not pid:
            print("child", use(), flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        go_on.set()
        other.join()
        print("parent", use())
    """)
    assert out == ["child", "15", "parent", "15"]


def test_the_interpreter_exits_with_schedulers_open():
    out, _ = run_script("""
        from dask.task_spec import Task
        from znn_dask.sched import Scheduler, get
        dsk = {i: Task(i, abs, -i) for i in range(20)}
        scheduler = Scheduler(4)
        program = scheduler.compile(dsk, list(dsk))
        print(sum(program.run()), get(dsk, 3))
    """)
    assert out == ["190", "3"]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_the_interpreter_exits_though_an_interrupted_task_still_runs():
    out, seconds = run_script("""
        import os, signal, threading, time
        from dask.task_spec import Task
        from znn_dask.sched import Scheduler
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            Scheduler(2).get({"x": Task("x", time.sleep, 50)}, "x")
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert out == ["interrupted"]
    assert seconds < 30


def test_cpus_are_at_least_one_and_at_most_the_machines():
    assert 1 <= available_cpus() <= os.cpu_count()


@pytest.fixture
def groups(tmp_path):
    """Return a function that writes cgroup files and reads the quota from them."""

    def read(lines, **files):
        (tmp_path / "cgroup").write_text("\n".join(lines) + "\n")
        for name, text in files.items():
            path = tmp_path / "fs" / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cgroup_quota(tmp_path / "cgroup", tmp_path / "fs")

    return read


def test_quota_of_cgroup_2_is_the_smallest_up_the_tree(groups):
    lines = ["0::/a/b"]
    assert groups(lines) == math.inf
    assert groups(lines, a__b__cpu_dot_max="max 100000\n") == math.inf
    assert groups(lines, a__cpu_dot_max="250000 100000\n") == 2.5
    assert groups(lines, a__b__cpu_dot_max="150000 100000\n") == 1.5
    assert groups(lines, cpu_dot_max="100000 100000\n") == 1.0
    assert groups(["0::/elsewhere"]) == 1.0


def test_quota_of_cgroup_1(groups):
    lines = ["3:cpuset:/", "4:cpu,cpuacct:/job", "0::/"]
    assert groups(lines, **{"cpu,cpuacct__job__cpu.cfs_quota_us": "-1\n"}) == math.inf
    files = {
        "cpu,cpuacct__job__cpu.cfs_quota_us": "300000\n",
        "cpu,cpuacct__job__cpu.cfs_period_us": "100000\n",
    }
    assert groups(lines, **files) == 3.0
    assert groups(lines, **{"cpu,cpuacct__job__cpu.cfs_period_us": "rubbish\n"}) == math.inf


def test_no_cgroups_no_quota(tmp_path):
    assert cgroup_quota(tmp_path / "none", tmp_path) == math.inf


@fresh
def noise(seed):
    """Return three floats whose sum depends on the order of additions."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(3) * 10.0 ** rng.integers(-6, 6)).astype("f4")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of distributed, about ports and its own start and end
def test_sums_run_on_other_processes():
    distributed = pytest.importorskip("distributed")
    dsk = {("noise-1a", i): Task(("noise-1a", i), noise, i) for i in range(11)}
    dsk["sum-1b"] = Reduce("sum-1b", *dsk)
    dsk["neg-1c"] = Task("neg-1c", np.negative, TaskRef("sum-1b"))
    expected = np.negative(tree_sum(*(noise(i) for i in range(11)))).tobytes()
    with Scheduler(2) as scheduler:
        assert scheduler.get(dsk, "neg-1c").tobytes() == expected
    assert dask.get(dsk, "neg-1c").tobytes() == expected
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    for processes in (False, True):
        with (
            distributed.LocalCluster(processes=processes, **options) as cluster,
            distributed.Client(cluster) as client,
        ):
            assert client.get(dsk, "neg-1c").tobytes() == expected
