"""The noise schedule against the authors' recorded values and its own definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from copgen_edge.runtime import schedule
from numpy.typing import NDArray

TOLERANCE = 1e-5
"""The recorded values are float32, as the authors compute them."""


def relative_l2(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_the_schedule_as_the_authors_compute_it(golden: Path) -> None:
    with np.load(golden / "schedule.npz") as arrays:
        t = arrays["t"].astype(np.float64)
        assert relative_l2(schedule.BETAS, arrays["betas"]) <= 1e-12
        assert relative_l2(schedule.log_alpha(t), arrays["log_alpha"]) <= TOLERANCE
        assert relative_l2(schedule.sigma(t), arrays["sigma"]) <= TOLERANCE
        assert relative_l2(schedule.lam(t), arrays["lam"]) <= TOLERANCE
        found = schedule.time_of_lambda(arrays["lam"].astype(np.float64))
        assert relative_l2(found, arrays["t_from_lambda"]) <= TOLERANCE


def test_the_knots_by_hand() -> None:
    betas = [(0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * n / 999) ** 2 for n in range(1000)]
    survival = 1.0
    for n, beta in enumerate(betas, start=1):
        survival *= 1 - beta
        if n in (1, 2, 500, 999, 1000):
            np.testing.assert_allclose(schedule.alpha(n / 1000), survival**0.5, rtol=1e-10)
            np.testing.assert_allclose(schedule.sigma(n / 1000), (1 - survival) ** 0.5, rtol=1e-9)


def test_it_is_linear_between_the_knots() -> None:
    left, right = schedule.log_alpha([0.4, 0.401])
    for share in (0.25, 0.5, 0.9):
        np.testing.assert_allclose(schedule.log_alpha(0.4 + share / 1000), left + share * (right - left), rtol=1e-12)


def test_the_first_segment_extends_below_the_first_knot() -> None:
    one, two = schedule.log_alpha([0.001, 0.002])
    np.testing.assert_allclose(schedule.log_alpha(0.0005), one - (two - one) / 2, rtol=1e-9)
    assert schedule.log_alpha(0.0005) > one


def test_the_process_preserves_variance_and_only_gets_noisier() -> None:
    t = np.linspace(0.0001, 1, 5003)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, rtol=1e-12)
    assert (np.diff(schedule.lam(t)) < 0).all()
    assert (np.diff(schedule.sigma(t)) > 0).all()


def test_time_is_the_inverse_of_lambda() -> None:
    t = np.concatenate([[0.0005, 0.001, 1.0], np.linspace(0.001, 1, 997)])
    np.testing.assert_allclose(schedule.time_of_lambda(schedule.lam(t)), t, rtol=1e-8)


@pytest.mark.parametrize("function", [schedule.log_alpha, schedule.alpha, schedule.sigma, schedule.lam])
def test_shapes_stay_and_everything_is_float64(function: Callable[[object], NDArray[np.float64]]) -> None:
    found = function(np.full((2, 3), 0.5, np.float32))
    assert found.shape == (2, 3)
    assert found.dtype == np.float64
