"""The procedural world: its contract, and the dependencies between modalities that make it worth learning."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest
from copgen_edge.copgen_ref.world import draw, draw_many
from copgen_edge.copgen_ref.world.atmosphere import draw_sky
from copgen_edge.copgen_ref.world.climate import Sun, climate_at, sun_on
from copgen_edge.runtime import transforms
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.modalities import BY_KEY, KEYS, MODALITIES
from copgen_edge.runtime.raster.render import horn_gradient
from numpy.typing import NDArray

Rows = dict[str, NDArray[Any]]
PLACE, DATE, CLOUDS, RADAR = "3d_cartesian_lat_lon", "mean_timestamps", "S2L1C_cloud_mask", "S1RTC_vh_vv"
GROUND = ("DEM_DEM", "LULC_LULC", PLACE)
WATER, TREES, CROPS, BUILT, BARE, SNOW, RANGELAND = 1, 2, 5, 7, 8, 9, 11
CLEAR, THICK, SHADOW = 0, 1, 3
ANDES = (-44.0, -75.0)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Sixty patches, one a seed."""
    return draw_many(range(60))


def band(rows: Rows, family: str, name: str) -> NDArray[np.float32]:
    """(rows, 192, 192): one band on the 10 m grid, each pixel repeated."""
    modality = next(m for m in MODALITIES if m.family == family and name in m.bands)
    image = rows[modality.key][:, modality.bands.index(name)]
    times = modality.resolution // 10
    return image.repeat(times, axis=1).repeat(times, axis=2)


def decibels(rows: Rows, name: str) -> NDArray[np.float64]:
    return 10.0 * np.log10(band(rows, "S1RTC", name).astype(np.float64))


def index(rows: Rows, first: str, second: str) -> NDArray[np.float32]:
    a, b = band(rows, "S2L2A", first), band(rows, "S2L2A", second)
    return (a - b) / (a + b)


def cover(rows: Rows) -> NDArray[np.uint8]:
    return rows["LULC_LULC"][:, 0]


def clouds(rows: Rows) -> NDArray[np.uint8]:
    return rows[CLOUDS][:, 0]


def clear(rows: Rows, *codes: int) -> NDArray[np.bool_]:
    return np.isin(cover(rows), codes) & (clouds(rows) == CLEAR)


def same(a: Rows, b: Rows, keys: tuple[str, ...]) -> list[str]:
    return [key for key in keys if np.array_equal(a[key], b[key])]


# The contract


@pytest.mark.parametrize("key", KEYS)
def test_every_modality_has_its_type_and_is_taken_by_the_transforms(rows: Rows, key: str) -> None:
    m = BY_KEY[key]
    expected = {"codes": np.uint8, "place": np.float64, "date": np.int64}.get(m.kind, np.float32)
    assert rows[key].dtype == expected
    assert rows[key].shape[0] == 60
    model = transforms.to_model(key, rows[key])
    assert model.shape == (60, *(m.image_shape if m.is_image else m.latent_shape))


def test_physical_ranges(rows: Rows) -> None:
    for m in MODALITIES:
        values = rows[m.key]
        if m.kind == "reflectance":
            assert np.array_equal(values, np.rint(values)), f"{m.key} has broken digital numbers"
            assert values.min() >= 1 and values.max() < 20_000
        elif m.kind == "backscatter":
            assert values.min() > 0 and values.max() < 10
        elif m.kind == "elevation":
            assert values.min() == 0 and 1000 < values.max() <= 4500
    latitude, longitude = rows[PLACE].T
    assert -56 <= latitude.min() < -20 and 40 < latitude.max() <= 72
    assert -180 <= longitude.min() < -90 and 90 < longitude.max() <= 180
    assert set(rows[DATE][:, 0]) == set(range(2017, 2025))


def test_codes_are_the_drawn_ones(rows: Rows) -> None:
    # One class, perennial snow and ice, is too rare for sixty patches.
    assert set(np.unique(cover(rows))) | {9} == {1, 2, 4, 5, 7, 8, 9, 11}
    assert set(np.unique(clouds(rows))) == {0, 1, 2, 3}


def test_many_are_the_ones_of_their_seeds_in_order(rows: Rows) -> None:
    one = draw(17)
    assert [key for key in KEYS if not np.array_equal(rows[key][17:18], one[key])] == []


def test_the_seed_decides_all(rows: Rows) -> None:
    assert same(draw(3), draw(3), KEYS) == list(KEYS)
    assert same(draw(3), draw(4), KEYS) == []


def test_weather_changes_the_day_and_not_the_ground() -> None:
    first, second = draw(12), draw(12, weather=5)
    assert same(first, second, GROUND) == list(GROUND)
    moved = tuple(key for key in KEYS if key not in GROUND and key != CLOUDS)
    assert same(first, second, moved) == []
    shares = {float((draw(12, weather=w)[CLOUDS] == THICK).mean()) for w in range(6)}
    assert len(shares) > 2


