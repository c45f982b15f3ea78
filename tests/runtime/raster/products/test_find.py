from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.raster.conditions import ReadOptions
from copgen_edge.runtime.raster.products import Products, find_products
from copgen_edge.runtime.raster.window import GroundWindow
from rasterio.crs import CRS
from rasterio.io import MemoryFile

WriteRaster = Callable[..., Path]
LEFT, TOP = 436_920.0, 4_175_880.0
WINDOW = GroundWindow(CRS.from_epsg(32618), LEFT, TOP)
L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


def products(*values: tuple[str, Any], **options: Any) -> Products:
    return find_products([(name, str(value)) for name, value in values], ReadOptions(**options))


def test_sources_are_in_network_order_with_their_files_and_grids(write_raster: WriteRaster) -> None:
    optical = write_raster("s2.tif", np.full((12, 252, 252), 1200), dtype="uint16")
    radar = write_raster("s1.tif", np.full((2, 252, 252), 0.1))
    dem = [write_raster(f"{name}.tif", resolution=30) for name in ("a", "b")]
    found = products(("S2L2A", optical), ("S1RTC", radar), *(("DEM", path) for path in dem))
    keys = [source.key for source in found.sources]
    assert keys == [
        "DEM_DEM",
        "S1RTC_vh_vv",
        "S2L2A_B01_B09",
        "S2L2A_B02_B03_B04_B08",
        "S2L2A_B05_B06_B07_B11_B12_B8A",
    ]
    assert list(found.files) == keys
    assert found.files["DEM_DEM"] == tuple(dem)
    assert found.files["S2L2A_B01_B09"] == (optical,)
    assert [grid.name for grid in found.sources[0].grids] == ["DEM: a.tif", "DEM: b.tif"]
    assert found.date is None
    assert products() == Products((), (), None, {})


def test_what_a_line_of_the_plan_says(write_raster: WriteRaster) -> None:
    optical = write_raster("s2.tif", np.full((12, 252, 252), 1200), dtype="uint16", scale_offset=(0.0002, -0.1))
    shifted = Affine(10, 0, LEFT + 4, 0, -10, TOP)
    radar = write_raster("s1.tif", np.full((2, 252, 252), -11.0), transform=shifted)
    found = products(("S2L2A", optical), ("S1RTC", radar))
    said = {source.key: source.describe for source in found.sources}
    units = "values times 2, offset -1000 DN from the file's scale and offset"
    assert said["S2L2A_B02_B03_B04_B08"] == f"s2.tif, 10 m, EPSG:32618, copied, {units}"
    assert said["S2L2A_B01_B09"] == f"s2.tif, 10 m, EPSG:32618, warped to 60 m (average), {units}"
    assert said["S1RTC_vh_vv"] == "s1.tif, 10 m, EPSG:32618, warped to 10 m (bilinear), dB"


