"""A scene of the made-up world on disk: grids, values, metadata, and what a failure leaves."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from copgen_edge.copgen_ref.world import draw
from copgen_edge.copgen_ref.world_scene import DATE, PLACE, SEED, WEATHER, WorldScene, write_world_scene
from copgen_edge.runtime.errors import CopgenError, RequestError
from copgen_edge.runtime.modalities import FAMILIES, get
from copgen_edge.runtime.raster.conditions import ReadOptions, read_conditions
from copgen_edge.runtime.raster.palette import CLASS_COLOURS
from rasterio.crs import CRS
from rasterio.warp import transform

BANDS = {
    family: {band: get(key).resolution for key in FAMILIES[family] for band in get(key).bands}
    for family in ("S2L1C", "S2L2A")
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> WorldScene:
    return write_world_scene(tmp_path_factory.mktemp("world") / "scene")


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    return draw(SEED, weather=WEATHER, place=PLACE, date=DATE, size=4320)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def rasters(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def families(scene: WorldScene) -> list[tuple[str, str]]:
    return [
        ("DEM", str(scene.dem)),
        ("LULC", str(scene.lulc)),
        ("S1RTC", str(scene.s1rtc)),
        ("S2L1C", str(scene.s2l1c)),
        ("S2L2A", str(scene.s2l2a)),
        ("cloud_mask", str(scene.cloud_mask)),
    ]


def test_georeference(scene: WorldScene) -> None:
    with rasterio.open(scene.lulc) as dataset:
        crs, bounds = dataset.crs, dataset.bounds
    left, top = bounds.left, bounds.top
    assert crs == CRS.from_epsg(32648)
    assert left % 60 == 0 and top % 60 == 0
    assert (bounds.right - left, top - bounds.bottom) == (3840, 3840)
    expected = {scene.lulc: (10, 0), scene.cloud_mask: (10, 0), scene.s1rtc: (10, 0), scene.dem: (30, 240)}
    for family, folder in (("S2L1C", scene.s2l1c), ("S2L2A", scene.s2l2a)):
        expected |= {folder / f"{band}.tif": (resolution, 0) for band, resolution in BANDS[family].items()}
    assert len(expected) == 4 + 13 + 12
    for path, (resolution, wider) in expected.items():
        with rasterio.open(path) as dataset:
            assert dataset.crs == crs
            assert dataset.transform == Affine(resolution, 0, left - wider, 0, -resolution, top + wider)
            assert dataset.shape == ((3840 + 2 * wider) // resolution,) * 2


def test_center_and_date(scene: WorldScene) -> None:
    with rasterio.open(scene.lulc) as dataset:
        middle = (np.array(dataset.bounds[:2]) + np.array(dataset.bounds[2:])) / 2
    (x,), (y,) = transform(CRS.from_epsg(4326), CRS.from_epsg(32648), [scene.center[1]], [scene.center[0]])
    assert (x, y) == pytest.approx(tuple(middle), abs=0.01)
    assert scene.center == pytest.approx(PLACE, abs=0.001)
    assert scene.date == date(2021, 10, 15)


def test_metadata(scene: WorldScene) -> None:
    what: dict[Path, tuple[Any, ...]] = {
        scene.dem: ("float32", ("DEM",), "m", np.nan, 1.0),
        scene.s1rtc: ("float32", ("vv", "vh"), "linear power", np.nan, 1.0),
        scene.lulc: ("uint8", ("LULC",), "class", 0, 1.0),
        scene.cloud_mask: ("uint8", ("cloud_mask",), "class", 255, 1.0),
        scene.s2l1c / "B10.tif": ("uint16", ("B10",), "reflectance", 0, 0.0001),
        scene.s2l2a / "B8A.tif": ("uint16", ("B8A",), "reflectance", 0, 0.0001),
    }
    for path, (dtype, descriptions, units, nodata, scale) in what.items():
        with rasterio.open(path) as dataset:
            assert set(dataset.dtypes) == {dtype} and dataset.descriptions == descriptions
            assert set(dataset.units) == {units} and set(dataset.scales) == {scale}
            np.testing.assert_equal(dataset.nodata, nodata)
            tags = dataset.tags()
            assert "made-up" in tags["TITLE"] and tags["AREA_OR_POINT"] == "Area"
            assert (tags["SEED"], tags["WEATHER"], tags["DATE"]) == (str(SEED), str(WEATHER), "2021-10-15")
            assert dataset.profile["tiled"]
    for path, key in ((scene.lulc, "LULC_LULC"), (scene.cloud_mask, "S2L1C_cloud_mask")):
        with rasterio.open(path) as dataset:
            assert dataset.colormap(1)[2][:3] == CLASS_COLOURS[key][2]
            assert dataset.tags(1)["CLASS_2"] == get(key).codes[2]


def test_every_raster_holds_the_middle_of_what_was_drawn(scene: WorldScene, drawn: dict[str, np.ndarray]) -> None:
    inner = slice(24, -24)
    np.testing.assert_array_equal(read(scene.dem), drawn["DEM_DEM"][0])
    np.testing.assert_array_equal(read(scene.lulc), drawn["LULC_LULC"][0, :, inner, inner])
    np.testing.assert_array_equal(read(scene.cloud_mask), drawn["S2L1C_cloud_mask"][0, :, inner, inner])
    np.testing.assert_array_equal(read(scene.s1rtc), drawn["S1RTC_vh_vv"][0, :, inner, inner])
    for family, folder in (("S2L1C", scene.s2l1c), ("S2L2A", scene.s2l2a)):
        for key in FAMILIES[family]:
            m = get(key)
            edge = slice(240 // m.resolution, -240 // m.resolution)
            for band, values in zip(m.bands, drawn[key][0], strict=True):
                np.testing.assert_array_equal(read(folder / f"{band}.tif")[0], values[edge, edge])


def test_the_middle_window_has_something_of_everything(scene: WorldScene) -> None:
    read_back = read_conditions([*families(scene), ("place", "auto")], ReadOptions()).physical
    cover, clouds = read_back["LULC_LULC"], read_back["S2L1C_cloud_mask"]
    shares = {code: float((cover == code).mean()) for code in (1, 2, 5, 8)}
    assert all(share > 0.05 for share in shares.values()), shares
    assert np.ptp(read_back["DEM_DEM"]) > 300.0
    assert 0.9 < (clouds == 0).mean() < 1.0 and (clouds == 1).any() and (clouds == 3).any()
    assert read_back["3d_cartesian_lat_lon"][0] == pytest.approx(scene.center, abs=1e-6)
    red = read_back["S2L2A_B02_B03_B04_B08"][0, 0]
    assert np.median(red[clouds[0, 0] == 1]) > 4 * np.median(red[clouds[0, 0] == 0])
    decibels = 10.0 * np.log10(read_back["S1RTC_vh_vv"][0, 0])
    assert np.median(decibels[cover[0, 0] == 1]) < np.median(decibels[cover[0, 0] == 2]) - 5.0


@pytest.mark.parametrize("pixel", [(0, 0), (96, 96), (192, 192), (0, 192)])
def test_windows_are_read_without_resampling_or_guessing(scene: WorldScene, pixel: tuple[int, int]) -> None:
    notes = read_conditions(families(scene), ReadOptions(pixel=pixel)).notes
    assert not [note for note in notes if "resampled" in note or "nodata" in note or "no offset" in note], notes
    assert {note for note in notes if note.startswith("S2")} == {
        "S2L1C: offset 0 DN, from the file's ADD_OFFSET tag",
        "S2L2A: offset 0 DN, from the file's ADD_OFFSET tag",
    }


def test_a_seed_may_choose_its_own_place_and_date(tmp_path: Path) -> None:
    scene = write_world_scene(tmp_path, seed=5, place=None, date=None, weather=0, size=1920)
    rows = draw(5, size=2400)
    assert scene.center == pytest.approx(tuple(rows["3d_cartesian_lat_lon"][0]), abs=0.01)
    assert [scene.date.year, scene.date.month, scene.date.day] == rows["mean_timestamps"][0].tolist()
    assert read(scene.lulc).shape == (1, 192, 192) and read(scene.dem).shape == (1, 80, 80)


@pytest.mark.parametrize(
    ("place", "epsg"), [((-44.6, 169.2), 32759), ((60.0, -179.9999), 32601), ((0.0, 6.0), 32632), ((-0.5, 5.99), 32731)]
)
def test_the_zone_is_that_of_the_place(tmp_path: Path, place: tuple[float, float], epsg: int) -> None:
    scene = write_world_scene(tmp_path, seed=1, place=place, date=date(2020, 3, 20), size=1920)
    with rasterio.open(scene.lulc) as dataset:
        assert dataset.crs.to_epsg() == epsg
        assert dataset.transform.c % 60 == 0 and dataset.transform.f % 60 == 0
    assert scene.center[0] == pytest.approx(place[0], abs=0.001)
    assert (scene.center[1] - place[1] + 180.0) % 360.0 - 180.0 == pytest.approx(0.0, abs=0.001)


def test_the_same_arguments_give_the_same_arrays(tmp_path: Path) -> None:
    first = write_world_scene(tmp_path / "a", seed=3, size=1920)
    again = write_world_scene(tmp_path / "b", seed=3, size=1920)
    other = write_world_scene(tmp_path / "c", seed=4, size=1920)
    weather = write_world_scene(tmp_path / "d", seed=3, weather=1, size=1920)
    assert rasters(tmp_path / "a") == rasters(tmp_path / "b")
    assert first.center == again.center == other.center
    assert not np.array_equal(read(first.dem), read(other.dem))
    np.testing.assert_array_equal(read(first.dem), read(weather.dem))
    assert not np.array_equal(read(first.s2l2a / "B04.tif"), read(weather.s2l2a / "B04.tif"))


def test_nothing_but_the_rasters_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "scene"
    write_world_scene(folder, size=1920)
    write_world_scene(folder, seed=1, size=1920)
    assert set(rasters(folder)) == {
        "DEM.tif",
        "LULC.tif",
        "S1RTC.tif",
        "cloud_mask.tif",
        *(f"{family}/{band}.tif" for family, bands in BANDS.items() for band in bands),
    }


@pytest.mark.parametrize("victim", ["LULC.tif", "S2L2A/B08.tif"])
def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str) -> None:
    write_world_scene(tmp_path, size=1920)
    before = rasters(tmp_path)
    write_bytes = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name.startswith(Path(victim).stem):
            write_bytes(path, bytes(data)[:100])
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CopgenError, match="No space left"):
        write_world_scene(tmp_path, seed=1, size=1920)
    after = rasters(tmp_path)
    assert set(after) == set(before)
    assert after[victim] == before[victim] and after["DEM.tif"] != before["DEM.tif"]


def test_requests_that_cannot_be_met(tmp_path: Path) -> None:
    for size in (1440, 2000, 0):
        with pytest.raises(RequestError, match=f"found size {size} m"):
            write_world_scene(tmp_path, size=size)
    with pytest.raises(RequestError, match="latitude"):
        write_world_scene(tmp_path, place=(95.0, 0.0))
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="choose another folder"):
        write_world_scene(tmp_path / "file" / "scene", size=1920)
    assert rasters(tmp_path) == {"file": b""}