def test_a_pinned_date_moves_no_other_random_number() -> None:
    drawn = draw(21, weather=2)
    day = date(*map(int, drawn[DATE][0]))
    assert same(draw(21, weather=2, date=day), drawn, KEYS) == list(KEYS)
    later = draw(21, weather=2, date=date(2019, 6, 21))
    assert later[DATE].tolist() == [[2019, 6, 21]]
    assert same(later, drawn, GROUND) == list(GROUND)
    # The sun moves the shadows and nothing else of the sky.
    assert np.array_equal(np.isin(clouds(later), (1, 2)), np.isin(clouds(drawn), (1, 2)))


def test_a_pinned_place_moves_no_other_random_number() -> None:
    drawn = draw(33)
    latitude, longitude = map(float, drawn[PLACE][0])
    assert same(draw(33, place=(latitude, longitude)), drawn, KEYS) == list(KEYS)
    moved = draw(33, place=(latitude, longitude + 1e-7))
    assert moved[PLACE].tolist() == [[latitude, longitude + 1e-7]]
    assert np.abs(moved["DEM_DEM"] - drawn["DEM_DEM"]).max() < 0.1
    assert (cover(moved) == cover(drawn)).mean() > 0.99


def test_a_larger_scene_has_more_pixels_of_the_same_kind(rows: Rows) -> None:
    scene = draw(5, size=3840)
    for m in MODALITIES:
        if m.is_image:
            assert scene[m.key].shape == (1, len(m.bands), 2 * m.size, 2 * m.size)
    odd = draw(5, size=2400)
    assert odd["DEM_DEM"].shape[-1] == 80 and odd["S2L1C_B01_B09_B10"].shape[-1] == 40
    # No field repeats within the scene.
    assert not np.array_equal(scene["DEM_DEM"][..., :64, :64], scene["DEM_DEM"][..., 64:, 64:])


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": 1, "weather": -2}, "weather -2"),
        ({"seed": 1, "size": 2000}, "size 2000"),
        ({"seed": 1, "size": 1440}, "size 1440"),
        ({"seed": 1, "place": (91.0, 0.0)}, "place"),
        ({"seed": 1, "place": (0.0, 181.0)}, "place"),
        ({"seed": 1, "place": (float("nan"), 0.0)}, "place"),
        ({"seed": 1, "date": date(2016, 12, 31)}, "2016-12-31"),
        ({"seed": 1, "place": (65.0, 20.0), "date": date(2020, 12, 21)}, "sun"),
    ],
)
def test_a_request_it_cannot_meet_is_refused_on_one_line(request_: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        draw(**request_)
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)


def test_no_seed_is_refused() -> None:
    with pytest.raises(RequestError, match="no seed"):
        draw_many([])


# The sun


def test_the_sun_stands_where_almanacs_put_it() -> None:
    # London, 21 June 2024, 10:30 solar time: declination 23.44 degrees, hour angle -22.5.
    sun = sun_on(51.5, date(2024, 6, 21))
    assert np.hypot(np.hypot(sun.east, sun.north), sun.up) == pytest.approx(1.0)
    assert np.degrees(np.arcsin(sun.up)) == pytest.approx(57.03, abs=0.1)
    assert np.degrees(np.arctan2(sun.east, sun.north)) == pytest.approx(139.82, abs=0.1)
    southern = sun_on(-33.9, date(2024, 6, 21))
    assert southern.north > 0 and southern.east > 0
    assert sun_on(-33.9, date(2024, 12, 21)).up > southern.up


def test_drawn_days_have_the_sun_high_enough(rows: Rows) -> None:
    for (latitude, _), day in zip(rows[PLACE], rows[DATE], strict=True):
        assert sun_on(float(latitude), date(*map(int, day))).up >= np.sin(np.radians(15.0))


# What depends on what


def test_place_foretells_elevation_and_cover(rows: Rows) -> None:
    climates = [climate_at(*map(float, p)) for p in rows[PLACE]]
    arid = np.array([c.aridity for c in climates])
    bare = (cover(rows) == BARE).mean(axis=(1, 2))
    trees = (cover(rows) == TREES).mean(axis=(1, 2))
    assert bare[arid > 0.6].mean() > bare[arid < 0.3].mean() + 0.3
    assert trees[arid > 0.6].mean() < trees[arid < 0.3].mean() - 0.15
    relief = np.array([c.relief for c in climates])
    spread = np.ptp(rows["DEM_DEM"], axis=(1, 2, 3))
    assert spread[relief > 0.75].mean() > 2.0 * spread[relief < 0.5].mean()


