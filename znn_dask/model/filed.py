"""What a model writes to a file, and how it becomes what was written."""

from collections.abc import Mapping
from pathlib import Path

from znn_dask.model import files
from znn_dask.model.core import Core


class Filed:
    """The part of `Model` that is kept in files."""

    _core: Core

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None, overwrite: bool = True) -> None:
        """Write the model so that it can go on bitwise as it would have: parameters, optimiser, step, plan, wisdom.

        The file (safetensors) is written to a temporary name and renamed. With the ending ``.h5`` it is written as ZNN
        does: parameters, momentum and rates.

        Parameters
        ----------
        path : str or Path
        metadata : mapping of str to str, optional
            More to keep in it.
        overwrite : bool
            Whether an existing file may be replaced.

        Raises
        ------
        OutputExistsError
            If the file exists and may not be replaced.
        ParameterError
            If there are metadata and the file is to be ZNN's.
        """
        files.save(self._core, path, metadata, overwrite)

    def restore(self, path: str | Path) -> None:
        """Become what `save` wrote of a model of the same network: parameters, optimiser, plan, step.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, or of another network; the model is then as before.
        """
        self._core = files.restored(self._core, path)
