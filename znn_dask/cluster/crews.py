"""Where a command's work is done: on the threads of this process, on processes of this machine, or on a cluster."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from znn_dask.cluster.tiles import run_on_cluster
from znn_dask.cluster.train import DataParallel, wait_for_workers
from znn_dask.cpus import available_cpus
from znn_dask.errors import MissingExtraError, ParameterError
from znn_dask.infer.files import Crew
from znn_dask.infer.run import run_local
from znn_dask.model import Model

CONNECT_S = 30.0
SLOTS = 2  # tasks at once in a process that is started here: one tile is read or written while another is computed
CLUSTER_OPTIONS = (
    click.option(
        "--scheduler", metavar="ADDRESS", help="Of a Dask cluster that computes, for instance tcp://host:8786."
    ),
    click.option("--cluster", type=click.IntRange(min=1), help="Compute on so many processes of this machine."),
    click.option("--tls-ca", metavar="FILE", help="Of a cluster with TLS: the authority's certificate,"),
    click.option("--tls-cert", metavar="FILE", help="ours,"),
    click.option("--tls-key", metavar="FILE", help="and its key."),
)


@dataclass(frozen=True)
class Reach:
    """What a command says about where to compute.

    Attributes
    ----------
    scheduler : str or None
        Address of a Dask scheduler.
    cluster : int or None
        Processes of this machine.
    num_workers : int or None
        Threads of each process.
    tls_ca, tls_cert, tls_key : str or None
        PEM files.
    """

    scheduler: str | None = None
    cluster: int | None = None
    num_workers: int | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


@contextlib.contextmanager
def crew_on(reach: Reach, model: Model) -> Iterator[Crew]:
    """Give the crew that a command asks for; a cluster that it starts ends with the block.

    Raises
    ------
    ParameterError
        If options contradict each other, or nobody answers at the address.
    MissingExtraError
        If distributed is not installed.
    """
    if _is_here(reach):
        yield Crew(run_local, model.num_workers)
        return
    with connected(reach) as client:
        yield crew_of(client, _threads(reach))


@contextlib.contextmanager
def trained_on(reach: Reach) -> Iterator[Callable[[Model], DataParallel] | None]:
    """Give what makes the steps of a model where a command asks for it, None for the model itself.

    Raises
    ------
    ParameterError, MissingExtraError, DataError
        As `crew_on`; also if the cluster has no worker.
    """
    if _is_here(reach):
        yield None
        return
    with connected(reach) as client:
        wait_for_workers(client, reach.cluster or 1)
        threads = client.nthreads().values()
        yield DataParallel.on(client, num_workers=_threads(reach) or max(threads))


def _is_here(reach: Reach) -> bool:
    """Return whether all is computed in this process; raise a ParameterError if options contradict each other."""
    if reach.scheduler is not None and reach.cluster is not None:
        raise ParameterError("give --scheduler for a cluster that runs, or --cluster to start one here, not both")
    tls = [reach.tls_ca, reach.tls_cert, reach.tls_key]
    if any(tls) and (reach.scheduler is None or not all(tls)):
        raise ParameterError("TLS needs --scheduler tls://..., --tls-ca, --tls-cert and --tls-key together")
    return reach.scheduler is None and reach.cluster is None


def _threads(reach: Reach) -> int | None:
    """Return the threads of each process; None where a cluster decides."""
    if reach.num_workers is None and reach.cluster is not None:
        return max(1, available_cpus() // reach.cluster)
    return reach.num_workers


def crew_of(client: Any, num_workers: int | None = None) -> Crew:
    """Return the crew of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    num_workers : int, optional
        Threads that compute a tile on each worker; None takes as many as the worker has.
    """
    threads = client.nthreads().values()
    return Crew(partial(run_on_cluster, client), num_workers or max(threads, default=1), max(1, len(threads)))


@contextlib.contextmanager
def connected(reach: Reach) -> Iterator[Any]:
    """Give a client of the cluster that a command asks for; one that is started here ends with the block."""
    distributed = _distributed()
    if reach.scheduler is None:
        n = reach.cluster or 1
        options = {
            "n_workers": n,
            "threads_per_worker": SLOTS,
            "memory_limit": 0,
            "dashboard_address": "127.0.0.1:0",
            "preload": ["znn_dask.cluster.patient"],
        }
        with (
            distributed.LocalCluster(processes=True, silence_logs=logging.CRITICAL, **options) as cluster,
            distributed.Client(cluster) as client,
        ):
            click.echo(f"dashboard: {client.dashboard_link}", err=True)
            yield client
        return
    security = None
    if reach.tls_ca is not None:
        security = distributed.Security(
            tls_ca_file=reach.tls_ca,
            tls_client_cert=reach.tls_cert,
            tls_client_key=reach.tls_key,
            require_encryption=True,
        )
    try:
        client = distributed.Client(reach.scheduler, security=security, timeout=CONNECT_S)
    except (OSError, ValueError, TypeError) as error:
        raise ParameterError(
            f"no Dask scheduler answers at {reach.scheduler}: {' '.join(str(error).split())}. Is it running, and are "
            "address and certificates right?"
        ) from error
    with _quiet(), client:
        yield client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what distributed logs about a lost connection to itself: the command says it in a line."""
    loggers = [logging.getLogger(f"distributed.{name}") for name in ("client", "core", "utils", "batched")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _distributed() -> Any:
    try:
        import distributed  # optional: the extra 'distributed'
    except ImportError as error:
        raise MissingExtraError("clusters need the extra: pip install 'znn-dask[distributed]'") from error
    return distributed
