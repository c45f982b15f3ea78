from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.modalities import FAMILIES, get
from copgen_edge.runtime.raster.conditions import Conditions, ReadOptions, read_conditions
from copgen_edge.runtime.raster.window import project
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

WriteRaster = Callable[..., Path]
RampOn = Callable[[Affine, int], NDArray[np.float64]]

LEFT, TOP = 436_920.0, 4_175_880.0
L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
NATIVE = {"B01": 60, "B09": 60, "B10": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}
PLACE, DATE = "3d_cartesian_lat_lon", "mean_timestamps"
TO_ESRI = {3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 11}


def conditions(*values: tuple[str, Any], **options: Any) -> Conditions:
    return read_conditions([(name, str(value)) for name, value in values], ReadOptions(**options))


def cell(write_raster: WriteRaster, tmp_path: Path) -> Path:
    for band in L1C:
        resolution = NATIVE.get(band, 20)
        write_raster(f"cell/{band}.tif", resolution=resolution, size=2520 // resolution)
    return tmp_path / "cell"


def degrees_dem(write_raster: WriteRaster, ramp: Callable[[Any, Any], Any]) -> Path:
    arc = 1 / 3600
    (lon,), (lat,) = project(CRS.from_epsg(32618), CRS.from_epsg(4326), [LEFT + 1260], [TOP - 1260])
    left, top = lon - 60 * arc, lat + 60 * arc
    steps = (np.arange(120) + 0.5) * arc
    lons, lats = np.meshgrid(left + steps, top - steps)
    east, north = project(CRS.from_epsg(4326), CRS.from_epsg(32618), lons.ravel().tolist(), lats.ravel().tolist())
    values = ramp(east, north).reshape(120, 120)
    return write_raster("dem.tif", values, crs="EPSG:4326", transform=Affine(arc, 0, left, 0, -arc, top))


@pytest.mark.parametrize(
    "where", [{}, {"pixel": (18, 6)}, {"pixel": (54, 60)}, {"center": (37.7165, -75.7010)}], ids=str
)
def test_bands_at_10_20_60_m_and_a_geographic_dem_show_the_same_ground(
    write_raster: WriteRaster,
    tmp_path: Path,
    ramp: Callable[[Any, Any], Any],
    ramp_on: RampOn,
    where: dict[str, Any],
) -> None:
    radar = write_raster("s1.tif", count=2, descriptions=["VH", "VV"])
    given = [("DEM", degrees_dem(write_raster, ramp)), ("S2L1C", cell(write_raster, tmp_path)), ("S1RTC", radar)]
    read = conditions(*given, s1_scale="linear", **where)
    assert read.window.crs == CRS.from_epsg(32618)
    if "pixel" in where:
        assert (read.window.left - LEFT, TOP - read.window.top) == tuple(10 * step for step in where["pixel"])
    assert (read.window.left - LEFT) % 60 == 0
    for key in FAMILIES["S2L1C"]:
        modality = get(key)
        expected = ramp_on(read.window.transform(modality.resolution), modality.size).astype(np.float32)
        assert read.physical[key].shape == (1, len(modality.bands), modality.size, modality.size)
        assert read.physical[key].dtype == np.float32
        np.testing.assert_array_equal(read.physical[key][0], np.broadcast_to(expected, read.physical[key].shape[1:]))
    at_10_m = ramp_on(read.window.transform(10), 192)
    np.testing.assert_allclose(read.physical["S1RTC_vh_vv"][0, 0], at_10_m + 100, rtol=1e-6)
    np.testing.assert_allclose(read.physical["S1RTC_vh_vv"][0, 1], at_10_m, rtol=1e-6)
    # A shift of one 30 m pixel is 3 eastward and 9 southward.
    np.testing.assert_allclose(read.physical["DEM_DEM"][0, 0], ramp_on(read.window.transform(30), 64), atol=0.7)
    assert any("dem.tif" in note and "resampled to 30 m" in note for note in read.notes)
    assert read.files["DEM_DEM"] == (tmp_path / "dem.tif",)
    assert [path.name for path in read.files["S2L1C_B01_B09_B10"]] == ["B01.tif", "B09.tif", "B10.tif"]


def test_one_file_of_all_bands_gives_what_band_files_give(write_raster: WriteRaster, tmp_path: Path) -> None:
    folder = cell(write_raster, tmp_path)
    from_folder = conditions(("S2L1C", folder))
    stacked = write_raster("all.tif", np.stack([rasterio.open(folder / "B02.tif").read(1)] * 13))
    from_file = conditions(("S2L1C", stacked))
    assert from_file.window == from_folder.window
    for key in FAMILIES["S2L1C"]:
        np.testing.assert_allclose(from_file.physical[key], from_folder.physical[key], atol=2e-3)
    assert any("taken as B01, B02" in note for note in from_file.notes)


def test_codes_are_read_as_integers_and_named(write_raster: WriteRaster) -> None:
    codes = np.random.default_rng(0).choice([1, 2, 5, 11], (253, 253))
    clouds = np.random.default_rng(1).choice([0, 1, 2, 3], (252, 252))
    read = conditions(
        ("LULC", write_raster("lulc.tif", codes, dtype="uint8")),
        ("cloud_mask", write_raster("cloud.tif", clouds, dtype="uint8")),
    )
    col, row = round((read.window.left - LEFT) / 10), round((TOP - read.window.top) / 10)
    for key, values in (("LULC_LULC", codes), ("S2L1C_cloud_mask", clouds)):
        assert read.physical[key].dtype == np.int64
        np.testing.assert_array_equal(read.physical[key], values[np.newaxis, np.newaxis, row:, col:][..., :192, :192])
    assert "LULC: lulc.tif: classes in the window are 1 water, 2 trees, 5 crops, 11 rangeland" in read.notes


def test_sentinel_2_anchors_the_window_before_the_others(write_raster: WriteRaster, tmp_path: Path) -> None:
    dem = write_raster("dem.tif", transform=Affine(5, 0, LEFT - 13, 0, -5, TOP + 13), size=540)
    read = conditions(("DEM", dem), ("S2L1C", cell(write_raster, tmp_path)))
    assert (read.window.left - LEFT) % 60 == 0
    assert "window: the middle of S2L1C: B04.tif" in read.notes
    alone = conditions(("DEM", dem))
    assert (alone.window.left - LEFT + 13) % 60 == 0


def test_place_and_date_are_values(write_raster: WriteRaster) -> None:
    dem = write_raster("dem.tif")
    read = conditions(("DEM", dem), ("place", "-33.2,151.1"), ("date", "2024-02-29"))
    np.testing.assert_array_equal(read.physical[PLACE], [[-33.2, 151.1]])
    np.testing.assert_array_equal(read.physical[DATE], [[2024, 2, 29]])
    assert read.physical[PLACE].dtype == np.float64
    assert read.physical[DATE].dtype == np.int64
    assert read.window.crs == CRS.from_epsg(32618)
    by_key = conditions((PLACE, "-33.2,151.1"), (DATE, "2024-02-29"))
    assert by_key.window.crs == CRS.from_epsg(32756)
    assert by_key.files == {}


def test_place_auto_is_the_middle_of_the_window(write_raster: WriteRaster) -> None:
    read = conditions(("DEM", write_raster("dem.tif")), ("place", "auto"))
    np.testing.assert_array_equal(read.physical[PLACE], [read.window.center])
    assert any(note.startswith("place: ") for note in read.notes)
    np.testing.assert_allclose(
        conditions(("place", "auto"), center=(10.0, 20.0)).physical[PLACE], [[10.0, 20.0]], atol=5e-4
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([("S3", "x.tif")], r"unknown modality 'S3'"),
        ([("place", "12")], r"is no place"),
        ([("date", "tomorrow")], r"is no date"),
        ([("place", "1,2"), (PLACE, "1,2")], r"place is given twice"),
        ([("place", "1,2"), ("place", "auto")], r"place is given twice"),
        ([("date", "2020-01-01"), ("date", "2020-01-01")], r"date is given twice"),
        ([("date", "2020-01-01")], r"give it with --center"),
        ([("place", "auto")], r"give it with --center"),
        ([], r"give it with --center"),
        ([("DEM", "nowhere.tif")], r"'nowhere.tif' does not exist"),
    ],
)
def test_requests_that_cannot_be_meant_are_refused(values: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        conditions(*values)
    assert "\n" not in str(error.value)


def test_a_raster_without_a_crs_is_refused(write_raster: WriteRaster, tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"DEM: dem.tif has no CRS"):
        conditions(("S2L1C", cell(write_raster, tmp_path)), ("DEM", write_raster("dem.tif", crs=None)))


def test_a_raster_elsewhere_is_refused(write_raster: WriteRaster, tmp_path: Path) -> None:
    there = write_raster("dem.tif", transform=Affine(30, 0, LEFT + 1800, 0, -30, TOP), size=100)
    with pytest.raises(RasterError, match=r"DEM: dem.tif does not cover the window: it spans 438720\.\.441720"):
        conditions(("S2L1C", cell(write_raster, tmp_path)), ("DEM", there))


def gap(kind: type, shape: tuple[int, ...], background: float, value: float) -> NDArray[Any]:
    values: NDArray[Any] = np.full(shape, background, dtype=kind)
    values[..., 100:110, 100:106] = value
    return values


@pytest.mark.parametrize(
    ("name", "values", "nodata"),
    [
        ("DEM", gap(float, (252, 252), 50, -9999), -9999),
        ("DEM", gap(float, (252, 252), 50, np.nan), np.nan),
        ("S1RTC", gap(float, (2, 252, 252), 0.2, 0), 0),
        ("S1RTC", gap(float, (2, 252, 252), -12, -99), -99),
        ("S2L2A", gap(int, (12, 252, 252), 1500, 0), None),
        ("S2L2A", gap(int, (12, 252, 252), 1500, 0), 0),
        ("LULC", gap(int, (252, 252), 5, 0), None),
        ("LULC", gap(int, (252, 252), 5, 255), 255),
        ("cloud_mask", gap(int, (252, 252), 2, 255), 255),
    ],
)
def test_nodata_is_refused_or_filled_where_asked(
    write_raster: WriteRaster, name: str, values: NDArray[Any], nodata: float | None
) -> None:
    dtype = "float32" if values.dtype.kind == "f" else "uint16"
    path = write_raster("x.tif", values, nodata=nodata, dtype=dtype)
    with pytest.raises(RasterError, match=r"x.tif has nodata in the window: \d+ of \d+ pixels .*--fill-nodata"):
        conditions((name, path))
    read = conditions((name, path), fill_nodata=True)
    background = float(values.flat[0])
    if name == "S1RTC" and background < 0:
        background = 10 ** (background / 10)
    for key in FAMILIES[name]:
        filled = np.unique(read.physical[key])
        np.testing.assert_allclose(filled, [0, background] if name == "LULC" else background, rtol=1e-5)
    assert any("60 of 36864" in note or " of 9216" in note or " of 4096" in note for note in read.notes)


@pytest.mark.parametrize(
    ("name", "values", "nodata"),
    [
        ("DEM", np.full((252, 252), -9999), -9999),
        ("S2L2A", np.zeros((12, 252, 252)), None),
        ("LULC", np.zeros((252, 252)), None),
        ("cloud_mask", np.full((252, 252), 255), 255),
        ("S1RTC", np.full((2, 252, 252), np.nan), np.nan),
    ],
)
def test_a_raster_of_nodata_is_refused_even_when_filling(
    write_raster: WriteRaster, name: str, values: NDArray[Any], nodata: float | None
) -> None:
    path = write_raster("x.tif", values, nodata=nodata)
    for fill in (False, True):
        with pytest.raises(RasterError, match=r"x.tif is all nodata in the window"):
            conditions((name, path), fill_nodata=fill)


def test_radar_without_any_power_is_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RasterError, match=r"has no power above 0 in the window"):
        conditions(("S1RTC", write_raster("s1.tif", np.zeros((2, 252, 252)))))


