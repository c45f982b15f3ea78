"""Pixels of one band on the ground window's own grid: copied where they lie on it, warped where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rasterio.io import DatasetReader
from rasterio.warp import reproject
from rasterio.windows import Window

from ..errors import RasterError
from ..modalities import PATCH_METRES, Modality
from .sources import Band, Source, label, open_raster
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
        dtype = dataset.dtypes[band.index - 1]
        if "complex" in dtype:
            raise RasterError(f"{called} holds complex numbers; expected detected, terrain-corrected power")
        resampling, part = _plan(grid, window, modality)
        if part.width * part.height > _MOST_PIXELS:
            raise RasterError(
                f"{called} has {part.width} x {part.height} pixels in the window, more than fit in memory; "
                f"resample it to about {modality.resolution} m first"
            )
        values = dataset.read(band.index, window=part)
        valid = dataset.read_masks(band.index, window=part) > 0
        if _zero_is_a_value(dataset, band):
            valid |= values == 0
        scale, offset = dataset.scales[band.index - 1], dataset.offsets[band.index - 1]
    # A nodata value such as -1.8e308 has no float32; it is masked next.
    with np.errstate(over="ignore"):
        held = values.astype(np.float32)
    if modality.kind in ("elevation", "backscatter") and (scale, offset) != (1.0, 0.0):
        held = held * np.float32(scale) + np.float32(offset)
    held[~valid] = np.nan
    broken = valid & ~np.isfinite(held)
    held[broken] = np.nan
    t, corner = grid.transform, grid.point(part.col_off, part.row_off)
    own = Grid(called, grid.crs, Affine(t.a, t.b, corner[0], t.d, t.e, corner[1]), *held.shape[::-1])
    return Block(called, band.name, held, valid, broken, np.dtype(dtype), own, window, modality.resolution, resampling)


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
    part = Window(cols[0], rows[0], cols[1] - cols[0], rows[1] - rows[0])
    if modality.is_codes:
        return Resampling.nearest, part
    finer = grid.oversampling(window, modality.resolution) > _FINER
    return (Resampling.average if finer else Resampling.bilinear), part
