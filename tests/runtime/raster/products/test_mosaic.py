from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from copgen_edge.runtime.errors import RasterError
from copgen_edge.runtime.modalities import FAMILIES, get
from copgen_edge.runtime.raster.conditions import ReadOptions, read_conditions
from copgen_edge.runtime.raster.products import Products, find_products, mosaic
from copgen_edge.runtime.raster.window import WGS84, GroundWindow, project
from numpy.typing import NDArray
from rasterio.crs import CRS

WriteRaster = Callable[..., Path]
Ramp = Callable[[Any, Any], Any]
RampOn = Callable[[Affine, int], NDArray[np.float64]]

LEFT, TOP = 436_920.0, 4_175_880.0
UTM = CRS.from_epsg(32618)


def products(*values: tuple[str, Any], **options: Any) -> Products:
    return find_products([(name, str(value)) for name, value in values], ReadOptions(**options))


def window(across: float = 0, down: float = 0) -> GroundWindow:
    return GroundWindow(UTM, LEFT + across, TOP - down)


def same_as_generate(values: list[tuple[str, str]], **options: Any) -> Products:
    """Every source gives, on the window of ``generate``, exactly what it reads; class 0 is what it keeps of no data."""
    read = read_conditions(values, ReadOptions(**options))
    found = find_products(values, ReadOptions(**options))
    assert {source.key for source in found.sources} == set(read.physical)
    for source in found.sources:
        ours = source.read(read.window)
        if source.key == "LULC_LULC":
            ours = np.nan_to_num(ours)
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, read.physical[source.key][0])
    return found


def test_a_real_level_1c_cell_is_read_as_generate_reads_it(data: Path) -> None:
    found = same_as_generate([("S2L1C", str(data / "s2l1c_native_res_T18S"))])
    assert all("copied" in source.describe for source in found.sources)


def test_a_real_geographic_dem_is_warped_as_generate_warps_it(data: Path) -> None:
    found = same_as_generate([("DEM", str(data / "copdem_glo30_los_angeles" / "los_angeles_dem_geoid.tif"))])
    assert found.sources[0].describe == (
        "los_angeles_dem_geoid.tif, 1 arc seconds, EPSG:4326, warped to 30 m (average)"
    )


def test_real_radar_in_db_is_resampled_as_generate_resamples_it(data: Path, write_raster: WriteRaster) -> None:
    (path,) = (data / "s1_grd_db_utm31_pyrosar").glob("*.tif")
    with rasterio.open(path) as dataset:
        both = np.stack([dataset.read(1), dataset.read(1) - 6])
        both[1][dataset.read(1) == -99] = -99
        grid = {"crs": dataset.crs.to_string(), "transform": dataset.transform, "nodata": dataset.nodata}
    found = same_as_generate([("S1RTC", str(write_raster("s1.tif", both, **grid)))])
    assert found.sources[0].describe.endswith("warped to 10 m (bilinear), dB")


@pytest.mark.parametrize("name", ["282D_485L_3_3", "637U_59R_1_3"])
def test_real_cells_at_10_m_are_averaged_as_generate_does(data: Path, name: str) -> None:
    families = ("S1RTC", "DEM", "S2L2A", "S2L1C", "LULC")
    values = [(family, str(data / "majortom_cells" / family / f"{name}.tif")) for family in families]
    same_as_generate(values, lulc_map={3: 4, 4: 5, 5: 7, 6: 8, 7: 9, 8: 10, 9: 11})


@pytest.mark.parametrize(
    ("name", "count", "across", "down"),
    [("DEM", 1, 0, 0), ("S2L2A", 12, 20, 40), ("S1RTC", 2, 0, 0), ("DEM", 1, 13, -7), ("S1RTC", 2, 4, 4)],
)
def test_a_window_that_sticks_out_is_read_as_far_as_it_is_covered(
    write_raster: WriteRaster, ramp_on: RampOn, name: str, count: int, across: float, down: float
) -> None:
    path = write_raster("x.tif", count=count, resolution=30 if name == "DEM" else 10, size=252)
    found = products((name, path), s1_scale="linear")
    side = 252 * (30 if name == "DEM" else 10)
    for source in found.sources:
        resolution = get(source.key).resolution
        whole = source.read(window(240 + across, 240 + down))
        assert not np.isnan(whole).any()
        corner = window(side - 960 + across, side - 480 + down)
        read = source.read(corner)
        known = ~np.isnan(read)
        rows, cols = np.mgrid[0 : len(read[0]), 0 : len(read[0])] * resolution
        # Pixels with their middle on the raster, give or take the one at its very edge.
        inside = (cols + across < 960) & (rows + down < 480)
        assert (known.any(axis=0) == known.all(axis=0)).all()
        assert np.count_nonzero(known[0] != inside) <= 2 * len(read[0])
        expected = ramp_on(corner.transform(resolution), len(read[0]))
        away = (cols + across < 960 - 2 * resolution) & (rows + down < 480 - 2 * resolution)
        shift = read[0][away] - expected[away]
        np.testing.assert_allclose(shift - 100 * round(float(shift.mean()) / 100), 0, atol=0.01)
        for beyond in (window(side + 600), window(-5000, 0), window(0, 900_000)):
            assert np.isnan(source.read(beyond)).all()


