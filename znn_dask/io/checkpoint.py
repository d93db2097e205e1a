"""Named arrays and a little text in one safetensors file: what a model is saved as.

Safetensors, because reading one executes nothing, a damaged file is recognised, and other tools open it.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import safetensors.numpy

from znn_dask.errors import CheckpointError, ParameterError
from znn_dask.io.atomic import replacing

_MAX_HEADER = 100_000_000  # bytes, the limit of the format


def write_checkpoint(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and text so that ``path`` holds either the old or the complete new file.

    Parameters
    ----------
    path : str or Path
        Replaced if it exists.
    tensors : mapping of str to array
        Any shapes; strides do not matter.
    metadata : mapping of str to str

    Raises
    ------
    ParameterError
        If there is no array.
    """
    if not tensors:
        # safetensors 0.8 writes a malformed header then.
        raise ParameterError(f"a checkpoint needs at least one array, and {path} would have none")
    # `save` copies the buffer as it lies, so views and Fortran order must be made contiguous here.
    arrays = {name: np.array(value, order="C", copy=None) for name, value in tensors.items()}
    content = safetensors.numpy.save(arrays, metadata=dict(metadata))
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)


def read_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and the text of a file that `write_checkpoint` wrote.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another kind.
    """
    metadata = read_metadata(path)
    try:
        # Copies, because `load` gives views of one read-only buffer.
        tensors = {name: array.copy() for name, array in safetensors.numpy.load_file(path).items()}
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise _damaged(path, error) from error
    return tensors, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the text of a checkpoint without reading its arrays.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"there is no model file {path}")
    if path.is_dir():
        inside = path / "model.safetensors"
        hint = f". Did you mean {inside}?" if inside.exists() else ""
        raise CheckpointError(f"{path} is a folder, not a model file{hint}")
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _MAX_HEADER:
                raise ValueError("its header is too long; `znn-dask convert` reads other forms")
            header = msgspec.json.decode(file.read(size), type=dict[str, dict[str, object]])
        return msgspec.convert(header.get("__metadata__", {}), dict[str, str])
    except (OSError, ValueError, struct.error, msgspec.MsgspecError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CheckpointError(f"{path} is damaged or no model of znn-dask ({reason})")
