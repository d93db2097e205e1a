"""Zarr arrays of format 2 and 3, alone, in groups, or as images of OME-Zarr, of which the finest level is taken."""

from collections.abc import Mapping
from typing import Any

from znn_dask.errors import DataError, MissingExtraError
from znn_dask.io.datasets import choose, no_dataset
from znn_dask.io.source import Source
from znn_dask.io.stored import Stored, stored_array

NAMES = "tczyx"


def open_zarr(place: Source) -> Stored:
    """Open an array.

    Raises
    ------
    DataError
        If there is no such array, or its axes are none of a volume.
    MissingExtraError
        If zarr is not installed.
    """
    try:
        import zarr  # optional: the extra 'zarr'
    except ImportError as error:
        raise MissingExtraError("zarr volumes need the extra: pip install 'znn-dask[zarr]'") from error
    node = zarr.open(place.file, mode="r")
    if isinstance(node, zarr.Array):
        if place.dataset is not None:
            raise DataError(f"{place.file} is a single array; leave ':{place.dataset}' out")
        return stored_array(node, _named_axes(node))
    group, path = node, ""
    if place.dataset is not None:
        path = place.dataset.strip("/")
        try:
            inner = node[path]
        except KeyError:
            raise no_dataset(place, list(_arrays(node, zarr))) from None
        if isinstance(inner, zarr.Array):
            return stored_array(inner, _axes_from_parent(place, node, path) or _named_axes(inner))
        group = inner
    image = _multiscale(group)
    if image is not None:
        level = group[str(image["datasets"][0]["path"])]
        return stored_array(level, _image_axes(place, image, level.ndim))
    if path:
        found = {f"/{path}{name}": item for name, item in _arrays(group, zarr).items()}
        raise no_dataset(place, list(found))
    chosen = choose(place, _arrays(group, zarr))
    return stored_array(chosen, _named_axes(chosen))


def _arrays(group: Any, zarr: Any) -> dict[str, Any]:
    try:
        members = list(group.members(max_depth=None))
    except Exception:  # stores such as plain HTTP cannot list what they hold
        return {}
    return {"/" + name: item for name, item in members if isinstance(item, zarr.Array)}


def _multiscale(group: Any) -> Mapping[str, Any] | None:
    """Return the first image of OME-Zarr in a group, if it is one."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome")
    images = (ome if isinstance(ome, Mapping) else attributes).get("multiscales")
    usable = isinstance(images, list) and bool(images) and isinstance(images[0], Mapping) and images[0].get("datasets")
    return images[0] if usable and isinstance(images, list) else None


def _image_axes(place: Source, image: Mapping[str, Any], ndim: int) -> str:
    # Before version 0.3 the axes were always these.
    axes = image.get("axes", list(NAMES)[-ndim:])
    names = [str(axis.get("name", "?") if isinstance(axis, Mapping) else axis).lower() for axis in axes]
    if len(names) != ndim or len(set(names)) != ndim or any(name not in NAMES or len(name) != 1 for name in names):
        raise DataError(f"{place} has the axes {', '.join(names)}; they must be of t, c, z, y, x, each once")
    return _checked(place, "".join(names))


def _checked(place: Source, axes: str) -> str:
    if not {"y", "x"} <= set(axes):
        raise DataError(f"{place} has the axes {', '.join(axes)}; a volume needs y and x")
    return axes


def _axes_from_parent(place: Source, root: Any, path: str) -> str | None:
    """Return the axes that the OME-Zarr image around an array gives it."""
    parent, _, name = path.rpartition("/")
    group = root[parent] if parent else root
    image = _multiscale(group)
    if image is None or name not in [str(level.get("path")) for level in image["datasets"]]:
        return None
    return _image_axes(place, image, group[name].ndim)


def _named_axes(array: Any) -> str | None:
    """Return the axes of an array that names them: zarr 3 itself, zarr 2 by the custom of xarray."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not names or len(names) != array.ndim or any(name is None for name in names):
        return None
    letters = [str(name).lower() for name in names]
    known = all(len(name) == 1 and name in NAMES for name in letters) and len(set(letters)) == len(letters)
    return "".join(letters) if known and {"y", "x"} <= set(letters) else None
