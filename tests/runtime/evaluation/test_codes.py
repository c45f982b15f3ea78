"""Scores of class codes from a confusion matrix that can be counted by hand."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.codes import code_scores

pytest.importorskip("sklearn", reason="the confusion matrix needs scikit-learn, of the extra evaluate")

CLOUDS, LULC = "S2L1C_cloud_mask", "LULC_LULC"
TRUTH = np.array([[[[0, 0, 0], [1, 2, 2]]]], np.uint8)
FOUND = np.array([[[[0, 0, 1], [1, 2, 3]]]], np.uint8)


def test_every_score_by_hand() -> None:
    # class 0: TP 2, FN 1          IoU 2/3  F1 4/5
    # class 1: TP 1, FP 1          IoU 1/2  F1 2/3
    # class 2: TP 1, FN 1          IoU 1/2  F1 2/3
    # class 3: FP 1, not in truth  IoU 0    F1 0
    scores = code_scores(CLOUDS, FOUND, TRUTH)
    assert scores.top1 == pytest.approx(4 / 6)
    assert scores.iou == pytest.approx({0: 2 / 3, 1: 1 / 2, 2: 1 / 2, 3: 0})
    assert scores.f1 == pytest.approx({0: 4 / 5, 1: 2 / 3, 2: 2 / 3, 3: 0})
    assert scores.mean_iou == pytest.approx((2 / 3 + 1 / 2 + 1 / 2 + 0) / 4)
    assert scores.mean_f1 == pytest.approx((4 / 5 + 2 / 3 + 2 / 3 + 0) / 4)
    # Weights 3/6, 1/6, 2/6, 0: 1/3 + 1/12 + 1/6.
    assert scores.frequency == pytest.approx({0: 1 / 2, 1: 1 / 6, 2: 1 / 3, 3: 0})
    assert scores.frequency_weighted_iou == pytest.approx(7 / 12)
    assert scores.pixels == 6


def test_a_class_that_is_nowhere_is_left_out() -> None:
    codes = np.array([[[[1, 11], [11, 7]]]])
    scores = code_scores(LULC, codes, codes)
    assert set(scores.iou) == set(scores.f1) == set(scores.frequency) == {1, 7, 11}
    assert scores.top1 == scores.mean_iou == scores.mean_f1 == 1.0
    assert scores.frequency_weighted_iou == pytest.approx(1.0)


def test_rows_are_pooled() -> None:
    twice = code_scores(CLOUDS, np.concatenate([FOUND, FOUND]), np.concatenate([TRUTH, TRUTH]))
    once = code_scores(CLOUDS, FOUND, TRUTH)
    assert twice.iou == pytest.approx(once.iou)
    assert twice.pixels == 12


def test_masked_pixels_do_not_count_whatever_they_hold() -> None:
    found, truth = FOUND.copy(), TRUTH.copy()
    mask = np.ones(TRUTH.shape, bool)
    mask[0, 0, 1, 2] = False
    truth[0, 0, 1, 2] = 255
    scores = code_scores(CLOUDS, found, truth, mask)
    # Without the last pixel class 2 is perfect and class 3 nowhere.
    assert scores.iou == pytest.approx({0: 2 / 3, 1: 1 / 2, 2: 1})
    assert scores.top1 == pytest.approx(4 / 5)


def test_without_a_valid_pixel_there_is_no_score() -> None:
    scores = code_scores(CLOUDS, FOUND, TRUTH, np.zeros((1, 1, 1, 1), bool))
    assert (scores.pixels, scores.iou, scores.f1, scores.frequency) == (0, {}, {}, {})
    assert isnan(scores.top1) and isnan(scores.mean_iou) and isnan(scores.frequency_weighted_iou)


@pytest.mark.parametrize(
    ("key", "found", "truth", "says"),
    [
        (CLOUDS, FOUND, TRUTH + 254, r"found codes \[254, 255\], expected only \[0, 1, 2, 3\]"),
        (LULC, FOUND, TRUTH, r"found codes \[3\]"),
        (CLOUDS, FOUND + 0.5, TRUTH, "found codes"),
        (CLOUDS, FOUND[0], TRUTH[0], "expected numbers"),
        (CLOUDS, FOUND, TRUTH[..., :2], "as the truth"),
        ("DEM_DEM", FOUND, TRUTH, "has no classes; use the metrics for elevation"),
    ],
)
def test_wrong_requests(key: str, found: np.ndarray, truth: np.ndarray, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        code_scores(key, found, truth)
