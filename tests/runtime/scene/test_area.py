import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.raster.conditions import ReadOptions
from copgen_edge.runtime.raster.products import SceneSource, find_products
from copgen_edge.runtime.raster.window import project
from copgen_edge.runtime.scene.area import choose_grid
from copgen_edge.runtime.scene.grid import SceneGrid
from rasterio.crs import CRS

LEFT, TOP = 436_920.0, 4_175_880.0
UTM = CRS.from_epsg(32618)
WGS84 = CRS.from_epsg(4326)


def source(
    tmp_path: Path, name: str, key: str = "DEM", *, crs: str = "EPSG:32618", size: tuple[int, int] = (252, 252), at: Any
) -> tuple[str, str]:
    """A raster of constant value, as (NAME, VALUE); ``at`` is its transform, ``size`` rows and columns."""
    count = {"S2L2A": 12, "S1RTC": 2}.get(key, 1)
    with rasterio.open(
        tmp_path / name,
        "w",
        driver="GTiff",
        count=count,
        height=size[0],
        width=size[1],
        dtype="uint16",
        crs=crs,
        transform=at,
    ) as dataset:
        dataset.write(np.full((count, *size), 1200 if key != "LULC" else 5, dtype="uint16"))
    return key, str(tmp_path / name)


def sources(*values: tuple[str, str]) -> Sequence[SceneSource]:
    return find_products(values, ReadOptions(s1_scale="linear")).sources


def metres(resolution: float, left: float = LEFT, top: float = TOP) -> Affine:
    return Affine(resolution, 0, left, 0, -resolution, top)


def sides(grid: SceneGrid) -> tuple[float, float, int, int]:
    """Corner from that of the synthetic rasters, eastward and southward, and sides, in metres."""
    return grid.left - LEFT, TOP - grid.top, grid.width, grid.height


