import numpy as np
import pytest
from affine import Affine
from copgen_edge.runtime.errors import RasterError, RequestError
from copgen_edge.runtime.raster.window import Grid, GroundWindow, choose_window, project, utm
from rasterio.crs import CRS

UTM18 = CRS.from_epsg(32618)
WGS84 = CRS.from_epsg(4326)
LEFT, TOP = 436_920.0, 4_175_880.0


def grid(
    size: int = 1068,
    resolution: float = 10.0,
    *,
    crs: CRS = UTM18,
    left: float = LEFT,
    top: float = TOP,
    name: str = "S2L2A: B04.tif",
) -> Grid:
    return Grid(name, crs, Affine(resolution, 0, left, 0, -resolution, top), size, size)


def turned(degrees: float, left: float, top: float) -> Affine:
    cos, sin = 10 * np.cos(np.radians(degrees)), 10 * np.sin(np.radians(degrees))
    return Affine(cos, sin, left, sin, -cos, top)


DEGREES = grid(361, 1 / 3600, crs=WGS84, left=-118.05, top=34.05, name="DEM: dem.tif")


def test_a_window_has_a_transform_at_each_resolution_and_its_bounds() -> None:
    window = GroundWindow(UTM18, 441_300.0, 4_171_500.0)
    for resolution in (10, 20, 30, 60):
        assert window.transform(resolution) == Affine(resolution, 0, 441_300, 0, -resolution, 4_171_500)
    assert tuple(window.bounds) == (441_300.0, 4_169_580.0, 443_220.0, 4_171_500.0)


def test_the_center_of_a_window_is_its_middle_on_the_globe() -> None:
    lat, lon = GroundWindow(UTM18, 441_300.0, 4_171_500.0).center
    assert (lat, lon) == pytest.approx((37.6802433, -75.6548144), abs=1e-6)
    (x,), (y,) = project(WGS84, UTM18, [lon], [lat])
    assert (x, y) == pytest.approx((442_260.0, 4_170_540.0), abs=1e-3)


@pytest.mark.parametrize(
    ("size", "resolution", "steps"),
    [
        (1068, 10, 73),  # a Major TOM tile: 4380 m
        (1069, 10, 73),  # a land cover raster one pixel larger
        (178, 60, 73),
        (224, 10, 2),
        (192, 10, 0),
        (197, 10, 0),  # less than one step to spare
        (2 * 96 + 11, 10, 0),
        (2 * 96 + 12, 10, 1),
    ],
)
def test_the_middle_of_a_raster_is_snapped_down_to_steps_of_60_m(size: int, resolution: int, steps: int) -> None:
    window, notes = choose_window([grid(size, resolution)])
    assert (window.left, window.top) == (LEFT + 60 * steps, TOP - 60 * steps)
    assert notes == ("window: the middle of S2L2A: B04.tif",)


def test_a_raster_smaller_than_a_window_is_refused() -> None:
    with pytest.raises(RasterError, match=r"is 1910 m x 1910 m; a window needs 1920 m x 1920 m"):
        choose_window([grid(191)])


def test_a_center_is_snapped_to_the_nearest_step_from_the_rasters_corner() -> None:
    (lon,), (lat,) = project(UTM18, WGS84, [LEFT + 960 + 60 * 7 + 29], [TOP - 960 - 60 * 9 + 28])
    window, notes = choose_window([grid()], center=(lat, lon))
    assert (window.left, window.top) == (LEFT + 420, TOP - 540)
    assert "40.3 m from --center" in notes[0]


def test_snapping_a_center_never_leaves_a_raster_that_holds_it() -> None:
    # 50 m to spare: the nearest step to 45 m from the corner is 60 m, which is 10 m too far.
    (lon,), (lat,) = project(UTM18, WGS84, [LEFT + 960 + 45], [TOP - 960 - 45])
    window, _ = choose_window([grid(197)], center=(lat, lon))
    assert (window.left, window.top) == (LEFT, TOP)


def test_a_center_off_the_raster_is_refused_with_both_bounds() -> None:
    with pytest.raises(RasterError, match=r"B04.tif does not cover the window: it spans 436920\.\.447600") as error:
        choose_window([grid()], center=(38.5, -75.6))
    assert "EPSG:32618" in str(error.value)
    assert "window around 38.49" in str(error.value)


def test_a_center_beyond_the_reach_of_the_crs_is_refused() -> None:
    with pytest.raises(RasterError, match=r"does not cover the window|is far from"):
        choose_window([grid()], center=(10.0, 104.0))


def test_a_pixel_is_the_upper_left_corner_in_the_reference() -> None:
    coarse = grid(178, 60, name="S2L2A: B01.tif")
    window, notes = choose_window([grid(), coarse], pixel=(12, 30))
    assert (window.left, window.top) == (LEFT + 120, TOP - 300)
    assert notes == ("window: starts at column 12, row 30 of S2L2A: B04.tif",)
    window, _ = choose_window([coarse], pixel=(12, 30))
    assert (window.left, window.top) == (LEFT + 720, TOP - 1800)


def test_a_pixel_off_the_60_m_steps_is_taken_as_it_is_and_said() -> None:
    window, notes = choose_window([grid()], pixel=(5, 6))
    assert (window.left, window.top) == (LEFT + 50, TOP - 60)
    assert "no multiple of 60 m" in notes[1]


@pytest.mark.parametrize("pixel", [(877, 0), (0, 877), (-1, 0), (0, -1)])
def test_a_pixel_whose_window_leaves_the_raster_is_refused(pixel: tuple[int, int]) -> None:
    with pytest.raises(RasterError, match=r"has 1068 x 1068 pixels: a window needs 192 x 192"):
        choose_window([grid()], pixel=pixel)


