"""Models in files, graphs in other hands, other processes: the bits stay the same."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import dask
import msgspec
import numpy as np
import pytest
from dask.threaded import get as threaded_get
from model_cases import DROPPING, NET, SEVERAL, SEVERAL_SIZE, SIZE, WAYS, new_model, same, samples

import znn_dask as znn
from znn_dask.io.checkpoint import read_checkpoint, write_checkpoint

pytestmark = pytest.mark.timeout(100)

HERE = Path(__file__).parent


def in_new_process(code, *arguments, **environment):
    """Run Python with these tests' modules at hand; return what it printed."""
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
        timeout=90,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def digest(model):
    return hashlib.sha256(b"".join(array.tobytes() for array in model.parameters.values())).hexdigest()


# --- resuming ---

RESUME = """
import sys
import numpy as np
import znn_dask as znn
from model_cases import DROPPING, samples
from test_model_files import digest
for num_workers in (1, 2):
    with znn.Model.load(sys.argv[1], num_workers=num_workers) as model:
        print(model.step_count, model.learning_rate)
        for pair in samples(DROPPING, 5, 5, batch=2)[2:]:
            model.step(*pair)
        print(digest(model))
"""


@pytest.mark.parametrize(
    ("num_workers", "way"), [(1, WAYS[1]), (2, WAYS[0] | {"fft_backend": "pyfftw", "fft_effort": "measure"})]
)
def test_a_resumed_run_is_the_undisturbed_one(tmp_path, num_workers, way):
    pairs, path = samples(DROPPING, 5, 5, batch=2), tmp_path / "model.safetensors"
    with new_model(DROPPING, 5, num_workers=num_workers, **way) as model:
        for n, pair in enumerate(pairs):
            if n == 2:
                model.learning_rate = 0.02
                model.save(path)
            model.step(*pair)
        expected = digest(model)
    assert in_new_process(RESUME, path) == ["2", "0.02", expected] * 2


FRESH = """
from model_cases import NET, SIZE, WAYS, new_model, samples
from test_model_files import digest
with new_model(NET, 12, convolution="fft-stored") as model:
    for pair in samples(NET, 12, 3):
        model.step(*pair)
    print(digest(model))
"""


def test_two_runs_from_the_beginning_are_the_same():
    """One plan, one answer: else no run that was interrupted could be compared with one that was not."""
    assert in_new_process(FRESH) == in_new_process(FRESH)


def test_everything_is_in_the_file(tmp_path):
    path, pairs = tmp_path / "deep" / "model.safetensors", samples(count=3)
    options = {"loss": "logistic", "seed": 9, "batch": 2, "policy": "lifo", "convolution": {"conv1": "direct"}}
    with new_model(**options) as model:
        model.learning_rate = 0.03
        model.step(*pairs[0])
        model.learning_rate = 0.07
        model.step(*pairs[1])
        model.save(str(path), metadata={"note": "züri", "format": "mine"})
        with znn.Model.load(path, num_workers=2) as again:
            assert again.net == model.net
            assert same(again.parameters, model.parameters)
            assert again.plan.plan == model.plan.plan
            assert str(again.plan) == str(model.plan)
            for name in ("step_count", "learning_rate", "optimizer", "loss", "seed", "output_size", "num_workers"):
                assert getattr(again, name) == getattr(model, name)
            assert again._core.scheduler.policy == "lifo"
            # Velocities too, or the next step would differ.
            assert again.step(*pairs[2]) == model.step(*pairs[2])
            assert same(again.parameters, model.parameters)
    assert read_checkpoint(path)[1]["note"] == "züri"
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_another_output_size(tmp_path):
    with new_model() as model:
        model.step(*samples(count=1)[0])
        model.save(tmp_path / "m")
        with znn.Model.load(tmp_path / "m", output_size=(5, 6, 3)) as other:
            assert other.output_size == (5, 6, 3)
            assert same(other.parameters, model.parameters)
            x = samples(size=(5, 6, 3), count=1)[0][0]
            part = tuple(slice(0, n) for n in NET.input_size((3, 4, 3)))
            np.testing.assert_allclose(
                other.forward(x)[0, :, :3, :4],
                model.predict(x[0][(slice(None), *part)], border=None),
                atol=1e-5,
            )
            assert other.step(*samples(size=(5, 6, 3), count=1)[0]) > 0
        with pytest.raises(znn.ZnnError, match="output_size"):
            znn.Model.load(tmp_path / "m", output_size=0)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": np.int64(4)},
        {"optimizer": znn.SGD(np.float64(0.1), np.float64(0.5), np.float64(0.1))},
        {"batch": int(np.int64(2)), "block": 2},
    ],
)
def test_numbers_of_numpy_can_be_saved(tmp_path, options):
    with new_model(**options) as model:
        model.save(tmp_path / "m")
        with znn.Model.load(tmp_path / "m") as again:
            assert (again.seed, again.optimizer) == (model.seed, model.optimizer)


