"""Prediction from file to file: `predict_file`. What is bounded, recorded and renamed, and when.

The output has a temporary name until it is complete. Beside it lies a record of its settings and of every finished
block. After any interruption the same call goes on from there, with the same tiles, and gives the same result.
"""

import os
import resource
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from dask.utils import format_bytes

from znn_dask.errors import DataError, MemoryLimitError, ParameterError, ShapeError
from znn_dask.geometry import Triple
from znn_dask.infer.job import Job, forget_all, queue_bytes
from znn_dask.infer.journal import Journal
from znn_dask.infer.measure import fastest_patch
from znn_dask.infer.prepare import Moments, Prepared, moments_of
from znn_dask.infer.run import Progress, run_local
from znn_dask.infer.sink import CHUNK, FORMATS, Sink, chunk_for
from znn_dask.infer.source import FileRegion
from znn_dask.io.source import Source, parse_source
from znn_dask.io.writing import check_destination
from znn_dask.model import Model
from znn_dask.model.memory import as_bytes
from znn_dask.model.outputs import Finish
from znn_dask.model.predict import MEMORY, Box, Request, Scene, choose_tiling, see
from znn_dask.model.tiling import Tiling, tiling_of
from znn_dask.model.volumes import predictor_of, tile_bytes_of

MARGIN = 1.25  # of the memory that is predicted: what threads keep for themselves, and crumbs
ALIGN: Triple = (8, 8, 8)  # voxels; blocks of such sizes divide into chunks
Runner = Callable[[Job, Journal, Progress | None], None]


@dataclass(frozen=True)
class Settings:
    """How a file is predicted.

    Attributes
    ----------
    border, region, blend
        As for `Model.predict`.
    mask : str or None
        A file of the image's size; where it is 0 nothing is predicted.
    channels, dtype, probabilities
        As for `Model.predict`.
    preprocess : "section" | "volume" | "rescale" | "none"
        How the image is prepared.
    clip : (least, greatest), optional
        Values of the image beyond become these, before anything else.
    memory : int, str or None
        Most that this process may take in all, or every process of a cluster: bytes, or "2 GiB".
    tile : (z, y, x) or None
        Output voxels of a tile; None searches for the best that fits.
    measure : bool
        Whether the tile that is found is timed against smaller ones.
    overwrite : bool
        Whether the destination may be replaced.
    restart : bool
        Whether an unfinished prediction with other settings is thrown away.
    shards : bool
        Whether the chunks of a zarr block are packed into one file.
    zarr_format : 2 or 3
    """

    border: str | None = "mirror"
    region: Box | None = None
    mask: str | None = None
    blend: str = "gaussian"
    channels: Iterable[int] | None = None
    dtype: str = "float32"
    probabilities: bool = True
    preprocess: str = "none"
    clip: tuple[float, float] | None = None
    memory: int | str | None = None
    tile: Triple | None = None
    measure: bool = False
    overwrite: bool = False
    restart: bool = False
    shards: bool = False
    zarr_format: int = 3


@dataclass(frozen=True)
class Crew:
    """Who computes: how many processes of how many threads, and what runs a job on them.

    Attributes
    ----------
    run : callable(job, journal, progress)
    num_workers : int or None
        Threads that compute a tile.
    processes : int
        At most as many tiles are computed at once.
    """

    run: Runner = run_local
    num_workers: int | None = None
    processes: int = 1


