"""ZNN's jobs as configurations: every option is translated or named."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from znn_dask.errors import ConfigError, DataError
from znn_dask.net import zoo
from znn_dask.train.config import Config
from znn_dask.train.config_file import flat, load_config
from znn_dask.train.curve import read_rows
from znn_dask.train.preprocess import preprocess
from znn_dask.train.resolve import check_net, make_network
from znn_dask.train.znn_curve import rows_of, write_rows
from znn_dask.train.znn_job import Job, read_job
from znn_dask.train.znn_options import OPTIONS, Elsewhere, Left, To, numbers

CFG = """\
# a job as ZNN ships it
[parameters]
fnet_spec = net.znn
fdata_spec = data.spec
num_threads = 0
dtype = float32
out_type = boundary
logging = yes
train_range = 1
test_range = 2
eta = 0.02
anneal_factor = 0.997
momentum = 0.9
weight_decay = 0.0001
train_outsz = 1,100,90
train_conv_mode = fft
cost_fn = auto
is_malis = no
malis_norm_type = none
is_data_aug = yes
is_bd_mirror = yes
rebalance_mode = none
is_stdio = yes
is_debug = no
is_check = no
Num_iter_per_show = 100
Num_iter_per_test = 200
test_num = 10
Num_iter_per_save = 1000
Num_iter_per_annealing = 50
Max_iter = 200000
"""
SPEC = "".join(
    f"""\
[image{n}]
fnames = image{n}.tif
pp_types = standard2D
is_auto_crop = yes

[label{n}]
fnames = label{n}.tif
pp_types = binary_class
is_auto_crop = yes
fmasks =

[sample{n}]
input = {n}
output = {n}

