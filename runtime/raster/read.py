"""Pixels of one band on the ground window's own grid: copied where they lie on it, warped where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rasterio.io import DatasetReader
from rasterio.warp import reproject
from rasterio.windows import Window

from ..errors import RasterError
from ..modalities import PATCH_METRES, Modality
from .sources import Band, Source, label, open_raster, reading
from .window import Grid, GroundWindow

_ALIGNED = 1e-3
"""Pixels that a raster may be off the window's grid and still be copied."""

_FINER = 1.01
"""Source pixels a target pixel from which a source is averaged: more than two UTM zones differ in scale."""

_MARGIN = 2
"""Source pixels read beyond the window, for the bilinear kernel."""

_MOST_PIXELS = 2**26
"""Source pixels a band that are held at once: 256 MiB as float32, or 0.23 m a pixel over a whole window."""


@dataclass(frozen=True)
class Block:
    """The part of one band that a window needs, on the band's own pixels.

    ``values`` is (h, w) float32, NaN where ``valid`` is false and where ``broken`` is true: pixels that are NaN or
    infinite without being nodata. ``dtype`` is the file's. ``resampling`` is how the block gets to the window's grid
    at ``resolution`` metres, None where it lies on it already.
    """

    label: str
    band: str
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    broken: NDArray[np.bool_]
    dtype: np.dtype
    grid: Grid
    window: GroundWindow
    resolution: int
    resampling: Resampling | None

    def on_window(self) -> NDArray[np.float32]:
        """The values on the window's grid, (n, n); NaN where no valid pixel contributes."""
        return self._place(self.values)

    def touched(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which pixels of the window's grid, (n, n), some flagged valid pixel of the block contributes to."""
        return self._place(np.where(self.valid, flags, np.nan).astype(np.float32)) > 0

    def _place(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.resampling is None:
            return values
        size = PATCH_METRES // self.resolution
        placed = np.full((size, size), np.nan, dtype=np.float32)
        reproject(
            values,
            placed,
            src_transform=self.grid.transform,
            src_crs=self.grid.crs,
            src_nodata=np.nan,
            dst_transform=self.window.transform(self.resolution),
            dst_crs=self.window.crs,
            dst_nodata=np.nan,
            resampling=self.resampling,
            tolerance=0,
            # GDAL reads a rotated grid as a finer one and widens the kernel, which moves values by a fifth of a pixel.
            **({"XSCALE": 1, "YSCALE": 1} if self.resampling == Resampling.bilinear else {}),
        )
        return placed


def read_blocks(source: Source, modality: Modality, window: GroundWindow) -> tuple[Block, ...]:
    """The blocks of a modality's bands, in tensor order.

    Elevation and backscatter come in the units of the file, its scale and offset applied; Sentinel-2 and codes as
    stored.

    Raises :class:`RasterError` where a raster is not georeferenced, does not cover the window, or cannot be read.
    """
    return tuple(_read_block(band, source.name, modality, window) for band in source.bands)


def _read_block(band: Band, name: str, modality: Modality, window: GroundWindow) -> Block:
    called = label(name, band.path)
    with open_raster(band.path, called) as dataset:
        grid = Grid.of(dataset, called)
        grid.require(window)
        resampling, part = _plan(grid, window, modality)
        return _fetch(dataset, band, grid, modality, window, resampling, part)


def read_partial(
    dataset: DatasetReader, band: Band, grid: Grid, modality: Modality, window: GroundWindow
) -> Block | None:
    """The block of one band of an open raster that need not cover the window: NaN, and not valid, beyond its edges.

    None where nothing of the raster is in the window. ``grid`` is the raster's own, or a larger one on whose pixels
    the raster's lie: the blocks of several rasters on one grid have the same pixels, and can be laid over one another
    before they are warped.

    Raises :class:`RasterError`, which calls the raster by the grid's name, where it cannot be read.
    """
    if not np.isfinite(grid.span(window)).all():
        return None
    resampling, part = _plan(grid, window, modality)
    if not (part.width and part.height):
        return None
    with reading(grid.name):
        block = _fetch(dataset, band, grid, modality, window, resampling, part)
    return block if block.valid.any() else None


def kernel(grid: Grid, window: GroundWindow, modality: Modality) -> Resampling | None:
    """How pixels of ``grid`` get to the window's own: None where they lie on them already."""
    return _plan(grid, window, modality)[0]


def _fetch(
    dataset: DatasetReader,
    band: Band,
    grid: Grid,
    modality: Modality,
    window: GroundWindow,
    resampling: Resampling | None,
    part: Window,
) -> Block:
    """The block of the pixels ``part`` of ``grid``, on which the raster's own lie."""
    called = grid.name
    dtype = dataset.dtypes[band.index - 1]
    if "complex" in dtype:
        raise RasterError(f"{called} holds complex numbers; expected detected, terrain-corrected power")
    if part.width * part.height > _MOST_PIXELS:
        raise RasterError(
            f"{called} has {part.width} x {part.height} pixels in the window, more than fit in memory; "
            f"resample it to about {modality.resolution} m first"
        )
    values = np.zeros((part.height, part.width), dtype=dtype)
    valid = np.zeros(values.shape, dtype=np.bool_)
    inverse, corner = ~grid.transform, (dataset.transform.c, dataset.transform.f)
    col = round(inverse.a * corner[0] + inverse.b * corner[1] + inverse.c)
    row = round(inverse.d * corner[0] + inverse.e * corner[1] + inverse.f)
    left, right = max(part.col_off, col), min(part.col_off + part.width, col + dataset.width)
    top, bottom = max(part.row_off, row), min(part.row_off + part.height, row + dataset.height)
    if left < right and top < bottom:
        held = Window(left - col, top - row, right - left, bottom - top)
        to = np.s_[top - part.row_off : bottom - part.row_off, left - part.col_off : right - part.col_off]
        values[to] = dataset.read(band.index, window=held)
        valid[to] = known_pixels(dataset, band, values[to], window=held)
    floats = in_units(dataset, band, values, modality)
    floats[~valid] = np.nan
    broken = valid & ~np.isfinite(floats)
    floats[broken] = np.nan
    t, start = grid.transform, grid.point(part.col_off, part.row_off)
    own = Grid(called, grid.crs, Affine(t.a, t.b, start[0], t.d, t.e, start[1]), part.width, part.height)
    return Block(
        called, band.name, floats, valid, broken, np.dtype(dtype), own, window, modality.resolution, resampling
    )


def known_pixels(dataset: DatasetReader, band: Band, values: NDArray[Any], **read: Any) -> NDArray[np.bool_]:
    """Which of the stored ``values`` of a band hold data; ``read`` is how they were read (window, out_shape)."""
    valid: NDArray[np.bool_] = dataset.read_masks(band.index, **read) > 0
    if _zero_is_a_value(dataset, band):
        valid |= values == 0
    if band.nodata is not None and dataset.nodata is None:
        valid &= ~np.isnan(values) if np.isnan(band.nodata) else values != band.nodata
    return valid


def in_units(dataset: DatasetReader, band: Band, values: NDArray[Any], modality: Modality) -> NDArray[np.float32]:
    """Stored values as float32, of elevation and backscatter with the scale and offset of the file, or the product."""
    # A nodata value such as -1.8e308 has no float32; it is masked next.
    with np.errstate(over="ignore"):
        floats = values.astype(np.float32)
    if modality.kind not in ("elevation", "backscatter"):
        return floats
    scale, offset = dataset.scales[band.index - 1], dataset.offsets[band.index - 1]
    if (scale, offset) == (1.0, 0.0) and band.declared is not None:
        scale, offset = band.declared.gain, band.declared.offset
    return floats if (scale, offset) == (1.0, 0.0) else floats * np.float32(scale) + np.float32(offset)


def _zero_is_a_value(dataset: DatasetReader, band: Band) -> bool:
    # The cirrus band is dark enough for real zeros, in products that declare 0 as nodata for every band alike; in a
    # cloud mask 0 is clear sky.
    return (
        band.name in ("B10", "cloud_mask")
        and dataset.nodata == 0
        and MaskFlags.nodata in dataset.mask_flag_enums[band.index - 1]
    )


def _plan(grid: Grid, window: GroundWindow, modality: Modality) -> tuple[Resampling | None, Window]:
    size = modality.size
    left, top, right, bottom = grid.span(window)
    t = grid.transform
    if grid.crs == window.crs and abs(t.b) + abs(t.d) < 1e-9 * abs(t.a) and t.a > 0 > t.e:
        edges = (round(left), round(top), round(left) + size, round(top) + size)
        if all(abs(edge - near) <= _ALIGNED for edge, near in zip((left, top, right, bottom), edges, strict=True)):
            return None, Window(edges[0], edges[1], size, size)
    cols = max(0, floor(left) - _MARGIN), min(grid.width, ceil(right) + _MARGIN)
    rows = max(0, floor(top) - _MARGIN), min(grid.height, ceil(bottom) + _MARGIN)
    part = Window(cols[0], rows[0], max(0, cols[1] - cols[0]), max(0, rows[1] - rows[0]))
    if modality.is_codes:
        return Resampling.nearest, part
    finer = grid.oversampling(window, modality.resolution) > _FINER
    return (Resampling.average if finer else Resampling.bilinear), part