def box(left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
    """A --bbox within metres from the corner of the synthetic rasters, as near as a box in degrees can be."""
    xs, ys = [LEFT + left, LEFT + left + width] * 2, [TOP - top] * 2 + [TOP - top - height] * 2
    lons, lats = project(UTM, WGS84, xs, ys)
    return float(lons.min()), float(lats.min()), float(lons.max()), float(lats.max())


def test_one_raster_is_the_scene_to_its_last_whole_60_m(tmp_path: Path) -> None:
    grid, notes = choose_grid(sources(source(tmp_path, "s2.tif", "S2L2A", size=(333, 444), at=metres(10))))
    assert grid.crs == UTM
    assert sides(grid) == (0, 0, 4440, 3300)
    assert any("pixels of S2L2A: s2.tif" in note and "4.44 x 3.3 km" in note for note in notes)
    assert "area: all of the input" in notes


def test_the_overlap_is_rounded_inwards_on_the_anchors_pixels(tmp_path: Path) -> None:
    grid, notes = choose_grid(
        sources(
            source(tmp_path, "dem.tif", at=metres(30, LEFT + 605, TOP + 95), size=(200, 200)),
            source(tmp_path, "s2.tif", "S2L2A", at=metres(10), size=(400, 400)),
        )
    )
    assert sides(grid) == (660, 0, 3300, 3960)
    assert "area: where DEM and S2L2A overlap" in notes
    assert not any("absent elsewhere" in note for note in notes)


def test_sentinel_2_then_sentinel_1_then_land_cover_is_the_anchor(tmp_path: Path) -> None:
    off = {"DEM": 1, "LULC": 2, "S1RTC": 3, "S2L2A": 4}
    given = [source(tmp_path, f"{key}.tif", key, at=metres(10, LEFT + shift)) for key, shift in off.items()]
    for number, key in reversed(list(enumerate(off))):
        grid, _ = choose_grid(sources(*given[: number + 1]))
        assert (grid.left - LEFT - off[key]) % 60 == 0


def test_inputs_that_do_not_meet_are_named(tmp_path: Path) -> None:
    given = [
        source(tmp_path, "s2.tif", "S2L2A", at=metres(10)),
        source(tmp_path, "s1.tif", "S1RTC", at=metres(10, LEFT + 1000)),
        source(tmp_path, "dem.tif", at=metres(30, LEFT + 2600)),
    ]
    with pytest.raises(RequestError, match=r"^DEM_DEM and S2L2A_B01_B09 do not overlap") as error:
        choose_grid(sources(*given))
    assert "\n" not in str(error.value)
    far = source(tmp_path, "far.tif", crs="EPSG:32661", at=metres(30, 2e6, 2e6))
    with pytest.raises(RequestError, match=r"DEM_DEM and S2L2A_B01_B09 do not overlap|DEM_DEM is nowhere near"):
        choose_grid(sources(given[0], far))
    sliver = source(tmp_path, "sliver.tif", at=metres(30, LEFT + 2490))
    with pytest.raises(RequestError, match=r"overlap in 30 x 2520 m, less than a pixel of 60 m"):
        choose_grid(sources(given[0], sliver))


def test_a_mosaic_spans_all_of_its_tiles(tmp_path: Path) -> None:
    tiles = [source(tmp_path, f"{n}.tif", at=metres(30, LEFT + 3000 * n), size=(100, 100)) for n in range(3)]
    grid, _ = choose_grid(sources(*tiles))
    assert sides(grid) == (0, 0, 9000, 3000)


def test_a_geographic_raster_alone_lies_on_its_utm_zone(tmp_path: Path) -> None:
    arc = 1 / 3600
    given = sources(source(tmp_path, "d.tif", crs="EPSG:4326", at=Affine(arc, 0, -75.7, 0, -arc, 37.7)))
    grid, notes = choose_grid(given)
    assert grid.crs == UTM
    assert (grid.left % 60, grid.top % 60) == (0, 0)
    # All of it lies on the raster: none of the slivers that a bounding box would have.
    bounds = grid.bounds
    lons, lats = project(
        UTM, WGS84, [bounds.left, bounds.right] * 2, [bounds.top, bounds.top, bounds.bottom, bounds.bottom]
    )
    assert lons.min() > -75.7 and lons.max() < -75.7 + 252 * arc
    assert lats.max() < 37.7 and lats.min() > 37.7 - 252 * arc
    assert grid.width > 252 * 24 - 200
    assert not np.isnan(given[0].read(grid.ground((0, 0)))).any()
    assert any("the UTM zone's own" in note for note in notes)


def test_a_rotated_raster_still_makes_a_scene(tmp_path: Path) -> None:
    where = Affine.translation(LEFT, TOP) @ Affine.rotation(-45) @ Affine.scale(10, -10)
    grid, notes = choose_grid(sources(source(tmp_path, "r.tif", at=where)))
    assert grid.width == pytest.approx(2520 * 2**0.5, abs=121)
    assert any("the UTM zone's own" in note for note in notes)


def test_a_box_is_rounded_outwards_and_may_leave_the_data(tmp_path: Path) -> None:
    given = sources(source(tmp_path, "s2.tif", "S2L2A", at=metres(10), size=(600, 600)))
    grid, notes = choose_grid(given, bbox=box(1000, 1000, 3000, 2500))
    left, top, width, height = sides(grid)
    assert (left % 60, top % 60) == (0, 0)
    assert left <= 1000 and left + width >= 4000
    assert top <= 1000 and top + height >= 3500
    assert width < 3000 + 240 and height < 2500 + 240
    assert notes[0] == "area: --bbox, its bounding rectangle on the grid"
    _, notes = choose_grid(given, bbox=box(4000, 1000, 4000, 2500))
    assert any(note.startswith("S2L2A_B01_B09: its rasters span 5") for note in notes)
    with pytest.raises(RequestError, match=r"S2L2A_B01_B09 does not meet --bbox"):
        choose_grid(given, bbox=box(7000, 1000, 2000, 2500))


def test_a_small_area_grows_to_a_window_that_stays_on_the_data(tmp_path: Path) -> None:
    given = sources(source(tmp_path, "s2.tif", "S2L2A", at=metres(10), size=(600, 600)))
    grid, notes = choose_grid(given, bbox=box(3000, 5400, 100, 60))
    left, top, width, height = sides(grid)
    assert (width, height) == (1920, 1920)
    assert top == 6000 - 1920
    assert left <= 3000 and left + width >= 3100 and abs(left + 960 - 3050) <= 120
    assert any(note.startswith("area: grown from ") and "to 1920 x 1920 m" in note for note in notes)
    # Beyond the raster there is no room to stay within.
    grid, _ = choose_grid(given, bbox=box(5900, 3000, 400, 2000))
    assert grid.width == 1920
    assert grid.left - LEFT <= 5900 and grid.left - LEFT + 1920 >= 6300


def test_a_small_overlap_grows_into_the_anchor_and_no_further(tmp_path: Path) -> None:
    wide = source(tmp_path, "s2.tif", "S2L2A", at=metres(10), size=(600, 600))
    small = source(tmp_path, "d.tif", at=metres(30, LEFT + 5400, TOP), size=(200, 20))
    grid, notes = choose_grid(sources(wide, small))
    assert sides(grid) == (6000 - 1920, 0, 1920, 6000)
    assert any("DEM_DEM: its rasters span 31%" in note for note in notes)
    tiny = source(tmp_path, "t.tif", "S2L2A", at=metres(10), size=(100, 240))
    grid, notes = choose_grid(sources(tiny))
    assert sides(grid) == (0, 0, 2400, 960)
    assert grid.cells == (4, 5)


def test_an_area_alone_lies_on_the_utm_zone_of_its_middle() -> None:
    grid, notes = choose_grid((), bbox=(-75.7, 37.6, -75.6, 37.7))
    assert grid.crs == UTM
    assert (grid.left % 60, grid.top % 60) == (0, 0)
    assert 8.5e3 < grid.width < 9.3e3 and 11e3 < grid.height < 11.6e3
    assert any("the UTM zone's own" in note for note in notes)
    south, _ = choose_grid((), bbox=(151.0, -33.3, 151.1, -33.2))
    assert south.crs == CRS.from_epsg(32756)


def test_a_box_across_the_antimeridian_is_written_west_above_east() -> None:
    grid, _ = choose_grid((), bbox=(179.95, -17.0, -179.95, -16.9))
    assert grid.crs.to_epsg() in (32701, 32760)
    assert 10e3 < grid.width < 11.5e3


@pytest.mark.parametrize(
    ("bbox", "message"),
    [
        ((1, 2, 3, 2), r"is no area; expected west,south,east,north"),
        ((1, 3, 2, 2), r"is no area"),
        ((1, 2, 1, 3), r"is no area; expected west and east"),
        ((-181, 2, 1, 3), r"west and east in \[-180, 180\]"),
        ((1, 2, 2, 91), r"is no area"),
        ((float("nan"), 2, 2, 3), r"is no area"),
        ((0, 0, 40, 40), r"reaches too far from EPSG:326"),
        ((-180, -80, 180, 80), r"reaches too far"),
        ((-100, -10, 100, 10), r"reaches too far"),
        ((0, 10, 24, 11), r"reaches too far"),
        ((436_920, 4_173_360, 439_440, 4_175_880), r"is no area"),
    ],
)
def test_boxes_that_are_none_are_refused(bbox: tuple[float, float, float, float], message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        choose_grid((), bbox=bbox)
    assert "\n" not in str(error.value)


def test_a_box_far_from_the_inputs_is_refused(tmp_path: Path) -> None:
    given = sources(source(tmp_path, "s2.tif", "S2L2A", at=metres(10)))
    with pytest.raises(RequestError, match=r"--bbox reaches too far from EPSG:32618"):
        choose_grid(given, bbox=(10.0, 50.0, 10.1, 50.1))
    with pytest.raises(RequestError, match=r"does not meet --bbox"):
        choose_grid(given, bbox=(-75.0, 37.6, -74.9, 37.7))


def test_a_raster_that_cannot_be_in_the_area_is_refused(tmp_path: Path) -> None:
    area = box(0, 0, 2520, 2520)
    for crs in ("EPSG:4326", 'LOCAL_CS["x",UNIT["metre",1]]'):
        given = sources(source(tmp_path, "dem.tif", crs=crs, at=metres(10)))
        with pytest.raises(RequestError, match=r"DEM_DEM does not meet --bbox"):
            choose_grid(given, bbox=area)
        with pytest.raises(RequestError, match=r"DEM_DEM is nowhere|dem.tif is nowhere on the earth"):
            choose_grid(given)


def test_a_box_with_west_and_east_swapped_is_told_so(tmp_path: Path) -> None:
    given = sources(source(tmp_path, "s2.tif", "S2L2A", at=metres(10)))
    west, south, east, north = box(0, 0, 2520, 2520)
    with pytest.raises(RequestError, match=r"--bbox \(west lies above east, so it crosses the antimeridian\) reaches"):
        choose_grid(given, bbox=(east, south, west, north))


@pytest.mark.parametrize("west", [-180, -90, 180], ids=["western half", "around", "0 to 360"])
def test_half_a_world_of_elevation_covers_its_places(tmp_path: Path, west: float) -> None:
    half = source(tmp_path, "half.tif", crs="EPSG:4326", size=(180, 180), at=Affine(1, 0, west, 0, -1, 90))
    by_box, notes = choose_grid(sources(half), bbox=box(0, 0, 2520, 2520))
    assert by_box == choose_grid((), bbox=box(0, 0, 2520, 2520))[0]
    assert not any("span" in note for note in notes)
    grid, _ = choose_grid(sources(half, source(tmp_path, "s2.tif", "S2L2A", at=metres(10))))
    assert sides(grid) == (0, 0, 2520, 2520)


def test_nothing_says_where_or_two_things_do(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no raster says where the scene is; give it with --bbox"):
        choose_grid(())
    with pytest.raises(RequestError, match=r"both --bbox and --geometry"):
        choose_grid((), bbox=(1, 2, 3, 4), geometry=tmp_path / "x.json")


def ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def polygon(*bounds: float) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [ring(*bounds)]}


def feature(geometry: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": None, "geometry": geometry}


def save(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "aoi.geojson"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


AREA = (-75.7, 37.6, -75.6, 37.7)
HALVES = [[ring(-75.7, 37.6, -75.65, 37.7)], [ring(-75.65, 37.6, -75.6, 37.7)]]


@pytest.mark.parametrize(
    "document",
    [
        polygon(*AREA),
        {"type": "MultiPolygon", "coordinates": HALVES},
        feature(polygon(*AREA)),
        {"type": "FeatureCollection", "features": [feature({"type": "Polygon", "coordinates": h}) for h in HALVES]},
        {**polygon(*AREA), "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}},
        {"type": "Polygon", "coordinates": [[[*point, 12.5] for point in ring(*AREA)], ring(*AREA)]},
    ],
    ids=["polygon", "multipolygon", "feature", "collection", "crs84", "height and hole"],
)
def test_a_geometry_counts_by_its_bounding_rectangle(tmp_path: Path, document: Any) -> None:
    by_box, _ = choose_grid((), bbox=AREA)
    grid, notes = choose_grid((), geometry=save(tmp_path, document))
    assert grid == by_box
    assert notes[0] == "area: --geometry, its bounding rectangle on the grid"


def test_polygons_cut_at_the_antimeridian_are_one_area(tmp_path: Path) -> None:
    halves = [[ring(179.95, -17.0, 180.0, -16.9)], [ring(-180.0, -17.0, -179.95, -16.9)]]
    grid, _ = choose_grid((), geometry=save(tmp_path, {"type": "MultiPolygon", "coordinates": halves}))
    assert 10e3 < grid.width < 11.5e3


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, r"holds 'Point'; expected GeoJSON"),
        ({"type": "LineString", "coordinates": [[1, 2], [3, 4]]}, r"holds 'LineString'"),
        ({"type": "GeometryCollection", "geometries": [polygon(*AREA)]}, r"holds 'GeometryCollection'"),
        (feature(None), r"holds 'None'"),
        ({"type": "FeatureCollection", "features": []}, r"holds no polygon"),
        ({"type": "FeatureCollection", "features": [polygon(*AREA)]}, r"something that is no feature"),
        ({"type": "FeatureCollection"}, r"holds no polygon"),
        ({"type": "Polygon"}, r"a polygon without a ring"),
        ({"type": "Polygon", "coordinates": []}, r"a polygon without a ring"),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, 4], [1, 2]]]}, r"at least four points"),
        ({"type": "MultiPolygon", "coordinates": 5}, r"a polygon without a ring"),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, "x"], [3, 4], [1, 2]]]}, r"has the point \[3, 'x'\]"),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, True], [3, 4], [1, 2]]]}, r"has the point \[3, True\]"),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3], [3, 4], [1, 2]]]}, r"has the point \[3\]"),
        ({"type": "Polygon", "coordinates": [[[1, 2], 7, [3, 4], [1, 2]]]}, r"has the point 7"),
        (polygon(436_920, 4_173_360, 439_440, 4_175_880), r"no longitude and latitude"),
        (polygon(1, 2, 3, float("nan")), r"no longitude and latitude"),
        (polygon(-179.9, 2, 179.9, 3), r"crosses the antimeridian; cut it there"),
        ({**polygon(*AREA), "crs": {"properties": {"name": "EPSG:32618"}}}, r"names a CRS of its own"),
        ({"type": "Polygon", "coordinates": [[[1, 2]] * 4]}, r"a polygon that spans no ground"),
        ({"type": "Polygon", "coordinates": [[[1, 2], [1, 3], [1, 4], [1, 2]]]}, r"a polygon that spans no ground"),
        ("[1, 2", r"is no JSON"),
        ("[" * 100_000, r"is no JSON \(nested too deep\)"),
        ([], r"holds 'None'"),
        (polygon(0, 0, 40, 40), r"--geometry reaches too far"),
    ],
)
def test_what_is_no_area_is_refused(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        choose_grid((), geometry=save(tmp_path, document))
    assert "\n" not in str(error.value)


def test_a_geometry_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"--geometry x.json is missing"):
        choose_grid((), geometry=tmp_path / "x.json")
    with pytest.raises(RasterError, match=r"is missing or no file"):
        choose_grid((), geometry=tmp_path)


def test_every_pixel_of_a_chosen_grid_is_a_copy(tmp_path: Path) -> None:
    values = np.arange(420 * 420).reshape(420, 420) % 5000 + 1
    path = tmp_path / "s2.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=12,
        height=420,
        width=420,
        dtype="uint16",
        crs="EPSG:32618",
        transform=metres(10),
    ) as dataset:
        dataset.write(np.stack([values] * 12).astype("uint16"))
    given = sources(("S2L2A", str(path)))
    grid, _ = choose_grid(given, bbox=box(700, 500, 2500, 2500))
    (optical,) = (entry for entry in given if entry.key == "S2L2A_B02_B03_B04_B08")
    row, col = int(TOP - grid.top) // 10, int(grid.left - LEFT) // 10
    for cell in grid.windows(25):
        rows, cols = row + 48 * cell[0], col + 48 * cell[1]
        expected = values[rows : rows + 192, cols : cols + 192]
        read = optical.read(grid.ground(cell))[2][: len(expected), : expected.shape[1]]
        np.testing.assert_array_equal(read, expected)
