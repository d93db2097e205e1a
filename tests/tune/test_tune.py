"""The tuner: real operations are timed, the fastest is taken, and what was measured is never measured twice."""

import json
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import znn_dask as znn
from znn_dask.lower import Options, make_plan
from znn_dask.lower.choose import layers_of
from znn_dask.lower.cost import candidates, predict
from znn_dask.lower.layers import DIRECT, Candidate, Layer, best, works
from znn_dask.ops.spectral import Tiling
from znn_dask.tune import Store, Tuner, measure, store, timing, tuner

pytestmark = pytest.mark.timeout(100)

LAYER = Layer((9, 8, 7), (3, 2, 3), 2, 4, (16, 8), (5, 3))
HEAVY = Layer((24, 24, 24), (5, 5, 5), 2, 8, (24, 16), (40,))
NET = znn.Network.parse("CTCTC", width=12, kernel=3, out_channels=2)
SIZE = {"output": (24, 24, 24)}


@pytest.fixture
def clock(monkeypatch):
    """Replace measuring by a table: every task is noted and takes what `seconds` says."""

    class Clock:
        def __init__(self):
            self.measured, self.threads = [], set()

        def __call__(self, work, limit_s=math.inf):
            self.measured.append(work)
            self.threads.add(threading.get_ident())
            return self.seconds(work)

        def seconds(self, work):
            return 1e-3

    found = Clock()
    monkeypatch.setattr(measure, "seconds", found)
    return found


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# --- one task ---

CANDIDATES = [
    DIRECT,
    Candidate("fft", (6, 8, 4), "native"),
    Candidate("fft", (6, 8, 4), "pyfftw"),
    Candidate("fft", (10, 8, 8), "scipy"),
]
EVERY_WORK = [
    work
    for granularity in ("node", "edge")
    for candidate in CANDIDATES
    for tasks in works(msgspec.structs.replace(LAYER, granularity=granularity), candidate).values()
    for work in tasks
]


@pytest.mark.parametrize("work", dict.fromkeys(EVERY_WORK), ids=str)
def test_a_task_is_the_real_operation_on_its_shapes(work):
    result = measure.prepare(work)()
    tiling = Tiling(work.size, work.kernel, work.tile) if work.operation[:6] != "direct" else None
    valid = tuple(n - k + 1 for n, k in zip(work.size, work.kernel, strict=True))
    spectrum = tiling and tiling.spectrum_shape(work.entries, work.made)
    expected = {
        "direct-forward": (work.entries, *valid, work.made),
        "direct-backward": (work.entries, *work.size, work.made),
        "direct-gradient": (*work.kernel, work.read[0], work.made),
        "image-spectrum": spectrum,
        "gradient-spectrum": spectrum,
        "product": spectrum,
        "product-backward": spectrum,
        "output-image": (work.entries, *valid, work.made),
        "gradient-image": (work.entries, *work.size, work.made),
        "spectral-gradient": (*work.kernel, work.read[0], work.made),
    }
    assert result.shape == expected[work.operation]
    assert 0 < measure.seconds(work) < 1


def test_calls_end_early_for_what_is_too_slow(monkeypatch):
    calls = []
    monkeypatch.setattr(measure, "prepare", lambda work: lambda: calls.append(work))
    times = iter([0.0, 0.3, 0.3, 0.5])
    monkeypatch.setattr(measure.time, "thread_time", lambda: next(times))
    assert measure.seconds(EVERY_WORK[0], limit_s=0.1) == 0.3
    assert len(calls) == 1
    times = iter([0.0, 0.15, 0.15, 0.16, 0.16, 0.3])
    assert measure.seconds(EVERY_WORK[0], limit_s=0.1) == pytest.approx(0.01)
    assert len(calls) == 1 + 3, "the first call may take longer"


# --- choosing ---


@given(st.randoms(use_true_random=False))
def test_the_choice_is_the_fastest_measured(random):
    layer, told = HEAVY, {}
    proposed = candidates(layer, "auto", "auto")
    seconds = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "seconds", lambda work, _: seconds.setdefault(work, random.uniform(1e-3, 1.5e-3)))
        patch.setattr(tuner, "PROMISING", math.inf)
        patch.setattr(tuner, "HOPELESS", math.inf)
        patch.setattr(Store, "read", lambda *_: {})
        patch.setattr(Store, "write", lambda *_: None)
        asking = Tuner()
        (told,) = asking([(layer, proposed)])
    assert set(told) == set(proposed)
    for candidate, times in told.items():
        for part, tasks in works(layer, candidate).items():
            assert times[part] == pytest.approx(layer.groups * sum(seconds[work] for work in tasks))
    plan, least = best(layer, told)
    assert all(least <= sum(times.values()) for times in told.values())
    assert set(plan.algorithms) <= {"direct", "winograd", "fft"}


