from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.modalities import get
from copgen_edge.runtime.raster.conditions import ReadOptions
from copgen_edge.runtime.raster.products import Products, find_products
from copgen_edge.runtime.raster.products.covers import WORLDCOVER, which_cover
from copgen_edge.runtime.raster.window import GroundWindow
from rasterio.crs import CRS

WriteRaster = Callable[..., Path]
LEFT, TOP = 436_920.0, 4_175_880.0
WINDOW = GroundWindow(CRS.from_epsg(32618), LEFT, TOP)


def products(*values: tuple[str, Any], **options: Any) -> Products:
    return find_products([(name, str(value)) for name, value in values], ReadOptions(**options))


def test_every_class_of_worldcover_becomes_one_of_the_models() -> None:
    assert set(WORLDCOVER) == {10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100}
    names = {old: get("LULC_LULC").codes[new] for old, new in WORLDCOVER.items()}
    assert names == {
        10: "trees",
        20: "rangeland",
        30: "rangeland",
        40: "crops",
        50: "built-up",
        60: "bare",
        70: "snow/ice",
        80: "water",
        90: "flooded vegetation",
        95: "flooded vegetation",
        100: "rangeland",
    }


@pytest.mark.parametrize(
    ("codes", "named", "cover"),
    [
        ({0, 10, 30, 80}, False, "worldcover"),
        ({30}, False, "worldcover"),
        ({10}, True, "worldcover"),
        ({10}, False, None),
        ({0, 10}, False, None),
        ({0, 1, 2, 10, 11}, False, "esri"),
        # A map by that name whose codes were changed already.
        ({1, 2, 5}, True, "esri"),
        ({0}, False, "esri"),
        ({0}, True, "worldcover"),
    ],
)
def test_codes_say_whose_map_it_is(codes: set[float], named: bool, cover: str | None) -> None:
    assert which_cover(codes, named_worldcover=named, called="LULC: x.tif") == cover


@pytest.mark.parametrize("codes", [{1, 2, 3}, {10, 20, 255}, {1, 20}])
def test_codes_of_neither_are_refused(codes: set[float]) -> None:
    with pytest.raises(RasterError, match=r"x.tif holds codes .*; map them with --lulc-map"):
        which_cover(codes, named_worldcover=True, called="LULC: x.tif")


def codes_of(found: Products) -> set[float]:
    read = found.sources[0].read(WINDOW)
    return set(read[~np.isnan(read)].tolist())


def test_worldcover_in_degrees_is_mapped_and_no_data_stays_unknown(write_raster: WriteRaster) -> None:
    classes = np.array([0, *WORLDCOVER])
    values = classes[np.arange(252) // 12 % 12] * np.ones((252, 1), dtype=int)
    found = products(("LULC", write_raster("x.tif", values, dtype="uint8")))
    read = found.sources[0].read(WINDOW)[0]
    expected = np.array([np.nan, *WORLDCOVER.values()])[np.arange(192) // 12 % 12]
    np.testing.assert_array_equal(read, np.tile(expected, (192, 1)))
    assert any("10 to 2, 20 to 11" in note for note in found.notes)
    assert "codes mapped to ESRI's" in found.sources[0].describe


def test_the_users_map_comes_before_any_guess(write_raster: WriteRaster) -> None:
    path = write_raster("worldcover.tif", np.full((252, 252), 10), dtype="uint8")
    assert codes_of(products(("LULC", path))) == {2}
    assert codes_of(products(("LULC", path), lulc_map={10: 5})) == {5}
    assert codes_of(products(("LULC", path), lulc_map={10: 10})) == {10}
    ids = write_raster("ids.tif", np.arange(252) % 10 * np.ones((252, 1)), dtype="uint8")
    with pytest.raises(RasterError, match=r"holds codes 3, 6 that are not ESRI's"):
        products(("LULC", ids))
    to_esri = {3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 11}
    assert codes_of(products(("LULC", ids), lulc_map=to_esri)) == {1, 2, 4, 5, 7, 8, 9, 10, 11}
    with pytest.raises(RasterError, match=r"holds unknown codes 3"):
        products(("LULC", ids), lulc_map={6: 8})


def test_trees_alone_are_told_from_clouds_by_a_neighbour_or_not_at_all(write_raster: WriteRaster) -> None:
    trees = write_raster("a.tif", np.full((252, 252), 10), dtype="uint8")
    with pytest.raises(RequestError, match=r"a.tif holds code 10 alone.*--lulc-map 10:2 for trees"):
        products(("LULC", trees))
    more = write_raster("b.tif", np.full((252, 252), 80), dtype="uint8")
    assert codes_of(products(("LULC", trees), ("LULC", more))) == {2}
    esri = write_raster("c.tif", np.full((252, 252), 11), dtype="uint8")
    assert codes_of(products(("LULC", trees), ("LULC", esri))) == {10}


def test_a_code_that_the_sample_missed_is_refused_in_its_window(write_raster: WriteRaster) -> None:
    values = np.full((1200, 1200), 5)
    values[50, 50] = 99
    found = products(("LULC", write_raster("x.tif", values, dtype="uint8")))
    with pytest.raises(RasterError, match=r"x.tif holds unknown codes 99"):
        found.sources[0].read(WINDOW)
    assert found.sources[0].read(GroundWindow(WINDOW.crs, LEFT + 6000, TOP)).max() == 5


def test_a_cloud_mask_keeps_clear_sky_and_refuses_other_codes_at_once(write_raster: WriteRaster) -> None:
    values = np.zeros((252, 252))
    values[:, 100:] = 3
    values[:, 150:] = 255
    found = products(("cloud_mask", write_raster("c.tif", values, dtype="uint8", nodata=255)))
    row = found.sources[0].read(WINDOW)[0, 0]
    np.testing.assert_array_equal(row[:150], np.where(np.arange(150) < 100, 0, 3))
    assert np.isnan(row[150:]).all()
    with pytest.raises(RasterError, match=r"holds unknown codes 255"):
        products(("cloud_mask", write_raster("d.tif", values, dtype="uint8")))


def test_a_map_of_no_data_is_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RasterError, match=r"x.tif is nodata throughout"):
        products(("LULC", write_raster("x.tif", np.zeros((252, 252)), dtype="uint8")))