"""
    for n in (1, 2)
)


@pytest.fixture
def job(tmp_path):
    zoo.vd2d().save(tmp_path / "net.znn")
    (tmp_path / "data.spec").write_text(SPEC)
    for n in (1, 2):
        (tmp_path / f"image{n}.tif").touch()
        (tmp_path / f"label{n}.tif").touch()
    path = tmp_path / "job.cfg"
    path.write_text(CFG)
    return path


def replaced(path, *pairs):
    for old, new in pairs:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
    return read_job(path)


def test_a_job_says_the_same_here(job: Path) -> None:
    found = read_job(job)
    assert found.warnings == []
    out = job.parent / "config.yaml"
    out.write_text(found.to_yaml())
    config = load_config(out)
    values = flat(config)
    expected = {
        "network.file": str(job.parent / "net.znn"),
        "training.output_size": [1, 100, 90],
        "training.loss": "softmax",
        "training.updates": 200_000,
        "training.learning_rate": 0.02,
        "training.momentum": 0.9,
        "training.weight_decay": 0.0001,
        "training.schedule": "exponential",
        "training.decay": 0.997,
        "training.rate_every": 50,
        "data.train.0.image": str(job.parent / "image1.tif"),
        "data.train.0.label": str(job.parent / "label1.tif"),
        "data.test.0.image": str(job.parent / "image2.tif"),
        "data.preprocess": "section",
        "data.invert": True,
        "data.border": "mirror",
        "data.flip": "zyx",
        "data.transpose": True,
        "log.every": 100,
        "log.test_every": 200,
        "log.test_patches": 10,
        "log.checkpoint_every": 1000,
        "compute.workers": None,
        "compute.convolution": "fft",
    }
    assert {key: values[key] for key in expected} == expected
    check_net(config, make_network(config.network))


def test_every_option_is_told_in_the_configuration(job: Path) -> None:
    text = read_job(job).to_yaml()
    for option in re.findall(r"^(\w+) =", CFG, re.MULTILINE):
        assert re.search(rf"^# {option} = .*: .+", text, re.MULTILINE), option
    assert yaml.safe_load(text)["training"]["momentum"] == 0.9


def test_the_table_names_keys_that_there_are() -> None:
    known = flat(Config())
    for rule in OPTIONS.values():
        if isinstance(rule, To):
            assert rule.key in known
        elif isinstance(rule, Left):
            assert rule.why
        else:
            assert isinstance(rule, Elsewhere)


LOST = {
    "is_malis = no": ("is_malis = yes", "is_malis = yes was left out: it is for out_type = affinity, not boundary"),
    "dtype = float32": ("dtype = float64", "dtype = float64 was left out: everything is computed in float32"),
    "is_stdio = yes": ("wibble = 3", "wibble = 3 is unknown and was left out"),
    "logging = yes": ("mumentum = 3", "mumentum = 3 is unknown and was left out. Did you mean 'momentum'?"),
    "is_debug = no": ("forward_outsz = 5,100,100", "forward_outsz = 5,100,100 was left out: prediction is a command"),
}


@pytest.mark.parametrize("old", LOST)
def test_what_is_lost_is_told(job: Path, old: str) -> None:
    new, warning = LOST[old]
    found = replaced(job, (old, new))
    assert any(warning in text for text in found.warnings), found.warnings
    assert warning in found.to_yaml()


SPECS = {
    "masks": ("fmasks =", "fmasks = mask.tif", "[label1] fmasks = mask.tif was left out: there are no masks"),
    "files": (
        "fnames = image1.tif",
        "fnames = image1.tif,\n  b.tif",
        "[image1] has 2 files in fnames; only image1.tif",
    ),
    "inputs": ("input = 1", "input = 1\ninput-r = 2", "[sample1] input-r = 2 was left out"),
    "absent": ("image1.tif", "none.tif", "there is no file none.tif, neither beside job.cfg nor from here"),
    "unknown": ("fmasks =", "fmasks =\nwibble = 1", "[label1] wibble = 1 is unknown and was left out"),
    "methods": (
        "standard2D",
        "standard3D",
        "images have pp_types standard3D, standard2D; standard3D was taken for all",
    ),
    "target": ("binary_class", "affinity", "labels have pp_types affinity"),
}


@pytest.mark.parametrize("kind", SPECS)
def test_what_is_lost_of_the_data_is_told(job: Path, kind: str) -> None:
    old, new, warning = SPECS[kind]
    path = job.parent / "data.spec"
    path.write_text(path.read_text().replace(old, new, 1))
    warnings = read_job(job).warnings
    assert any(warning in text for text in warnings), warnings


def test_losses_and_balance_are_those_of_the_job(job: Path) -> None:
    found = replaced(
        job, ("cost_fn = auto", "cost_fn = square-square"), ("rebalance_mode = none", "is_rebalance = yes")
    )
    assert found.warnings == []
    assert found.raw["training"]["loss"] == "square_square(0.2)"
    assert found.raw["training"]["rebalance"] == "global"
    found = replaced(job, ("is_rebalance = yes", "rebalance_mode = patch"))
    assert found.raw["training"]["rebalance"] == "patch"


@pytest.mark.parametrize(("norm", "loss"), [("none", "malis"), ("frac", "malis"), ("constrain", "malis_constrained")])
def test_malis_learns_affinities_from_ids(job: Path, norm: str, loss: str) -> None:
    net = zoo.n4_affinity()
    net.save(job.parent / "net.znn")
    spec = job.parent / "data.spec"
    spec.write_text(spec.read_text().replace("binary_class", "affinity"))
    on = ("out_type = boundary", "out_type = affinity"), ("is_malis = no", "is_malis = yes")
    left = replaced(job, *on, ("norm_type = none", f"norm_type = {norm}"))
    assert left.raw["training"]["loss"] == "square"
    assert left.raw["data"]["target"] == "affinity"
    assert any("the network ends in forward_logistics. Write linear there" in text for text in left.warnings)
    text = net.to_text()
    assert "forward_logistics" in text
    (job.parent / "net.znn").write_text(text.replace("forward_logistics", "linear"))
    found = read_job(job)
    assert (found.raw["training"]["loss"], found.raw["data"]["target"]) == (loss, "ids")
    assert any(f"became the loss {loss!r}" in warning for warning in found.warnings)
    check_net(load_config(written(job, found)), make_network(load_config(written(job, found)).network))


def written(job: Path, found: Job) -> Path:
    path = job.parent / "config.yaml"
    path.write_text(found.to_yaml())
    return path


def test_logistic_outputs_are_not_made_logistic_twice(job: Path) -> None:
    zoo.n4_affinity().save(job.parent / "net.znn")
    found = replaced(job, ("cost_fn = auto", "cost_fn = binomial_cross_entropy"))
    assert found.raw["training"]["loss"] == "square"
    assert found.raw["training"]["learning_rate"] == 0.01
    assert any("training.learning_rate is half of eta" in text for text in found.warnings)


WRONG = {
    "eta = 0.02": ("eta = fast", "eta: it must be a number, got 'fast'"),
    "Max_iter = 200000": ("Max_iter = many", "Max_iter: it must be a whole number"),
    "train_outsz = 1,100,90": ("train_outsz = 1,100", "train_outsz: it must be a size z,y,x"),
    "is_data_aug = yes": ("is_data_aug = maybe", "is_data_aug: it must be yes or no, got 'maybe'"),
    "train_range = 1": ("train_range = one", "train_range: it must be a whole number"),
    "test_range = 2": ("test_range = 7", r"there is no section \[sample7\]; the .spec has image1,"),
    "cost_fn = auto": ("cost_fn = hinge", "cost_fn must be one of auto, softmax_loss,"),
    "momentum = 0.9": ("momentum = 1.5", r"training\.momentum: expected `float` < 1"),
    "fnet_spec = net.znn": ("", "fnet_spec, the file of the network, is missing"),
    "fdata_spec = data.spec": ("fdata_spec = none.spec", "cannot read the job file none.spec: No such file"),
    "[parameters]": ("[params]", r"has no section \[parameters\]"),
    "# a job": ("nonsense\n# a job", "is no job file of ZNN"),
}


@pytest.mark.parametrize("old", WRONG)
def test_what_cannot_be_read_is_named(job: Path, old: str) -> None:
    new, message = WRONG[old]
    with pytest.raises(ConfigError, match=message) as caught:
        replaced(job, (old, new))
    assert "\n" not in str(caught.value)


def test_numbers_of_samples() -> None:
    assert numbers("1-3,6, 2") == [1, 2, 3, 6]
    assert numbers("") == []
    for text in ("0", "3-1", "1-99999999"):
        with pytest.raises(ConfigError, match="numbers of samples"):
            numbers(text)


def test_images_are_rescaled() -> None:
    image = np.array([[[[2, 4, 10]]], [[[5, 5, 5]]]], np.float32)
    np.testing.assert_allclose(preprocess(image, "rescale"), [[[[-1, -0.5, 1]]], [[[0, 0, 0]]]])


def test_curves_become_rows(tmp_path: Path) -> None:
    statistics = {
        "train/it": np.array([100, 200]),
        "train/err": np.array([0.5, 0.25]),
        "train/cls": np.array([0.2, 0.1]),
        "test/it": np.array([200]),
        "test/err": np.array([0.3]),
    }
    rows = rows_of(statistics, 0.01)
    write_rows(tmp_path / "curve.csv", rows)
    assert [(r.step, r.loss, r.train_error, r.test_loss) for r in read_rows(tmp_path / "curve.csv")] == [
        (100, 0.5, 0.2, None),
        (200, 0.25, 0.1, 0.3),
    ]
    with pytest.raises(DataError, match="neither train/it nor test/it"):
        rows_of({}, 0.01)
    with pytest.raises(DataError, match="they must be equal"):
        rows_of(statistics | {"train/err": np.zeros(3)}, 0.01)
