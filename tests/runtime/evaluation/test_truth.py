"""Cells on disk as a truth: both layouts, what is left out, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.evaluation.truth import Truth, read_cells
from copgen_edge.runtime.modalities import FAMILIES, get
from copgen_edge.runtime.raster.conditions import ReadOptions
from rasterio.warp import transform

LEFT, TOP, SIDE = 674_880.0, 5_275_020.0, 2160
"""A square of 2160 m in EPSG:32632: a window and a margin of 120 m all round."""

PLACE, DATE, DEM, LULC, S1 = "3d_cartesian_lat_lon", "mean_timestamps", "DEM_DEM", "LULC_LULC", "S1RTC_vh_vv"
RESOLUTION = {
    band: m.resolution for family in ("S2L1C", "S2L2A") for m in map(get, FAMILIES[family]) for band in m.bands
}
L1C = [band for key in FAMILIES["S2L1C"] for band in get(key).bands]
L2A = [band for key in FAMILIES["S2L2A"] for band in get(key).bands]
FIRST, LATER = "20210714T101559", "20220302T101021"


def write(path: Path, resolution: int, *levels: float, dtype: str = "float32") -> None:
    """A raster of one constant a band."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = SIDE // resolution
    where = Affine(resolution, 0, LEFT, 0, -resolution, TOP)
    profile = {"driver": "GTiff", "count": len(levels), "height": size, "width": size, "dtype": dtype}
    with rasterio.open(path, "w", **profile, crs="EPSG:32632", transform=where) as dataset:
        for number, level in enumerate(levels, start=1):
            dataset.write(np.full((size, size), level, dtype), number)


def write_flat(folder: Path, cell: str, *, dem: float = 100, lulc: int | None = 2) -> None:
    write(folder / f"DEM/{cell}.tif", 30, dem)
    if lulc is not None:
        write(folder / f"LULC/{cell}.tif", 10, lulc, dtype="uint8")


def write_product(folder: Path, family: str, cell: str, product: str, level: int = 0) -> Path:
    """A product as Major TOM has it: the n-th band is ``level`` + 100 n + 1 DN."""
    found = folder / f"Core-{family}" / cell.split("_")[0] / cell / product
    for number, band in enumerate(L1C if family == "S2L1C" else L2A):
        write(found / f"{band}.tif", RESOLUTION[band], level + 100 * number + 1, dtype="uint16")
    (found / "thumbnail.png").write_bytes(b"no raster")
    return found


def test_families_in_folders(tmp_path: Path) -> None:
    write_flat(tmp_path, "438U_2L", dem=200, lulc=5)
    write_flat(tmp_path, "438U_1L", dem=100, lulc=2)
    write(tmp_path / "S1RTC/438U_1L.tif", 10, 0.1, 0.02)
    write(tmp_path / "S1RTC/438U_2L.tif", 10, 0.3, 0.04)
    (tmp_path / "DEM/notes.txt").write_text("no cell")
    truth = read_cells(tmp_path, ReadOptions())
    assert truth.names == ("438U_1L", "438U_2L") and len(truth) == 2 and truth.draws is None
    assert set(truth.physical) == {DEM, LULC, S1, PLACE}
    assert truth.physical[DEM].shape == (2, 1, 64, 64)
    assert truth.physical[DEM][:, 0, 5, 60].tolist() == [100, 200]
    assert np.unique(truth.physical[LULC][1]).tolist() == [5]
    np.testing.assert_allclose(truth.physical[S1][1, :, 0, 0], [0.3, 0.04], rtol=1e-6)
    (lon,), (lat,) = transform("EPSG:32632", "EPSG:4326", [LEFT + SIDE / 2], [TOP - SIDE / 2])
    np.testing.assert_allclose(truth.physical[PLACE], [[lat, lon]] * 2, atol=1e-3)


def test_the_layout_of_major_tom(tmp_path: Path) -> None:
    cell = "438U_1L"
    top = write_product(tmp_path, "S2L1C", cell, f"S2B_MSIL1C_{FIRST}_N0301_R065_T32UPU_{LATER}")
    write(top / "cloud_mask.tif", 10, 3, dtype="uint8")
    write_product(tmp_path, "S2L2A", cell, f"S2B_MSIL2A_{FIRST}_N0301_R065_T32UPU_{LATER}", level=3000)
    radar = tmp_path / f"Core-S1RTC/438U/{cell}/S1A_IW_GRDH_1SDV_20210101T053419_rtc"
    write(radar / "vv.tif", 10, 0.1)
    write(radar / "vh.tif", 10, 0.02)
    write(tmp_path / f"Core-DEM/438U/{cell}/id/DEM.tif", 30, 812)
    write(tmp_path / f"Core-LULC/438U/1L/{cell}_2021.tif", 10, 11, dtype="uint8")
    truth = read_cells(tmp_path, ReadOptions())
    assert truth.names == (cell,)
    assert len(truth.physical) == 12
    assert truth.physical[DATE].tolist() == [[2021, 7, 14]]
    for family, level, bands in (("S2L1C", 0, L1C), ("S2L2A", 3000, L2A)):
        for key in FAMILIES[family]:
            found = truth.physical[key][0].mean(axis=(1, 2)).tolist()
            assert found == [level + 100 * bands.index(band) + 1 for band in get(key).bands], key
    assert np.unique(truth.physical["S2L1C_cloud_mask"]).tolist() == [3]
    assert np.unique(truth.physical[LULC]).tolist() == [11]
    assert truth.physical[DEM].max() == 812
    np.testing.assert_allclose(truth.physical[S1][0, :, 0, 0], [0.1, 0.02], rtol=1e-6)