def test_a_raster_in_memory_is_read_and_has_no_file() -> None:
    with MemoryFile() as memory:
        profile = {"driver": "GTiff", "count": 1, "height": 64, "width": 64, "dtype": "float32", "crs": "EPSG:32618"}
        with memory.open(**profile, transform=Affine(30, 0, LEFT, 0, -30, TOP)) as dataset:
            dataset.write(np.full((1, 64, 64), 42, dtype="float32"))
        found = products(("DEM", memory.name))
        assert found.sources[0].read(WINDOW).tolist() == np.full((1, 64, 64), 42.0).tolist()
        assert found.files == {"DEM_DEM": ()}
    with pytest.raises(RasterError, match=r"nowhere.tif cannot be read as a raster"):
        products(("DEM", "/vsimem/nowhere.tif"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([("place", "1,2")], r"place is no image"),
        ([("S3", "x.tif")], r"unknown modality 'S3'"),
        ([("DEM", "nowhere.tif")], r"'nowhere.tif' does not exist"),
        ([("DEM", "")], r"'' does not exist"),
        ([("DEM", "x" * 5000)], r"cannot be opened \(File name too long\)"),
        ([("S2L2A", "https://x/y.SAFE")], r"is not on this disk, and nothing is fetched here"),
        ([("DEM", "/vsicurl/https://x/y.tif")], r"is not on this disk"),
        ([("DEM", "s3://x/y.tif")], r"is not on this disk"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        products(*values)
    assert "\n" not in str(error.value)


def test_one_modality_under_two_names_is_refused(write_raster: WriteRaster) -> None:
    path = write_raster("s2.tif", np.full((12, 252, 252), 1200), dtype="uint16")
    with pytest.raises(RequestError, match=r"S2L2A_B01_B09 is given by S2L2A and by S2L2A_B01_B09; leave one out"):
        products(("S2L2A", path), ("S2L2A_B01_B09", path))
    with pytest.raises(RequestError, match=r"--bands S1RTC: no condition of that name"):
        products(("S2L2A", path), bands={"S1RTC": ("vv", "vh")})


def test_bands_are_ordered_for_every_file_of_a_name(write_raster: WriteRaster) -> None:
    values = np.stack([np.full((252, 252), v) for v in (0.1, 0.3)])
    half = write_raster("a.tif", values[:, :, :100])
    other = write_raster("b.tif", values)
    found = products(("S1RTC", half), ("S1RTC", other), bands={"S1RTC": ("vh", "vv")})
    np.testing.assert_allclose(found.sources[0].read(WINDOW)[:, 0, [0, 150]], [[0.3, 0.3], [0.1, 0.1]])


@pytest.mark.parametrize(
    ("name", "title", "date"),
    [
        ("S2L2A", "S2B_MSIL2A_20230821T221941_N0509_R029_T18SVG_20230822T021825.tif", (2023, 8, 21)),
        ("S1RTC", "S1A_IW_GRDH_1SDV_20240419T045904_20240419T045916_053498_067DF2_rtc.tif", (2024, 4, 19)),
        ("S2L2A", "S2B_MSIL2A_20231321T221941_N0509_R029.tif", None),
        ("S2L2A", "T18SVG_20230821T221941.tif", None),
        ("DEM", "S2B_MSIL2A_20230821T221941_N0509_R029_T18SVG_20230822T021825.tif", None),
    ],
)
def test_the_date_comes_from_the_name_of_a_product(
    write_raster: WriteRaster, name: str, title: str, date: tuple[int, int, int] | None
) -> None:
    count = {"S2L2A": 12, "S1RTC": 2, "DEM": 1}[name]
    found = products((name, write_raster(title, np.full((count, 252, 252), 1200.0))), s1_scale="linear")
    assert found.date == date
    assert any("from the name" in note for note in found.notes) == (date is not None)


def test_the_date_of_sentinel_2_comes_before_that_of_sentinel_1(write_raster: WriteRaster) -> None:
    radar = write_raster("S1A_IW_GRDH_1SDV_20240419T045904_x.tif", np.full((2, 252, 252), 0.1))
    later = write_raster("S1A_IW_GRDH_1SDV_20240501T045904_x.tif", np.full((2, 252, 252), 0.1))
    optical = write_raster("S2B_MSIL2A_20240421T100000_N0204_R029.tif", np.full((12, 252, 252), 1200), dtype="uint16")
    found = products(("S1RTC", radar), ("S1RTC", later), ("S2L2A", optical))
    assert found.date == (2024, 4, 21)
    assert "date: other inputs were sensed on another day (S1RTC 2024-04-19, S1RTC 2024-05-01)" in found.notes
    assert products(("S1RTC", later), ("S1RTC", radar)).date == (2024, 5, 1)


def test_a_raster_without_a_place_is_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RasterError, match=r"DEM: dem.tif has no CRS"):
        products(("DEM", write_raster("dem.tif", crs=None)))


def test_a_product_that_looks_uncorrected_is_said_once(write_raster: WriteRaster) -> None:
    path = write_raster("s2.tif", np.full((12, 252, 252), 1200), dtype="uint16")
    found = products(("S2L2A", path))
    assert sum("no DN is below 1000" in note for note in found.notes) == 1
    dark = np.full((12, 252, 252), 1200)
    dark[10] = 50
    found = products(("S2L2A", write_raster("d.tif", dark, dtype="uint16")))
    assert not any("no DN is below 1000" in note for note in found.notes)
