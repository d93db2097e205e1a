"""What computes tiles of one size, and can be sent anywhere: a network, its plan and its parameters as they are now.

A predictor is pickled without its threads and compiled graph. Where it arrives these are made once per process and
kept, so that a thousand tiles share them; tiles of one process are computed one after another, each by all its threads.
"""

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.geometry import Triple
from znn_dask.lower import Options, Plan
from znn_dask.model.core import Core
from znn_dask.model.optimizers import SGD
from znn_dask.model.samples import Batch

Array = npt.NDArray[np.float32]
MOST_KEPT = 2  # compiled predictors of a process

_lock = threading.Lock()  # owns `_known`; held while a tile is computed, so that tiles do not share the CPUs
_known: dict[tuple[str, int | None], Core] = {}


class Predictor:
    """Computes one tile after another; can be pickled.

    Attributes
    ----------
    net : Network
    patch : (z, y, x)
        Output voxels of a tile.
    loss : str
    token : str
        Equal for predictors that compute the same.
    num_workers : int or None
        Threads; None takes those of the Dask worker that it runs on, else all CPUs.
    """

    def __init__(self, core: Core, patch: Triple, num_workers: int | None = None) -> None:
        core.flush()
        self.net, self.patch, self.loss, self.num_workers = core.net, patch, core.loss, num_workers
        self._plan: Plan = core.patch_plan(patch)
        self._options: Options = core.options
        self._policy, self._seed, self._wisdom = core.scheduler.policy, core.seed, core.wisdom
        self._parameters = {name: np.array(a) for name, a in core.public(core.state.parameters).items()}
        self.token = self._digest()

    def __call__(self, images: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of a tile, (channel, z, y, x), from what it reads."""
        batch = Batch({name: image[np.newaxis] for name, image in images.items()}, {}, {}, 1, True)
        with _lock:
            core = self._core()
            values = core.programs.forward(self._plan).run(core.values(batch))
        return {name: array[0] for name, array in values.items()}

    def _core(self) -> Core:
        n_workers = self.num_workers
        key = self.token, n_workers
        if key not in _known:
            while len(_known) >= MOST_KEPT:
                _known.pop(next(iter(_known))).scheduler.close()
            how = self._seed, n_workers, self._policy, self._wisdom
            core = Core(self.net, self._plan, self._options, self.loss, SGD(), *how)
            core.start(self._parameters)
            _known[key] = core
        return _known[key]

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for text in (self.net.to_text(), self._plan.to_json(), repr(self.loss), str(self._wisdom)):
            digest.update(text.encode())
        for name, array in sorted(self._parameters.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    def __dask_tokenize__(self) -> Any:
        return type(self).__name__, self.token, self.num_workers

    def __repr__(self) -> str:
        return f"<Predictor: tiles of {self.patch} (z, y, x), {self.net.n_parameters:,} parameters>"


def close_all() -> None:
    """End the threads that predictors of this process have started."""
    with _lock:
        while _known:
            _known.popitem()[1].scheduler.close()
