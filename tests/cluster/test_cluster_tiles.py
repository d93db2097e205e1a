"""Predictions on dask.distributed: identical to one process, whoever dies."""

import contextlib
import datetime
import ipaddress
import logging
import os
import signal
import threading

import numpy as np
import pytest

import znn_dask as znn
from znn_dask.cluster import tiles
from znn_dask.cluster.crews import Reach, connected, crew_of, crew_on
from znn_dask.infer.files import Settings, predict_file
from znn_dask.infer.journal import Journal
from znn_dask.io.volumes import read_volume
from znn_dask.model.predictor import close_all
from znn_dask.net import Convolution, Edge, Network

distributed = pytest.importorskip("distributed", reason="distributed is not installed")
pytestmark = pytest.mark.timeout(240)
NET = Network.parse("CTMC", width=3, kernel=2, out_channels=2)
SIZE, TILE = (14, 20, 26), (6, 9, 10)
VOLUME = np.random.default_rng(0).integers(0, 255, SIZE, dtype=np.uint8)
SAME = Network({"input": 1, "output": 1}, [Edge("c1", "input", "output", Convolution((3, 3, 3), padding="same"))])
ADDRESS = "127.0.0.1:0"


@pytest.fixture(scope="module")
def model():
    with znn.Model(NET, 4, tune=False, num_workers=1, loss="softmax", seed=1) as model:
        yield model
    close_all()


@pytest.fixture(scope="module")
def threads(tmp_path_factory):
    """A cluster of threads of this process."""
    import dask

    with (
        dask.config.set({"temporary-directory": str(tmp_path_factory.mktemp("dask"))}),
        distributed.Client(
            processes=False, n_workers=2, threads_per_worker=2, dashboard_address=ADDRESS, silence_logs=logging.CRITICAL
        ) as client,
    ):
        yield client


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "in.npy", VOLUME)
    return tmp_path / "in.npy"


@pytest.mark.parametrize("name", ["a.zarr", "a.npy"])
def test_a_cluster_gives_what_one_process_gives(model, threads, source, tmp_path, name):
    told = []
    settings = Settings(tile=TILE)
    predict_file(model, source, tmp_path / f"ref{name}", settings)
    predict_file(model, source, tmp_path / name, settings, crew_of(threads, 1), lambda *call: told.append(call))
    np.testing.assert_array_equal(read_volume(tmp_path / name), read_volume(tmp_path / f"ref{name}"))
    assert told == [(n, 27) for n in range(28)]


def test_the_dashboard_knows_what_tasks_do(model, threads, source, tmp_path):
    predict_file(model, source, tmp_path / "a.zarr", Settings(tile=TILE), crew_of(threads, 1))
    prefixes = threads.run_on_scheduler(lambda dask_scheduler: sorted(dask_scheduler.task_prefixes))
    assert {"read", "compute", "write"} <= set(prefixes)


def test_padded_networks_too(threads, source, tmp_path):
    with znn.Model(SAME, 4, tune=False, num_workers=1, seed=1) as same:
        settings = Settings(tile=(8, 8, 8))
        predict_file(same, source, tmp_path / "ref.zarr", settings)
        predict_file(same, source, tmp_path / "a.zarr", settings, crew_of(threads, 1))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zarr"), read_volume(tmp_path / "ref.zarr"))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_few_tiles_are_under_way(model, threads, source, tmp_path, monkeypatch):
    open_, most = set(), []
    original, record = tiles._Tasks.submit, tiles.record

    def submit(self, stage):
        open_.add(stage.number)
        most.append(len(open_))
        return original(self, stage)

    def done(job, journal, number):
        record(job, journal, number)
        open_.discard(number)

    monkeypatch.setattr(tiles._Tasks, "submit", submit)
    monkeypatch.setattr(tiles, "record", done)
    predict_file(model, source, tmp_path / "a.zarr", Settings(tile=TILE), crew_of(threads, 1))
    assert max(most) == tiles.AHEAD * 2