def predict_file(
    model: Model,
    source: str | Path,
    destination: str | Path,
    settings: Settings | None = None,
    crew: Crew | None = None,
    progress: Progress | None = None,
) -> Sink:
    """Predict a volume in a file, to a file, in bounded memory; or go on with a prediction that was interrupted.

    Parameters
    ----------
    model : Model
        With one input and one output.
    source, destination : str or Path
        ``.npy``, ``.tif``, ``.h5:/dataset`` or ``.zarr``; ``.ome.zarr`` writes OME-NGFF.
    settings : Settings, optional
    crew : Crew, optional
        Threads of this process unless given.
    progress : callable(done, total), optional
        Told about blocks; those that were finished before count.

    Returns
    -------
    Sink
        What was written: its shape and type.

    Raises
    ------
    DataError
        If a file cannot be read or written, or an unfinished prediction with other settings is in the way.
    ShapeError, ParameterError, MemoryLimitError, OutputExistsError
        As `Model.predict`; if no tile fits the memory; if the destination exists.
    """
    settings, crew = settings or Settings(), crew or Crew(num_workers=model.num_workers)
    place = _writable(destination)
    check_destination(destination, settings.overwrite)
    image = Prepared(FileRegion(_absolute(source)), str(source))
    _check_image(image, model)
    try:
        journal = Journal(place.path.with_name(f".{place.path.name}.progress"), str(place))
    except OSError as error:
        raise DataError(f"{place} cannot be written: {error.strerror or error}") from error
    with journal:
        job = None
        try:
            job = _prepare(model, image, place, settings, crew, journal)
            crew.run(job, journal, progress)
            job.sink.finish(settings.overwrite)
        except BaseException:
            if not journal.done:
                _leave_nothing(job, journal)
            raise
        journal.remove()
        forget_all(job)
        return job.sink


def _writable(destination: str | Path) -> Source:
    """Return a destination by its whole path: workers may run elsewhere."""
    place = parse_source(_absolute(destination))
    if place.url is not None or place.format not in FORMATS:
        raise DataError(f"{destination} cannot be written block by block; name a local {', '.join(FORMATS)} file")
    return place


def _absolute(name: str | Path) -> str:
    return str(name) if "://" in str(name) else os.path.abspath(name)


def _leave_nothing(job: Job | None, journal: Journal) -> None:
    journal.remove()
    if job is not None:
        job.sink.discard()
        forget_all(job)


def _prepare(model: Model, image: Prepared, place: Source, settings: Settings, crew: Crew, journal: Journal) -> Job:
    """Return the job as it stands in the record, or a new one whose record is begun."""
    finish = Finish.of(model.loss, settings.probabilities, settings.channels, settings.dtype)
    partial = place.path.with_name(f".{place.path.name}.partial")
    known = journal.header if partial.exists() else None
    asked = _asked(image, settings, finish)
    if known is not None and settings.restart:
        known = None
    if known is not None:
        _check_same(place, known.get("asked"), asked)
        moments = None if known["moments"] is None else msgspec.convert(known["moments"], Moments)
    else:
        image.clip = settings.clip  # what is measured is what is clipped
        moments = moments_of(image, settings.preprocess)
    image.moments, image.clip = moments, settings.clip
    mask = None if settings.mask is None else FileRegion(_absolute(settings.mask), "label")
    request = Request(settings.border, settings.region, mask, settings.blend, finish)
    (name,) = model.net.inputs
    scene = see(model.net, {name: image}, request)
    if known is not None:
        patch, step = (_triple(known["tiling"][key]) for key in ("patch", "step"))
        tiling = Tiling(scene.size, patch, step, scene.blend)
    else:
        tiling = _tiling(model, scene, settings, crew)
    ((output, channels),) = model.net.outputs.items()
    sink = _sink(place, tiling, finish.count(channels), settings)
    job = Job(scene, tiling, predictor_of(model, tiling.patch, crew.num_workers), finish, sink, output)
    if known is not None:
        _check_same(place, {"model": known.get("model")}, {"model": job.predictor.token})
        return job
    sizes = {"patch": tiling.patch, "step": tiling.step}
    sink.create()
    forget_all(job)
    journal.begin(
        {"asked": asked, "model": job.predictor.token, "tiling": sizes, "moments": msgspec.to_builtins(moments)}
    )
    return job


