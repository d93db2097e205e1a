"""Names of volumes: ``image.npy``, ``stack.tif``, ``file.h5:/dataset``, ``volume.zarr:/array``."""

from dataclasses import dataclass
from pathlib import Path

from znn_dask.errors import DataError

_FORMATS = {
    ".npy": "npy",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".zarr": "zarr",
}
_WITH_DATASETS = ("hdf5", "zarr")


@dataclass(frozen=True)
class Source:
    """Where a volume lies: the file, its format, and the dataset inside it where the format has several."""

    path: Path
    format: str
    dataset: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.dataset is None else f"{self.path}:{self.dataset}"


def parse_source(text: str | Path) -> Source:
    """Read the name of a volume.

    The dataset follows the file after a colon (``file.h5:/group/stack``; the slash may be left out).

    Raises
    ------
    DataError
        If the ending is none of those known, or a dataset is named in a format that has none.
    """
    text = str(text)
    path, dataset = Path(text), None
    if path.suffix.lower() not in _FORMATS and ":" in text:
        name, _, dataset = text.rpartition(":")
        path, dataset = Path(name), "/" + dataset.strip("/")
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        raise DataError(f"{text}: the ending {path.suffix!r} is unknown; use one of {', '.join(_FORMATS)}")
    if dataset is not None and form not in _WITH_DATASETS:
        raise DataError(f"{text}: a {form} file has no datasets; leave ':{dataset}' out")
    return Source(path, form, None if dataset == "/" else dataset)
