"""Intervals whose ends are known, and metrics that a bootstrap with replacement misjudges."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.bootstrap import Interval, interval, two_set_interval
from copgen_edge.runtime.evaluation.spectra import nn_accuracy


def mean(values: np.ndarray) -> float:
    return float(values.mean())


def gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.mean() - b.mean())


def test_two_cells_by_hand() -> None:
    # Means of two draws from {0, 1}: 0, 1/2, 1 with chances 1/4, 1/2, 1/4, so both tails of 2.5 % are at the ends.
    assert interval(mean, [0.0, 1.0]) == Interval(0.0, 1.0)


def test_equal_cells_have_no_width() -> None:
    assert interval(mean, np.full((9, 4), 3.0)) == Interval(3.0, 3.0)
    assert two_set_interval(gap, np.full(9, 3.0), np.full(9, 1.0)) == Interval(2.0, 2.0)


def test_the_width_is_that_of_the_standard_error() -> None:
    # The mean of 400 values of unit spread: 1.96 / sqrt(400) to either side.
    values = np.random.default_rng(0).normal(size=400)
    values = (values - values.mean()) / values.std()
    found = interval(mean, values, resamples=2000)
    assert found.low == pytest.approx(-0.098, abs=0.008)
    assert found.high == pytest.approx(0.098, abs=0.008)


@pytest.mark.parametrize("cells", [400, 11])
def test_halves_have_the_width_of_the_standard_error_too(cells: int) -> None:
    # first - second is normal with unit spread, in pairs: the cells' common part must cancel.
    rng = np.random.default_rng(1)
    difference = rng.normal(size=cells)
    difference = (difference - difference.mean()) / difference.std(ddof=1)
    common = 100 * rng.normal(size=cells)
    found = two_set_interval(gap, common + difference + 5, common, resamples=4000)
    width = 2 * 1.96 / np.sqrt(cells)
    assert found.high - found.low == pytest.approx(width, rel=0.1)
    assert (found.low + found.high) / 2 == pytest.approx(5, abs=width * 0.1)


def test_five_cells_by_hand() -> None:
    # Halves of two from -2, -1, 0, 1, 2 have means from -1.5 to 1.5, each end one of ten. Scale: sqrt(2 / 3).
    found = two_set_interval(gap, np.arange(5) + 8.0, np.full(5, 10.0), resamples=4000)
    assert found == pytest.approx((-1.5 * (2 / 3) ** 0.5, 1.5 * (2 / 3) ** 0.5), abs=0.03)


def test_both_sets_give_the_same_cells_once() -> None:
    seen = []

    def metric(a: np.ndarray, b: np.ndarray) -> float:
        np.testing.assert_array_equal(a * 10, b)
        seen.append(a)
        return 0.0

    two_set_interval(metric, np.arange(9), np.arange(9) * 10, resamples=5)
    assert sorted(len(cells) for cells in seen) == [4, 4, 4, 4, 4, 9]
    assert all(len(set(cells.tolist())) == len(cells) for cells in seen)


def test_neighbours_are_not_taken_in_by_copies() -> None:
    pytest.importorskip("scipy", reason="1-NN accuracy needs scipy, of the extra evaluate")
    rng = np.random.default_rng(2)
    sets = rng.normal(size=(60, 2, 3))
    whole = nn_accuracy(sets[:, 0], sets[:, 1])
    # With replacement each copy finds its twin: the interval lies above the value that it is meant to hold.
    naive = interval(lambda cells: nn_accuracy(cells[:, 0], cells[:, 1]), sets)
    assert naive.low > whole
    found = two_set_interval(nn_accuracy, sets[:, 0], sets[:, 1], bounds=(0, 1))
    assert found.low < whole < found.high
    assert found.low < 0.5 < found.high


def test_ends_stay_within_the_metrics_own_bounds() -> None:
    def share(a: np.ndarray, _: np.ndarray) -> float:
        return float(a.mean())

    # Nine cells of 0 and one of 1: halves of five hold a share of 0 or 0.2, either as often, about the 0.1 of all.
    cells = np.array([1.0] + [0.0] * 9)
    free = two_set_interval(share, cells, cells)
    assert free.low < 0.05 < 0.15 < free.high
    assert two_set_interval(share, cells, cells, bounds=(0.05, 1)) == Interval(0.05, free.high)
    assert two_set_interval(share, cells, cells, bounds=(0, 0.15)).high == 0.15


def test_a_seed_fixes_the_interval() -> None:
    first, second = np.random.default_rng(3).normal(size=(2, 30))
    assert interval(mean, first, seed=7) == interval(mean, first, seed=7)
    assert interval(mean, first, seed=7) != interval(mean, first, seed=8)
    assert two_set_interval(gap, first, second, seed=7) == two_set_interval(gap, first, second, seed=7)
    assert two_set_interval(gap, first, second, seed=7) != two_set_interval(gap, first, second, seed=8)


def test_resamples_are_as_many_as_asked() -> None:
    calls = []

    def count(values: np.ndarray) -> float:
        calls.append(len(values))
        return 0.0

    interval(count, np.zeros(3))
    assert calls == [3] * 200
    interval(count, np.zeros(3), resamples=5)
    assert len(calls) == 205


def test_resamples_without_a_value_take_no_part() -> None:
    def broken(values: np.ndarray) -> float:
        return float("nan") if values[0] == 0 else 1.0

    assert interval(broken, [0.0, 1.0]) == Interval(1.0, 1.0)
    assert all(isnan(end) for end in interval(lambda _: float("nan"), [0.0, 1.0]))
    assert all(isnan(end) for end in two_set_interval(lambda *_: float("nan"), np.zeros(4), np.zeros(4)))


def test_wrong_cells() -> None:
    with pytest.raises(RequestError, match=r"expected \(cells, ...\) of 2 cells or more"):
        interval(mean, [1.0])
    with pytest.raises(RequestError, match=r"expected \(cells, ...\) of 2 cells or more"):
        interval(mean, 1.0)
    with pytest.raises(RequestError, match="0 resamples"):
        interval(mean, [1.0, 2.0], resamples=0)
    with pytest.raises(RequestError, match=r"of 4 cells or more"):
        two_set_interval(gap, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    with pytest.raises(RequestError, match="expected the same cells"):
        two_set_interval(gap, np.zeros(5), np.zeros(4))
