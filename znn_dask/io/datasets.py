"""Which of a file's datasets is meant."""

from collections.abc import Mapping
from typing import Any

from znn_dask.errors import DataError, nearest
from znn_dask.io.source import Source


def choose(place: Source, found: Mapping[str, Any]) -> Any:
    """Return the dataset that was named, or the only one.

    Raises
    ------
    DataError
        If there is none of that name, or there are several and none was named.
    """
    names = sorted(found)
    if place.dataset is not None and place.dataset in found:
        return found[place.dataset]
    if not names:
        raise DataError(f"{place.file} holds no dataset")
    if place.dataset is not None:
        raise no_dataset(place, names)
    if len(names) > 1:
        raise DataError(
            f"{place.file} holds {len(names)} datasets; name one, for instance {place.file}:{names[0]}. "
            f"It has {', '.join(names)}"
        )
    return found[names[0]]


def no_dataset(place: Source, names: list[str]) -> DataError:
    """Return the error that there is no dataset of a name."""
    names = sorted(names)
    has = f"; it has {', '.join(names)}.{nearest(str(place.dataset), names)}" if names else ""
    return DataError(f"{place.file} has no dataset {place.dataset!r}{has}")