def test_the_last_pixel_whose_window_fits_is_accepted() -> None:
    window, _ = choose_window([grid()], pixel=(876, 876))
    assert window.bounds.right == LEFT + 10_680


def test_center_and_pixel_together_are_refused() -> None:
    with pytest.raises(RequestError, match=r"both --center and --window"):
        choose_window([grid()], center=(37.68, -75.65), pixel=(0, 0))


def test_the_first_grid_that_can_anchor_is_the_reference() -> None:
    window, notes = choose_window([DEGREES, grid(left=LEFT + 10), grid()])
    assert window.crs == UTM18
    assert (window.left - LEFT - 10) % 60 == 0
    assert "B04" in notes[0]


def test_a_geographic_raster_alone_gives_a_window_on_the_utm_grid() -> None:
    window, notes = choose_window([DEGREES])
    assert window.crs == CRS.from_epsg(32611)
    assert window.left % 60 == 0
    assert window.top % 60 == 0
    assert window.center == pytest.approx((34.05 - 361 / 7200, -118.05 + 361 / 7200), abs=5e-4)
    assert "EPSG:32611" in notes[0]
    assert "EPSG:4326" in notes[0]


def test_a_geographic_raster_with_no_room_for_steps_still_gives_its_middle() -> None:
    # Some 1960 m either way and turned by 0.4 degrees: the steps of 60 m would leave it.
    arc = 1 / 3600
    transform = Affine(arc * 30 / 24.5, 0, -75.72, 0, -arc, 37.75)
    for shift in range(8):
        moved = Affine(transform.a, 0, transform.c + shift * 1e-4, 0, transform.e, transform.f + shift * 7e-5)
        small = Grid("DEM: dem.tif", WGS84, moved, 65, 64)
        window, _ = choose_window([small])
        assert small.covers(window)


def test_pixels_of_a_geographic_raster_are_refused() -> None:
    with pytest.raises(RequestError, match=r"DEM: dem.tif is in EPSG:4326; use --center"):
        choose_window([DEGREES], pixel=(0, 0))


def test_pixels_without_a_raster_are_refused() -> None:
    with pytest.raises(RequestError, match=r"no raster was given; use --center"):
        choose_window([], pixel=(0, 0))


def test_web_mercator_metres_are_no_ground_metres() -> None:
    # At 37.7 N a metre of EPSG:3857 is 0.79 m on the ground.
    mercator = grid(2000, 10, crs=CRS.from_epsg(3857), left=-8_430_000.0, top=4_540_000.0)
    assert not mercator.can_anchor
    window, _ = choose_window([mercator])
    assert window.crs == UTM18


@pytest.mark.parametrize(
    "transform",
    [
        turned(10, LEFT, TOP),
        Affine(10, 0, LEFT, 0, 10, TOP),
        Affine(10, 0, LEFT, 0, -20, TOP),
    ],
    ids=["rotated", "south up", "oblong"],
)
def test_only_square_north_up_pixels_anchor_a_window(transform: Affine) -> None:
    assert not Grid("x", UTM18, transform, 1000, 1000).can_anchor


def test_feet_do_not_anchor_a_window() -> None:
    assert not grid(1000, 30, crs=CRS.from_epsg(2263), left=980_000.0, top=220_000.0).can_anchor


def test_without_a_raster_the_window_is_about_the_center_else_the_place() -> None:
    window, _ = choose_window([], place=(12.0, 13.0))
    assert window.center == pytest.approx((12.0, 13.0), abs=5e-4)
    window, _ = choose_window([], center=(-33.2, 151.1), place=(12.0, 13.0))
    assert window.crs == CRS.from_epsg(32756)
    assert window.center == pytest.approx((-33.2, 151.1), abs=5e-4)


def test_nothing_that_says_where_is_refused() -> None:
    with pytest.raises(RequestError, match=r"give it with --center"):
        choose_window([])


@pytest.mark.parametrize(
    ("lat", "lon", "epsg"),
    [
        (0.0, -180.0, 32601),
        (-0.1, 179.9, 32760),
        (10.0, 180.0, 32601),
        (57.2, 9.8, 32632),
        (-25.3, -48.1, 32722),
        (85.0, 0.0, 32661),
        (-85.0, 0.0, 32761),
    ],
)
def test_utm_zones(lat: float, lon: float, epsg: int) -> None:
    assert utm(lat, lon) == CRS.from_epsg(epsg)


def test_covering_is_judged_in_the_rasters_own_pixels() -> None:
    window = GroundWindow(UTM18, LEFT, TOP)
    assert grid(192).covers(window)
    assert not grid(191).covers(window)
    assert not grid(192, left=LEFT + 1).covers(window)
    # A square turned by 45 degrees whose bounding box holds the window, and which does not.
    rotated = Grid("x", UTM18, turned(-45, LEFT + 960, TOP + 960), 250, 250)
    assert rotated.bounds.left < LEFT
    assert rotated.bounds.right > LEFT + 1920
    assert not rotated.covers(window)


def test_oversampling_is_pixels_a_side() -> None:
    window = GroundWindow(UTM18, LEFT, TOP)
    assert grid(500, 5).oversampling(window, 20) == pytest.approx(4.0)
    assert grid(500, 60).oversampling(window, 30) == pytest.approx(0.5)
    rotated = Grid("x", UTM18, turned(30, LEFT, TOP), 500, 500)
    assert rotated.oversampling(window, 10) == pytest.approx(1.0)


def test_points_outside_a_crs_are_nan() -> None:
    assert np.isnan(project(WGS84, UTM18, [0.0], [95.0])).all()
