"""A configuration says what it means, or one line says what is wrong with it."""

from pathlib import Path

import msgspec
import pytest

from znn_dask.errors import ConfigError
from znn_dask.train.config import Config, TrainingSection
from znn_dask.train.config_file import describe, flat, from_json, load_config, make_config, to_json, to_yaml
from znn_dask.train.resolve import check_net, learning_rate, make_network, output_size

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda p: p.name)
def test_the_examples_are_valid_and_name_no_file(path: Path) -> None:
    config = load_config(path)
    net = make_network(config.network)
    check_net(config, net)
    assert config.data.image is None
    assert config.data.label is None
    assert min(output_size(config, net)) >= 1


def test_there_are_examples() -> None:
    assert {p.name for p in EXAMPLES.glob("*.yaml")} >= {"isbi2012.yaml", "fibsem.yaml"}


def test_overrides_set_values_by_dotted_key() -> None:
    raw = {"data": {"train": [{"z": [0, 5]}, {"z": [6, 9]}]}}
    config = make_config(
        raw,
        [
            "data.train.1.image=a.h5:/stack",
            "data.train.2.z=[1, 2]",
            "training.learning_rate=1e-3",
            "data.image=b.npy",
            "network.kernel=[3, '1,5,5']",
            "data.transpose=false",
        ],
    )
    assert config.data.train[1].image == "a.h5:/stack"
    assert config.data.train[1].z == (6, 9)
    assert config.data.train[2].z == (1, 2)
    assert config.training.learning_rate == 1e-3
    assert config.data.image == "b.npy"
    assert config.data.transpose is False
    assert config.network.kernel == [3, "1,5,5"]
    assert "image" not in raw["data"], "the given mapping is not changed"


@pytest.mark.parametrize(
    ("raw", "overrides", "message"),
    [
        ({"training": {"lerning_rate": 1}}, [], r"unknown key 'training\.lerning_rate'\. Did you mean 'learning_rate'"),
        ({"trainin": {}}, [], "unknown key 'trainin'. Did you mean 'training'"),
        ({"updates": 5}, [], r"Did you mean 'training\.updates'"),
        ({"data": {"train": [{"imag": "x"}]}}, [], r"unknown key 'data\.train\.0\.imag'\. Did you mean 'image'"),
        ({}, ["data.tran.0.image=x"], "override 'data.tran.0.image=x': unknown key 'data.tran'. Did you mean 'train'"),
        ({}, ["data.train.3.image=x"], "the list has 0 entries"),
        ({}, ["justaword"], "must be key=value"),
        ({}, ["training.updates=[1"], "is not YAML"),
        ({}, ["training.updates.x=1"], "expected `int"),
        ({"training": {"updates": "many"}}, [], r"training\.updates: expected `int`"),
        ({"training": {"updates": 0}}, [], r"training\.updates: expected `int` >= 1, got 0"),
        ({"training": {"max_minutes": -1}}, [], r"training\.max_minutes: expected `float` > 0.*, got -1"),
        ({}, ["training.learning_rate=-0.5"], r"training\.learning_rate: expected `float` > 0.*, got -0\.5$"),
        ({"training": {"loss": "hinge"}}, [], r"training: loss must be one of square, .*, got 'hinge'"),
        ({"data": {"flip": "zq"}}, [], r"data\.flip: expected `str` matching"),
        ({"data": {"train": []}}, [], r"data\.train: expected `array` of length >= 1"),
        ([1], [], "must be a mapping from keys to values, got list"),
    ],
)
def test_mistakes_are_named(raw: object, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(raw, overrides)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*absent"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"a\.yaml is not YAML"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("")
    assert load_config(tmp_path / "a.yaml") == Config()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda p: p.name)
def test_text_forms_are_exact(path: Path, tmp_path: Path) -> None:
    config = load_config(path, ["training.learning_rate=0.1234567890123"])
    assert from_json(to_json(config)) == config
    (tmp_path / "copy.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "copy.yaml") == config


def test_every_key_is_described() -> None:
    text = describe()
    for key in flat(Config()):
        name = key.replace(".0.", ".N.")
        assert f"{name} [" in text or f"{name}: " in text, key


def test_defaults_are_flat_and_complete() -> None:
    assert flat(Config())["training.updates"] == 10_000
    assert flat(Config())["data.train.0.reach"] == "region"


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 999, 1.0),
        ("exponential", 99, 1.0),
        ("exponential", 250, 0.25),
        ("linear", 500, 0.5),
        ("cosine", 0, 1.0),
        ("cosine", 500, 0.5),
        ("cosine", 5000, 0.0),
        ("step", 199, 1.0),
        ("step", 300, 0.25),
        ("step", 299, 1.0),
    ],
)
def test_schedules(schedule: str, step: int, expected: float) -> None:
    values = {"learning_rate": 1.0, "updates": 1000, "schedule": schedule, "decay": 0.5, "milestones": [250, 300]}
    training = msgspec.convert(values, TrainingSection)
    assert learning_rate(training, step) == pytest.approx(expected)


def test_the_rate_rises_in_steps() -> None:
    training = TrainingSection(learning_rate=1.0, warmup=40, rate_every=10)
    assert [learning_rate(training, step) for step in (0, 9, 10, 39, 40, 1000)] == [0.25, 0.25, 0.5, 1, 1, 1]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({}, "give one of network.letters, network.file and network.zoo, got none"),
        ({"letters": "C", "zoo": "n4"}, "got network.letters and network.zoo"),
        ({"zoo": "n4x"}, "the zoo has no network 'n4x'. Did you mean 'n4'"),
        ({"letters": "CPC"}, "'max_pool1' is a max-pool"),
        ({"letters": "C", "out_channels": 2}, "needs 1 output channel, but the network has 2"),
        ({"letters": "C", "kernel": "3,x"}, "a size is an integer or 'z,y,x', got '3,x'"),
        ({"zoo": "vd2d3d"}, "needs 1 output channel, but the network has 2"),
    ],
)
def test_networks_that_cannot_be_trained(network: dict[str, object], message: str) -> None:
    config = make_config({"network": network})
    with pytest.raises(ConfigError, match=message):
        check_net(config, make_network(config.network))


def test_sizes_per_letter() -> None:
    net = make_network(make_config({"network": {"letters": "CC", "kernel": [3, [1, 5, 5]]}}).network)
    assert net.field_of_view == (3, 7, 7)
    net = make_network(make_config({"network": {"letters": "CC", "kernel": "1,5,5"}}).network)
    assert net.field_of_view == (1, 9, 9)