def test_water_is_flat_in_the_elevation(rows: Rows) -> None:
    wet = (cover(rows) == WATER).reshape(60, 64, 3, 64, 3).all(axis=(2, 4))
    seen = 0
    for elevation, mask in zip(rows["DEM_DEM"][:, 0], wet, strict=True):
        levels = np.unique(elevation[mask])
        # A coast with a river reaches the sea at its level; a mean in float32 may miss it by a rounding error.
        assert levels.size == 0 or np.ptp(levels) < 1e-3
        seen += levels.size > 0
    assert seen > 15


def test_some_patches_have_a_sea_at_exactly_zero(rows: Rows) -> None:
    sea = (rows["DEM_DEM"][:, 0] == 0).mean(axis=(1, 2))
    assert 0.05 < (sea > 0.02).mean() < 0.35
    land = rows["DEM_DEM"][:, 0][(cover(rows) != WATER)[:, 1::3, 1::3]]
    assert (land > 0).all()


def test_water_is_dark_in_infrared_and_radar(rows: Rows) -> None:
    water, trees = clear(rows, WATER), clear(rows, TREES)
    for name in ("B08", "B11"):
        assert band(rows, "S2L2A", name)[water].mean() < 0.25 * band(rows, "S2L2A", name)[trees].mean()
    for name in ("vv", "vh"):
        assert decibels(rows, name)[water].mean() < decibels(rows, name)[trees].mean() - 6.0


def test_built_up_is_brightest_in_radar(rows: Rows) -> None:
    vv = decibels(rows, "vv")
    built = vv[cover(rows) == BUILT].mean()
    assert all(built > vv[cover(rows) == code].mean() + 4.0 for code in (WATER, TREES, CROPS, BARE, RANGELAND))


def test_leaves_come_in_the_local_summer() -> None:
    for latitude, summer, winter in (
        (46.0, date(2021, 7, 15), date(2021, 2, 15)),
        (-44.0, date(2021, 1, 15), date(2021, 6, 15)),
    ):
        greener = []
        for seed in range(12):
            place = (latitude, 15.0)
            pair = [draw(seed, place=place, date=day) for day in (summer, winter)]
            trees = clear(pair[0], TREES) & clear(pair[1], TREES)
            if trees.sum() > 500:
                ndvi = [float(index(one, "B08", "B04")[trees].mean()) for one in pair]
                greener.append(ndvi[0] - ndvi[1])
        assert len(greener) >= 4 and min(greener) > 0.1


def test_snow_lies_in_winter_and_high_up() -> None:
    share = {}
    for season, day in (("winter", date(2020, 8, 10)), ("summer", date(2020, 1, 20))):
        rows = draw_many(range(16), place=ANDES, date=day)
        snow = index(rows, "B03", "B11") > 0.4
        land = clear(rows, TREES, CROPS, BUILT, BARE, SNOW, RANGELAND)
        height = rows["DEM_DEM"][:, 0].repeat(3, axis=1).repeat(3, axis=2)
        for name, part in (("low", height < 700.0), ("high", height > 1800.0)):
            assert (land & part).sum() > 5000
            share[season, name] = snow[land & part].mean()
    assert share["winter", "high"] > share["winter", "low"] + 0.2
    assert share["winter", "high"] > share["summer", "high"] + 0.2
    assert share["summer", "low"] < 0.02


def test_slopes_that_face_the_sun_are_brighter() -> None:
    steep = 0
    for seed in range(8):
        rows = draw(seed, place=(45.0, 95.0), date=date(2020, 10, 1))
        east, north = horn_gradient(rows["DEM_DEM"][0, 0], 30.0)
        sun = sun_on(45.0, date(2020, 10, 1))
        # Ground that rises away from the sun faces it.
        facing = -(east * sun.east + north * sun.north)
        facing = facing.repeat(3, axis=0).repeat(3, axis=1)[None]
        land = clear(rows, BARE, RANGELAND, TREES)
        lit, shaded = land & (facing > 0.15), land & (facing < -0.15)
        if min(lit.sum(), shaded.sum()) > 300:
            steep += 1
            nir = band(rows, "S2L2A", "B08")
            assert nir[lit].mean() > 1.25 * nir[shaded].mean()
    assert steep >= 3


def test_slopes_that_rise_eastward_are_brighter_in_radar() -> None:
    rows = draw_many(range(8), place=(45.0, 95.0))
    difference = []
    for elevation, vv, code in zip(rows["DEM_DEM"][:, 0], decibels(rows, "vv"), cover(rows), strict=True):
        east = horn_gradient(elevation, 30.0)[0].repeat(3, axis=0).repeat(3, axis=1)
        land = np.isin(code, (BARE, RANGELAND))
        toward, away = land & (east > 0.2), land & (east < -0.2)
        if min(toward.sum(), away.sum()) > 300:
            difference.append(vv[toward].mean() - vv[away].mean())
    assert len(difference) >= 3 and min(difference) > 1.0


