"""A prediction from file to file, in steps that any thread or process can make: read, compute, write, blend.

In a valid network a tile gives a block, which is written at once. Tiles of a padded network are kept in a folder
beside the output until every block under them is written, so memory does not grow with the volume and no tile is
computed twice, whatever happens.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import CheckpointError, DataError
from znn_dask.geometry import Triple, add
from znn_dask.infer.sink import Sink
from znn_dask.io.atomic import replacing
from znn_dask.model.outputs import Finish
from znn_dask.model.predict import Scene, cut, finished, read_tile, wanted
from znn_dask.model.predictor import Predictor
from znn_dask.model.tiling import Tiling, blended

Array = npt.NDArray[np.float32]
Images = dict[str, Array]


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes
    ----------
    scene : Scene
    tiling : Tiling
    predictor : Predictor
    finish : Finish
    sink : Sink
    output : str
        The network's output that is kept.
    """

    scene: Scene
    tiling: Tiling
    predictor: Predictor
    finish: Finish
    sink: Sink
    output: str

    @property
    def folder(self) -> Path:
        """Where tiles that are blended are kept."""
        return self.sink.place.path.with_name(f".{self.sink.place.path.name}.tiles")

    def tile_path(self, number: int) -> Path:
        """Return where a tile is kept."""
        return self.folder / f"{number}.npy"


@dataclass(frozen=True)
class Stage:
    """One thing to do: compute a tile, or blend the tiles over a block; a valid network's tile is its block."""

    number: int
    blend: bool


def stages(job: Job, done: set[int]) -> Iterator[Stage]:
    """Yield what is left to do, in order; a block is blended after all tiles over it."""
    seen: set[int] = set()
    for tile in job.tiling:
        if tile.number in done:
            continue
        if not job.tiling.blend:
            yield Stage(tile.number, blend=False)
            continue
        inside = wanted(job.scene, tile)
        for other in job.tiling.overlapping(tile.number) if inside is None or inside.any() else []:
            if other not in seen and not job.tile_path(other).exists():
                yield Stage(other, blend=False)
            seen.add(other)
        yield Stage(tile.number, blend=True)


def read_step(job: Job, number: int) -> Images | None:
    """Return what the network reads for a tile; None where the mask says that nothing is wanted."""
    tile = job.tiling.tile(number)
    if not job.tiling.blend:
        inside = wanted(job.scene, tile)
        if inside is not None and not inside.any():
            return None
    return read_tile(job.scene, job.tiling.patch, tile)


def compute_step(job: Job, images: Images | None) -> Array | None:
    """Return the output of a tile.

    Raises
    ------
    CheckpointError
        If it is not finite.
    """
    if images is None:
        return None
    values = job.predictor(images)[job.output]
    if not np.isfinite(values).all():
        raise CheckpointError("the model gives values that are not finite; it was probably trained too fast")
    return values


def write_step(job: Job, number: int, values: Array | None) -> int:
    """Write the block of a tile, or keep the tile for blending; return its number."""
    if job.tiling.blend:
        if values is not None:
            keep_tile(job, number, values)
        return number
    tile = job.tiling.tile(number)
    if values is not None:
        job.sink.write(tile.box, finished(cut(tile, values), wanted(job.scene, tile), job.finish))
    return number


def keep_tile(job: Job, number: int, values: Array) -> None:
    """Write a tile to the folder; it is there completely or not at all."""
    try:
        with replacing(job.tile_path(number)) as temporary, temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)
    except OSError as error:
        raise DataError(f"tiles cannot be kept in {job.folder}: {error.strerror or error}") from error


def blend_step(job: Job, number: int) -> int:
    """Write the block under some tiles; return its number."""
    tile = job.tiling.tile(number)
    inside = wanted(job.scene, tile)
    if inside is None or inside.any():

        def values(other: int) -> Array:
            kept: Array = np.load(job.tile_path(other), mmap_mode="r", allow_pickle=False)
            return kept

        job.sink.write(tile.box, finished(blended(job.tiling, number, values), inside, job.finish))
    return number


def forget_tiles(job: Job, number: int, done: set[int]) -> None:
    """Delete the tiles over a block that no block still needs."""
    if not job.tiling.blend:
        return
    for other in job.tiling.overlapping(number):
        if all(block in done for block in job.tiling.readers(other)):
            job.tile_path(other).unlink(missing_ok=True)


def forget_all(job: Job) -> None:
    """Delete the folder of tiles."""
    shutil.rmtree(job.folder, ignore_errors=True)


def queue_bytes(scene: Scene, patch: Triple, channels_out: int, dtype: Any) -> int:
    """Return the bytes of tiles under way besides the one that is computed: read, waiting, being written."""
    read = sum(
        int(volume.shape[0]) * int(np.prod(add(patch, scene.extra[name]), dtype=np.int64))
        for name, volume in scene.volumes.items()
    )
    written = channels_out * int(np.prod(patch, dtype=np.int64))
    return 4 * (4 * read + 3 * written) + written * int(np.dtype(dtype).itemsize)