def test_of_several_products_those_of_one_day(tmp_path: Path) -> None:
    cell = "438U_1L"
    write_product(tmp_path, "S2L1C", cell, f"S2A_MSIL1C_{LATER}_N0400", level=50)
    write_product(tmp_path, "S2L1C", cell, f"S2B_MSIL1C_{FIRST}_N0301")
    for product, level in ((f"S2A_MSIL2A_{FIRST}_N0301", 1000), (f"S2B_MSIL2A_{LATER}_N0400", 2000)):
        write_product(tmp_path, "S2L2A", cell, product, level)
    (tmp_path / f"Core-S2L1C/438U/{cell}/.DS_Store").write_bytes(b"no product")
    truth = read_cells(tmp_path, ReadOptions(s2_offset=0))
    assert truth.physical[DATE].tolist() == [[2022, 3, 2]]
    assert truth.physical["S2L1C_B01_B09_B10"][0, 0, 0, 0] == 51
    assert truth.physical["S2L2A_B01_B09"][0, 0, 0, 0] == 2001


def test_a_family_that_some_cells_lack_is_left_out(tmp_path: Path) -> None:
    write_flat(tmp_path, "one")
    write_flat(tmp_path, "two", lulc=None)
    assert set(read_cells(tmp_path, ReadOptions()).physical) == {DEM, PLACE}
    write(tmp_path / "S1RTC/three.tif", 10, 0.1, 0.02)
    with pytest.raises(RequestError, match="its 3 cells have no family in common"):
        read_cells(tmp_path, ReadOptions())


def test_a_date_is_no_family(tmp_path: Path) -> None:
    for family, cell in (("S2L1C", "438U_1L"), ("S2L2A", "438U_2L")):
        (tmp_path / f"Core-{family}/438U/{cell}/S2A_{FIRST}").mkdir(parents=True)
    with pytest.raises(RequestError, match="its 2 cells have no family in common"):
        read_cells(tmp_path, ReadOptions())


def test_no_cells(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RequestError, match=r"holds no cells; expected FAMILY/CELL\.tif .* or Major TOM's Core-"):
            read_cells(folder, ReadOptions())


def test_a_cell_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_flat(tmp_path, "good")
    write_flat(tmp_path, "spoilt")
    (tmp_path / "DEM/spoilt.tif").write_bytes(b"no raster")
    with pytest.raises(RasterError, match=r"^cell spoilt: DEM: spoilt\.tif") as caught:
        read_cells(tmp_path, ReadOptions())
    assert "\n" not in str(caught.value)


def test_a_product_of_no_day_in_the_calendar(tmp_path: Path) -> None:
    write_product(tmp_path, "S2L2A", "438U_1L", "S2A_MSIL2A_20211332T000000")
    with pytest.raises(RequestError, match=r"^cell 438U_1L: '2021-13-32' is not in the calendar"):
        read_cells(tmp_path, ReadOptions())


def test_options_reach_the_rasters(tmp_path: Path) -> None:
    write_flat(tmp_path, "one", lulc=3)
    with pytest.raises(RequestError, match="cell one: LULC"):
        read_cells(tmp_path, ReadOptions())
    truth = read_cells(tmp_path, ReadOptions(lulc_map={3: 4}))
    assert np.unique(truth.physical[LULC]).tolist() == [4]


def test_the_real_cells(data: Path) -> None:
    """Tiles of TerraMesh, whose classes are numbered on from 3 and whose radar is in decibels."""
    mapping = {3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 11}
    truth = read_cells(data / "majortom_cells", ReadOptions(lulc_map=mapping))
    assert truth.names == ("282D_485L_3_3", "38D_378R_2_3", "637U_59R_1_3")
    assert set(truth.physical) == {
        DEM, LULC, S1, PLACE, *FAMILIES["S2L1C"][:3], *FAMILIES["S2L2A"],
    }  # fmt: skip
    assert all(len(values) == 3 for values in truth.physical.values())
    assert (truth.physical[S1] > 0).all() and truth.physical[S1].mean() < 1
    # Cells are named by degrees / 0.09: rows south of the equator are D.
    np.testing.assert_allclose(np.sign(truth.physical[PLACE][:, 0]), [-1, -1, 1])
    np.testing.assert_allclose(np.abs(truth.physical[PLACE][:, 0]) * 111.32 / 10, [282, 38, 637], rtol=0.02, atol=2)


def test_conditions_of_a_truth() -> None:
    truth = Truth(("a", "b"), {DEM: np.zeros((2, 1, 64, 64)), PLACE: np.zeros((2, 2))})
    assert list(truth.given((PLACE,))) == [PLACE]
    assert truth.given(()) == {}
    with pytest.raises(RequestError, match="the truth has no LULC_LULC, mean_timestamps, only DEM_DEM"):
        truth.given((PLACE, LULC, DATE))