@pytest.mark.parametrize("name", ["DEM", "LULC", "S1RTC", "S2L2A"])
def test_undeclared_nan_is_refused_even_when_filling(write_raster: WriteRaster, name: str) -> None:
    count = {"S1RTC": 2, "S2L2A": 12}.get(name, 1)
    values = np.full((count, 252, 252), 5.0)
    values[0, 100, 100] = np.nan
    with pytest.raises(RasterError, match=r"x.tif has NaN or infinity in band"):
        conditions((name, write_raster("x.tif", values)), fill_nodata=True)


def test_the_scale_of_radar_is_guessed_and_said(write_raster: WriteRaster) -> None:
    path = write_raster("s1.tif", np.full((2, 252, 252), -10.0), descriptions=["VV", "VH"])
    read = conditions(("S1RTC", path))
    np.testing.assert_allclose(read.physical["S1RTC_vh_vv"], 0.1, rtol=1e-6)
    assert "S1RTC: s1.tif: values look like dB (median -10); --s1-scale says otherwise" in read.notes
    with pytest.raises(RasterError, match=r"--s1-scale db"):
        conditions(("S1RTC", path), s1_scale="linear")


def test_what_the_model_cannot_hold_is_said(write_raster: WriteRaster) -> None:
    power = np.full((2, 252, 252), 0.1)
    power[0, 100, 100:110] = 0
    read = conditions(("S1RTC", write_raster("s1.tif", power)))
    assert any("10 of 36864 pixels (0.027 %) have power of 0 or less" in note for note in read.notes)
    dem = np.full((84, 84), 12.0)
    dem[40, 40] = -3.5
    read = conditions(("DEM", write_raster("dem.tif", dem, resolution=30)))
    assert any("1 of 4096 pixels (0.024 %) are below 0 m" in note for note in read.notes)
    assert read.physical["DEM_DEM"].min() == -3.5