def test_a_file_is_not_replaced_unless_it_may_be(tmp_path):
    with new_model() as model:
        model.save(tmp_path / "m")
        before = (tmp_path / "m").read_bytes()
        model.step(*samples(count=1)[0])
        with pytest.raises(znn.OutputExistsError, match="exists"):
            model.save(tmp_path / "m", overwrite=False)
        assert (tmp_path / "m").read_bytes() == before
        model.save(tmp_path / "m")
        assert (tmp_path / "m").read_bytes() != before


def test_saving_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    with new_model() as model:
        model.save(tmp_path / "m")
        before = (tmp_path / "m").read_bytes()
        model.step(*samples(count=1)[0])
        expected = model.parameters

        def full(*args, **kwargs):
            raise OSError("no space left")

        for name in ("write_bytes", "replace"):
            with monkeypatch.context() as patched:
                patched.setattr(Path, name, full)
                with pytest.raises(OSError, match="no space"):
                    model.save(tmp_path / "m")
            assert (tmp_path / "m").read_bytes() == before
            assert os.listdir(tmp_path) == ["m"]
        assert same(model.parameters, expected)


# --- files that are no models ---


def rewritten(path, change):
    """Change the description within a model's file."""
    tensors, metadata = read_checkpoint(path)
    about = json.loads(metadata["model"])
    change(about, tensors)
    write_checkpoint(path, tensors, metadata | {"model": json.dumps(about)})


DAMAGE = {
    "missing": lambda p: p.unlink(),
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-5]),
    "cut in its header": lambda p: p.write_bytes(p.read_bytes()[:100]),
    "too long": lambda p: p.write_bytes(p.read_bytes() + b"more"),
    "text": lambda p: p.write_text("a model, honestly"),
    "huge header": lambda p: p.write_bytes(struct.pack("<Q", 1 << 62) + p.read_bytes()[8:]),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "foreign": lambda p: write_checkpoint(p, {"weight": np.zeros(3)}, {}),
    "other version": lambda p: write_checkpoint(p, {"weight": np.zeros(3)}, {"format": "znn-dask model 99"}),
    "no description": lambda p: write_checkpoint(p, {"weight": np.zeros(3)}, {"format": "znn-dask model 2"}),
    "bad description": lambda p: write_checkpoint(
        p, {"weight": np.zeros(3)}, {"format": "znn-dask model 2", "model": "{}"}
    ),
    "parameter missing": lambda p: rewritten(p, lambda a, t: t.pop("parameters/conv1/kernel")),
    "velocity missing": lambda p: rewritten(p, lambda a, t: t.pop("velocities/conv1/kernel")),
    "parameter of another shape": lambda p: rewritten(
        p, lambda a, t: t.update({"parameters/conv1/kernel": np.ones(3)})
    ),
    "bad network": lambda p: rewritten(p, lambda a, t: a.update(network="[nonsense")),
    "bad rate": lambda p: rewritten(p, lambda a, t: a["optimizer"].update(learning_rate=-1.0)),
    "bad loss": lambda p: rewritten(p, lambda a, t: a.update(loss="sqare")),
    "bad policy": lambda p: rewritten(p, lambda a, t: a.update(policy="luck")),
    "bad wisdom": lambda p: rewritten(p, lambda a, t: a.update(wisdom="a")),
    "plan without an edge": lambda p: rewritten(p, lambda a, t: a["plan"]["convolutions"].pop("conv1")),
    "plan of other blocks": lambda p: rewritten(p, lambda a, t: a["plan"]["blocks"].update(conv1=[1])),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", DAMAGE)