def test_a_hopeless_candidate_is_given_up(clock, tmp_path):
    proposed = candidates(HEAVY, "auto", "auto")
    slow = min(proposed[1:], key=lambda c: sum(predict([(HEAVY, [c])])[0][c].values()))
    other = [c for c in proposed[1:] if c != slow]

    def seconds(work):
        return 1.0 if work.tile == slow.tile and work.operation == "spectral-gradient" else 1e-3

    clock.seconds = seconds
    found = Tuner(Store(tmp_path))
    (told,) = found([(HEAVY, [*other, slow])])
    assert slow in told, "the first to be measured has nothing to be compared with"
    clock.seconds = lambda work: 1e-3 if work.tile == slow.tile else 1.0
    found = Tuner(Store(tmp_path / "other"))
    (told,) = found([(HEAVY, proposed)])
    assert {candidate.tile for candidate in told} == {slow.tile}
    given_up = [m for m in found.records[0].measured.values() if not m.complete]
    assert given_up
    assert all(len(m.parts) < 5 for m in given_up)


def test_what_takes_next_to_nothing_is_not_measured(clock, tmp_path):
    layer = Layer((5, 5, 5), (2, 2, 2), 1, 1, (4,), (4,))
    proposed = candidates(layer, "auto", "auto")
    assert Tuner(Store(tmp_path))([(layer, proposed)]) == predict([(layer, proposed)])
    assert clock.measured == []
    assert files(tmp_path) == []


def test_only_promising_candidates_are_measured(clock, tmp_path):
    clock.seconds = lambda work: 0.0  # so that none is given up
    proposed = candidates(HEAVY, "auto", "auto")
    totals = {c: sum(times.values()) for c, times in predict([(HEAVY, proposed)])[0].items()}
    (told,) = Tuner(Store(tmp_path))([(HEAVY, proposed)])
    assert set(told) == {c for c in proposed if totals[c] <= tuner.PROMISING * min(totals.values())}
    assert len(told) < len(proposed), "a test that could not fail"


def test_the_budget_is_kept(clock, tmp_path):
    found = Tuner(Store(tmp_path), budget_s=-1.0)
    proposed = candidates(HEAVY, "auto", "auto")
    assert found([(HEAVY, proposed)]) == [{}]
    assert clock.measured == []
    # The cost model then decides, here and at the next start.
    spent = Tuner(Store(tmp_path), budget_s=-1.0)
    assert make_plan(NET, SIZE, 1, Options(), spent) == make_plan(NET, SIZE, 1, Options())
    later = Tuner(Store(tmp_path))
    make_plan(NET, SIZE, 1, Options(), later)
    assert later.n_measured == 0


def test_tasks_are_measured_in_a_thread_that_ends(clock, tmp_path):
    make_plan(NET, SIZE, 1, Options(), Tuner(Store(tmp_path)))
    assert clock.measured
    assert threading.get_ident() not in clock.threads
    assert not any(thread.name.startswith("znn-dask-tune") for thread in threading.enumerate())


def test_plans_do_not_depend_on_the_workers(clock):
    plans = []
    for num_workers in (1, 2, 8):
        with znn.Model(NET, SIZE, num_workers=num_workers, tune=True) as model:
            plans.append(model.plan.plan)
    assert clock.measured
    assert plans[0] == plans[1] == plans[2]


# --- what is kept ---


def test_the_second_time_nothing_is_measured(clock, tmp_path):
    first = Tuner(Store(tmp_path))
    plan = make_plan(NET, SIZE, 1, Options(), first)
    assert first.n_measured == len(clock.measured) == len(set(clock.measured)) > 0
    again = Tuner(Store(tmp_path))
    assert make_plan(NET, SIZE, 1, Options(), again) == plan
    assert again.n_measured == 0
    assert len(clock.measured) == first.n_measured
    anew = Tuner(Store(tmp_path), again=True)
    make_plan(NET, SIZE, 1, Options(), anew)
    assert anew.n_measured == first.n_measured


def test_files_can_be_read_and_hold_the_choice(clock, tmp_path):
    make_plan(NET, SIZE, 1, Options(), Tuner(Store(tmp_path)))
    found = [json.loads(path.read_text()) for path in files(tmp_path)]
    assert found
    for content in found:
        assert content["machine"]["versions"]["numpy"]
        assert content["choice"]["forward"] in ("direct", "winograd", "fft")
        assert all(parts["complete"] in (True, False) for parts in content["measured"])
    assert not [path for path in files(tmp_path) if path.name.startswith(".")], "no temporary file is left"


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "text": lambda path: path.write_text("measured, honestly"),
    "another layer": lambda path: path.write_text(path.read_text().replace('"entries": 1', '"entries": 2')),
    "another machine": lambda path: path.write_text(path.read_text().replace('"numpy": "', '"numpy": "0.')),
    "negative": lambda path: path.write_text(path.read_text().replace("0.001", "-0.001")),
    "a part missing": lambda path: path.write_text(path.read_text().replace('"gradient": 0', '"other": 0')),
    "not a number": lambda path: path.write_text(path.read_text().replace("0.001", '"quick"')),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_foreign_files_are_written_anew(clock, tmp_path, damage):
    plan = make_plan(NET, SIZE, 1, Options(), Tuner(Store(tmp_path)))
    before = {path: path.read_bytes() for path in files(tmp_path)}
    for path in before:
        DAMAGE[damage](path)
        assert path.read_bytes() != before[path], "the damage was done"
    again = Tuner(Store(tmp_path))
    assert make_plan(NET, SIZE, 1, Options(), again) == plan
    assert again.n_measured > 0
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


