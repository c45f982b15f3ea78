import numpy as np
import pytest
from copgen_edge.runtime.modalities import BY_KEY, IMAGE_KEYS
from copgen_edge.runtime.raster.palette import CLASS_COLOURS, HEAT
from copgen_edge.runtime.raster.render import (
    describe,
    hillshade,
    horn_gradient,
    measure_limits,
    measure_spread,
    render,
)

RGB = "S2L2A_B02_B03_B04_B08"


def test_gradient_of_a_plane_is_its_slope() -> None:
    rows, columns = np.mgrid[:6, :7].astype(float)
    # 30 m pixels: 3 m up a pixel eastward, 6 m down a pixel southward.
    east, north = horn_gradient(3.0 * columns - 6.0 * rows, 30.0)
    np.testing.assert_allclose(east[1:-1, 1:-1], 0.1, rtol=1e-12)
    np.testing.assert_allclose(north[1:-1, 1:-1], 0.2, rtol=1e-12)


def test_gradient_weighs_neighbours_as_horn_does() -> None:
    bump = np.zeros((5, 5))
    bump[2, 2] = 80.0
    east, north = horn_gradient(bump, 10.0)
    assert (east[2, 1], east[1, 1], east[2, 3]) == (2.0, 1.0, -2.0)
    assert (north[3, 2], north[3, 3], north[1, 2]) == (2.0, 1.0, -2.0)


def test_light_comes_from_the_north_west() -> None:
    rows, columns = np.mgrid[:5, :5].astype(float)
    flat = hillshade(np.zeros((5, 5)), 30.0)
    np.testing.assert_allclose(flat, np.sin(np.radians(45.0)), rtol=1e-12)
    facing = hillshade(30.0 * np.sqrt(0.5) * (rows + columns), 30.0)[2, 2]
    turned = hillshade(-30.0 * np.sqrt(0.5) * (rows + columns), 30.0)[2, 2]
    # A slope of 45 degrees toward the sun meets it head on; away from it, it is in the dark.
    assert facing == pytest.approx(1.0)
    assert turned == pytest.approx(0.0, abs=1e-12)


def test_true_colour_has_red_first_and_one_stretch() -> None:
    image = np.zeros((1, 4, 2, 2))
    image[0, :, 0, 0] = [3000, 1000, 1000, 0]
    image[0, :, 0, 1] = [1000, 3000, 1000, 0]
    image[0, :, 1, 0] = [1000, 1000, 3000, 0]
    image[0, :, 1, 1] = [2000, 2000, 2000, 9999]
    tile = render(RGB, image[0], measure_limits([(RGB, image)]))
    assert tile.dtype == np.uint8
    assert [int(tile[p].argmax()) for p in [(0, 0), (0, 1), (1, 0)]] == [0, 1, 2]
    assert len(set(tile[1, 1].tolist())) == 1


def test_condition_and_samples_share_the_stretch() -> None:
    dark, bright = np.full((1, 4, 4, 4), 500.0), np.full((1, 4, 4, 4), 3000.0)
    limits = measure_limits([(RGB, dark), (RGB, bright)])
    assert (render(RGB, dark[0], limits) == 0).all()
    assert (render(RGB, bright[0], limits) == 255).all()
    assert describe(RGB, limits) == ["true colour B04 B03 B02", "DN 500 to 3000"]


def test_nodata_and_missing_values_leave_the_stretch_alone() -> None:
    image = np.linspace(1000.0, 2000.0, 4 * 64).reshape(1, 4, 8, 8)
    holed = image.copy()
    holed[0, :3, 0, 0], holed[0, :3, 0, 1] = 0.0, np.nan
    clean = measure_limits([(RGB, image[..., 1:, :])])
    assert measure_limits([(RGB, holed[..., 1:, :])]) == clean
    low = measure_limits([(RGB, holed)])[f"{RGB} true colour"][0]
    assert low > 900.0
    assert render(RGB, holed[0], clean)[0, 1].tolist() == [128, 128, 128]


def test_an_even_surface_is_not_stretched_into_structure() -> None:
    image = 800.0 + np.random.default_rng(0).normal(0.0, 2.0, (1, 4, 32, 32))
    tile = render(RGB, image[0], measure_limits([(RGB, image)])).astype(float)
    assert tile.std() < 30.0


def test_radar_is_dark_over_water_and_bright_over_towns() -> None:
    image = np.empty((2, 1, 2))
    image[:, 0, 0] = [10**-2.2, 10**-2.9]
    image[:, 0, 1] = [10**-0.2, 10**-0.9]
    tile = render("S1RTC_vh_vv", image, {})
    assert tile[0, 0, :2].tolist() == [0, 0]
    assert tile[0, 1, :2].min() > 220


def test_a_missing_height_is_grey_and_casts_no_wall() -> None:
    image = np.full((1, 1, 9, 9), 500.0)
    image[0, 0, 4, 4] = np.nan
    tile = render("DEM_DEM", image[0], measure_limits([("DEM_DEM", image)]))
    assert tile[4, 4].tolist() == [128, 128, 128]
    assert (tile[3, 3] == tile[0, 0]).all()


def test_classes_have_their_colours_and_missing_is_grey() -> None:
    codes = np.array([[[1, 7], [11, 255]]])
    tile = render("LULC_LULC", codes, {})
    colours = CLASS_COLOURS["LULC_LULC"]
    assert tile.reshape(4, 3).tolist() == [list(colours[1]), list(colours[7]), list(colours[11]), [128, 128, 128]]


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_equal_samples_have_no_spread(key: str) -> None:
    modality = BY_KEY[key]
    samples = np.ones((3, len(modality.bands), 8, 8))
    spread = measure_spread(key, samples)
    assert (spread.rgb == HEAT[0]).all()


def test_spread_of_elevation_is_in_metres() -> None:
    samples = np.zeros((2, 1, 8, 8))
    samples[1, 0, :4] = 40.0
    spread = measure_spread("DEM_DEM", samples)
    assert (spread.rgb[:4] == HEAT[-1]).all()
    assert (spread.rgb[4:] == HEAT[0]).all()
    assert (spread.words, spread.low, spread.high) == (("std", "in m"), "0", "20.0")


def test_spread_of_radar_is_in_decibels() -> None:
    samples = np.full((2, 2, 8, 8), 0.001)
    samples[1] = 0.1
    assert measure_spread("S1RTC_vh_vv", samples).high == "10.0"
    assert measure_spread("S1RTC_vh_vv", 100.0 * samples).high == "10.0"


def test_spread_of_sentinel2_is_in_reflectance_and_of_the_bands_shown() -> None:
    samples = np.full((2, 4, 8, 8), 1000.0)
    samples[1, :3] = 2000.0
    samples[1, 3] = 9000.0
    assert measure_spread(RGB, samples).high == "0.050"


def test_spread_of_codes_is_their_disagreement() -> None:
    samples = np.full((4, 1, 1, 2), 2)
    samples[:, 0, 0, 1] = [1, 2, 4, 5]
    spread = measure_spread("LULC_LULC", samples)
    assert spread.rgb[0].tolist() == [list(HEAT[0]), list(HEAT[-1])]
    assert (spread.low, spread.high) == ("1.00", "0.25")