def _asked(image: Prepared, settings: Settings, finish: Finish) -> dict[str, Any]:
    """Return what a result depends on besides the model, as a record keeps it."""
    path = parse_source(image.name).path
    changed = path.stat().st_mtime_ns if path.is_file() else None
    region = None if settings.region is None else [[side.start, side.stop] for side in settings.region]
    asked = {
        "source": {"name": _absolute(image.name), "shape": image.shape, "changed": changed},
        "border": settings.border,
        "region": region,
        "mask": settings.mask,
        "blend": settings.blend,
        "finish": finish,
        "preprocess": [settings.preprocess, settings.clip],
        "zarr": [settings.shards, settings.zarr_format],
    }
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(asked))
    return plain


def _check_same(place: Source, known: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> None:
    different = [key for key, value in asked.items() if known is None or known.get(key) != value]
    if different:
        raise DataError(
            f"{place} has an unfinished prediction with another {', '.join(different)}. Give what it was begun with to "
            "go on, or --restart to throw it away"
        )


def _tiling(model: Model, scene: Scene, settings: Settings, crew: Crew) -> Tiling:
    """Return the largest tiles that fit the memory, or those that were asked for."""
    channels = sum(model.net.outputs.values())

    def estimate(patch: Triple) -> int:
        buffers = queue_bytes(scene, patch, channels, settings.dtype)
        return int(MARGIN * (tile_bytes_of(model, patch, crew.num_workers) + buffers))

    if settings.tile is not None:
        patch = scene.fit.up(_smaller(settings.tile, scene.size) if scene.blend is None else settings.tile)
        return tiling_of(scene.size, patch, scene.fit, scene.blend)
    limit = as_bytes(settings.memory)
    memory = MEMORY if limit is None else limit - resident_bytes()
    tiling = choose_tiling(scene, estimate, max(memory, 1), ALIGN, 1 if crew.processes == 1 else 3 * crew.processes)
    least = estimate(tiling.patch)
    if limit is not None and least > memory:
        raise MemoryLimitError(
            f"memory of {format_bytes(limit)} is too little: this process takes {format_bytes(limit - memory)} already "
            f"and the smallest tile {format_bytes(least)}. Give {format_bytes(limit - memory + least)} or more, or "
            "fewer workers"
        )
    if settings.measure:
        patch = fastest_patch(model, scene, tiling.patch, crew.num_workers)
        tiling = tiling_of(scene.size, patch, scene.fit, scene.blend, ALIGN)
    return tiling


def _sink(place: Source, tiling: Tiling, channels: int, settings: Settings) -> Sink:
    sides = zip(tiling.step, tiling.counts, tiling.size, CHUNK, strict=True)
    z, y, x = (chunk_for(*side) for side in sides)
    shard = None
    if settings.shards:
        if settings.zarr_format != 3 or place.format != "zarr":
            raise ParameterError("shards are of zarr format 3; write to a .zarr and leave the format as it is")
        a, b, c = (
            step if count > 1 else -(-size // chunk) * chunk
            for step, count, size, chunk in zip(tiling.step, tiling.counts, tiling.size, (z, y, x), strict=True)
        )
        shard = (a, b, c)
    return Sink(place, (channels, *tiling.size), settings.dtype, (z, y, x), shard, settings.zarr_format)


def _check_image(image: Prepared, model: Model) -> None:
    net = model.net
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise DataError("`predict` needs a network with one input and one output; use Model.predict for others")
    (channels,) = net.inputs.values()
    if image.shape[0] != channels:
        raise ShapeError(
            f"{image.name} has {image.shape[0]} channels, but the network reads {channels}. Give an image with as many"
        )
    size, view = image.shape[1:], net.field_of_view
    if net.is_valid and any(n < v for n, v in zip(size, view, strict=True)):
        raise ShapeError(
            f"{image.name} has size {size} (z, y, x), less than the network's field of view {view}. "
            "Use a larger volume, or a network with a smaller field of view"
        )


def resident_bytes() -> int:
    """Return the memory that this process has in use."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux; the most it ever had
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def _smaller(a: Triple, b: Triple) -> Triple:
    z, y, x = (min(m, n) for m, n in zip(a, b, strict=True))
    return z, y, x


def _triple(values: Iterable[int]) -> Triple:
    z, y, x = values
    return z, y, x
