from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from copgen_edge.runtime.errors import CopgenError
from copgen_edge.runtime.raster.palette import CLASS_COLOURS
from copgen_edge.runtime.raster.sample import SampleScene, write_sample_scene
from rasterio.crs import CRS
from rasterio.warp import transform

SEEDS = range(4)


def read(scene: SampleScene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with rasterio.open(scene.dem) as dem, rasterio.open(scene.lulc) as lulc, rasterio.open(scene.s1rtc) as s1rtc:
        return dem.read(1), lulc.read(1), s1rtc.read()


@pytest.fixture(scope="module", params=SEEDS)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SampleScene:
    return write_sample_scene(tmp_path_factory.mktemp("scene"), seed=request.param)


def elevation_at_10m(scene: SampleScene) -> np.ndarray:
    """Elevation of each pixel of the land cover."""
    return np.kron(read(scene)[0], np.ones((3, 3)))[18:-18, 18:-18]


def test_georeference(scene: SampleScene) -> None:
    with rasterio.open(scene.dem) as dem, rasterio.open(scene.lulc) as lulc, rasterio.open(scene.s1rtc) as s1rtc:
        assert {dem.crs, lulc.crs, s1rtc.crs} == {CRS.from_epsg(32632)}
        assert lulc.transform == s1rtc.transform == Affine(10, 0, 674_880, 0, -10, 5_275_020)
        assert lulc.shape == s1rtc.shape == (384, 384)
        assert dem.transform == Affine(30, 0, 674_700, 0, -30, 5_275_200)
        assert dem.shape == (140, 140)
        assert all(edge % 60 == 0 for edge in (*lulc.bounds, *dem.bounds))
        assert dem.bounds.left < lulc.bounds.left and dem.bounds.right > lulc.bounds.right
        assert dem.bounds.bottom < lulc.bounds.bottom and dem.bounds.top > lulc.bounds.top


def test_metadata(scene: SampleScene) -> None:
    with rasterio.open(scene.dem) as dem, rasterio.open(scene.lulc) as lulc, rasterio.open(scene.s1rtc) as s1rtc:
        assert (dem.dtypes, lulc.dtypes, s1rtc.dtypes) == (("float32",), ("uint8",), ("float32", "float32"))
        assert (dem.descriptions, lulc.descriptions, s1rtc.descriptions) == (("DEM",), ("LULC",), ("vv", "vh"))
        assert (dem.units, lulc.units) == (("m",), ("class",))
        assert lulc.nodata == 0
        assert np.isnan(dem.nodata) and np.isnan(s1rtc.nodata)
        assert lulc.colormap(1)[2][:3] == CLASS_COLOURS["LULC_LULC"][2]
        assert all(dataset.profile["tiled"] for dataset in (dem, lulc, s1rtc))
        assert all(dataset.tags()["AREA_OR_POINT"] == "Area" for dataset in (dem, lulc, s1rtc))


def test_center_is_the_middle_of_the_scene(scene: SampleScene) -> None:
    lat, lon = scene.center
    (x,), (y,) = transform(CRS.from_epsg(4326), CRS.from_epsg(32632), [lon], [lat])
    assert (x, y) == pytest.approx((676_800.0, 5_273_100.0), abs=0.01)
    assert scene.date.isoformat() == "2021-07-14"


def test_values_are_plausible(scene: SampleScene) -> None:
    elevation, cover, radar = read(scene)
    assert elevation.min() > 800.0 and 1700.0 < elevation.max() < 2900.0
    shares = {code: float((cover == code).mean()) for code in np.unique(cover)}
    assert set(shares) == {1, 2, 4, 5, 7, 8, 9, 11}
    assert 0.05 < shares[1] < 0.4 and shares[2] > 0.2 and shares[5] > 0.02 and shares[7] > 0.005
    assert np.isfinite(radar).all() and (radar > 0).all()
    decibels = 10.0 * np.log10(radar)
    assert np.percentile(decibels, 1) > -35.0 and np.percentile(decibels, 99) < 5.0
    assert np.median(decibels[1]) < np.median(decibels[0]) - 3.0


def test_water_is_flat_and_dark(scene: SampleScene) -> None:
    _, cover, radar = read(scene)
    water = cover == 1
    decibels = 10.0 * np.log10(radar)
    for band in decibels:
        for other in (2, 5, 7, 8, 11):
            assert np.median(band[water]) < np.median(band[cover == other]) - 5.0
    # Elevation pixels that are water in all nine of their pixels.
    whole = water.reshape(128, 3, 128, 3).all(axis=(1, 3))
    lake = read(scene)[0][6:-6, 6:-6][whole]
    assert lake.size > 100
    assert np.ptp(lake) == 0.0
    assert elevation_at_10m(scene)[~water].min() >= lake[0]


def test_cover_follows_the_terrain(scene: SampleScene) -> None:
    _, cover, radar = read(scene)
    elevation = elevation_at_10m(scene)
    middle = {code: np.median(elevation[cover == code]) for code in (1, 2, 5, 7, 8, 9)}
    assert middle[1] < middle[5] < middle[2] < middle[8] < middle[9]
    assert middle[7] < middle[2]
    assert np.median(radar[0][cover == 7]) > 2.0 * np.median(radar[0][cover == 2])


def test_speckle_has_the_looks_of_the_sensor(scene: SampleScene) -> None:
    _, cover, radar = read(scene)
    water = radar[0][cover == 1].astype(np.float64)
    assert water.mean() ** 2 / water.var() == pytest.approx(4.4, rel=0.05)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, again = write_sample_scene(tmp_path / "a", seed=3), write_sample_scene(tmp_path / "b", seed=3)
    other = write_sample_scene(tmp_path / "c", seed=4)
    for a, b, c in zip(read(one), read(again), read(other), strict=True):
        assert a.tobytes() == b.tobytes()
        assert a.tobytes() != c.tobytes()
    assert one.center == other.center


def test_seed_0_is_the_default(tmp_path: Path) -> None:
    default, zero = write_sample_scene(tmp_path / "a"), write_sample_scene(tmp_path / "b", seed=0)
    assert read(default)[0].tobytes() == read(zero)[0].tobytes()


def test_nothing_but_the_three_files_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "scene"
    write_sample_scene(folder)
    write_sample_scene(folder, seed=1)
    assert sorted(path.name for path in folder.iterdir()) == ["DEM.tif", "LULC.tif", "S1RTC.tif"]


def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_sample_scene(tmp_path)
    before = scene.lulc.read_bytes()
    write_bytes = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name.startswith("LULC"):
            write_bytes(path, bytes(data)[:100])
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CopgenError, match="No space left"):
        write_sample_scene(tmp_path, seed=1)
    assert scene.lulc.read_bytes() == before
