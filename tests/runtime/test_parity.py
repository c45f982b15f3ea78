"""Figures of merit by hand, and probe inputs that another machine can make again."""

from __future__ import annotations

import numpy as np
import pytest
from copgen_edge.runtime.components import COMPONENTS, STEP
from copgen_edge.runtime.modalities import IMAGE_KEYS, JOINT_SIZE, get
from copgen_edge.runtime.parity import Figures, compare, probe_inputs, worst


def test_figures_by_hand() -> None:
    figures = compare(np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    assert figures.max_abs == pytest.approx(0.5)
    assert figures.relative_l2 == pytest.approx(0.1)
    assert figures.cosine == pytest.approx((9 + 18) / (5 * (9 + 20.25) ** 0.5))
    # Two errors, 0 and 0.5: the 99.9th percentile lies at 0.999 of the way.
    assert figures.p99_9 == pytest.approx(0.4995)


def test_the_percentile_ignores_what_is_rare() -> None:
    reference = np.ones(100_000)
    found = reference + 1e-3
    found[:50] += 7
    figures = compare(found, reference)
    assert figures.max_abs == pytest.approx(7.001)
    assert figures.p99_9 == pytest.approx(1e-3)


def test_equal_arrays_have_no_error() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert compare(values, values).to_dict() == pytest.approx(Figures(0.0, 0.0, 1.0, 0.0).to_dict())
    assert compare(values, values).max_abs == 0.0
    assert compare(np.zeros(3), np.zeros(3)) == Figures(0.0, 0.0, 1.0, 0.0)


def test_a_zero_reference_gives_the_absolute_error() -> None:
    assert compare(np.array([3.0, 4.0]), np.zeros(2)).relative_l2 == pytest.approx(5.0)
    assert compare(np.array([3.0, 4.0]), np.zeros(2)).cosine == 0.0
    assert compare(np.zeros(2), np.array([3.0, 4.0])).relative_l2 == pytest.approx(1.0)


def test_float32_is_compared_in_float64() -> None:
    big = np.full(10_000, 1e25, np.float32)
    assert compare(big, big).relative_l2 == 0.0
    assert compare(big * np.float32(2), big).relative_l2 == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_infinitely_wrong(bad: float) -> None:
    good, broken = np.ones(1000), np.ones(1000)
    broken[500] = bad
    for figures in (compare(broken, good), compare(good, broken), compare(broken, broken)):
        assert figures == Figures(np.inf, np.inf, 0.0, np.inf)


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 4), (1, 2, 3)])
def test_another_shape_is_infinitely_wrong(shape: tuple[int, ...]) -> None:
    assert compare(np.ones(shape), np.ones((2, 3))).relative_l2 == np.inf


def test_the_worst_is_taken_figure_by_figure() -> None:
    found = worst([Figures(1.0, 0.2, 0.9, 0.5), Figures(2.0, 0.1, 0.8, 0.4)])
    assert found == Figures(2.0, 0.2, 0.8, 0.5)
    assert found.to_dict() == {"max_abs": 2.0, "relative_l2": 0.2, "cosine": 0.8, "p99_9": 0.5}


def test_a_failure_is_not_lost_among_good_figures() -> None:
    good = compare(np.ones(3), np.ones(3))
    broken = compare(np.ones(3), np.array([1, np.nan, 1]))
    for order in ([good, broken], [broken, good]):
        assert worst(order).relative_l2 == np.inf


@pytest.mark.parametrize("component", COMPONENTS)
def test_probe_inputs_fit_their_component_and_rows_are_their_own(component: str) -> None:
    three = probe_inputs(component, 3, 17)
    for name, values in three.items():
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values[:1], probe_inputs(component, 1, 17)[name])
        assert not np.isclose(values[0], values[1]).all()
        assert not np.isclose(values, probe_inputs(component, 3, 18)[name]).all()
    if component == STEP:
        assert {name: values.shape for name, values in three.items()} == {
            "latents": (3, JOINT_SIZE),
            "timesteps": (3, 12),
        }
        return
    part, key = component.split("_", 1)
    assert key in IMAGE_KEYS
    if part == "encoder":
        assert {name: values.shape for name, values in three.items()} == {"image": (3, *get(key).image_shape)}
        assert np.abs(three["image"]).max() <= 1
    else:
        assert {name: values.shape for name, values in three.items()} == {"latent": (3, *get(key).latent_shape)}


def test_probe_times_differ_between_modalities_and_are_fractional() -> None:
    times = probe_inputs(STEP, 4, 17)["timesteps"]
    assert ((times >= 0) & (times <= 1000)).all()
    assert (times[times < 1000] % 1 != 0).all()
    assert all(len(set(row.tolist())) >= 10 for row in times)