def test_a_window_where_the_crs_does_not_reach_holds_nothing(write_raster: WriteRaster) -> None:
    found = products(("DEM", write_raster("x.tif")))
    assert np.isnan(found.sources[0].read(GroundWindow(CRS.from_epsg(32661), 2e6, 2e6))).all()
    assert np.isnan(found.sources[0].read(GroundWindow(UTM, 9e9, 9e9))).all()


def test_gaps_of_the_first_raster_are_filled_by_the_next(write_raster: WriteRaster) -> None:
    first = np.full((2, 252, 252), 0.1)
    first[:, :, 50:] = -1.0
    # A pixel without one polarisation has none of its bands from this raster.
    first[1, :, 40:50] = -1.0
    one = write_raster("a.tif", first, nodata=-1.0)
    second = np.full((2, 252, 100), -10.0)
    two = write_raster("b.tif", second)
    found = products(("S1RTC", one), ("S1RTC", two))
    read = found.sources[0].read(window())
    for band in read:
        np.testing.assert_allclose(band[0, :100], 0.1)
        assert np.isnan(band[:, 100:]).all()
    assert any("b.tif: values look like dB" in note for note in found.notes)
    assert any("a.tif: values look like linear power" in note for note in found.notes)
    reverse = products(("S1RTC", two), ("S1RTC", one)).sources[0].read(window())
    np.testing.assert_array_equal(np.isnan(reverse), np.isnan(read))


@pytest.mark.parametrize("given", [(0, 1, 2), (2, 0, 1)])
def test_elevation_tiles_of_one_lattice_meet_without_a_step(
    write_raster: WriteRaster, ramp: Ramp, given: tuple[int, ...]
) -> None:
    arc = 1 / 3600
    (lon,), (lat,) = project(UTM, CRS.from_epsg(4326), [LEFT + 960], [TOP - 960])
    steps = (np.arange(120) + 0.5) * arc
    lons, lats = np.meshgrid(lon - 60 * arc + steps, lat + 60 * arc - steps)
    east, north = project(CRS.from_epsg(4326), UTM, lons.ravel().tolist(), lats.ravel().tolist())
    values = 5 * ramp(east, north).reshape(120, 120) - 15000

    def tile(name: str, rows: slice, cols: slice) -> Path:
        where = Affine(arc, 0, lon + (cols.start - 60) * arc, 0, -arc, lat - (rows.start - 60) * arc)
        return write_raster(name, values[rows, cols], crs="EPSG:4326", transform=where)

    tiles = [
        tile("nw.tif", slice(0, 60), slice(0, 60)),
        tile("ne.tif", slice(0, 60), slice(60, 120)),
        tile("s.tif", slice(60, 120), slice(0, 120)),
    ]
    whole = products(("DEM", tile("whole.tif", slice(0, 120), slice(0, 120)))).sources[0].read(window())
    found = products(*(("DEM", tiles[number]) for number in given))
    joined = found.sources[0].read(window())
    assert not np.isnan(joined).any()
    np.testing.assert_allclose(joined, whole, atol=1e-3)
    assert any(note.startswith("DEM_DEM: a mosaic of ") for note in found.notes)
    # One by one, they meet in a step: what joining them is for.
    alone = [products(("DEM", path)).sources[0].read(window()) for path in tiles]
    stepped = np.where(np.isnan(alone[0]), np.where(np.isnan(alone[1]), alone[2], alone[1]), alone[0])
    assert np.nanmax(np.abs(stepped - whole)) > 5


def test_tiles_of_other_lattices_are_laid_over_one_another(write_raster: WriteRaster, ramp_on: RampOn) -> None:
    west = write_raster("w.tif", resolution=30, size=32)
    finer = write_raster("e.tif", resolution=15, transform=Affine(15, 0, LEFT + 900, 0, -15, TOP + 7), size=170)
    read = products(("DEM", west), ("DEM", finer)).sources[0].read(window())
    expected = ramp_on(window().transform(30), 64)
    np.testing.assert_array_equal(read[0, :32, :32], expected[:32, :32].astype(np.float32))
    np.testing.assert_allclose(read[0, :60, 33:], expected[:60, 33:], atol=0.01)
    assert np.isnan(read[0, 33:, :28]).all()


