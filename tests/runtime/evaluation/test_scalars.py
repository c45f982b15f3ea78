"""Distances on the globe and round the year, by hand."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.scalars import date_errors, day_distance, haversine_km, place_errors

DEGREE = 6371 * pi / 180
"""Kilometres of one degree of a great circle: 111.19."""


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        ((0, 0), (0, 1), DEGREE),
        ((10, 20), (11, 20), DEGREE),
        ((0, 179.5), (0, -179.5), DEGREE),
        ((0, 359.0), (0, 0), DEGREE),
        ((90, 0), (90, 135), 0),
        ((90, 0), (0, 77), 6371 * pi / 2),
        ((0, 0), (0, 180), 6371 * pi),
        ((90, 0), (-90, 0), 6371 * pi),
        # Spherical law of cosines at 60 north: cos d = 3/4 + cos(90)/4, d = arccos(0.75) = 41.40962 degrees.
        ((60, 0), (60, 90), 41.409622 * DEGREE),
    ],
)
def test_great_circles_by_hand(a: tuple[float, float], b: tuple[float, float], km: float) -> None:
    assert haversine_km([a], [b])[0] == pytest.approx(km, abs=1e-4)
    assert haversine_km([b], [a])[0] == pytest.approx(km, abs=1e-4)


def test_antipodes_are_never_nan() -> None:
    rng = np.random.default_rng(0)
    places = np.stack([rng.uniform(-90, 90, 2000), rng.uniform(-180, 180, 2000)], axis=1)
    far = haversine_km(places, np.stack([-places[:, 0], places[:, 1] + 180], axis=1))
    np.testing.assert_allclose(far, 6371 * pi, rtol=1e-6)


def test_place_errors_by_hand() -> None:
    # 0, 0.56, 5.6, 55.6 and 556 km.
    degrees = [0, 0.005, 0.05, 0.5, 5]
    errors = place_errors([(d, 30) for d in degrees], [(0, 30)] * 5)
    assert errors.mean_km == pytest.approx(5.555 / 5 * DEGREE)
    assert errors.median_km == pytest.approx(0.05 * DEGREE)
    # The 90th percentile of five lies at 0.9 * 4 = 3.6: six tenths of the way from the fourth to the fifth.
    assert errors.p90_km == pytest.approx((0.5 + 0.6 * 4.5) * DEGREE)
    assert errors.within == pytest.approx({1: 0.4, 10: 0.6, 100: 0.8, 500: 0.8})
    assert errors.rows == 5


@pytest.mark.parametrize(
    ("a", "b", "days"),
    [
        ((2021, 3, 1), (2021, 3, 1), 0),
        ((2021, 3, 1), (2021, 3, 11), 10),
        ((2021, 12, 31), (2022, 1, 1), 1),
        ((2022, 1, 1), (2021, 12, 1), 31),
        # 1 January to 2 July is 182 days on and 183 back.
        ((2021, 1, 1), (2021, 7, 2), 182),
        ((2021, 1, 1), (2021, 7, 3), 182),
        ((2024, 2, 29), (2024, 3, 1), 1),
        ((2020, 2, 29), (2024, 12, 31), 60),
        # The year does not count, and the last day is the same turn in every year.
        ((1999, 5, 5), (2023, 5, 5), 0),
        ((2024, 12, 31), (2023, 12, 31), 0),
    ],
)
def test_days_round_the_year_by_hand(a: tuple[int, int, int], b: tuple[int, int, int], days: int) -> None:
    assert day_distance([a], [b])[0] == pytest.approx(days, abs=1e-9)


def test_a_leap_year_shifts_a_day_by_less_than_one() -> None:
    # 1 March is 61/366 of a leap year and 60/365 of another: 0.83 days of 365.
    assert day_distance([(2024, 3, 1)], [(2023, 3, 1)])[0] == pytest.approx((61 / 366 - 60 / 365) * 365)


def test_no_distance_is_more_than_half_a_year() -> None:
    january = [(2021, 1, 1)] * 12
    assert day_distance([(2023, month, 15) for month in range(1, 13)], january).max() <= 182.5


def test_date_errors_by_hand() -> None:
    # 10, 1 and 4 days; years +1, 0 and -3.
    found = [(2022, 3, 11), (2021, 1, 1), (2018, 6, 1)]
    truth = [(2021, 3, 1), (2021, 12, 31), (2021, 6, 5)]
    errors = date_errors(found, truth)
    assert (errors.mean_days, errors.median_days) == (pytest.approx(5), pytest.approx(4))
    assert (errors.year_mae, errors.year_bias) == (pytest.approx(4 / 3), pytest.approx(-2 / 3))
    assert errors.rows == 3


@pytest.mark.parametrize(
    ("found", "truth", "says"),
    [
        ([(1, 2)], [(1, 2), (3, 4)], "found 1 rows, expected 2"),
        ([(1, 2, 3)], [(1, 2, 3)], r"expected numbers \(rows, 2\)"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "a row or more"),
        ([(np.nan, 2)], [(1, 2)], "NaN or infinity"),
        ([(91, 2)], [(1, 2)], "latitude in -90..90 first"),
        ([(1, 2)], [(-120, 2)], r"found \[-120.0, 2.0\]"),
    ],
)
def test_wrong_places(found: object, truth: object, says: str) -> None:
    for metric in (haversine_km, place_errors):
        with pytest.raises(RequestError, match=says):
            metric(found, truth)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("found", "truth", "says"),
    [
        ([(2021, 2, 29)], [(2021, 1, 1)], "a day in the calendar"),
        ([(2021, 1, 1)], [(2021, 1.5, 1)], "a day in the calendar"),
        ([(0, 1, 1)], [(2021, 1, 1)], "a day in the calendar"),
        ([(2021, 1)], [(2021, 1)], r"expected numbers \(rows, 3\)"),
        ([(2021, 1, 1)] * 2, [(2021, 1, 1)], "found 2 rows, expected 1"),
    ],
)
def test_wrong_dates(found: object, truth: object, says: str) -> None:
    for metric in (day_distance, date_errors):
        with pytest.raises(RequestError, match=says):
            metric(found, truth)  # type: ignore[operator]
