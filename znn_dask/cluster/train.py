"""Data-parallel training: every worker computes the gradients of its share of a minibatch, one model makes the updates.

Shares are combined in their order with the weight of their examples, so N workers make the step that one process makes
with the whole minibatch, to float32 rounding, and the same step every time: dropout drops what it would drop there,
and gradients are accumulated and clipped where they come together. The model that is trained lives here: it is saved as
ever, and goes on with any number of workers. A share whose worker dies is computed again by another.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

import dask
import numpy as np
import numpy.typing as npt

from znn_dask.errors import DataError, ParameterError
from znn_dask.model import SGD, Model
from znn_dask.model.core import Core
from znn_dask.model.samples import Batch
from znn_dask.net import Normalisation
from znn_dask.ops.dropout import Share

Array = npt.NDArray[np.float32]
RETRIES = 3  # of a share whose worker died
ATTEMPTS = 3  # to send parameters again after every worker that had them was lost
PATIENCE_S = 60.0  # for a worker, where there is none
# The shares are in the tasks, so that a worker that dies takes none of them along; Dask warns of large ones.
SENDING = {"distributed.admin.large-graph-warning-threshold": "1 TiB"}

_lock = threading.Lock()  # owns `_known`; held while a share is computed
_known: dict[str, Core] = {}


class Recipe:
    """What makes the machinery of a model anew in another process; parameters come with every step."""

    def __init__(self, core: Core, num_workers: int | None) -> None:
        self.token = uuid4().hex  # several programs may use one cluster
        self.parts = core.net, core.plan, core.options, core.loss
        self.rest = core.seed, num_workers, core.scheduler.policy, core.wisdom

    def core(self) -> Core:
        """Return the machinery, made once in a process."""
        if self.token not in _known:
            while _known:
                _known.popitem()[1].scheduler.close()
            _known[self.token] = Core(*self.parts, SGD(), *self.rest)
        return _known[self.token]


class Part(NamedTuple):
    """Some examples of a minibatch, and the number of the first of them."""

    batch: Batch
    first: int


def share_gradients(
    recipe: Recipe, parameters: Mapping[str, Array], share: Share, batch: Batch
) -> tuple[float, dict[Hashable, Array]]:
    """Return the loss of a share, and the gradient of every block of parameters."""
    with _lock:
        core = recipe.core()
        core.start(parameters, steps=share.step)
        results = core.program(batch, pending=False).run({**core.values(batch), "step": share})
        return float(results["loss"]), {name: np.array(results["gradient", name]) for name in core.state.parameters}


class DataParallel:
    """A model that is trained by the workers of a Dask cluster.

    Parameters
    ----------
    model : Model
        Changed by `step` as by its own.
    client : distributed.Client
    shares : int, optional
        Parts of every minibatch; None takes as many as there are workers now. Results depend on it in the last bits.
    num_workers : int, optional
        Threads of each worker; None takes all CPUs that it may use.

    Raises
    ------
    ParameterError
        If the network normalises over the batch: the mean of the whole minibatch is known to no worker.
    """

    def __init__(self, model: Model, client: Any, shares: int | None = None, num_workers: int | None = None) -> None:
        for edge in model.net.edges.values():
            if isinstance(edge.op, Normalisation) and edge.op.over == "batch":
                raise ParameterError(
                    f"edge {edge.name!r} normalises over the batch, so it needs the mean of the whole minibatch in the "
                    "middle of a step, which no worker knows; normalise over 'instance' or 'group' instead, or train "
                    "this network in one process"
                )
        self.model, self._client, self._num_workers = model, client, num_workers
        self.shares = shares or max(1, len(client.nthreads()))
        self._recipe: tuple[Core, Recipe] | None = None

    @classmethod
    def on(cls, client: Any, shares: int | None = None, num_workers: int | None = None) -> Callable[[Model], Any]:
        """Return what `Trainer` takes as ``parallel``: it makes the model's steps on this cluster."""
        return partial(cls, client=client, shares=shares, num_workers=num_workers)

    def __str__(self) -> str:
        shares = min(self.shares, self.model.plan.plan.batch)
        idle = f" ({self.shares - shares} idle: a minibatch has {shares})" if shares < self.shares else ""
        return f"{self.shares} worker processes{idle}"

    def step(self, x: Any, target: Any, weight: Any = None) -> float:
        """Make one update and return the loss before it; as `Model.step`, with a batch axis.

        Raises
        ------
        DataError
            If the cluster is lost; the model is then as before.
        """
        core = self.model._core
        core.flush()
        batch = self.model._read(x, target, weight)
        parts = split(batch, self.shares)
        found = self._computed(core, core.public(core.state.parameters), parts, batch.size)
        shares = [np.float32(part.batch.size / batch.size) for part in parts]
        gradients = {name: combined([each[name] for _, each in found], shares) for name in found[0][1]}
        loss = sum(loss * part.batch.size for (loss, _), part in zip(found, parts, strict=True)) / batch.size
        return core.take(loss, gradients)

    def steps(self, samples: Iterable[tuple[Any, ...]]) -> Iterator[float]:
        """Make one step per sample (x, target[, weight]) and yield its loss; the next sample is provided meanwhile."""
        left = iter(samples)
        with ThreadPoolExecutor(1, thread_name_prefix="znn-dask-samples") as provider:
            coming = provider.submit(next, left, None)
            while (sample := coming.result()) is not None:
                coming = provider.submit(next, left, None)
                yield self.step(*sample)

    def _computed(
        self, core: Core, parameters: Any, parts: list[Part], n_examples: int
    ) -> list[tuple[float, dict[Hashable, Array]]]:
        from distributed import KilledWorker

        if self._recipe is None or self._recipe[0] is not core:
            self._recipe = core, Recipe(core, self._num_workers)
        shares = [Share(core.state.step_count, part.first, n_examples) for part in parts]
        for attempt in range(ATTEMPTS):
            try:
                return self._attempt(self._recipe[1], parameters, shares, parts)
            except KilledWorker as error:
                raise DataError(
                    f"workers of the cluster died {RETRIES} times or more over one share; give them more memory, or "
                    "take smaller patches or minibatches"
                ) from error
            except DataError:
                raise
            except Exception as error:  # a client whose scheduler is gone raises whatever it likes
                if self._client.status != "running" or (attempt + 1 == ATTEMPTS and _lost(error)):
                    raise DataError(
                        "the connection to the Dask cluster was lost; the model is as before this step, and a run goes "
                        "on from its last checkpoint with the same command"
                    ) from error
                if not _lost(error):
                    raise
        raise AssertionError("every attempt returns or raises")

    def _attempt(
        self, recipe: Recipe, parameters: Any, shares: list[Share], parts: list[Part]
    ) -> list[tuple[float, dict[Hashable, Array]]]:
        client, token = self._client, uuid4().hex
        wait_for_workers(client)
        made, sent = client.scatter([recipe, parameters], broadcast=True, hash=False)
        with dask.config.set(SENDING):
            futures = [
                client.submit(
                    share_gradients,
                    made,
                    sent,
                    share,
                    part.batch,
                    key=(f"gradients-{token}", n),
                    retries=RETRIES,
                    pure=False,
                )
                for n, (share, part) in enumerate(zip(shares, parts, strict=True))
            ]
        _wait(client, futures)
        found: list[tuple[float, dict[Hashable, Array]]] = client.gather(futures)
        return found


