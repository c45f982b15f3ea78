"""Best, mean, CRPS, spread and skill of ensembles small enough to do by hand, and of ones whose law is known."""

from __future__ import annotations

from math import isnan, pi, sqrt

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.ensemble import OverSamples, crps, over_samples, spread_skill


def mae(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def test_best_and_mean_by_hand() -> None:
    # Errors of the three samples: (2 + 4)/2, (1 + 1)/2, (0 + 4)/2.
    samples, truth = [[2, 4], [1, -1], [0, 4]], [0, 0]
    assert over_samples(mae, samples, truth) == OverSamples((3.0, 1.0, 2.0), 1.0, 1, 2.0)
    assert over_samples(mae, samples, truth, higher_is_better=True) == OverSamples((3.0, 1.0, 2.0), 3.0, 0, 2.0)


def test_samples_without_a_metric_take_no_part() -> None:
    def metric(a: np.ndarray, _: np.ndarray) -> float:
        return float(a[0])

    found = over_samples(metric, [[np.nan], [4.0], [2.0]], [0.0])
    assert (found.best, found.best_index, found.mean) == (2.0, 2, 3.0)
    none = over_samples(metric, [[np.nan]], [0.0])
    assert isnan(none.best) and isnan(none.mean)
    assert none.best_index is None


def test_crps_by_hand() -> None:
    # Members 1, 3 and truth 2: mean error 1; the pairs sum to 2 * 2 = 4. Plain 1 - 4/8, fair 1 - 4/4.
    # Members 5, 0, 1 and truth 2: mean error (3 + 2 + 1)/3 = 2; pairs 2 * (5 + 4 + 1) = 20.
    # Plain 2 - 20/18, fair 2 - 20/12.
    assert crps([1, 3], 2, fair=False) == pytest.approx(0.5)
    assert crps([1, 3], 2) == pytest.approx(0.0)
    assert crps([5, 0, 1], 2, fair=False) == pytest.approx(2 - 20 / 18)
    assert crps([5, 0, 1], 2) == pytest.approx(2 - 20 / 12)


def test_crps_is_elementwise() -> None:
    samples = np.array([[[1.0, 5.0]], [[3.0, 0.0]]])
    truth = np.array([[2.0, 2.0]])
    found = crps(samples, truth, fair=False)
    # Members 5, 0 and truth 2: (3 + 2)/2 - 2 * 5 / 8.
    np.testing.assert_allclose(found, [[0.5, 1.25]])


def test_crps_of_one_member_is_the_absolute_error() -> None:
    values, truth = np.random.default_rng(1).normal(size=(2, 50))
    np.testing.assert_allclose(crps(values[None], truth, fair=False), np.abs(values - truth))


def test_crps_of_equal_members_is_the_absolute_error_either_way() -> None:
    for fair in (True, False):
        assert crps(np.full((4, 1), 7), [5], fair=fair)[0] == pytest.approx(2)


def test_nan_stays_at_its_place() -> None:
    found = crps([[1.0, np.nan, 1.0], [3.0, 3.0, 3.0]], [2.0, 2.0, np.nan])
    np.testing.assert_array_equal(np.isnan(found), [False, True, True])


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_fair_score_of_a_calibrated_ensemble_does_not_depend_on_its_size(count: int) -> None:
    # Members and truth N(0, 1): E|X - Y| = E|X - X'| = 2/sqrt(pi). Fair: half of it. Plain: less (S - 1)/(2 S) of it.
    rng = np.random.default_rng(count)
    samples, truth = rng.normal(size=(count, 100_000)), rng.normal(size=100_000)
    apart = 2 / sqrt(pi)
    assert crps(samples, truth).mean() == pytest.approx(apart / 2, abs=0.015)
    assert crps(samples, truth, fair=False).mean() == pytest.approx(apart * (1 - (count - 1) / (2 * count)), abs=0.015)


def test_a_calibrated_ensemble_scores_best() -> None:
    rng = np.random.default_rng(3)
    noise, truth = rng.normal(size=(8, 20_000)), rng.normal(size=20_000)
    right = crps(noise, truth).mean()
    assert right < crps(noise * 0.5, truth).mean()
    assert right < crps(noise * 2, truth).mean()
    assert right < crps(noise + 0.5, truth).mean()


def test_spread_and_skill_by_hand() -> None:
    # Two values, members (1, 3) and (2, 6): means 2 and 4, unbiased variances 2 and 8. Truth 3 and 3: errors -1 and 1.
    found = spread_skill([[1, 2], [3, 6]], [3, 3])
    assert found.spread == pytest.approx(sqrt(5))
    assert found.skill == pytest.approx(1)
    assert found.ratio == pytest.approx(sqrt(3 / 2) * sqrt(5))


def test_the_ratio_of_a_calibrated_ensemble_is_one_at_any_size() -> None:
    rng = np.random.default_rng(4)
    for count in (2, 4, 16):
        found = spread_skill(rng.normal(size=(count, 300, 100)), rng.normal(size=(300, 100)))
        assert found.ratio == pytest.approx(1, abs=0.02)


def test_the_ratio_tells_an_ensemble_too_sure_of_itself() -> None:
    # Members N(0, 1/4), truth N(0, 1), S = 4: spread 1/2, skill sqrt(1 + 1/16), ratio sqrt(5/4) / 2 / sqrt(17/16).
    rng = np.random.default_rng(5)
    found = spread_skill(rng.normal(size=(4, 40_000)) / 2, rng.normal(size=40_000))
    assert found.ratio == pytest.approx(sqrt(5 / 4) / 2 / sqrt(17 / 16), abs=0.01)


def test_only_valid_values_count() -> None:
    samples = np.array([[1.0, 2.0, np.nan], [3.0, 6.0, 0.0]])
    found = spread_skill(samples, [3.0, 3.0, 9.0], [True, True, False])
    assert found.spread == pytest.approx(sqrt(5))
    with pytest.raises(RequestError, match="NaN or infinity"):
        spread_skill(samples, [3.0, 3.0, 9.0])


def test_no_error_has_no_ratio() -> None:
    assert isnan(spread_skill([[1], [3]], [2]).ratio)


def test_wrong_ensembles() -> None:
    with pytest.raises(RequestError, match=r"expected \(S, ...\) over a truth"):
        crps(np.zeros((4, 3)), np.zeros(4))
    with pytest.raises(RequestError, match=r"expected \(S, ...\) over a truth"):
        over_samples(mae, np.zeros(()), np.zeros(()))
    with pytest.raises(RequestError, match="found 1 samples, this metric needs 2 or more"):
        crps(np.zeros((1, 3)), np.zeros(3))
    with pytest.raises(RequestError, match="found 1 samples, this metric needs 2 or more"):
        spread_skill(np.zeros((1, 3)), np.zeros(3))
    with pytest.raises(RequestError, match="found 0 samples, this metric needs 1 or more"):
        crps(np.zeros((0, 3)), np.zeros(3), fair=False)
    with pytest.raises(RequestError, match="no valid value"):
        spread_skill(np.zeros((2, 3)), np.zeros(3), np.zeros(3, bool))
    with pytest.raises(RequestError, match="found a mask"):
        spread_skill(np.zeros((2, 3)), np.zeros(3), np.zeros(2, bool))
