"""`Model.predict`: whole volumes in memory, in files of others' making, or as dask arrays."""

from typing import Any

import dask.array
import numpy as np

from znn_dask.geometry import Triple
from znn_dask.model import predict
from znn_dask.model.core import Core
from znn_dask.model.lazy import lazy_result
from znn_dask.model.predict import Progress, Request, check_out, choose_tiling, predict_scene, see
from znn_dask.model.predictor import Predictor
from znn_dask.model.samples import by_name


def predict_volume(core: Core, volume: Any, out: Any, request: Request, progress: Progress | None) -> dict[str, Any]:
    """Return the outputs by name, (channel, z, y, x); see `Model.predict`."""
    core.flush()
    net, finish = core.net, request.finish
    volumes = by_name(volume, list(net.inputs), "input")
    scene = see(net, volumes, request)
    counts = {name: finish.count(channels) for name, channels in net.outputs.items()}
    results = None if out is None else by_name(out, list(net.outputs), "output")
    if results is not None:
        check_out(results, counts, scene.size)
    tiling = choose_tiling(scene, core.tile_bytes, tile_memory(core))
    if results is None and any(isinstance(given, dask.array.Array) for given in volumes.values()):
        return lazy_result(scene, tiling, Predictor(core, tiling.patch), finish)
    if results is None:
        results = {name: np.empty((n, *scene.size), finish.dtype) for name, n in counts.items()}
    predict_scene(scene, tiling, core.tile_forward(tiling.patch), results, finish, progress)
    return results


def tile_memory(core: Core) -> int:
    """Return the bytes that a tile may take unless told otherwise."""
    return min(predict.MEMORY, core.options.memory or predict.MEMORY)


def predictor_of(model: Any, patch: Triple, num_workers: int | None = None) -> Predictor:
    """Return what computes tiles with a `Model` as it is now."""
    return Predictor(model._core, patch, num_workers)


def tile_bytes_of(model: Any, patch: Triple, num_workers: int | None = None) -> int:
    """Return the bytes that computing one tile with a `Model` takes."""
    n_bytes: int = model._core.tile_bytes(patch, num_workers)
    return n_bytes