def _lost(error: Exception) -> bool:
    """Return whether an error says that what was sent is gone, with the workers that had it."""
    from distributed import CancelledError
    from distributed.comm.core import CommClosedError

    return isinstance(error, CancelledError | CommClosedError)


def wait_for_workers(client: Any, count: int = 1) -> None:
    """Wait until a cluster has so many workers; raise a DataError if they do not come."""
    try:
        client.wait_for_workers(count, timeout=PATIENCE_S)
    except TimeoutError as error:
        has = len(client.nthreads()) or "no"
        raise DataError(
            f"the Dask cluster has {has} worker{'s' * (has != 1)} after {PATIENCE_S:.0f} s; start some and run it "
            "again: training goes on from the last checkpoint"
        ) from error


def _wait(client: Any, futures: list[Any]) -> None:
    """Wait for tasks, but not for workers that never come."""
    from distributed import wait

    while True:
        try:
            wait(futures, timeout=PATIENCE_S)
        except TimeoutError:
            wait_for_workers(client)
        else:
            return


def split(batch: Batch, count: int) -> list[Part]:
    """Return a minibatch in parts of nearly equal size, fewer where there are fewer examples."""
    places = np.array_split(np.arange(batch.size), min(count, batch.size))

    def part(arrays: Mapping[str, Any], place: npt.NDArray[np.int64]) -> dict[str, Any]:
        return {name: array[place[0] : place[-1] + 1] for name, array in arrays.items()}

    return [
        Part(Batch(part(batch.images, p), part(batch.targets, p), part(batch.weights, p), len(p), False), int(p[0]))
        for p in places
    ]


def combined(arrays: list[Array], shares: list[np.float32]) -> Array:
    """Return the weighted sum of arrays, added up in their order."""
    total = shares[0] * arrays[0]
    for share, array in zip(shares[1:], arrays[1:], strict=True):
        total += share * array
    return np.asarray(total, np.float32)
