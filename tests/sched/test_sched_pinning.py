"""Workers that keep to a CPU each, where there are as many as CPUs."""

import os
import threading

import pytest

import znn_dask as znn
from znn_dask.sched import Scheduler, get, pinning

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds threads"),
]
ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def masks(run, n_workers):
    """Return the CPUs that every worker may use while it runs a task; all tasks run at once."""
    gate = threading.Barrier(n_workers, timeout=30)

    def task(_number):
        gate.wait()
        return os.sched_getaffinity(0)

    names = [f"t{number}" for number in range(n_workers)]
    dsk = {name: (task, number) for number, name in enumerate(names)}
    return [run(dsk, names) for _ in range(2)][-1]


@pytest.fixture(params=(1, 2, 4, 8))
def n_workers(request):
    return request.param


def test_as_many_workers_as_cpus_have_one_each():
    with Scheduler(len(ALLOWED), pinned=True) as scheduler:
        found = masks(scheduler.get, len(ALLOWED))
    assert sorted(min(mask) for mask in found) == sorted(ALLOWED)
    assert all(len(mask) == 1 for mask in found)
    assert os.sched_getaffinity(0) == ALLOWED  # of the caller


def test_other_numbers_of_workers_may_use_every_cpu(n_workers):
    if n_workers == len(ALLOWED):
        n_workers += 1
    with Scheduler(n_workers, pinned=True) as scheduler:
        assert all(mask == ALLOWED for mask in masks(scheduler.get, n_workers))


def test_nothing_is_bound_unless_it_is_asked_for(n_workers):
    with Scheduler(n_workers) as scheduler:
        assert all(mask == ALLOWED for mask in masks(scheduler.get, n_workers))
    assert all(mask == ALLOWED for mask in masks(lambda *a: get(*a, num_workers=n_workers), n_workers))


def test_a_smaller_team_of_the_same_threads_is_free_again():
    with Scheduler(len(ALLOWED), pinned=True) as scheduler:
        masks(scheduler.get, len(ALLOWED))
        if len(ALLOWED) > 1:  # one task, one worker
            assert scheduler.get({"one": (os.sched_getaffinity, 0)}, "one") == ALLOWED


def test_a_refusal_of_the_system_is_no_error(monkeypatch):
    def refuse(*_):
        raise PermissionError("no")

    monkeypatch.setattr(pinning.os, "sched_setaffinity", refuse)
    with Scheduler(len(ALLOWED), pinned=True) as scheduler:
        assert all(mask == ALLOWED for mask in masks(scheduler.get, len(ALLOWED)))


@pytest.mark.parametrize(("value", "pinned"), [("1", True), ("0", False)])
def test_models_are_pinned_unless_the_setting_says_no(value, pinned, monkeypatch):
    monkeypatch.setenv("ZNN_DASK_PIN", value)
    with znn.Model(znn.Network.parse("CT", width=2, kernel=2), (2, 2, 2)) as model:
        assert model._core.scheduler._crew.pinned is pinned
