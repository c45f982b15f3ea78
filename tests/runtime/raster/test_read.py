from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from copgen_edge.runtime.errors import RasterError
from copgen_edge.runtime.modalities import IMAGE_KEYS, get
from copgen_edge.runtime.raster import read
from copgen_edge.runtime.raster.read import Block, read_blocks
from copgen_edge.runtime.raster.sources import find_sources
from copgen_edge.runtime.raster.window import GroundWindow, project
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling

WriteRaster = Callable[..., Path]
RampOn = Callable[[Affine, int], NDArray[np.float64]]

UTM18 = CRS.from_epsg(32618)
LEFT, TOP = 436_920.0, 4_175_880.0
WINDOW = GroundWindow(UTM18, LEFT + 300, TOP - 240)
DEM, LULC, S1 = "DEM_DEM", "LULC_LULC", "S1RTC_vh_vv"
CONTINUOUS = [key for key in IMAGE_KEYS if not get(key).is_codes]


def blocks(key: str, path: Path, window: GroundWindow = WINDOW) -> tuple[Block, ...]:
    (source,), _ = find_sources([(key, str(path))], {key: get(key).bands})
    return read_blocks(source, get(key), window)


def at_pixel_centers(window: GroundWindow, resolution: int) -> tuple[NDArray[Any], NDArray[Any]]:
    steps = (np.arange(1920 // resolution) + 0.5) * resolution
    xs, ys = np.meshgrid(window.left + steps, window.top - steps)
    return xs, ys


@pytest.mark.parametrize("key", CONTINUOUS)
def test_a_raster_on_the_windows_grid_is_copied(write_raster: WriteRaster, ramp_on: RampOn, key: str) -> None:
    modality = get(key)
    path = write_raster("x.tif", resolution=modality.resolution, size=2520 // modality.resolution, count=4)
    # Four bands, of which the source takes what the modality needs, in its own order.
    names = tuple(reversed(modality.bands))[:4] + ("-",) * (4 - min(4, len(modality.bands)))
    if len(modality.bands) > 4:
        path = write_raster("x.tif", resolution=modality.resolution, size=2520 // modality.resolution, count=6)
        names = tuple(reversed(modality.bands))
    (source,), _ = find_sources([(key, str(path))], {key: names})
    expected = ramp_on(WINDOW.transform(modality.resolution), modality.size)
    for block in read_blocks(source, modality, WINDOW):
        assert block.resampling is None
        np.testing.assert_array_equal(block.on_window(), (expected + 100 * names.index(block.band)).astype(np.float32))


@pytest.mark.parametrize(
    ("resolution", "left", "top", "how"),
    [
        (10, 0.0, 0.0, Resampling.average),
        (10, 3.7, -4.1, Resampling.average),
        (5, 0.0, 0.0, Resampling.average),
        (30, 13.0, -7.0, Resampling.bilinear),
        (60, 0.0, 0.0, Resampling.bilinear),
        (90, 40.0, -20.0, Resampling.bilinear),
    ],
)
def test_other_grids_of_the_same_crs_are_warped_to_the_same_ground(
    write_raster: WriteRaster, ramp_on: RampOn, resolution: int, left: float, top: float, how: Resampling
) -> None:
    where = Affine(resolution, 0, LEFT + left, 0, -resolution, TOP + top)
    (block,) = blocks(DEM, write_raster("dem.tif", transform=where, size=2520 // resolution))
    assert block.resampling == how
    # A 10 m pixel is 1 unit of the ramp eastward and 3 southward.
    np.testing.assert_allclose(block.on_window(), ramp_on(WINDOW.transform(30), 64), atol=0.1)


@pytest.mark.parametrize("key", CONTINUOUS)
def test_10_m_bands_are_averaged_to_every_native_grid(write_raster: WriteRaster, ramp_on: RampOn, key: str) -> None:
    modality = get(key)
    path = write_raster("x.tif", count=len(modality.bands))
    expected = ramp_on(WINDOW.transform(modality.resolution), modality.size)
    for band, block in enumerate(blocks(key, path)):
        np.testing.assert_allclose(block.on_window(), expected + 100 * band, atol=2e-3)


def test_a_raster_of_the_neighbouring_zone_lines_up(
    write_raster: WriteRaster, ramp: Callable[[Any, Any], Any], ramp_on: RampOn
) -> None:
    zone = CRS.from_epsg(32617)
    (left,), (top,) = project(UTM18, zone, [LEFT - 400], [TOP + 400])
    size = 400
    steps = (np.arange(size) + 0.5) * 10
    xs, ys = np.meshgrid(left + steps, top - steps)
    east, north = project(zone, UTM18, xs.ravel().tolist(), ys.ravel().tolist())
    values = ramp(east, north).reshape(size, size)
    path = write_raster(
        "s1.tif", np.stack([values, values]), crs="EPSG:32617", transform=Affine(10, 0, left, 0, -10, top)
    )
    vv, _ = blocks(S1, path)
    # The zones are turned by some 3.7 degrees against one another, but their pixels are of one size.
    assert vv.resampling == Resampling.bilinear
    np.testing.assert_allclose(vv.on_window(), ramp_on(WINDOW.transform(10), 192), atol=0.02)


@pytest.mark.parametrize("south_up", [False, True])
def test_a_geographic_dem_is_warped_to_the_surface_that_it_sampled(write_raster: WriteRaster, south_up: bool) -> None:
    def surface(easting: Any, northing: Any) -> Any:
        return 500 + 200 * np.sin(easting / 700) + 150 * np.cos(northing / 900)

    arc = 1 / 3600
    lat, lon = WINDOW.center
    left, top = lon - 60 * arc, lat + 60 * arc
    rows = np.arange(120)[:, np.newaxis] + 0.5
    lats = top - (rows[::-1] if south_up else rows) * arc
    lons, lats = np.broadcast_arrays(left + (np.arange(120) + 0.5) * arc, lats)
    east, north = project(CRS.from_epsg(4326), UTM18, lons.ravel().tolist(), lats.ravel().tolist())
    where = Affine(arc, 0, left, 0, arc, top - 120 * arc) if south_up else Affine(arc, 0, left, 0, -arc, top)
    path = write_raster("dem.tif", surface(east, north).reshape(120, 120), crs="EPSG:4326", transform=where)
    (block,) = blocks(DEM, path)
    error = block.on_window() - surface(*at_pixel_centers(WINDOW, 30))
    # The surface falls by up to 8 m from one 30 m pixel to the next.
    assert np.abs(error).max() < 0.8
    assert np.sqrt((error**2).mean()) < 0.25


def test_a_rotated_raster_is_warped(
    write_raster: WriteRaster, ramp: Callable[[Any, Any], Any], ramp_on: RampOn
) -> None:
    cos, sin = 10 * np.cos(np.radians(20)), 10 * np.sin(np.radians(20))
    where = Affine(cos, sin, LEFT - 600, sin, -cos, TOP + 200)
    (block,) = blocks(DEM, write_raster("dem.tif", transform=where, size=400))
    np.testing.assert_allclose(block.on_window(), ramp_on(WINDOW.transform(30), 64), atol=0.5)


@pytest.mark.parametrize(("resolution", "shift"), [(10, 0.0), (10, 3.0), (5, 0.0), (30, 11.0)])
def test_codes_are_taken_from_the_nearest_pixel(write_raster: WriteRaster, resolution: int, shift: float) -> None:
    size = 2520 // resolution + 1  # a land cover raster has one pixel more
    codes = np.random.default_rng(1).choice([1, 2, 4, 5, 7, 11], (size, size))
    where = Affine(resolution, 0, LEFT - shift, 0, -resolution, TOP + shift)
    (block,) = blocks(LULC, write_raster("lulc.tif", codes, transform=where, dtype="uint8"))
    xs, ys = at_pixel_centers(WINDOW, 10)
    cols = np.floor((xs - LEFT + shift) / resolution).astype(int)
    rows = np.floor((TOP + shift - ys) / resolution).astype(int)
    np.testing.assert_array_equal(block.on_window(), codes[rows, cols])
    assert block.resampling == (None if (resolution, shift) == (10, 0.0) else Resampling.nearest)


@pytest.mark.parametrize(
    ("suffix", "driver", "options"),
    [(".tif", "COG", {}), (".jp2", "JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES"}), (".vrt", "VRT", {})],
)
def test_other_formats_read_alike(
    write_raster: WriteRaster, tmp_path: Path, suffix: str, driver: str, options: dict[str, str]
) -> None:
    values = np.random.default_rng(0).integers(0, 5000, (252, 252))
    plain = write_raster("plain.tif", values, dtype="uint16")
    copy = tmp_path / f"copy{suffix}"
    rasterio.shutil.copy(plain, copy, driver=driver, **options)
    (block,) = blocks(DEM, copy)
    (expected,) = blocks(DEM, plain)
    np.testing.assert_array_equal(block.on_window(), expected.on_window())


def test_float_noise_in_a_transform_does_not_resample(write_raster: WriteRaster) -> None:
    where = Affine(30, 0, LEFT + 1e-9, 0, -30, TOP - 1e-9)
    (block,) = blocks(DEM, write_raster("dem.tif", transform=where, size=84))
    assert block.resampling is None


def test_nodata_takes_no_part_in_an_average(write_raster: WriteRaster) -> None:
    values = np.full((252, 252), 7.0)
    values[24, 30] = values[27:30, 30:33] = -9999
    (block,) = blocks(DEM, write_raster("dem.tif", values, nodata=-9999))
    placed = block.on_window()
    assert placed[0, 0] == 7.0
    assert np.isnan(placed[1, 0])
    assert np.count_nonzero(np.isnan(placed)) == 1


def test_a_mask_of_the_dataset_is_nodata(write_raster: WriteRaster) -> None:

    path = write_raster("dem.tif", resolution=30, size=84)
    mask = np.full((84, 84), 255, dtype=np.uint8)
    mask[8 + 2, 10 + 3] = 0
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    (block,) = blocks(DEM, path)
    assert np.argwhere(np.isnan(block.on_window())).tolist() == [[2, 3]]


def test_declared_nan_is_nodata_and_undeclared_nan_is_broken(write_raster: WriteRaster) -> None:
    values = np.full((84, 84), 5.0)
    values[10, 13] = np.nan
    values[11, 13] = np.inf
    (declared,) = blocks(DEM, write_raster("a.tif", values, resolution=30, nodata=np.nan))
    assert np.argwhere(declared.broken).tolist() == [[3, 3]]
    assert np.argwhere(~declared.valid).tolist() == [[2, 3]]
    (undeclared,) = blocks(DEM, write_raster("b.tif", values, resolution=30))
    assert np.argwhere(undeclared.broken).tolist() == [[2, 3], [3, 3]]
    assert np.argwhere(~np.isfinite(undeclared.values)).tolist() == [[2, 3], [3, 3]]
    assert np.isnan(undeclared.values[3, 3])


def test_a_flag_touches_every_pixel_that_it_contributes_to(write_raster: WriteRaster) -> None:
    values = np.full((252, 252), 7.0)
    values[24 + 3, 30 + 6] = np.nan
    values[0, 0] = np.nan
    (block,) = blocks(DEM, write_raster("dem.tif", values))
    assert np.argwhere(block.touched(block.broken)).tolist() == [[1, 2]]
    assert not block.touched(np.zeros_like(block.broken)).any()


def test_scale_and_offset_of_elevation_are_applied(write_raster: WriteRaster) -> None:
    values = np.full((84, 84), 1234)
    path = write_raster("dem.tif", values, resolution=30, dtype="int16", scale_offset=(0.1, -20.0))
    (block,) = blocks(DEM, path)
    np.testing.assert_allclose(block.on_window(), 103.4, atol=1e-4)


def test_zero_is_a_value_of_the_cirrus_band_even_where_it_is_declared_nodata(write_raster: WriteRaster) -> None:
    values = np.full((3, 42, 42), 1500)
    values[:, 6, 7] = 0
    path = write_raster("s2.tif", values, resolution=60, dtype="uint16", nodata=0)
    b01, b09, b10 = blocks("S2L1C_B01_B09_B10", path)
    assert np.isnan(b01.on_window()[2, 2])
    assert np.isnan(b09.on_window()[2, 2])
    assert b10.on_window()[2, 2] == 0


def test_a_raster_without_a_crs_is_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RasterError, match=r"DEM_DEM: dem.tif has no CRS; .*gdal_edit -a_srs"):
        blocks(DEM, write_raster("dem.tif", crs=None))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_raster_without_a_geotransform_is_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RasterError, match=r"has a CRS but no geotransform"):
        blocks(DEM, write_raster("dem.tif", transform=Affine.identity()))


def test_a_raster_that_does_not_cover_the_window_is_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RasterError, match=r"does not cover the window: it spans 436920..438920, 4173880..4175880"):
        blocks(DEM, write_raster("dem.tif", size=200))


def test_complex_radar_is_refused(write_raster: WriteRaster) -> None:
    with pytest.raises(RasterError, match=r"holds complex numbers"):
        blocks(S1, write_raster("slc.tif", count=2, dtype="complex64"))


def test_a_raster_too_fine_for_memory_is_refused(write_raster: WriteRaster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_MOST_PIXELS", 192 * 192)
    with pytest.raises(RasterError, match=r"has 196 x 196 pixels in the window.*resample it to about 30 m"):
        blocks(DEM, write_raster("dem.tif"))


def test_a_truncated_raster_is_refused(write_raster: WriteRaster) -> None:
    values = np.random.default_rng(0).random((252, 252))
    path = write_raster("dem.tif", values, compress="deflate")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(RasterError, match=r"dem.tif cannot be read as a raster") as error:
        blocks(DEM, path)
    assert "\n" not in str(error.value)


def test_only_the_window_of_a_large_raster_is_held(write_raster: WriteRaster) -> None:
    path = write_raster("dem.tif", np.zeros((3000, 3000), dtype=np.uint8), dtype="uint8", compress="deflate")
    (block,) = blocks(DEM, path)
    assert block.values.shape == (196, 196)


def test_clear_sky_is_a_code_even_where_it_is_declared_nodata(write_raster: WriteRaster) -> None:
    path = write_raster("clouds.tif", np.zeros((252, 252)), dtype="uint8", nodata=0)
    (block,) = blocks("S2L1C_cloud_mask", path)
    assert block.valid.all() and (block.on_window() == 0).all()
