"""Drift between two runs, in model space and in physical units, by hand."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.codes import CodeScores
from copgen_edge.runtime.evaluation.drift import model_drift, physical_drift, physical_errors
from copgen_edge.runtime.evaluation.regression import regression
from copgen_edge.runtime.evaluation.scalars import DateErrors, PlaceErrors

DEM, PLACE, DATE, CLOUDS = "DEM_DEM", "3d_cartesian_lat_lon", "mean_timestamps", "S2L1C_cloud_mask"


def test_relative_distance_by_hand() -> None:
    # |(0, 0.5)| / |(3, 4)| = 0.1 and |(0, 3)| / |(0, 12)| = 0.25; joined sqrt(0.25 + 9) / 13.
    found = {DEM: np.array([[3.0, 4.5]]), PLACE: np.array([[0.0, 15.0]])}
    baseline = {PLACE: np.array([[0.0, 12.0]]), DEM: np.array([[3.0, 4.0]])}
    drift = model_drift(found, baseline)
    assert drift.modalities[DEM].relative_l2 == pytest.approx(0.1)
    assert drift.modalities[PLACE].relative_l2 == pytest.approx(0.25)
    assert drift.joint.relative_l2 == pytest.approx(9.25**0.5 / 13)
    assert drift.joint.max_abs == pytest.approx(3)


def test_the_same_run_has_not_drifted() -> None:
    run = {DEM: np.random.default_rng(0).normal(size=(2, 8, 8, 8)).astype(np.float32)}
    assert model_drift(run, run).joint.relative_l2 == 0.0


def test_a_broken_run_is_infinitely_far() -> None:
    drift = model_drift({DEM: [[np.nan, 1.0]], PLACE: [[1.0]]}, {DEM: [[1.0, 1.0]], PLACE: [[1.0]]})
    assert drift.joint.relative_l2 == drift.modalities[DEM].relative_l2 == inf
    assert drift.modalities[PLACE].relative_l2 == 0.0


def test_physical_drift_is_told_in_each_modalitys_own_terms() -> None:
    pytest.importorskip("sklearn", reason="the confusion matrix needs scikit-learn, of the extra evaluate")
    baseline = {
        DEM: np.full((2, 1, 2, 2), 100.0),
        CLOUDS: np.zeros((2, 1, 2, 2), int),
        PLACE: np.array([[0.0, 179.5], [0.0, 0.0]]),
        DATE: np.array([[2021, 12, 31], [2021, 6, 1]]),
    }
    found = {
        DEM: baseline[DEM] + 2,
        CLOUDS: np.concatenate([np.zeros((1, 1, 2, 2), int), np.ones((1, 1, 2, 2), int)]),
        PLACE: np.array([[0.0, -179.5], [0.0, 0.0]]),
        DATE: np.array([[2021, 1, 1], [2021, 6, 1]]),
    }
    drift = physical_drift(found, baseline)
    dem, clouds, place, date = drift[DEM], drift[CLOUDS], drift[PLACE], drift[DATE]
    assert isinstance(dem, dict) and isinstance(clouds, CodeScores)
    assert isinstance(place, PlaceErrors) and isinstance(date, DateErrors)
    assert dem["DEM"].mae == 2.0
    assert clouds.top1 == 0.5
    assert place.mean_km == pytest.approx(111.1949 / 2, abs=1e-3)
    assert date.mean_days == pytest.approx(0.5)


def test_masks_reach_the_images_that_they_are_for() -> None:
    truth, found = np.zeros((1, 1, 1, 2)), np.array([[[[4.0, 8.0]]]])
    mask = np.array([True, False])[None, None, None]
    assert physical_drift({DEM: found}, {DEM: truth}, {DEM: mask})[DEM] == regression(DEM, found, truth, mask)
    with pytest.raises(RequestError, match="found a mask for a place"):
        physical_errors(PLACE, [[0, 0]], [[0, 0]], [[True, True]])
    with pytest.raises(RequestError, match="found masks for"):
        physical_drift({DEM: found}, {DEM: truth}, {PLACE: mask})


def test_runs_that_do_not_belong_together() -> None:
    one, two = np.zeros((1, 3)), np.zeros((2, 3))
    for compare in (model_drift, physical_drift):
        with pytest.raises(RequestError, match="expected the same keys"):
            compare({DEM: one}, {PLACE: one})
        with pytest.raises(RequestError, match="expected the same keys"):
            compare({}, {})
    with pytest.raises(RequestError, match=r"found shape \(1, 3\) against \(2, 3\)"):
        model_drift({DEM: one}, {DEM: two})
    with pytest.raises(RequestError, match="found 1 rows, expected 2"):
        physical_drift({DATE: np.array([[2021, 1, 1]])}, {DATE: np.array([[2021, 1, 1]] * 2)})