def test_a_rotated_raster_is_warped_to_its_edges(write_raster: WriteRaster, ramp_on: RampOn) -> None:
    where = Affine.translation(LEFT + 1500, TOP) @ Affine.rotation(-35) @ Affine.scale(10, -10)
    xs, ys = (np.arange(252) + 0.5 for _ in range(2))
    cols, rows = np.meshgrid(xs, ys)
    values = 3000 + (where.a * cols + where.b * rows + 1500) / 10 - 3 * (where.d * cols + where.e * rows) / 10
    found = products(("DEM", write_raster("x.tif", values, transform=where)))
    read = found.sources[0].read(window(600, 600))[0]
    known = ~np.isnan(read)
    assert 0.3 < known.mean() < 1
    error = np.abs(read - ramp_on(window(600, 600).transform(30), 64))[known]
    # A pixel at the very edge is the average of the part that is covered.
    assert np.quantile(error, 0.95) < 0.5
    assert error.max() < 12
    assert "warped to 30 m (average)" in found.sources[0].describe


def test_whether_radar_is_in_db_is_decided_for_the_whole_raster(write_raster: WriteRaster) -> None:
    values = np.full((2, 600, 600), -12.0)
    values[:, :200, :200] = 3.0
    found = products(("S1RTC", write_raster("x.tif", values)))
    np.testing.assert_allclose(found.sources[0].read(window()), 10**0.3, rtol=1e-6)


def test_the_second_subtraction_is_looked_for_in_the_whole_raster(write_raster: WriteRaster) -> None:
    values = np.full((12, 600, 600), 1500)
    values[:, 300:] = 200
    path = write_raster("x.tif", values, dtype="uint16", tags={"BOA_ADD_OFFSET": "-1000"})
    with pytest.raises(RasterError, match=r"x.tif: an offset of -1000 would leave DN -800"):
        products(("S2L2A", path))
    assert products(("S2L2A", path), s2_offset=0).sources[0].read(window()).max() == 1500


def test_zeros_of_sentinel_2_and_of_land_cover_are_nothing(write_raster: WriteRaster) -> None:
    values = np.full((12, 252, 252), 1500)
    values[:, :60] = 0
    values[0, 120:] = 0
    found = products(("S2L2A", write_raster("x.tif", values, dtype="uint16")))
    for source in found.sources:
        read = source.read(window())
        rows = 600 // get(source.key).resolution
        assert np.isnan(read[:, :rows]).all()
        assert (read[:, rows : 2 * rows] == 1500).all()
    first = found.sources[0].read(window())
    assert (first[0, 21:] == 0).all()
    assert (first[1, 21:] == 1500).all()


def test_undeclared_zeros_of_radar_are_nodata_where_they_are_many(write_raster: WriteRaster) -> None:
    values = np.full((2, 252, 252), 0.2)
    values[:, :100] = 0
    values[1, 150] = 0
    found = products(("S1RTC", write_raster("x.tif", values)))
    read = found.sources[0].read(window())
    assert np.isnan(read[:, :100]).all()
    assert (read[1, 150] == 0).all()
    assert any("0 in every band is taken as nodata" in note and "40% of its pixels" in note for note in found.notes)
    few = np.full((2, 252, 252), 0.2)
    few[:, 0, 0] = 0
    read = products(("S1RTC", write_raster("y.tif", few))).sources[0].read(window())
    assert read[:, 0, 0].tolist() == [0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_undeclared_nan_is_nodata_and_said(write_raster: WriteRaster, bad: float) -> None:
    values = np.full((252, 252), 50.0)
    values[:100] = bad
    found = products(("DEM", write_raster("x.tif", values, resolution=30)))
    read = found.sources[0].read(window())
    assert np.isnan(read).all()
    assert (found.sources[0].read(window(0, 3000)) == 50).all()
    assert any("NaN and infinity" in note for note in found.notes)


def test_values_that_nothing_measures_are_refused_when_opened_or_when_met(write_raster: WriteRaster) -> None:
    many = np.full((252, 252), 50.0)
    many[100:120] = -9999
    with pytest.raises(RasterError, match=r"x.tif holds -9999 in band DEM .*declare it as nodata"):
        products(("DEM", write_raster("x.tif", many)))
    one = np.full((1400, 1400), 50.0)
    one[10, 10] = -9999
    found = products(("DEM", write_raster("y.tif", one)))
    with pytest.raises(RasterError, match=r"y.tif holds -9999 in band DEM"):
        found.sources[0].read(window())
    assert found.sources[0].read(window(3000, 3000)).max() == 50


@pytest.mark.parametrize(
    ("name", "values", "nodata"),
    [
        ("DEM", np.full((60, 60), -1.0), -1.0),
        ("DEM", np.full((60, 60), np.nan), None),
        ("S2L2A", np.zeros((12, 60, 60)), None),
        ("S1RTC", np.full((2, 60, 60), -99.0), -99.0),
        ("cloud_mask", np.full((60, 60), 255), 255),
    ],
)
def test_a_raster_without_data_is_refused(
    write_raster: WriteRaster, name: str, values: NDArray[Any], nodata: float | None
) -> None:
    path = write_raster("x.tif", values, nodata=nodata, dtype="uint8" if name == "cloud_mask" else "float32")
    with pytest.raises(RasterError, match=r"x.tif is nodata throughout"):
        products((name, path))


def test_radar_without_any_power_and_complex_radar_are_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RasterError, match=r"has no power above 0"):
        products(("S1RTC", write_raster("x.tif", np.zeros((2, 60, 60)))))
    with pytest.raises(RasterError, match=r"holds complex numbers"):
        products(("S1RTC", write_raster("y.tif", np.ones((2, 60, 60)), dtype="complex64")))


