"""The search of sizes: only sizes that can be, within the memory, and the fastest of what was measured."""

import re

import numpy as np
import pytest

import znn_dask as znn
from znn_dask.cli import main
from znn_dask.geometry import volume
from znn_dask.lower import Options, make_plan
from znn_dask.model import sizes
from znn_dask.model.memory import step_bytes
from znn_dask.model.samples import output_sizes
from znn_dask.model.sizes import Estimate, SizeSearch, fitting_size
from znn_dask.train.config_file import make_config

pytestmark = pytest.mark.timeout(100)

MB = 10**6


def padded() -> znn.Network:
    """Return a network that pads and pools: its sizes are multiples of 4, and 2 along z."""
    net = znn.Network.builder(padding="same")
    x = net.input("input")
    first = net.relu(net.conv(x, 4, 3))
    second = net.relu(net.conv(net.max_pool(first, (1, 2, 2)), 4, 3))
    third = net.relu(net.conv(net.max_pool(second, 2), 4, 3))
    up = net.upsample(net.upsample(third, 2), (1, 2, 2))
    net.output(net.conv(net.concat([first, up]), 1, 1))
    return net.build()


NETS = {
    "valid": znn.Network.parse("CTC", width=4, kernel=3, out_channels=1),
    "dense": znn.Network.parse("CTMCTMC", width=4, kernel=3, out_channels=1),
    "flat": znn.Network.parse("CTMCTMC", width=4, kernel=3, ndim=2, out_channels=1),
    "pools": znn.Network.parse("CTPCTC", width=4, kernel=3, out_channels=1),
    "padded": padded(),
}


@pytest.mark.parametrize(
    ("name", "most", "size"),
    [
        ("valid", (7, 5, 9), (7, 5, 9)),
        ("dense", (7, 9, 4), (4, 8, 4)),
        ("dense", (7, 9, 3), None),
        ("flat", (1, 13, 16), (1, 12, 16)),
        ("pools", (7, 5, 9), (7, 5, 9)),
        ("padded", (5, 9, 15), (4, 8, 12)),
        ("padded", (1, 9, 15), None),
    ],
)
def test_the_largest_size_of_which_nothing_is_in_vain(name, most, size):
    assert fitting_size(NETS[name], most) == size
    if size is not None:
        NETS[name].node_sizes(size)


@pytest.mark.parametrize("name", NETS)
def test_estimates_can_be_and_fit(name):
    net, limit = NETS[name], 2 * MB
    found = SizeSearch(net, limit, 2, batches=(1, 2)).estimates()
    assert len({(e.output_size, e.batch) for e in found}) == len(found) > 3
    assert {e.batch for e in found} == {1, 2}
    assert [e.rate for e in found] == sorted((e.rate for e in found), reverse=True)
    for each in found:
        net.node_sizes(each.output_size)
        assert all(n % s == 0 for n, s in zip(each.output_size, net.sparsity, strict=True))
        assert each.voxels == volume(each.output_size) * each.batch
    # The predicted peak is that of the model, so the largest is within a rung of the limit.
    largest = max(found, key=lambda e: e.peak_bytes)
    assert limit / 4 < largest.peak_bytes <= limit
    plan = make_plan(net, output_sizes(net, largest.output_size), largest.batch, Options())
    assert largest.peak_bytes == step_bytes(net, plan, 2, rule=znn.SGD().rule)


def test_more_memory_is_never_slower():
    rates = [SizeSearch(NETS["dense"], limit, 1, batches=(1,)).estimates()[0].rate for limit in (MB, 4 * MB, 16 * MB)]
    assert rates[0] < rates[1] < rates[2]


def test_the_optimiser_counts():
    peaks = []
    for optimizer in (znn.SGD(), znn.Adam()):
        search = SizeSearch(NETS["flat"], MB, 1, batches=(1,), optimizer=optimizer)
        (least,) = [e.peak_bytes for e in search.estimates() if e.output_size == (1, 4, 4)]
        peaks.append(least)
    assert peaks[0] < peaks[1]


def test_no_output_is_larger_than_the_volume():
    for name, largest in (("dense", (8, 28, 20)), ("padded", (10, 28, 20))):
        found = SizeSearch(NETS[name], 100 * MB, 1, batches=(1,), within=(10, 30, 21)).estimates()
        assert max(e.output_size for e in found) == largest


def test_the_shape_follows_the_field_of_view():
    net = znn.Network.parse("CTC", width=4, kernel=(1, 9, 9), out_channels=1)
    found = SizeSearch(net, 2 * MB, 1, batches=(1,)).estimates()
    assert any(e.output_size[0] * 8 < e.output_size[1] for e in found)
    assert any(e.output_size[0] == e.output_size[1] for e in found)