@pytest.mark.parametrize("field", ["cpu", "instruction_set", "kernels", "versions"])
def test_another_machine_or_version_measures_anew(clock, tmp_path, monkeypatch, field):
    make_plan(NET, SIZE, 1, Options(), Tuner(Store(tmp_path)))
    n_files, here = len(files(tmp_path)), store.this_machine()
    values = {name: getattr(here, name) for name in here.__struct_fields__}
    values[field] = {**here.versions, "scipy": "99"} if field == "versions" else "another"
    monkeypatch.setattr(store, "this_machine", lambda: store.Machine(**values))
    other = Tuner(Store(tmp_path))
    make_plan(NET, SIZE, 1, Options(), other)
    assert other.n_measured > 0
    assert len(files(tmp_path)) == 2 * n_files, "and what was known stays"


def test_a_folder_that_cannot_be_written_costs_one_warning(clock, tmp_path, caplog):
    folder = tmp_path / "file" / "cache"
    folder.parent.write_text("in the way")
    for _ in range(2):
        found = Tuner(Store(folder))
        make_plan(NET, SIZE, 1, Options(), found)
        assert found.n_measured > 0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "ZNN_DASK_CACHE_DIR" in warnings[0]


def test_models_made_at_once_in_threads(clock, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(make_plan, NET, SIZE, 1, Options(), Tuner(Store(tmp_path))) for _ in range(4)]
        plans = [future.result() for future in found]
    assert all(plan == plans[0] for plan in plans)
    last = Tuner(Store(tmp_path))
    assert make_plan(NET, SIZE, 1, Options(), last) == plans[0]
    assert last.n_measured == 0


PROCESS = """
import sys
import znn_dask as znn
net = znn.Network.parse("CTC", width=24, kernel=4, out_channels=2)
with znn.Model(net, 20, num_workers=1) as model:
    print(model.plan.plan.to_json())
"""


def test_processes_that_tune_at_once_leave_whole_files(tmp_path):
    environment = os.environ | {"ZNN_DASK_TUNE": "1", "ZNN_DASK_CACHE_DIR": str(tmp_path)}

    def start():
        return subprocess.Popen([sys.executable, "-W", "error", "-c", PROCESS], stdout=subprocess.PIPE, env=environment)

    for process in [start(), start()]:
        assert process.communicate(timeout=60)[0]
        assert process.returncode == 0
    kept = {path: path.read_bytes() for path in files(tmp_path)}
    assert kept
    outputs = set()
    for _ in range(2):
        process = start()
        outputs.add(process.communicate(timeout=60)[0])
    assert len(outputs) == 1
    assert {path: path.read_bytes() for path in files(tmp_path)} == kept, "nothing was measured again"


# --- models ---


def test_a_tuned_model_computes_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("ZNN_DASK_CACHE_DIR", str(tmp_path))
    with znn.Model(NET, SIZE, tune=True) as tuned, znn.Model(NET, SIZE, tune=False, convolution="direct") as plain:
        assert files(tmp_path)
        x = [[[[float((z * y + x) % 7) for x in range(n)] for y in range(n)] for z in range(n)] for n in [30]]
        assert tuned.input_size == (30, 30, 30)
        assert abs(tuned.forward(x) - plain.forward(x)).max() < 1e-3 * abs(plain.forward(x)).max()
        assert set(layers_of(NET, tuned.plan.plan)) == {"conv1", "conv2", "conv3"}


@pytest.mark.parametrize(
    ("given", "setting", "tunes"), [(None, "0", 0), (None, "1", 1), (False, "1", 0), (True, "0", 1)]
)
def test_who_decides_whether_to_measure(clock, tmp_path, monkeypatch, given, setting, tunes):
    monkeypatch.setenv("ZNN_DASK_TUNE", setting)
    monkeypatch.setenv("ZNN_DASK_CACHE_DIR", str(tmp_path))
    with znn.Model(NET, SIZE, tune=given) as model:
        assert bool(clock.measured) == bool(files(tmp_path)) == bool(tunes)
        # Prediction takes what is settled and the cost model.
        count = len(clock.measured)
        model.predict([[[1.0] * 40] * 40] * 40)
        assert len(clock.measured) == count


def test_an_answer_that_is_none():
    with pytest.raises(znn.ParameterError, match="tune must be True, False or None, got 'yes'"):
        znn.Model(NET, SIZE, tune="yes")


def test_operations_beside_their_reference_are_not_timed(monkeypatch):
    assert isinstance(timing(True), Tuner)
    monkeypatch.setenv("ZNN_DASK_VALIDATE", "1")
    assert timing(True) is predict