def test_the_offset_of_sentinel_2_is_found_subtracted_and_said(write_raster: WriteRaster) -> None:
    values = np.full((12, 252, 252), 2300)
    tagged = write_raster("a.tif", values, dtype="uint16", tags={"PROCESSING_BASELINE": "05.09"})
    read = conditions(("S2L2A", tagged))
    assert {float(read.physical[key].max()) for key in FAMILIES["S2L2A"]} == {1300.0}
    assert "S2L2A: offset -1000 DN, from the file's processing baseline 05.09" in read.notes
    assert conditions(("S2L2A", tagged), s2_offset=0).physical["S2L2A_B01_B09"].max() == 2300
    plain = conditions(("S2L2A", write_raster("b.tif", values, dtype="uint16")))
    assert plain.physical["S2L2A_B01_B09"].max() == 2300
    assert any("taken as 0" in note for note in plain.notes)
    assert any("give --s2-offset -1000" in note for note in plain.notes)


def test_a_dark_band_shows_that_the_offset_is_off_already(write_raster: WriteRaster) -> None:
    values = np.full((12, 252, 252), 2300)
    values[11] = 20
    path = write_raster("a.tif", values, dtype="uint16")
    assert not any("-1000" in note for note in conditions(("S2L2A", path)).notes)
    with pytest.raises(RasterError, match=r"DN -980 in the darkest band"):
        conditions(("S2L2A", path), s2_offset=-1000)