@pytest.mark.parametrize("turns", [1, -1])
def test_longitudes_beyond_180_are_the_same_places(write_raster: WriteRaster, turns: int) -> None:
    at = Affine(0.0003, 0, -75.73, 0, -0.0003, 37.74)
    values = np.random.default_rng(0).uniform(50, 90, (200, 200))
    plain = products(("DEM", write_raster("a.tif", values, crs="EPSG:4326", transform=at))).sources[0].read(window())
    turned = Affine(0.0003, 0, -75.73 + 360 * turns, 0, -0.0003, 37.74)
    read = products(("DEM", write_raster("b.tif", values, crs="EPSG:4326", transform=turned))).sources[0].read(window())
    assert np.isfinite(plain).all()
    np.testing.assert_allclose(read, plain, atol=0.01)


def test_both_sides_of_the_antimeridian_are_read(write_raster: WriteRaster) -> None:
    # A metre of elevation for each thousandth of a degree from the western edge.
    values = np.tile(np.arange(200) * 0.4 + 0.2, (200, 1))
    at = Affine(0.0004, 0, 179.96, 0, -0.0004, -16.96)
    source = products(("DEM", write_raster("dem.tif", values, crs="EPSG:4326", transform=at))).sources[0]
    for zone in (32760, 32701):
        (x,), (y,) = project(WGS84, CRS.from_epsg(zone), [180.0], [-17.0])
        read = source.read(GroundWindow(CRS.from_epsg(zone), float(x) - 960, float(y) + 960))[0]
        assert np.isfinite(read).all()
        # 1.92 km are 0.01803 degrees here.
        assert read[32].mean() == pytest.approx(40, abs=0.2)
        assert read[32, -1] - read[32, 0] == pytest.approx(18.03 * 63 / 64, abs=0.2)


def test_a_file_that_breaks_half_way_is_named(write_raster: WriteRaster) -> None:
    values = np.random.default_rng(0).random((900, 900))
    path = write_raster("x.tif", values, compress="deflate", tiled=True, blockxsize=256, blockysize=256)
    found = products(("DEM", path))
    found.sources[0].read(window())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(RasterError, match=r"DEM: x.tif cannot be read as a raster") as error:
        for step in range(4):
            found.sources[0].read(window(0, 1900 * step))
    assert "\n" not in str(error.value)


def test_a_file_that_is_gone_when_it_is_opened_again_is_named(
    write_raster: WriteRaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosaic, "_MOST_OPEN", 1)
    one, two = write_raster("a.tif"), write_raster("b.tif", resolution=30)
    found = products(("DEM", one), ("S1RTC", write_raster("s.tif", count=2)), s1_scale="linear")
    found.sources[0].read(window())
    found.sources[1].read(window())
    one.unlink()
    with pytest.raises(RasterError, match=r"DEM: a.tif cannot be read as a raster"):
        found.sources[0].read(window())
    assert two.exists()


def test_no_more_rasters_stay_open_than_are_allowed(
    write_raster: WriteRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosaic, "_MOST_OPEN", 3)
    for band in ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"):
        write_raster(f"cell/{band}.tif", np.full((252, 252), 1200), dtype="uint16")
    found = products(("S2L2A", tmp_path / "cell"))
    for _ in range(2):
        for source in found.sources:
            assert source.read(window()).max() == 1200
    assert len(found.sources[0].rasters._open) == 3
    assert {source.key for source in found.sources} == set(FAMILIES["S2L2A"])


def test_a_whole_tile_is_looked_at_in_bounded_memory(write_raster: WriteRaster) -> None:
    import tracemalloc

    values = np.full((3000, 3000), 120, dtype=np.uint8)
    path = write_raster("x.tif", values, dtype="uint8", compress="deflate", tiled=True)
    del values
    tracemalloc.start()
    found = products(("DEM", path))
    found.sources[0].read(window(6000, 6000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
