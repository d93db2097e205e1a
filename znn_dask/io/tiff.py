"""TIFF by region: only the strips or tiles that a region touches are decoded, and the last ones are kept."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import tifffile

from znn_dask.errors import DataError
from znn_dask.io.source import Source
from znn_dask.io.stored import Box, Stored

KEPT = 64 << 20  # bytes of decoded segments
# What tifffile calls axes, in the letters used here; what has no name is taken for sections.
_LETTERS = {"Z": "z", "Y": "y", "X": "x", "C": "c", "S": "c", "T": "t", "I": "z", "Q": "z"}


def open_tiff(place: Source, file: str | BinaryIO) -> Stored:
    """Open a TIFF file: one image, pages of one shape, or a series with named axes.

    Raises
    ------
    DataError
        If its images differ in shape.
    """
    tiff = tifffile.TiffFile(file)
    shapes = {tuple(item.shape) for item in tiff.series}
    if len(shapes) > 1:
        tiff.close()
        raise DataError(f"{place} holds images of different shapes: {sorted(shapes)}; save one of them alone")
    series = tiff.series[0]
    shape, axes = tuple(int(n) for n in series.shape), str(series.axes)
    if len(tiff.series) > 1:
        # Pages that were written one by one are series of their own.
        shape, axes = (len(tiff.series), *shape), "I" + axes
    pages = [page for item in tiff.series for page in item.pages]
    letters = _letters(axes)
    local = isinstance(file, str)
    if local and len(tiff.series) == 1 and series.dataoffset is not None:
        dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        whole = np.memmap(file, dtype, "r", offset=series.dataoffset, shape=shape)
        tiff.close()
        return Stored(shape, whole.dtype.newbyteorder("="), lambda box: np.array(whole[box]), None, letters)
    dtype = np.dtype(series.dtype).newbyteorder("=")
    inner = tuple(int(n) for n in pages[0].shape) if pages and pages[0] is not None else ()
    plain = inner == shape[len(shape) - len(inner) :] and len(pages) == int(np.prod(shape[: len(shape) - len(inner)]))
    if not plain or any(page is None for page in pages):
        values = series.asarray()  # an arrangement that is read as a whole only
        tiff.close()
        return Stored(values.shape, values.dtype, lambda box: np.asarray(values[box]), None, letters)
    reader = _Pages(tiff, pages, shape, inner, dtype)
    chunks = (1,) * (len(shape) - len(inner)) + reader.segment
    return Stored(shape, dtype, reader.read, chunks, letters, tiff.close)


def _letters(axes: str) -> str | None:
    """Return the axes in letters of tczyx, or None if they cannot be told."""
    letters = "".join(_LETTERS.get(axis, "?") for axis in axes)
    return letters if "?" not in letters and len(set(letters)) == len(letters) and letters[-1:] in "xc" else None


class _Pages:
    """The pages of a file as an array of shape (..., y, x), or with samples (..., y, x, s) or (..., s, y, x)."""

    def __init__(
        self, tiff: Any, pages: Sequence[Any], shape: tuple[int, ...], inner: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._tiff, self._pages = tiff, pages
        self._outer, self._inner, self._dtype = shape[: len(shape) - len(inner)], inner, dtype
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._kept_bytes = 0
        first = pages[0].keyframe
        # Segments are strips or tiles of a plain section; else a page is decoded at once.
        self._cut = len(inner) == 2 and first.imagedepth == 1 and first.samplesperpixel == 1
        self.segment = tuple(int(n) for n in first.chunks) if self._cut else inner

    def read(self, box: Box) -> np.ndarray:
        """Read a box."""
        outer, inner = box[: len(self._outer)], box[len(self._outer) :]
        counts = [side.stop - side.start for side in outer]
        result = np.empty((*counts, *(side.stop - side.start for side in inner)), self._dtype)
        for where in np.ndindex(*counts):
            place = [side.start + n for side, n in zip(outer, where, strict=True)]
            number = int(np.ravel_multi_index(place, self._outer)) if self._outer else 0
            if self._cut:
                self._read_section(number, inner, result[where])
            else:
                result[where] = self._segment(number, -1)[inner]
        return result

    def _read_section(self, number: int, box: Box, result: np.ndarray) -> None:
        (height, width), (rows, columns) = self.segment, box
        across = -(-self._inner[1] // width)
        for i in range(rows.start // height, -(-rows.stop // height)):
            for j in range(columns.start // width, -(-columns.stop // width)):
                segment = self._segment(number, i * across + j)
                low = max(rows.start, i * height), max(columns.start, j * width)
                high = min(rows.stop, (i + 1) * height), min(columns.stop, (j + 1) * width)
                target = tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, box, strict=True))
                corner = i * height, j * width
                result[target] = segment[tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))]

    def _segment(self, number: int, index: int) -> np.ndarray:
        with self._lock:
            if (number, index) in self._kept:
                self._kept.move_to_end((number, index))
                return self._kept[number, index]
            segment = self._decode(number, index)
            self._kept[number, index] = segment
            self._kept_bytes += segment.nbytes
            while self._kept_bytes > KEPT and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
            return segment

    def _decode(self, number: int, index: int) -> np.ndarray:
        page = self._pages[number]
        if index < 0:
            return np.asarray(page.asarray())
        first, count = page.keyframe, page.databytecounts[index]
        if count == 0:
            return np.full(self.segment, first.nodata, self._dtype)
        handle = self._tiff.filehandle
        handle.seek(page.dataoffsets[index])
        decoded = first.decode(handle.read(count), index, jpegtables=first.jpegtables)[0]
        return np.asarray(decoded).reshape(decoded.shape[1:3]).astype(self._dtype, copy=False)