def test_filled_nodata_does_not_look_like_a_second_subtraction(write_raster: WriteRaster) -> None:
    values = np.full((12, 252, 252), 2300)
    values[:, :, 100:140] = 0
    path = write_raster("a.tif", values, dtype="uint16")
    read = conditions(("S2L2A", path), s2_offset=-1000, fill_nodata=True)
    assert {float(read.physical[key].min()) for key in FAMILIES["S2L2A"]} == {1300.0}


def test_bands_are_named_for_the_name_as_typed(write_raster: WriteRaster) -> None:
    path = write_raster("s2.tif", count=4)
    key = "S2L2A_B02_B03_B04_B08"
    swapped = conditions((key, path), bands={key: ("B02", "B03", "B04", "B08")}).physical[key][0]
    straight = conditions((key, path), bands={key: ("B04", "B03", "B02", "B08")}).physical[key][0]
    np.testing.assert_array_equal(swapped, straight[[2, 1, 0, 3]])


@pytest.mark.parametrize("name", ["282D_485L_3_3", "38D_378R_2_3", "637U_59R_1_3"])
def test_a_real_major_tom_cell_lines_up(real_data: Path, name: str) -> None:
    cells = real_data / "majortom_cells"
    families = ("DEM", "LULC", "S1RTC", "S2L1C", "S2L2A")
    read = conditions(
        *((family, cells / family / f"{name}.tif") for family in families), ("place", "auto"), lulc_map=TO_ESRI
    )
    assert set(read.physical) == {key for family in families for key in FAMILIES[family]} | {PLACE}
    # 224 pixels leave 320 m, of which two steps of 60 m are half, rounded down.
    part = Window(12, 12, 192, 192)

    def direct(family: str, index: int) -> NDArray[Any]:
        with rasterio.open(cells / family / f"{name}.tif") as dataset:
            return dataset.read(index, window=part)

    np.testing.assert_array_equal(read.physical["S2L2A_B02_B03_B04_B08"][0, 0], direct("S2L2A", 4))
    np.testing.assert_array_equal(read.physical["S2L1C_B02_B03_B04_B08"][0, 3], direct("S2L1C", 8))
    np.testing.assert_allclose(read.physical["S1RTC_vh_vv"][0, 1], 10 ** (direct("S1RTC", 2) / 10), rtol=1e-5)
    b12 = direct("S2L2A", 12).reshape(96, 2, 96, 2).mean((1, 3))
    np.testing.assert_allclose(read.physical["S2L2A_B05_B06_B07_B11_B12_B8A"][0, 5], b12, rtol=1e-5)
    dem = direct("DEM", 1).reshape(64, 3, 64, 3).mean((1, 3))
    np.testing.assert_allclose(read.physical["DEM_DEM"][0, 0], dem, atol=1e-3)
    lulc = direct("LULC", 1)
    mapped = np.array([0, 1, 2, 4, 5, 7, 8, 9, 10, 11])[lulc]
    np.testing.assert_array_equal(read.physical["LULC_LULC"][0, 0], mapped)