def test_files_that_cannot_be_used(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    with new_model() as model:
        model.save(path)
    DAMAGE[kind](path)
    with pytest.raises(znn.CheckpointError, match=r"model\.safetensors") as caught, znn.Model.load(path):
        pass
    assert "\n" not in str(caught.value)


# --- graphs in other hands ---


def gets(graph, values):
    dsk = {**graph.dask, **values}
    return {
        name: dict(zip(graph.outputs, getter(dsk, list(graph.outputs.values())), strict=True))
        for name, getter in (("dask", dask.get), ("threaded", threaded_get), ("znn", znn.get))
    }


@pytest.mark.parametrize("embedded", [False, True])
def test_graphs_of_several_inputs_and_outputs(embedded):
    first, (x, target) = samples(SEVERAL, SEVERAL_SIZE, 2)
    with new_model(SEVERAL, SEVERAL_SIZE, block=2, granularity="edge") as model:
        model.step(*first)
        graph = model.graph("step", x, target) if embedded else model.graph("step")
        assert set(graph.inputs) == (set() if embedded else {"input/a", "input/b", "target/left", "target/right"})
        assert set(graph.outputs) == {"loss", *SEVERAL.parameters}
        given = {f"input/{n}": v for n, v in x.items()} | {f"target/{n}": v for n, v in target.items()}
        found = gets(graph, {key: given[name] for name, key in graph.inputs.items()})
        forward = model.graph("forward", x) if embedded else model.graph("forward")
        outputs = gets(forward, {key: given[name] for name, key in forward.inputs.items()})
        y = model.forward(x)
        for name, array in y.items():
            assert all(result[name].tobytes() == array.tobytes() for result in outputs.values())
        loss = model.step(x, target)
        for result in found.values():
            assert float(result.pop("loss")) == loss
            assert same(result, model.parameters)


def test_graphs_that_do_not_exist():
    with new_model() as model:
        with pytest.raises(znn.ParameterError, match="graph must be 'step' or 'forward', got 'backward'"):
            model.graph("backward")
        with pytest.raises(znn.ShapeError, match="input 'input' must have shape"):
            model.graph("forward", np.zeros((3, 3, 3)))


def test_plans_print_as_tables():
    for way in WAYS:
        with new_model(**way) as model:
            text = str(model.plan)
            for edge in NET.edges:
                assert any(line.startswith(edge) for line in text.splitlines())
            assert "output 3x4x5; batch 1" in text
            assert model.plan.peak_bytes > 0
            assert msgspec.json.decode(model.plan.plan.to_json())["batch"] == 1
            assert set(model.plan.convolutions) == {"conv1", "conv2", "conv3"}
            assert model.plan.output_size == {"output": SIZE}


# --- every operation beside its reference ---

VALIDATED = """
from model_cases import FLAT, FLAT_SIZE, NET, SIZE, WAYS, new_model, samples
from znn_dask.ops import update
assert hasattr(update.sgd, "__wrapped__"), "nothing is validated"
for net, size in ((NET, SIZE), (FLAT, FLAT_SIZE)):
    for way in WAYS:
        with new_model(net, size, **way) as model:
            losses = [model.step(*pair) for pair in samples(net, size, 2, batch=2)]
            model.forward(samples(net, size, 1)[0][0])
            model.flush()
print("fine")
"""


def test_every_operation_agrees_with_its_reference():
    assert in_new_process(VALIDATED, ZNN_DASK_VALIDATE="1") == ["fine"]
