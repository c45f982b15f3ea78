"""Results become JSON, whatever they hold."""

from __future__ import annotations

import json

import numpy as np
from copgen_edge.runtime.evaluation.bootstrap import Interval
from copgen_edge.runtime.evaluation.regression import BandErrors
from copgen_edge.runtime.evaluation.results import plain
from copgen_edge.runtime.evaluation.scalars import place_errors


def test_nested_results_become_plain() -> None:
    result = {
        "dem": {"DEM": BandErrors(1.0, float("inf"), float("nan"), 4)},
        7: [np.float32(0.5), np.int64(3), np.array([[1.0, np.nan]])],
        "ends": Interval(0.0, -np.inf),
        "none": None,
        "name": "x",
        "yes": np.True_,
    }
    expected = {
        "dem": {"DEM": {"mae": 1.0, "rmse": None, "bias": None, "pixels": 4}},
        "7": [0.5, 3, [[1.0, None]]],
        "ends": [0.0, None],
        "none": None,
        "name": "x",
        "yes": True,
    }
    assert plain(result) == expected
    assert json.loads(json.dumps(plain(result), allow_nan=False)) == expected


def test_a_metrics_result_is_valid_json() -> None:
    text = json.dumps(plain(place_errors([(0, 0)], [(0, 0)])), allow_nan=False)
    assert json.loads(text)["within"] == {"1": 1.0, "10": 1.0, "100": 1.0, "500": 1.0}