def test_an_error_of_a_task_is_the_error_and_the_rest_is_kept(model, threads, source, tmp_path, monkeypatch):
    settings = Settings(tile=TILE)
    original = tiles.read_step

    def broken(job, number):
        if number == 20:
            raise znn.DataError("in.npy cannot be read there")
        return original(job, number)

    with monkeypatch.context() as patch:
        patch.setattr(tiles, "read_step", broken)
        with pytest.raises(znn.DataError, match="cannot be read there"):
            predict_file(model, source, tmp_path / "a.zarr", settings, crew_of(threads, 1))
    with Journal(tmp_path / ".a.zarr.progress", "it") as journal:
        assert 5 < len(journal.done) < 27
    predict_file(model, source, tmp_path / "a.zarr", settings)
    predict_file(model, source, tmp_path / "ref.zarr", settings)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zarr"), read_volume(tmp_path / "ref.zarr"))


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_give_the_same_and_one_may_be_killed(model, source, tmp_path, processes):
    settings = Settings(tile=(4, 5, 6))
    predict_file(model, source, tmp_path / "ref.zarr", settings)
    killed = []

    with crew_on(Reach(cluster=processes), model) as crew:
        client = crew.run.args[0]

        def kill(done, total):
            if done >= total // 3 and not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        predict_file(model, source, tmp_path / "a.zarr", settings, crew, kill)
        assert client.scheduler_info()["type"] == "Scheduler"
    assert killed
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zarr"), read_volume(tmp_path / "ref.zarr"))


def test_a_scheduler_that_is_lost_leaves_a_record_to_go_on_from(model, source, tmp_path):
    settings = Settings(tile=(4, 5, 6))
    cluster = distributed.LocalCluster(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=ADDRESS, silence_logs=logging.CRITICAL
    )
    client = distributed.Client(cluster)
    closed = threading.Event()

    def close(done, total):
        if done >= total // 3 and not closed.is_set():
            closed.set()
            cluster.close()

    try:
        with pytest.raises(znn.DataError, match="connection to the Dask cluster was lost; run the command again"):
            predict_file(model, source, tmp_path / "a.zarr", settings, crew_of(client, 1), close)
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=2)
        cluster.close()
    assert not (tmp_path / "a.zarr").exists()
    predict_file(model, source, tmp_path / "a.zarr", settings)
    predict_file(model, source, tmp_path / "ref.zarr", settings)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zarr"), read_volume(tmp_path / "ref.zarr"))


# --- TLS ---


def certificates(folder):
    """Write an authority of our own, a certificate of it and its key; return their names."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def made(subject, issuer, key, signer, authority):
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(signer, hashes.SHA256())
        )

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    contents = {
        "ca.pem": made("authority", "authority", root, root, True).public_bytes(pem),
        "cert.pem": made("localhost", "authority", own, root, False).public_bytes(pem),
        "key.pem": private,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in contents]


def test_tls(model, source, tmp_path):
    authority, certificate, key = certificates(tmp_path)
    sides = {
        f"tls_{role}_{what}": path
        for role in ("client", "scheduler", "worker")
        for what, path in (("cert", certificate), ("key", key))
    }
    security = distributed.Security(tls_ca_file=authority, require_encryption=True, **sides)
    settings = Settings(tile=TILE)
    with distributed.LocalCluster(
        protocol="tls://",
        security=security,
        processes=False,
        n_workers=1,
        dashboard_address=ADDRESS,
        host="127.0.0.1",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        with crew_on(Reach(address, None, 1, authority, certificate, key), model) as crew:
            predict_file(model, source, tmp_path / "a.zarr", settings, crew)
        with pytest.raises(znn.ParameterError, match="no Dask scheduler answers"), connected(Reach(address)):
            pass
    predict_file(model, source, tmp_path / "ref.zarr", settings)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.zarr"), read_volume(tmp_path / "ref.zarr"))


# --- what is wrong ---


@pytest.mark.parametrize(
    ("reach", "words"),
    [
        (Reach("tcp://127.0.0.1:1", 2), "not both"),
        (Reach(cluster=2, tls_ca="a.pem"), "TLS needs --scheduler"),
        (Reach("tls://127.0.0.1:1", tls_ca="a.pem"), "TLS needs --scheduler"),
        (Reach("tcp://127.0.0.1:1"), "no Dask scheduler answers at tcp://127.0.0.1:1"),
    ],
)
def test_clusters_that_are_not_there(model, monkeypatch, reach, words):
    monkeypatch.setattr("znn_dask.cluster.crews.CONNECT_S", 1.0)
    with pytest.raises(znn.ParameterError, match=words), crew_on(reach, model):
        pass


def test_a_cluster_without_workers(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, "PATIENCE_S", 0.5)
    with (
        distributed.Client(processes=False, n_workers=0, dashboard_address=ADDRESS, silence_logs=50) as client,
        pytest.raises(znn.DataError, match="no worker after"),
    ):
        predict_file(model, source, tmp_path / "a.zarr", Settings(tile=TILE), crew_of(client, 1))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
