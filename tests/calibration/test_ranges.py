"""Ranges of activations, by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from copgen_edge.calibration.layers import Layer
from copgen_edge.calibration.ranges import (
    BANDS,
    METHODS,
    Range,
    Ranges,
    band_of,
    calls_of_bands,
    measure_ranges,
    migration,
)
from copgen_edge.runtime.errors import CalibrationError, RequestError
from copgen_edge.runtime.solver import make_plan
from onnx import helper, numpy_helper

EVEN = (1.0,) * BANDS


def seen(values: np.ndarray, band: int = 0) -> Range:
    found = Range.empty(values.shape[-1])
    found.add(values.astype(np.float32), -1, band)
    return found


def test_low_and_high_are_kept_by_channel_and_band() -> None:
    found = seen(np.array([[1.0, -2.0], [3.0, -4.0]]))
    found.add(np.array([[0.5, 5.0]], np.float32), -1, 2)
    assert found.low[0].tolist() == [0, -4] and found.high[0].tolist() == [3, 0]
    assert found.high[2].tolist() == [0.5, 5]
    assert found.rows.tolist() == [1, 0, 1, 0]
    assert (found.limits("max", EVEN).low, found.limits("max", EVEN).high) == (-4, 5)
    assert found.change() == 5 / 4


def test_channels_may_come_first() -> None:
    found = Range.empty(2)
    found.add(np.array([[[1.0, 2.0], [-3.0, 4.0]]], np.float32), 1, 0)
    assert found.high[0].tolist() == [2, 4] and found.low[0].tolist() == [0, -3]
    assert found.positions == 2


def test_a_percentile_leaves_out_what_is_rarest() -> None:
    values = np.full((20_000, 1), 0.5)
    values[0] = 100
    found = seen(values)
    assert found.limits("max", EVEN).high == 100
    # To the width of a bin, an eighth of an octave.
    assert found.limits("percentile", EVEN).high == pytest.approx(0.5, rel=0.1)
    assert found.limits("percentile", EVEN).low == 0


def test_the_least_error_cuts_a_lonely_outlier_and_keeps_an_even_spread() -> None:
    rng = np.random.default_rng(0)
    even = seen(rng.uniform(-1, 1, (50_000, 1)))
    assert even.limits("mse", EVEN).magnitude == pytest.approx(1, rel=0.05)
    outlier = rng.normal(size=(400_000, 1))
    outlier[0] = 15
    limits = seen(outlier).limits("mse", EVEN)
    assert 3 < limits.high < 10
    steps = {method: seen(outlier).limits(method, EVEN).magnitude / 127 for method in METHODS}
    errors = {
        method: np.square(np.clip(np.rint(outlier / step), -127, 127) * step - outlier).mean()
        for method, step in steps.items()
    }
    assert errors["mse"] == min(errors.values()) and errors["mse"] < errors["max"]


def test_bands_count_by_what_they_do_to_the_run() -> None:
    rng = np.random.default_rng(0)
    found = seen(rng.uniform(-1, 1, (10_000, 1)), 0)
    found.add(rng.uniform(-0.1, 0.1, (10_000, 1)).astype(np.float32), -1, 3)
    late = found.limits("mse", (0, 0, 0, 1)).high
    early = found.limits("mse", (1, 0, 0, 0)).high
    assert late == pytest.approx(0.1, rel=0.15) and early == pytest.approx(1, rel=0.1)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(RequestError, match="found the method 'minmax', expected one of max, percentile, mse"):
        seen(np.ones((2, 1))).limits("minmax", EVEN)


def test_bands_are_of_t() -> None:
    assert [band_of(t) for t in (0, 1, 249.9, 250, 499, 500, 750, 1000)] == [0, 0, 0, 1, 1, 2, 3, 3]
    plan = make_plan("ddim", 8)
    calls = calls_of_bands(plan)
    assert sorted(k for first, last in calls.values() for k in range(first, last)) == list(range(8))
    for band, (first, last) in calls.items():
        assert {band_of(t * 1000) for t in plan.times[first:last]} == {band}


def test_migration_is_the_root_of_the_ratio() -> None:
    weight = np.array([[1.0, -4.0], [0.5, 0.25], [0.0, 0.0]], np.float32)
    layer = Layer("l", "n", "MatMul", "x", "w", weight.shape)
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(weight, "w")])
    found = migration(helper.make_model(graph), layer, seen(np.array([[16.0, -2.0, 3.0]])))
    np.testing.assert_allclose(found, [2, 2, 1])
    limits = seen(np.array([[16.0, -2.0, 3.0]])).limits("mse", EVEN, found)
    assert (limits.low, limits.high) == (-1, 8)


class Taps:
    """Stands for a session: gives what it is told."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def run(self, inputs: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
        return [("x", self.values * inputs["factor"])]


def test_rows_are_taken_by_their_timestep() -> None:
    layer = Layer("a.b", "n", "MatMul", "x", "w", (2, 2))
    twin = Layer("a.c", "m", "MatMul", "x", "v", (2, 2))
    rows = [({"factor": np.float32(1)}, 900.0), ({"factor": np.float32(3)}, 10.0)]
    found = measure_ranges(Taps(np.ones((1, 4, 2), np.float32)), [layer, twin], rows)  # type: ignore[arg-type]
    assert found["a.b"] is found["a.c"]
    assert found["a.b"].high.max(axis=1).tolist() == [3, 0, 0, 1]
    with pytest.raises(CalibrationError, match="NaN or infinite on recorded data"):
        measure_ranges(Taps(np.full((1, 1, 2), np.nan, np.float32)), [layer], rows)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="nothing was recorded"):
        measure_ranges(Taps(np.ones((1, 1, 2), np.float32)), [layer], [])  # type: ignore[arg-type]


def test_a_layer_that_was_not_measured_has_no_limits() -> None:
    layer = Layer("a", "n", "MatMul", "x", "w", (1, 1))
    with pytest.raises(CalibrationError, match="the ranges have no a; record"):
        Ranges({}, "max", EVEN).limits(onnx.ModelProto(), layer, migrated=False)
