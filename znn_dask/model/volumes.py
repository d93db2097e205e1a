"""`Model.predict`: whole volumes in memory, in files of others' making, or as dask arrays."""

from collections.abc import Iterable
from typing import Any

import dask.array
import numpy as np

from znn_dask.geometry import Triple
from znn_dask.model import predict
from znn_dask.model.core import Core
from znn_dask.model.lazy import lazy_result
from znn_dask.model.outputs import Finish
from znn_dask.model.predict import Progress, Request, check_out, choose_tiling, predict_scene, see
from znn_dask.model.predictor import Predictor
from znn_dask.model.samples import by_name, single


class Predicting:
    """The part of `Model` that predicts whole volumes."""

    _core: Core

    def predict(
        self,
        volume: Any,
        out: Any = None,
        border: str | None = "mirror",
        progress: Progress | None = None,
        *,
        region: Any = None,
        mask: Any = None,
        channels: Iterable[int] | None = None,
        dtype: str = "float32",
        probabilities: bool = False,
        blend: str = "gaussian",
    ) -> Any:
        """Compute the output for every voxel of a volume, tile by tile.

        Parameters
        ----------
        volume : array of shape (z, y, x) or (channel, z, y, x)
            Of any size; numpy, zarr, h5py or dask, read by region. Or dict of input to these.
        out : array of shape (channel, z, y, x), optional
            Where to write, for instance a zarr array; else a new numpy array. Or dict of output to these.
        border : "mirror" | "constant" | None
            What lies outside the volume: its mirror image, or zeros. None keeps to what is inside: the output is then
            smaller by ``field_of_view - 1``. A padded network has a border of its own.
        progress : callable(done, total), optional
            Told about tiles.
        region : three slices, optional
            The part of the result that is wanted; it sees what lies around it.
        mask : array of shape (z, y, x), optional
            Of the volume's size; where it is 0 nothing is predicted, which gives 0.
        channels, dtype, probabilities : ints; "float32" | "float16" | "uint8" | "uint16"; bool
            The outputs wanted; their type (as integers, 0 to 1 is 0 to the largest); whether softmax or logistic, as
            the loss says, is applied.
        blend : "gaussian" | "bump"
            How overlapping tiles of a padded network are weighed.

        Returns
        -------
        array of shape (channel, z, y, x)
            ``out`` if that was given; a dask array, of which nothing is computed yet, for a dask array; else numpy.
            A dict where there are several outputs.

        Raises
        ------
        ShapeError, ParameterError
            If something does not fit, an argument has no valid value, or the network is not dense: pools or strides.
        """
        finish = Finish.of(self._core.loss, probabilities, channels, dtype)
        return single(predict_volume(self._core, volume, out, Request(border, region, mask, blend, finish), progress))


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