def test_clouds_are_bright_and_shadows_dark_where_the_mask_says(rows: Rows) -> None:
    mask = clouds(rows)
    for family in ("S2L1C", "S2L2A"):
        blue = band(rows, family, "B02")
        both = [(b[m == THICK], b[m == CLEAR]) for b, m in zip(blue, mask, strict=True)]
        # Cloud may lie over snow, so it is the medians of all patches that are compared.
        assert np.median(np.concatenate([c for c, _ in both])) > 3.0 * np.median(np.concatenate([c for _, c in both]))
    nir = band(rows, "S2L2A", "B08")
    compared = 0
    for image, m, code in zip(nir, mask, cover(rows), strict=True):
        for wanted in (TREES, RANGELAND, CROPS):
            dark, lit = image[(m == SHADOW) & (code == wanted)], image[(m == CLEAR) & (code == wanted)]
            if min(dark.size, lit.size) > 400:
                compared += 1
                assert dark.mean() < 0.85 * lit.mean()
    assert compared >= 8


def test_shadows_fall_away_from_the_sun() -> None:
    # The sun stands in the southeast at half height: a cloud's shadow lies as far to the northwest as its top is high.
    sun = Sun(east=0.5, north=-0.5, up=0.5**0.5)
    checked = 0
    for seed in range(40):
        sky = draw_sky(np.random.default_rng(seed), climate_at(50.0, 20.0), sun, 384)
        step = round(sky.height * 0.5**0.5 / 10.0)
        if not sky.opacity.any() or step > 190:
            continue
        checked += 1
        assert np.array_equal(sky.shade[:-step, :-step], sky.opacity[step:, step:])
        assert np.array_equal(sky.mask == SHADOW, (sky.shade > 0.3) & (sky.opacity == 0.0))
        assert np.array_equal(sky.mask == THICK, sky.opacity > 0.5)
    assert checked > 10


def test_the_cirrus_band_sees_only_clouds_and_heights(rows: Rows) -> None:
    cirrus = rows["S2L1C_B01_B09_B10"][:, 2]
    free = (clouds(rows) == CLEAR) | (clouds(rows) == SHADOW)
    free = free.reshape(60, 32, 6, 32, 6).all(axis=(2, 4))
    assert cirrus[free].max() < 60
    assert np.percentile(cirrus[~free], 99) > 150


def test_the_air_brightens_the_blue_of_dark_ground_and_takes_the_vapour_band(rows: Rows) -> None:
    dark = clear(rows, WATER, TREES) & (band(rows, "S2L2A", "B02") < 600)
    assert (band(rows, "S2L1C", "B02") > band(rows, "S2L2A", "B02"))[dark].all()
    gain = {b: (band(rows, "S2L1C", b) - band(rows, "S2L2A", b))[dark].mean() for b in ("B01", "B02", "B03", "B04")}
    assert gain["B01"] > gain["B02"] > gain["B03"] > gain["B04"] > 0
    land = clear(rows, TREES, RANGELAND)
    taken = [band(rows, "S2L1C", b)[land].mean() / band(rows, "S2L2A", b)[land].mean() for b in ("B09", "B8A")]
    assert taken[0] < 0.7 < 0.85 < taken[1]


def test_soil_moisture_is_not_known_from_the_ground() -> None:
    # A dry steppe without snow: what moves the mean of so many looks is the moisture of the day.
    place, day = (-33.0, 141.0), date(2020, 3, 1)
    means = []
    for weather in range(12):
        rows = draw(7, weather=weather, place=place, date=day)
        means.append(float(decibels(rows, "vv")[np.isin(cover(rows), (BARE, RANGELAND))].mean()))
    assert np.ptp(means) > 0.7


def test_speckle_has_the_looks_of_a_ground_range_product() -> None:
    # Over the sea, with its wind pinned by the weather, neighbours differ by speckle alone.
    looks = []
    for seed in range(40):
        rows = draw(seed)
        sea = (rows["DEM_DEM"] == 0).mean() > 0.3
        if sea:
            vv, wet = band(rows, "S1RTC", "vv")[0], cover(rows)[0] == WATER
            a, b = vv[:, ::2], vv[:, 1::2]
            both = wet[:, ::2] & wet[:, 1::2]
            contrast = ((a - b) / (a + b))[both]
            # For two gamma variables of shape L, var((a - b) / (a + b)) = 1 / (2 L + 1).
            looks.append((1.0 / contrast.var() - 1.0) / 2.0)
    assert looks and np.mean(looks) == pytest.approx(4.4, rel=0.05)
