"""Rasters of a scene, written block by block: no band of it is ever in memory as a whole.

GDAL may report a full disk only in a log, at closing, and a tile that it could not write reads back as nodata. So what
was written is read back and compared before a file gets its name.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what rasterio lets through from GDAL where it has no name of its own
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window

from ..errors import CopgenError, RasterError, RequestError, one_line
from ..folders import whole_file
from ..modalities import get
from ..raster.storage import BLOCK, Storage, encode, of_values
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
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
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


class StripWriter:
    """Writes the values of one modality over a whole scene, strip by strip from the top.

    A context manager. The raster at ``path`` is stored as :func:`~..raster.storage.of_values` says, on the modality's
    own resolution, with ``tags`` and the tag ``MODALITY``; it appears when the block ends well, complete and read
    back, and not at all otherwise. Memory: 256 rows of stored pixels, and as much again for the check.

    Raises :class:`RequestError` where ``key`` has no pixels.
    """

    def __init__(self, path: Path, key: str, grid: SceneGrid, tags: Mapping[str, str]) -> None:
        self._modality = get(key)
        if not self._modality.is_image:
            raise RequestError(f"{key} has no pixels to write as a raster; put its values into the result's metadata")
        self._path = path
        self._grid = grid
        self._tags = {**tags, "MODALITY": key}
        self._shape = grid.shape(self._modality.resolution)
        self._next = 0
        self._opened: AbstractContextManager[BlockWriter] | None = None
        self._blocks: BlockWriter
        self._buffer: NDArray[Any]

    def __enter__(self) -> StripWriter:
        self._opened = self._open()
        self._blocks = self._opened.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._opened.__exit__(kind, error, trace) if self._opened else None

    @contextmanager
    def _open(self) -> Iterator[BlockWriter]:
        storage = of_values(self._modality)
        self._buffer = np.empty((len(storage.descriptions), BLOCK, self._shape[1]), storage.dtype)
        with open_blocks(self._path, storage, self._grid, self._modality.resolution, self._tags) as blocks:
            yield blocks
            if self._next != self._shape[0]:
                raise RequestError(
                    f"{self._path.name} got {self._next} of its {self._shape[0]} rows; write all of them"
                )

    def write(self, first_row: int, pixels: NDArray[Any]) -> None:
        """Write ``pixels`` (C, rows, W), physical or codes, from ``first_row`` on, with every column of the scene.

        Raises :class:`NonFiniteError` where a value is NaN or infinite, :class:`RequestError` where a code is unknown,
        the shape does not fit or ``first_row`` does not follow the last strip, and :class:`CopgenError` where the disk
        refuses.
        """
        height, width = self._shape
        bands = len(self._modality.bands)
        fits = pixels.ndim == 3 and (pixels.shape[0], pixels.shape[2]) == (bands, width)
        if not fits or first_row != self._next or first_row + pixels.shape[1] > height:
            raise RequestError(
                f"{self._path.name} was given rows from {first_row} on in an array of shape {pixels.shape}; expected "
                f"({bands}, rows, {width}) from row {self._next} on, {height} rows in all"
            )
        stored = encode(self._modality, pixels)
        while stored.shape[1]:
            filled = self._next % BLOCK
            taken = min(BLOCK - filled, stored.shape[1])
            self._buffer[:, filled : filled + taken] = stored[:, :taken]
            stored = stored[:, taken:]
            self._next += taken
            if filled + taken == BLOCK or self._next == height:
                self._blocks.write(self._buffer[:, : filled + taken], self._next - filled - taken)
