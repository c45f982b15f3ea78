from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.raster.conditions import ReadOptions
from copgen_edge.runtime.raster.products import Products, find_products, majortom
from copgen_edge.runtime.raster.window import GroundWindow
from rasterio.crs import CRS

WriteRaster = Callable[..., Path]
WINDOW = GroundWindow(CRS.from_epsg(32618), 436_920.0, 4_175_880.0)
S2 = "S2A_MSIL2A_20230821T221941_N0509_R029_T18SVG_20230822T021825"
S1 = "S1A_IW_GRDH_1SDV_20230819T171706_20230819T171731_043868_053CB4_rtc"


def products(*values: tuple[str, Any], **options: Any) -> Products:
    return find_products([(name, str(value)) for name, value in values], ReadOptions(**options))


def cell(write_raster: WriteRaster, tmp_path: Path, product: str = S2) -> Path:
    for band in ("B02", "B03", "B04", "B08"):
        write_raster(f"root/Core-S2L2A/637U/637U_59R/{product}/{band}.tif", np.full((252, 252), 2500), dtype="uint16")
    for band in ("vv", "vh"):
        write_raster(f"root/Core-S1RTC/637U/637U_59R/{S1}/{band}.tif", np.full((252, 252), 0.1))
    write_raster("root/Core-DEM/637U/637U_59R/id/DEM.tif", np.full((84, 84), 12.0), resolution=30)
    write_raster("root/Core-LULC/637U/59R/637U_59R_2021.tif", np.full((253, 253), 5), dtype="uint8")
    write_raster("root/Core-S2L1C/637U/637U_59R/x/cloud_mask.tif", np.zeros((252, 252)), dtype="uint8")
    return tmp_path / "root"


@pytest.mark.parametrize("deep", [False, True])
def test_a_cell_is_found_from_its_folder_or_the_root(write_raster: WriteRaster, tmp_path: Path, deep: bool) -> None:
    root = cell(write_raster, tmp_path)
    at = {
        "S2L2A_B02_B03_B04_B08": root / "Core-S2L2A/637U/637U_59R" if deep else root,
        "S1RTC": root / "Core-S1RTC" if deep else root,
        "DEM": root / "Core-DEM/637U" if deep else root,
        "LULC": root / "Core-LULC/637U/59R" if deep else root,
        "cloud_mask": root / "Core-S2L1C/637U/637U_59R/x" if deep else root,
    }
    found = products(*at.items())
    read = {source.key: source.read(WINDOW) for source in found.sources}
    assert {key: float(values[0, 0, 0]) for key, values in read.items()} == {
        "DEM_DEM": 12,
        "LULC_LULC": 5,
        "S1RTC_vh_vv": pytest.approx(0.1),
        "S2L1C_cloud_mask": 0,
        "S2L2A_B02_B03_B04_B08": 1500,
    }
    assert found.date == (2023, 8, 21)
    assert any("date: other inputs were sensed on another day (S1RTC 2023-08-19)" in note for note in found.notes)
    assert any("offset -1000 DN from the product's name, baseline 05.09" in note for note in found.notes)


def test_the_name_of_a_product_says_no_more_than_it_knows(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = cell(write_raster, tmp_path, S2.replace("N0509", "N9999"))
    found = products(("S2L2A_B02_B03_B04_B08", root))
    assert found.sources[0].read(WINDOW).max() == 2500
    assert any("no DN is below 1000" in note for note in found.notes)


def test_what_a_file_says_itself_comes_before_its_name(write_raster: WriteRaster, tmp_path: Path) -> None:
    for band in ("B02", "B03", "B04", "B08"):
        write_raster(f"{S2}/{band}.tif", np.full((252, 252), 2500), dtype="uint16", tags={"BOA_ADD_OFFSET": "0"})
    assert products(("S2L2A_B02_B03_B04_B08", tmp_path / S2)).sources[0].read(WINDOW).max() == 2500


def test_several_products_are_refused_by_name(write_raster: WriteRaster, tmp_path: Path) -> None:
    root = cell(write_raster, tmp_path)
    cell(write_raster, tmp_path, S2.replace("0821", "0826"))
    with pytest.raises(
        RasterError, match=r"has 2 folders of rasters \(Core-S2L2A/.*20230821.*20230826.*\); give the one"
    ):
        products(("S2L2A_B02_B03_B04_B08", root))


def test_folders_without_rasters_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty/a/b").mkdir(parents=True)
    with pytest.raises(RasterError, match=r"holds no raster"):
        products(("DEM", tmp_path / "empty"))


def test_a_search_follows_no_links_and_ends(write_raster: WriteRaster, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/loop").symlink_to(tmp_path / "a")
    with pytest.raises(RasterError, match=r"holds no raster"):
        products(("DEM", tmp_path / "a"))
    write_raster("a/1/2/3/4/5/6/DEM.tif")
    with pytest.raises(RasterError, match=r"holds no raster"):
        products(("DEM", tmp_path / "a"))
    monkeypatch.setattr(majortom, "_MOST_FOLDERS", 3)
    with pytest.raises(RasterError, match=r"has more than 3 folders"):
        products(("DEM", tmp_path / "a"))


def test_granules_of_two_dates_are_no_mosaic(write_raster: WriteRaster, tmp_path: Path) -> None:
    cell(write_raster, tmp_path)
    other = S2.replace("0821", "0826")
    cell(write_raster, tmp_path, other)
    folder = tmp_path / "root/Core-S2L2A/637U/637U_59R"
    key = "S2L2A_B02_B03_B04_B08"
    with pytest.raises(RequestError, match=r"S2L2A is given of several dates"):
        products((key, folder / S2), (key, folder / other))
