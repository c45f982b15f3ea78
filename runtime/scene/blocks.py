"""Rasters as large as a scene, written and read block by block: no band is ever in memory as a whole.

GDAL may report a full disk only in a log, at closing, and a tile that it could not write reads back as nodata. So what
was written is read back and compared before a file gets its name.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what rasterio lets through from GDAL where it has no name of its own
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window

from ..errors import CopgenError, RasterError, one_line
from ..folders import whole_file
from ..raster.storage import Storage
from .grid import SceneGrid

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError, SystemError)
"""What reading and writing through GDAL may raise: a SystemError where it failed in another thread than it was called
in, which is how a full disk shows while it compresses."""

_CACHE_BYTES = 32 << 20


def small_cache() -> rasterio.Env:
    """A context in which GDAL keeps at most 32 MiB of blocks, and not 5 % of the machine's memory."""
    # rasterio hands the number on in bytes, whatever its size, unlike GDAL's own option.
    return rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES)


@contextmanager
def whole_raster(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write a raster to, which becomes ``path``, and durable, when the block ends well.

    Nothing is left where it does not. Raises :class:`CopgenError` for what GDAL or the system raise in the block, so
    that what the block reads needs :func:`reading`.
    """
    try:
        with whole_file(path) as partial:
            # What a killed run left is no raster, and GDAL refuses to replace what it cannot open.
            partial.unlink(missing_ok=True)
            yield partial
    except GDAL_ERRORS as error:
        raise CopgenError(
            f"cannot write {path}: {_told(error)}; give a folder that exists, is writable and has space"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[DatasetReader]:
    """The raster at ``path``, open; :class:`RasterError` where it, or what the block reads of it, cannot be read."""
    try:
        with rasterio.open(path) as dataset:
            yield dataset
    except GDAL_ERRORS as error:
        raise cannot_read(path, error) from error


def cannot_read(path: Path, error: Exception) -> RasterError:
    """What to raise for GDAL's ``error`` in reading a raster that a run wrote."""
    return RasterError(f"cannot read {path}: {_told(error)}; remove it and run again")


def _told(error: Exception) -> str:
    if isinstance(error, SystemError):
        return "GDAL failed without saying why, as on a full disk"
    # rasterio's own words are 'Read failed. See previous exception for details.'
    return one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)


class BlockWriter:
    """Puts blocks into a raster that is open for writing and remembers their checksums. Made by :func:`open_blocks`."""

    def __init__(self, dataset: DatasetWriter) -> None:
        self._dataset = dataset
        self._checksums: list[tuple[Window, int]] = []

    def write(self, pixels: NDArray[Any], row: int, column: int = 0) -> None:
        """Write ``pixels`` (C, h, w), of the raster's dtype, with their upper-left corner at ``row`` and ``column``.

        They should fill whole blocks, each written once: GDAL appends a block that is written again.
        """
        window = Window(column, row, pixels.shape[2], pixels.shape[1])
        self._dataset.write(pixels, window=window)
        self._checksums.append((window, zlib.crc32(pixels.tobytes())))

    def verify(self, path: Path) -> None:
        """Raise :class:`CopgenError` where the closed file at ``path`` does not hold what was written."""
        with small_cache(), rasterio.open(path) as dataset:
            for window, checksum in self._checksums:
                if zlib.crc32(dataset.read(window=window).tobytes()) != checksum:
                    raise CopgenError(
                        f"{path} reads back other pixels at row {window.row_off} than were written; check the disk's "
                        "space and health, then run again"
                    )


@contextmanager
def open_blocks(
    path: Path, storage: Storage, grid: SceneGrid, resolution: int, tags: Mapping[str, str]
) -> Iterator[BlockWriter]:
    """A new raster of the scene at ``resolution`` metres, stored as ``storage`` says; it is whole or not there.

    Raises :class:`CopgenError` where it cannot be written, which may show only when the block ends.
    """
    profile = storage.profile(*grid.shape(resolution), grid.crs, grid.transform(resolution))
    with whole_raster(path) as partial:
        with rasterio.open(partial, "w", **profile) as dataset:
            storage.describe(dataset, tags)
            blocks = BlockWriter(dataset)
            yield blocks
        blocks.verify(partial)