def test_the_offsets_of_real_cells_are_told_apart(real_data: Path) -> None:
    def l1c(name: str) -> tuple[str, Path]:
        return "S2L1C", real_data / "majortom_cells" / "S2L1C" / f"{name}.tif"

    assert any("give --s2-offset -1000" in note for note in conditions(l1c("282D_485L_3_3")).notes)
    corrected = conditions(l1c("282D_485L_3_3"), s2_offset=-1000)
    assert corrected.physical["S2L1C_B01_B09_B10"][0, 2].mean() < 100
    for name in ("38D_378R_2_3", "637U_59R_1_3"):
        assert not any("-1000" in note for note in conditions(l1c(name)).notes)
        with pytest.raises(RasterError, match=r"subtracted before; use --s2-offset 0"):
            conditions(l1c(name), s2_offset=-1000)


def test_a_real_cell_of_native_band_files_is_copied(real_data: Path) -> None:
    folder = real_data / "s2l1c_native_res_T18S"
    read = conditions(("S2L1C", folder))
    assert tuple(read.window.bounds) == (441_300.0, 4_169_580.0, 443_220.0, 4_171_500.0)
    assert not any("resampled" in note for note in read.notes)
    for key in FAMILIES["S2L1C"]:
        modality = get(key)
        start = 4380 // modality.resolution
        for band, values in zip(modality.bands, read.physical[key][0], strict=True):
            with rasterio.open(folder / f"{band}.tif") as dataset:
                expected = dataset.read(1, window=Window(start, start, modality.size, modality.size))
            np.testing.assert_array_equal(values, expected)


def test_a_real_geographic_dem_is_warped_in_place(real_data: Path) -> None:
    path = real_data / "copdem_glo30_los_angeles" / "los_angeles_dem_geoid.tif"
    read = conditions(("DEM", path), ("place", "auto"))
    assert read.window.crs == CRS.from_epsg(32611)
    np.testing.assert_allclose(read.physical[PLACE], [[34.0, -118.0]], atol=1e-3)
    steps = (np.arange(64) + 0.5) * 30
    xs, ys = np.meshgrid(read.window.left + steps, read.window.top - steps)
    lons, lats = project(read.window.crs, CRS.from_epsg(4326), xs.ravel().tolist(), ys.ravel().tolist())
    with rasterio.open(path) as dataset:
        heights, t = dataset.read(1), dataset.transform
    cols, rows = (lons - t.c) / t.a - 0.5, (lats - t.f) / t.e - 0.5

    def mean_error(across: float, down: float) -> float:
        col, row = np.floor(cols + across).astype(int), np.floor(rows + down).astype(int)
        x, y = cols + across - col, rows + down - row
        upper = (1 - x) * heights[row, col] + x * heights[row, col + 1]
        lower = (1 - x) * heights[row + 1, col] + x * heights[row + 1, col + 1]
        interpolated = ((1 - y) * upper + y * lower).reshape(64, 64)
        return float(np.abs(read.physical["DEM_DEM"][0, 0] - interpolated).mean())

    assert mean_error(0, 0) < 0.3
    for shift in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
        assert mean_error(*shift) > 2.0


def test_real_radar_in_db_at_20_m_is_resampled_as_power(real_data: Path, write_raster: WriteRaster) -> None:
    (path,) = (real_data / "s1_grd_db_utm31_pyrosar").glob("*.tif")
    with pytest.raises(RasterError, match=r"has 1 band, .*--bands S1RTC="):
        conditions(("S1RTC", path))
    with rasterio.open(path) as dataset:
        both = np.stack([dataset.read(1), dataset.read(1) - 6])
        both[1][dataset.read(1) == -99] = -99
        grid = {"crs": dataset.crs.to_string(), "transform": dataset.transform, "nodata": dataset.nodata}
        inside = dataset.read(1, window=Window(86, 60, 96, 96))
    read = conditions(("S1RTC", write_raster("s1.tif", both, **grid)))
    power = read.physical["S1RTC_vh_vv"][0]
    assert (read.window.left - grid["transform"].c) / 20 == pytest.approx(84)
    np.testing.assert_allclose(10 * np.log10(power[0] / power[1]), 6, atol=1e-3)
    expected = 10 ** (inside / 10)
    assert power[0].mean() == pytest.approx(expected.mean(), rel=0.05)
