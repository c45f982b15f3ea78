"""To and from model space: against the authors' recorded values, by hand, and where the authors' code goes wrong."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.modalities import IMAGE_KEYS, KEYS, get
from copgen_edge.runtime.transforms import to_model, to_physical
from numpy.typing import NDArray

TOLERANCE = 1e-5
PLACE, DATE = "3d_cartesian_lat_lon", "mean_timestamps"
S1_FLOOR = 2.6380407689430285e-06
DEM_BACK_FLOOR = 6.000018e-06
Arrays = dict[str, NDArray[np.float64]]
ESRI_ORDER = (0, 1, 2, 4, 5, 7, 8, 9, 10, 11)


@pytest.fixture(scope="module")
def recorded(golden: Path) -> Arrays:
    with np.load(golden / "transforms.npz") as arrays:
        return dict(arrays)


def relative_l2(found: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def physical(key: str, value: float = 1.0, dtype: type = np.float32) -> NDArray[Any]:
    m = get(key)
    return np.full((1, len(m.bands), m.size, m.size), value, dtype)


def one_date(year: int, month: int, day: int) -> tuple[int, ...]:
    return tuple(to_physical(DATE, to_model(DATE, [(year, month, day)]))[0].tolist())


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_images_as_the_authors_transform_them(recorded: Arrays, key: str) -> None:
    model = to_model(key, recorded[f"raw/{key}"])
    assert model.dtype == np.float32
    assert relative_l2(model, recorded[f"model_input/{key}"]) <= TOLERANCE
    back = to_physical(key, recorded[f"model_output/{key}"])
    assert back.dtype == (np.uint8 if get(key).is_codes else np.float32)
    assert relative_l2(back, recorded[f"physical/{key}"]) <= TOLERANCE
    if get(key).is_codes:
        np.testing.assert_array_equal(back, recorded[f"physical/{key}"])


def test_dates_as_the_authors_transform_them(recorded: Arrays) -> None:
    model = to_model(DATE, recorded["dates_ymd"])
    assert relative_l2(model, recorded[f"model_input/{DATE}"]) <= TOLERANCE
    day_month_year = recorded[f"physical/{DATE}"].reshape(-1, 3)
    np.testing.assert_array_equal(to_physical(DATE, recorded[f"model_output/{DATE}"]), day_month_year[:, ::-1])


def test_places_as_the_authors_transform_them_but_normalised(recorded: Arrays) -> None:
    assert relative_l2(to_model(PLACE, recorded["lat_lon_deg"]), recorded[f"model_input/{PLACE}"]) <= TOLERANCE
    output = recorded[f"model_output/{PLACE}"]
    found = to_physical(PLACE, output).astype(np.float64)
    theirs = recorded[f"physical/{PLACE}"].reshape(-1, 2)
    np.testing.assert_allclose(found[:, 1], theirs[:, 1], atol=1e-4)
    # The recorded vectors are off the unit sphere: there the authors' latitude is the arcsine of a clipped z.
    x, y, z = output.reshape(-1, 3).astype(np.float64).T
    np.testing.assert_allclose(found[:, 0], np.degrees(np.arctan2(z, np.hypot(x, y))), atol=1e-9)
    assert np.abs(found[:, 0] - theirs[:, 0]).max() > 5


def test_a_place_does_not_depend_on_the_vectors_length() -> None:
    unit = to_model(PLACE, [(37.68, -75.66)])
    for length in (1e-3, 0.5, 1.4, 100.0):
        np.testing.assert_allclose(to_physical(PLACE, unit * length), [(37.68, -75.66)], atol=1e-4)


def test_a_vector_of_no_direction_is_still_a_place() -> None:
    np.testing.assert_array_equal(to_physical(PLACE, np.zeros((1, 1, 1, 3))), [(0.0, 0.0)])


@pytest.mark.parametrize("place", [(90, 0), (-90, 0), (0, 180), (0, -179.9), (-33.4, 151.2), (55.95, -3.19)])
def test_places_come_back(place: tuple[float, float]) -> None:
    found = to_physical(PLACE, to_model(PLACE, [place]))
    assert found.dtype == np.float64
    # float32 in between: 1e-4 degrees is about 10 m; near a pole the cosine of latitude costs half the digits.
    np.testing.assert_allclose(found[:, 0], place[0], atol=1e-2 if abs(place[0]) == 90 else 1e-4)
    turn = (found[0, 1] - place[1] + 180) % 360 - 180
    assert abs(place[0]) == 90 or abs(turn) < 1e-4


@pytest.mark.parametrize("place", [(90.01, 0), (-91, 0), (0, 361), (120.5, 45.0)])
def test_a_place_off_the_globe_is_refused(place: tuple[float, float]) -> None:
    with pytest.raises(RequestError, match=r"latitude in -90\.\.90"):
        to_model(PLACE, [(0, 0), place])


@pytest.mark.parametrize("year", [2023, 2024, 1900, 2000])
def test_every_day_of_a_year_comes_back(year: int) -> None:
    days = [date(year, 1, 1) + timedelta(days=n) for n in range(366)]
    days = [day for day in days if day.year == year]
    assert len(days) == (366 if year in (2024, 2000) else 365)
    ymd = np.array([(day.year, day.month, day.day) for day in days])
    np.testing.assert_array_equal(to_physical(DATE, to_model(DATE, ymd)), ymd)


def test_the_year_is_counted_from_1950_and_the_turn_from_the_new_year() -> None:
    # 1 July is day 183 of a leap year's 366: half a turn.
    np.testing.assert_allclose(to_model(DATE, [(2000, 7, 1)]).ravel(), [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(to_model(DATE, [(1950, 12, 31)]).ravel(), [0, 1, -1], atol=1e-6)
    np.testing.assert_allclose(to_model(DATE, [(2050, 12, 31)]).ravel()[2], 1, atol=1e-6)


@pytest.mark.parametrize("year", [2023, 2024])
@pytest.mark.parametrize("sin", [0.0, 1e-4, -1e-4])
def test_day_of_year_zero_is_the_last_day(year: int, sin: float) -> None:
    model = np.array([sin, 1.0, 2 * (year - 1950) / 100 - 1], np.float32).reshape(1, 1, 1, 3)
    assert to_physical(DATE, model)[0].tolist() == [year, 12, 31]


def test_the_same_turn_is_another_day_in_a_leap_year() -> None:
    turn = 2 * np.pi * 100 / 365
    found = [
        to_physical(DATE, np.array([np.sin(turn), np.cos(turn), year / 50 - 40], np.float32).reshape(1, 1, 1, 3))
        for year in (2023, 2024)
    ]
    assert found[0][0].tolist() == [2023, 4, 10]
    assert found[1][0].tolist() == [2024, 4, 9]


def test_a_date_far_out_of_range_stays_a_date() -> None:
    wild = np.array([[0.3, 0.4, -1000.0], [0.3, 0.4, 1000.0], [0.0, 0.0, 0.0]], np.float32).reshape(3, 1, 1, 3)
    assert to_physical(DATE, wild)[:, 0].tolist() == [1, 9999, 2000]


@pytest.mark.parametrize("ymd", [(2023, 2, 29), (2023, 13, 1), (2023, 0, 1), (2023, 4, 31), (0, 1, 1), (2023, 1.5, 1)])
def test_a_day_that_is_not_in_the_calendar_is_refused(ymd: tuple[float, ...]) -> None:
    with pytest.raises(RequestError, match="calendar"):
        to_model(DATE, [(2024, 2, 29), ymd])


def test_whole_numbers_may_come_as_floats() -> None:
    np.testing.assert_array_equal(to_model(DATE, np.array([(2024.0, 2.0, 29.0)])), to_model(DATE, [(2024, 2, 29)]))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_both_ways(key: str, bad: float) -> None:
    m = get(key)
    one = np.ones((1, 2 if key == PLACE else 3)) if not m.is_image else physical(key)
    one = one.copy()
    one.flat[-1] = bad
    with pytest.raises(RequestError, match=f"{key}: found NaN or infinity"):
        to_model(key, one)
    model = np.zeros((1, *(m.image_shape if m.is_image else m.latent_shape)), np.float32)
    model.flat[-1] = bad
    with pytest.raises(RequestError, match=f"{key}: found NaN or infinity"):
        to_physical(key, model)


@pytest.mark.parametrize(("key", "code"), [("S2L1C_cloud_mask", 255), ("S2L1C_cloud_mask", 4), ("LULC_LULC", 3)])
def test_unknown_codes_are_refused_by_name(key: str, code: int) -> None:
    codes = physical(key, 1, np.uint8)
    codes[0, 0, 5, 7] = code
    with pytest.raises(RequestError, match=rf"{key}: found codes \[{code}\], expected only") as caught:
        to_model(key, codes)
    assert str(sorted(get(key).codes)) in str(caught.value)


@pytest.mark.parametrize("code", [1.5, -1.0])
def test_a_code_between_codes_is_refused(code: float) -> None:
    with pytest.raises(RequestError, match=r"found codes"):
        to_model("LULC_LULC", physical("LULC_LULC", code, np.float64))


@pytest.mark.parametrize("key", ["LULC_LULC", "S2L1C_cloud_mask"])
def test_codes_are_one_hot_in_their_own_order(key: str) -> None:
    codes = sorted(get(key).codes)
    field = np.resize(np.array(codes), (1, 1, 192, 192))
    model = to_model(key, field)
    for channel, code in enumerate(codes):
        np.testing.assert_array_equal(model[0, channel] == 1, field[0, 0] == code)
        np.testing.assert_array_equal(model[0, channel] == -1, field[0, 0] != code)
    back = to_physical(key, model)
    np.testing.assert_array_equal(back, field)
    assert back.shape == (1, 1, 192, 192)


def test_the_land_cover_channels_are_the_esri_codes() -> None:
    for channel, code in enumerate(ESRI_ORDER):
        model = np.full((1, 10, 192, 192), -1, np.float32)
        model[:, channel] = 1
        assert np.unique(to_physical("LULC_LULC", model)).tolist() == [code]


def test_radar_at_or_below_zero_becomes_the_floor() -> None:
    power = physical("S1RTC_vh_vv", S1_FLOOR)
    power[0, 0, 0, :4] = (0, -32768, -1e-9, S1_FLOOR)
    model = to_model("S1RTC_vh_vv", power)
    np.testing.assert_allclose(model, -1, atol=1e-6)
    np.testing.assert_allclose(to_physical("S1RTC_vh_vv", model - 5), S1_FLOOR, rtol=1e-6)


def test_radar_in_decibels_by_hand() -> None:
    found = to_model("S1RTC_vh_vv", physical("S1RTC_vh_vv", 0.1))
    np.testing.assert_allclose(found, (-10 + 55.787186) / (40.2258 + 55.787186) * 2 - 1, rtol=1e-6)
    np.testing.assert_allclose(to_physical("S1RTC_vh_vv", np.ones((1, 2, 192, 192))), 10**4.02258, rtol=1e-6)
    np.testing.assert_allclose(to_physical("S1RTC_vh_vv", np.full((1, 2, 192, 192), 3.0)), 10**4.02258, rtol=1e-6)


def test_ground_below_the_sea_is_not_representable() -> None:
    metres = physical("DEM_DEM", -40)
    metres[0, 0, 0, 0] = 0
    model = to_model("DEM_DEM", metres)
    np.testing.assert_allclose(model, -1, atol=1e-6)
    np.testing.assert_allclose(to_physical("DEM_DEM", model), DEM_BACK_FLOOR, rtol=1e-4)
    np.testing.assert_allclose(to_physical("DEM_DEM", model - 9), DEM_BACK_FLOOR, rtol=1e-4)


def test_elevation_by_hand() -> None:
    found = to_model("DEM_DEM", physical("DEM_DEM", 1000))
    np.testing.assert_allclose(found, (np.log(1001) - 0.000006) / (9.088 - 0.000006) * 2 - 1, rtol=1e-6)


def test_reflectance_is_not_clipped() -> None:
    key = "S2L2A_B01_B09"
    np.testing.assert_allclose(to_model(key, physical(key, 15000)), 2, rtol=1e-6)
    np.testing.assert_allclose(to_model(key, physical(key, -1000)), -1.2, rtol=1e-6)
    np.testing.assert_allclose(to_physical(key, np.full((1, 2, 32, 32), 2.0)), 15000, rtol=1e-6)
    np.testing.assert_allclose(to_physical(key, np.full((1, 2, 32, 32), -1.2)), -1000, rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [("DEM_DEM", 0.5, 8000), ("S1RTC_vh_vv", 1e-4, 50), ("S2L1C_B02_B03_B04_B08", 1, 14000)],
)
def test_values_in_range_come_back(key: str, low: float, high: float) -> None:
    values = np.geomspace(low, high, physical(key).size).reshape(physical(key).shape)
    np.testing.assert_allclose(to_physical(key, to_model(key, values)), values, rtol=1e-4, atol=1e-3 if low == 1 else 0)


@pytest.mark.parametrize("key", IMAGE_KEYS)
@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int16, np.uint8, np.int64])
def test_the_type_of_the_numbers_does_not_matter(key: str, dtype: type) -> None:
    values = np.resize(np.array([1, 2, 0] if get(key).is_codes else [3, 7, 120, 2]), physical(key).shape)
    found = to_model(key, values.astype(dtype))
    assert found.dtype == np.float32
    assert relative_l2(found, to_model(key, values.astype(np.float32))) <= 1e-7


@pytest.mark.parametrize("key", KEYS)
def test_wrong_shapes_are_refused_with_the_right_one(key: str) -> None:
    m = get(key)
    shape = (len(m.bands), m.size, m.size) if m.is_image else ((2,) if key == PLACE else (3,))
    model_shape = m.image_shape if m.is_image else m.latent_shape
    for wrong in (shape, (1, shape[0] + 1, *shape[1:]), (1, *shape, 1), ()):
        with pytest.raises(RequestError, match=rf"{key}: found an array of shape .*expected \(rows, ") as caught:
            to_model(key, np.ones(wrong))
        assert str(wrong) in str(caught.value)
    for wrong in (model_shape, (1, model_shape[0] + 1, *model_shape[1:]), (1, *model_shape, 1)):
        with pytest.raises(RequestError, match=rf"{key}: found an array of shape .*expected \(rows, "):
            to_physical(key, np.ones(wrong))


def test_the_expected_shape_is_written_as_a_shape() -> None:
    with pytest.raises(RequestError, match=r"expected \(rows, 6, 96, 96\)$"):
        to_model("S2L2A_B05_B06_B07_B11_B12_B8A", np.ones((1, 4, 96, 96)))
    with pytest.raises(RequestError, match=r"expected \(rows, 2\)$"):
        to_model(PLACE, np.ones((1, 3)))


def test_words_are_no_numbers() -> None:
    with pytest.raises(RequestError, match="expected numbers"):
        to_model(PLACE, [("north", "west")])
    with pytest.raises(RequestError, match="unknown modality 'DEM'"):
        to_model("DEM", physical("DEM_DEM"))


def test_the_input_is_left_as_it_was() -> None:
    for key in IMAGE_KEYS:
        values = physical(key, 0)
        to_model(key, values)
        np.testing.assert_array_equal(values, physical(key, 0))


def test_no_rows_in_no_rows_out() -> None:
    assert to_model(DATE, np.empty((0, 3))).shape == (0, 1, 1, 3)
    assert to_model(PLACE, np.empty((0, 2))).shape == (0, 1, 1, 3)
    assert to_physical(DATE, np.empty((0, 1, 1, 3))).shape == (0, 3)
    assert to_physical("DEM_DEM", np.empty((0, 1, 64, 64))).shape == (0, 1, 64, 64)
