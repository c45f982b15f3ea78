from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from copgen_edge.runtime.errors import RasterError
from copgen_edge.runtime.modalities import get
from copgen_edge.runtime.raster.nodata import (
    empty_pixels,
    fill_codes,
    fill_values,
    refuse_broken,
    refuse_empty,
    share,
)
from copgen_edge.runtime.raster.read import Block, read_blocks
from copgen_edge.runtime.raster.sources import find_sources
from copgen_edge.runtime.raster.window import GroundWindow
from rasterio.crs import CRS

WriteRaster = Callable[..., Path]

WINDOW = GroundWindow(CRS.from_epsg(32618), 436_920.0 + 300, 4_175_880.0 - 240)


def blocks(key: str, path: Path) -> tuple[Block, ...]:
    (source,), _ = find_sources([(key, str(path))], {key: get(key).bands})
    return read_blocks(source, get(key), WINDOW)


def test_a_share_counts_and_rounds() -> None:
    flags = np.zeros((100, 100), dtype=bool)
    flags[0, :12] = True
    assert share(flags) == "12 of 10000 pixels (0.12 %)"
    assert share(~flags) == "9988 of 10000 pixels (100 %)"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_pixels_are_refused_only_where_they_reach_the_window(write_raster: WriteRaster, value: float) -> None:
    values = np.full((252, 252), 5.0)
    values[23, 29] = value  # the pixel before the window's first, which is held for the kernel
    refuse_broken(blocks("DEM_DEM", write_raster("a.tif", values)))
    values[24, 30] = value
    with pytest.raises(RasterError, match=r"a.tif has NaN or infinity in band DEM, 1 of 4096 pixels .*gdal_edit"):
        refuse_broken(blocks("DEM_DEM", write_raster("a.tif", values)))


@pytest.mark.parametrize("resolution", [60, 10])
def test_zero_in_all_bands_is_nodata_and_in_one_band_a_value(write_raster: WriteRaster, resolution: int) -> None:
    ratio = 60 // resolution
    values = np.full((3, 42 * ratio, 42 * ratio), 1500)
    values[2, (4 + 1) * ratio, (5 + 1) * ratio] = 0
    values[:, (4 + 2) * ratio, (5 + 3) * ratio] = 0
    held = blocks("S2L1C_B01_B09_B10", write_raster("s2.tif", values, resolution=resolution, dtype="uint16"))
    assert np.argwhere(empty_pixels(held, zero_is_empty=True)).tolist() == [[2, 3]]
    assert not empty_pixels(held, zero_is_empty=False).any()


def test_nodata_in_any_band_is_nodata(write_raster: WriteRaster) -> None:
    values = np.full((2, 252, 252), 0.1)
    values[0, 24, 30] = values[1, 25, 30] = -1
    held = blocks("S1RTC_vh_vv", write_raster("s1.tif", values, nodata=-1))
    assert np.argwhere(empty_pixels(held, zero_is_empty=False)).tolist() == [[0, 0], [1, 0]]


def test_gaps_are_refused_unless_they_are_to_be_filled() -> None:
    empty = np.zeros((64, 64), dtype=bool)
    refuse_empty(empty, "DEM", fill=False)
    empty[3, :8] = True
    refuse_empty(empty, "DEM", fill=True)
    with pytest.raises(RasterError, match=r"nodata in the window: 8 of 4096 pixels \(0.2 %\); .*--fill-nodata"):
        refuse_empty(empty, "DEM", fill=False)


@pytest.mark.parametrize("fill", [False, True])
def test_a_window_without_any_data_is_refused_even_when_filling(fill: bool) -> None:
    with pytest.raises(RasterError, match=r"is all nodata in the window"):
        refuse_empty(np.ones((64, 64), dtype=bool), "DEM", fill=fill)


def test_values_are_filled_from_around_and_known_ones_stay() -> None:
    rows, cols = np.mgrid[0:64, 0:64]
    values = np.stack([rows, 100 + cols]).astype(np.float32)
    empty = np.zeros((64, 64), dtype=bool)
    empty[20:24, 30:40] = True
    holes = np.where(empty, np.float32(np.nan), values)
    filled = fill_values(holes, empty)
    np.testing.assert_array_equal(filled[:, ~empty], values[:, ~empty])
    assert np.abs(filled - values).max() < 3.0


@pytest.mark.parametrize("corner", [(0, 0), (63, 63), (0, 63), (31, 40)])
def test_one_known_value_fills_the_whole_window(corner: tuple[int, int]) -> None:
    empty = np.ones((64, 64), dtype=bool)
    empty[corner] = False
    values = np.where(empty, np.float32(np.nan), np.float32(7.0))[np.newaxis]
    np.testing.assert_allclose(fill_values(values, empty), 7.0)


def test_codes_are_filled_with_the_nearest_and_not_across_the_edge() -> None:
    codes = np.full((6, 6), np.nan, dtype=np.float32)
    codes[0, 0], codes[5, 3] = 1, 2
    filled = fill_codes(codes, np.isnan(codes))
    rows, cols = np.mgrid[0:6, 0:6]
    near, far = rows + cols, np.abs(rows - 5) + np.abs(cols - 3)
    assert (filled[near < far] == 1).all()
    assert (filled[far < near] == 2).all()
    assert set(np.unique(filled)) == {1.0, 2.0}
