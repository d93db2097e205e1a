"""Names of volumes: ``image.npy``, ``stack.tif``, ``sections/*.png``, ``file.h5:/dataset``, ``https://.../a.zarr``."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
# As fsspec writes them: s3://bucket/a.zarr, or chained, simplecache::https://host/a.npy.
_URL = re.compile(r"^(?:[A-Za-z][\w+.-]*::)*[A-Za-z][\w+.-]+://")


@dataclass(frozen=True)
class Source:
    """Where a volume lies: the file, its format, and the dataset inside it where the format has several.

    Attributes
    ----------
    path : Path
        Of a remote file only for messages.
    format : str
        "npy", "tiff", "hdf5", "zarr", or "sections": a folder of images, or a pattern of their names.
    dataset : str, optional
    url : str, optional
        Of a remote file, as fsspec reads it.
    """

    path: Path
    format: str
    dataset: str | None = None
    url: str | None = None

    @property
    def file(self) -> str:
        """The file or folder, as text."""
        return self.url or str(self.path)

    def __str__(self) -> str:
        return self.file if self.dataset is None else f"{self.file}:{self.dataset}"


def parse_source(text: str | Path) -> Source:
    """Read the name of a volume.

    The dataset follows the file after a colon (``file.h5:/group/stack``; the slash may be left out); in zarr it may
    also be written as a path, ``volume.zarr/group/stack``.

    Raises
    ------
    DataError
        If the ending is none of those known, or a dataset is named in a format that has none.
    """
    text = str(text)
    remote = _URL.match(text) is not None
    name, dataset = _split(text)
    form = _FORMATS.get(PurePosixPath(name).suffix.lower() if remote else Path(name).suffix.lower())
    if not remote and dataset is None and _is_sections(name):
        return Source(Path(name), "sections")
    if form is None:
        raise DataError(
            f"{text}: the ending {Path(name).suffix!r} is unknown; use one of {', '.join(_FORMATS)}, or a folder of "
            "sections"
        )
    if dataset is not None and form not in _WITH_DATASETS:
        raise DataError(f"{text}: a {form} file has no datasets; leave ':{dataset}' out")
    return Source(Path(name), form, None if dataset == "/" else dataset, name if remote else None)


def _split(text: str) -> tuple[str, str | None]:
    """Return the file and the dataset in it."""
    text = text.rstrip("/") or text
    inside = re.match(r"^(.*?\.zarr)[/\\]([^:]+)$", text, flags=re.IGNORECASE)
    if inside is not None:
        return inside[1], "/" + inside[2].replace("\\", "/").strip("/")
    if Path(text).suffix.lower() not in _FORMATS and ":" in text:
        name, _, dataset = text.rpartition(":")
        # What follows the colon of a URL or a drive is no dataset.
        if Path(name).suffix.lower() in _FORMATS:
            return name, "/" + dataset.strip("/")
        if not dataset.startswith("/"):
            return name, "/" + dataset
    return text, None


def _is_sections(name: str) -> bool:
    path = Path(name)
    return any(c in path.name for c in "*?") or (path.is_dir() and path.suffix.lower() not in _FORMATS)
