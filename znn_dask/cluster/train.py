"""Data-parallel training: every worker computes the gradients of its share of a minibatch, one model makes the updates.

Shares are combined in their order with the weight of their examples, so N workers make the step that one process makes
with the whole minibatch, to float32 rounding, and the same step every time. The model that is trained lives here: it is
saved as ever, and goes on with any number of workers. A share whose worker dies is computed again by another.
"""

import threading
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import DataError, ParameterError
from znn_dask.model import SGD, Model
from znn_dask.model.compiled import fresh_token
from znn_dask.model.core import Core
from znn_dask.model.samples import Batch
from znn_dask.net import Dropout, Normalisation

Array = npt.NDArray[np.float32]
RETRIES = 3  # of a share whose worker died
ATTEMPTS = 3  # to send parameters again after every worker that had them was lost

_lock = threading.Lock()  # owns `_known`; held while a share is computed
_known: dict[str, Core] = {}


class Recipe:
    """What makes the machinery of a model anew in another process; parameters come with every step."""

    def __init__(self, core: Core, num_workers: int | None) -> None:
        self.token = fresh_token()
        self.parts = core.net, core.plan, core.options, core.loss
        self.rest = core.seed, num_workers, core.scheduler.policy, core.wisdom

    def core(self) -> Core:
        """Return the machinery, made once in a process."""
        if self.token not in _known:
            while _known:
                _known.popitem()[1].scheduler.close()
            _known[self.token] = Core(*self.parts, SGD(), *self.rest)
        return _known[self.token]


def share_gradients(
    recipe: Recipe, parameters: Mapping[str, Array], step: int, batch: Batch
) -> tuple[float, dict[Hashable, Array]]:
    """Return the loss of a share, and the gradient of every block of parameters."""
    with _lock:
        core = recipe.core()
        core.start(parameters, steps=step)
        results = core.program(batch, pending=False).run(core.values(batch))
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
        If what a step computes depends on the whole minibatch at once: normalisation over the batch, dropout, gradients
        that are accumulated or clipped.
    """

    def __init__(self, model: Model, client: Any, shares: int | None = None, num_workers: int | None = None) -> None:
        core = model._core
        for edge in core.net.edges.values():
            if isinstance(edge.op, Dropout) or (isinstance(edge.op, Normalisation) and edge.op.over == "batch"):
                raise ParameterError(
                    f"edge {edge.name!r} ({edge.op.kind}) sees the whole minibatch, which no worker does; train this "
                    "network in one process, or normalise over instances or groups"
                )
        optimizer = core.optimizer
        if optimizer.accumulate > 1 or optimizer.clip_norm is not None or optimizer.clip_value is not None:
            raise ParameterError("accumulated or clipped gradients are not combined over workers; train in one process")
        self.model, self._client = model, client
        self.shares = shares or max(1, len(client.nthreads()))
        self._recipe = Recipe(core, num_workers)

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
        found = self._computed(core.public(core.state.parameters), core.state.step_count, parts)
        shares = [np.float32(part.size / batch.size) for part in parts]
        results: dict[Any, Any] = {
            ("gradient", name): combined([gradients[name] for _, gradients in found], shares) for name in found[0][1]
        }
        results["loss"] = sum(loss * part.size for (loss, _), part in zip(found, parts, strict=True)) / batch.size
        return core.commit(results, core.learning_rate)

    def _computed(self, parameters: Any, step: int, parts: list[Batch]) -> list[tuple[float, dict[Hashable, Array]]]:
        from distributed import CancelledError, KilledWorker
        from distributed.comm.core import CommClosedError

        client, token = self._client, fresh_token()
        for _ in range(ATTEMPTS):
            try:
                recipe, sent = client.scatter([self._recipe, parameters], broadcast=True, hash=False)
                futures = [
                    client.submit(
                        share_gradients,
                        recipe,
                        sent,
                        step,
                        part,
                        key=(f"gradients-{token}", n),
                        retries=RETRIES,
                        pure=False,
                    )
                    for n, part in enumerate(parts)
                ]
                found: list[tuple[float, dict[Hashable, Array]]] = client.gather(futures)
            except (CancelledError, CommClosedError):
                token = fresh_token()
                continue
            except KilledWorker as error:
                raise DataError(
                    f"workers of the cluster died {RETRIES} times or more over one share: {error}"
                ) from error
            return found
        raise DataError("the connection to the Dask cluster was lost; the model is as before this step")


def split(batch: Batch, count: int) -> list[Batch]:
    """Return a minibatch in parts of nearly equal size, fewer where there are fewer examples."""
    places = np.array_split(np.arange(batch.size), min(count, batch.size))

    def part(arrays: Mapping[str, Any], place: npt.NDArray[np.int64]) -> dict[str, Any]:
        return {name: array[place[0] : place[-1] + 1] for name, array in arrays.items()}

    return [Batch(part(batch.images, p), part(batch.targets, p), part(batch.weights, p), len(p), False) for p in places]


def combined(arrays: list[Array], shares: list[np.float32]) -> Array:
    """Return the weighted sum of arrays, added up in their order."""
    total = shares[0] * arrays[0]
    for share, array in zip(shares[1:], arrays[1:], strict=True):
        total += share * array
    return np.asarray(total, np.float32)