def test_small_limits_lead_downwards_and_end():
    found = SizeSearch(znn.Network.parse("CTCTC", width=4, kernel=9), 3 * MB, 1, batches=(1,)).estimates()
    assert found[0].peak_bytes <= 3 * MB
    with pytest.raises(znn.MemoryLimitError, match=r"memory of 9.77 kiB is too little .* needs .* Give as much"):
        SizeSearch(NETS["dense"], 10_000, 1).estimates()
    with pytest.raises(znn.ShapeError, match=r"no output of at most \(3, 9, 9\) voxels"):
        SizeSearch(NETS["dense"], MB, 1, within=(3, 9, 9)).estimates()


def test_the_fastest_measured_is_the_choice(monkeypatch):
    found = [Estimate((4, 4, n), 1, 1e-3 * n, 100) for n in (8, 4, 2, 1)]
    times = {8: 9.0, 4: None, 2: 1.0, 1: 0.1}

    def measure(_net, each, *_):
        return sizes.replace(each, measured_s=times[each.output_size[2]])

    monkeypatch.setattr(sizes, "measure", measure)
    chosen = SizeSearch(NETS["dense"], 100, 1).measured(found, 2)
    # The second had no plan within the limit: the third took its place, and is the faster one.
    assert [e.output_size[2] for e in chosen] == [2, 8, 1]
    assert [e.measured_s for e in chosen] == [1.0, 9.0, None]
    assert chosen[0].epoch_updates((4, 4, 5)) == 3


@pytest.mark.parametrize("name", ["dense", "padded"])
def test_updates_are_measured(name):
    net = NETS[name]
    each = Estimate((4, 8, 8), 2, 1.0, 0)
    told: list[str] = []
    found = sizes.measure(net, each, 1, znn.SGD(), 100 * MB, told.append)
    assert told == ["measuring 4x8x8, batch 2"]
    assert found.measured_s is not None
    assert 0 < found.measured_s < 1
    with znn.Model(net, (4, 8, 8), num_workers=1, batch=2) as model:
        assert found.peak_bytes == model.plan.peak_bytes
    assert sizes.measure(net, each, 1, znn.SGD(), found.peak_bytes - 1).measured_s is None


# --- the command ---

SEARCH = ["tune", "CTMC", "--width", "4", "--search-size", "--memory", "1MB", "--tries", "2", "--workers", "1"]


def test_the_command_prints_a_table_and_what_to_configure(capsys):
    assert main([*SEARCH, "--volume", "20,64,64"]) == 0
    out = capsys.readouterr().out
    table, words = out.split("\n\n")
    head, *rows = table.splitlines()
    for column in ("output size", "batch", "counted ms", "measured ms", "Mvoxel/s", "peak", "an epoch"):
        assert column in head
    chosen = re.fullmatch(r"\*\s+(\d+)x(\d+)x(\d+)\s+(\d)\s+.*", rows[0])
    assert chosen is not None
    z, y, x, batch = chosen.groups()
    assert sum("~" not in row for row in rows if "x" in row) == 2, "as many were measured"
    (line,) = re.findall(r"training: \{.*\}", words)
    assert line == f"training: {{output_size: [{z}, {y}, {x}], batch: {batch}}}"
    assert f"training.output_size={z},{y},{x} training.batch={batch}" in words
    updates = -(-20 * 64 * 64 // (int(z) * int(y) * int(x) * int(batch)))
    assert f"an epoch of 20x64x64 voxels is {updates} update" in words
    # The configuration takes it.
    config = make_config({}, words.rpartition("CONFIG.yaml`: ")[2].split())
    assert config.training.batch == int(batch)
    assert config.training.output_size == f"{z},{y},{x}"


def test_the_command_takes_one_batch_and_a_configuration(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("network: {letters: CTC, width: 4, ndim: 2}\ntraining: {optimizer: adam}\n")
    assert main(["tune", str(path), "--search-size", "--memory", "500kB", "--tries", "1", "--batch", "3"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"training: \{output_size: \[1, \d+, \d+\], batch: 3\}", out)
    assert "epoch" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CTC"], "Missing option '--output-size' or '--search-size'"),
        (["CTC", "--search-size", "--output-size", "8"], "give no '--output-size'"),
        (["CTC", "--search-size", "--memory", "much"], "memory must be bytes above 0"),
        (["CTC", "--search-size", "--memory", "1kB"], "is too little"),
        (["CTC", "--search-size", "--volume", "9,9"], "volume must be"),
        (["CTPC", "--search-size", "--volume", "9,9,9"], "an output for every voxel"),
    ],
)
def test_the_command_refuses(capsys, arguments, words):
    assert main(["tune", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_noise_has_a_value_for_every_voxel_of_every_input():
    found = sizes._noise(NETS["dense"], (3, 4, 5), 2)
    assert found["input"].shape == (2, 1, 3, 4, 5)
    assert found["input"].dtype == np.float32
