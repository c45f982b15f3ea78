"""One modality of a scene, window by window, from however many rasters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from ...modalities import Modality, get
from ..nodata import empty_pixels
from ..radiometry import in_power, refuse_implausible, rescaled, to_codes
from ..read import Block, read_partial
from ..sources import open_dataset
from ..window import Grid, GroundWindow
from .look import Reading
from .part import Part

_MOST_OPEN = 64
"""Rasters that stay open at once: a few products' bands, well below what an operating system allows."""

_SAME_LATTICE = 1e-3
"""Pixels that two rasters may be apart and still lie on the same ones."""


class OpenRasters:
    """Rasters that stay open between windows, for one thread; the one that was used longest ago is closed first."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, DatasetReader] = OrderedDict()

    def get(self, path: Path, name: str) -> DatasetReader:
        """The open raster; :class:`RasterError`, which calls it ``name``, where it cannot be opened."""
        dataset = self._open.pop(path, None) or open_dataset(path, name)
        self._open[path] = dataset
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return dataset


@dataclass(frozen=True)
class Tile:
    """A part and how it is read. ``grids`` are those of its bands, in tensor order; messages use their names."""

    part: Part
    reading: Reading
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class Layer:
    """Tiles that are laid over one another on their own pixels, ``lattice``; None where there is but one tile."""

    tiles: tuple[Tile, ...]
    lattice: Grid | None = None


@dataclass(frozen=True)
class SceneSource:
    """One modality of a scene.

    ``grids`` are those of its rasters. ``describe`` is a line about what they are, and how they get to the scene's
    grid, units and offsets included.
    """

    key: str
    grids: tuple[Grid, ...]
    describe: str
    layers: tuple[Layer, ...] = field(repr=False, compare=False)
    rasters: OpenRasters = field(repr=False, compare=False)

    def read(self, window: GroundWindow) -> NDArray[np.float32]:
        """The modality on a window's own grid, (C, size, size): DN, linear power, metres, or codes as numbers.

        NaN, in every band alike, where nothing is known: nodata, NaN and infinity of the file, what is beyond its
        edges, 0 in all bands of Sentinel-2, class 0 of land cover. Pixels that lie on the window's grid are copied,
        others are averaged, interpolated, or for codes taken from the nearest. Of several rasters the first that has
        data counts.

        Raises :class:`RasterError` where a file cannot be read (any more), or holds what no measurement gives or an
        unknown code.
        """
        modality = get(self.key)
        shape = (len(modality.bands), modality.size, modality.size)
        values: NDArray[np.float32] = np.full(shape, np.nan, dtype=np.float32)
        for layer in self.layers:
            gaps = np.isnan(values)
            if not gaps.any():
                break
            found = _read(layer, modality, window, self.rasters)
            if found is not None:
                values = np.where(gaps, found, values)
        return values


def layers_of(tiles: Sequence[Tile], modality: Modality) -> tuple[Layer, ...]:
    """The layers of a mosaic, the first on top.

    Elevation tiles whose pixels lie on one lattice are joined on them: interpolated one by one, they would meet in a
    step half a pixel wide.
    """
    if modality.kind != "elevation":
        return tuple(Layer((tile,)) for tile in tiles)
    groups: list[list[Tile]] = []
    for tile in tiles:
        mine = next((group for group in groups if _offset(group[0].grids[0], tile.grids[0]) is not None), None)
        if mine is None:
            groups.append([tile])
        else:
            mine.append(tile)
    return tuple(
        Layer(tuple(group), _joined([tile.grids[0] for tile in group]) if len(group) > 1 else None) for group in groups
    )


def _offset(first: Grid, other: Grid) -> tuple[int, int] | None:
    """Columns and rows from the first pixel of one grid to that of another; None where they are no whole number."""
    a, b = first.transform, other.transform
    drift = max(abs(p - q) for p, q in zip(a[:2] + a[3:5], b[:2] + b[3:5], strict=True)) * max(
        other.width, other.height
    )
    if first.crs != other.crs or drift > _SAME_LATTICE * first.resolution:
        return None
    inverse = ~a
    col = inverse.a * b.c + inverse.b * b.f + inverse.c
    row = inverse.d * b.c + inverse.e * b.f + inverse.f
    whole = round(col), round(row)
    return whole if max(abs(col - whole[0]), abs(row - whole[1])) <= _SAME_LATTICE else None


def _joined(grids: Sequence[Grid]) -> Grid:
    first, t = grids[0], grids[0].transform
    offsets = [offset for grid in grids if (offset := _offset(first, grid)) is not None]
    cols, rows = ([offset[axis] for offset in offsets] for axis in (0, 1))
    right = max(col + grid.width for col, grid in zip(cols, grids, strict=True))
    bottom = max(row + grid.height for row, grid in zip(rows, grids, strict=True))
    x, y = first.point(min(cols), min(rows))
    return Grid(
        first.name, first.crs, Affine(t.a, t.b, x, t.d, t.e, y), width=right - min(cols), height=bottom - min(rows)
    )


def _read(layer: Layer, modality: Modality, window: GroundWindow, rasters: OpenRasters) -> NDArray[np.float32] | None:
    """The layer on the window's grid; None where nothing of it is in the window."""
    blocks: tuple[Block, ...] | None = None
    for tile in layer.tiles:
        found = _blocks(tile, layer.lattice, modality, window, rasters)
        if found is not None:
            blocks = found if blocks is None else tuple(map(_over, blocks, found))
    if blocks is None:
        return None
    reading = layer.tiles[0].reading
    if modality.is_codes:
        codes = to_codes(blocks[0].on_window(), reading.codes, modality, blocks[0].label)
        if modality.family == "LULC":
            codes[codes == 0] = np.nan
        return codes[np.newaxis]
    empty = empty_pixels(blocks, zero_is_empty=reading.zero_is_empty)
    if modality.kind == "backscatter":
        blocks = in_power(blocks, reading.radar)
    elif modality.kind == "elevation":
        refuse_implausible(blocks[0], "elevation")
    values = np.where(empty, np.float32(np.nan), np.stack([block.on_window() for block in blocks]))
    return rescaled(values, reading.scalings) if reading.scalings else values


def _blocks(
    tile: Tile, lattice: Grid | None, modality: Modality, window: GroundWindow, rasters: OpenRasters
) -> tuple[Block, ...] | None:
    """The blocks of a tile's bands; None where one has nothing in the window, and so no pixel has all."""
    blocks: list[Block] = []
    for band, own in zip(tile.part.source.bands, tile.grids, strict=True):
        grid = replace(lattice, name=own.name) if lattice else own
        block = read_partial(rasters.get(band.path, own.name), band, grid, modality, window)
        if block is None:
            return None
        blocks.append(block)
    return tuple(blocks)


def _over(upper: Block, lower: Block) -> Block:
    """Two blocks on the same pixels, the lower one where the upper has no data."""
    values = np.where(np.isnan(upper.values), lower.values, upper.values)
    return replace(upper, values=values, valid=upper.valid | lower.valid, broken=upper.broken & lower.broken)
