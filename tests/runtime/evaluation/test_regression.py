"""Errors in physical units and similarity on the target's scale, by hand."""

from __future__ import annotations

from math import exp, inf, isnan, log10

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.regression import (
    BandErrors,
    metric_units,
    regression,
    similarity,
    to_metric_units,
)
from copgen_edge.runtime.modalities import get

DEM, S1, S2 = "DEM_DEM", "S1RTC_vh_vv", "S2L2A_B01_B09"


def dem(values: object) -> np.ndarray:
    return np.array(values, np.float64)[None, None]


def test_errors_of_elevation_by_hand() -> None:
    # Errors +3, -1, 0, +2 m: mean of absolutes 6/4, root of (9 + 1 + 0 + 4)/4, mean 4/4.
    found = regression(DEM, dem([[13, 9], [10, 12]]), dem([[10, 10], [10, 10]]))
    assert found == {"DEM": BandErrors(1.5, pytest.approx(3.5**0.5), 1.0, 4)}
    assert metric_units(DEM) == "m"


def test_radar_is_compared_in_decibels() -> None:
    # vv: 1 -> 10 is 0 -> 10 dB. vh: 0.01 -> 0.001 is -20 -> -30 dB.
    truth = np.stack([np.full((2, 2), 1.0), np.full((2, 2), 0.01)])[None]
    found = np.stack([np.full((2, 2), 10.0), np.full((2, 2), 0.001)])[None]
    errors = regression(S1, found, truth)
    assert list(errors) == ["vv", "vh"]
    assert (errors["vv"].mae, errors["vv"].bias) == (pytest.approx(10), pytest.approx(10))
    assert (errors["vh"].mae, errors["vh"].bias) == (pytest.approx(10), pytest.approx(-10))
    assert metric_units(S1) == "dB"


def test_power_below_the_models_floor_counts_as_the_floor() -> None:
    least = 10 * log10(get(S1).constants["floor"])
    np.testing.assert_allclose(to_metric_units(S1, [-1.0, 0.0, 1e-9, 1.0]), [least, least, least, 0.0])
    assert least == pytest.approx(-55.787186, abs=1e-5)
    assert np.isnan(to_metric_units(S1, [np.nan])).all()


def test_digital_numbers_stay_and_bands_are_their_own() -> None:
    truth = np.zeros((2, 2, 3, 3), np.uint16)
    found = truth.copy()
    found[:, 1] = 200
    found[0, 1] = 100
    errors = regression(S2, found, truth)
    # B09: nine pixels 100 off and nine 200 off, both rows in one pool.
    assert errors["B01"] == BandErrors(0.0, 0.0, 0.0, 18)
    assert errors["B09"] == BandErrors(150.0, pytest.approx((100**2 / 2 + 200**2 / 2) ** 0.5), 150.0, 18)
    assert metric_units(S2) == "DN"


def test_unsigned_numbers_do_not_wrap() -> None:
    below = regression(S2, np.zeros((1, 2, 2, 2), np.uint16), np.full((1, 2, 2, 2), 7, np.uint16))
    assert below["B01"].bias == -7.0


def test_only_valid_pixels_count_and_may_be_nan_elsewhere() -> None:
    truth, found = dem([[10, np.nan], [10, 10]]), dem([[12, 1], [np.inf, 14]])
    mask = dem([[1, 0], [0, 1]]).astype(bool)
    assert regression(DEM, found, truth, mask)["DEM"] == BandErrors(3.0, pytest.approx(10**0.5), 3.0, 2)
    with pytest.raises(RequestError, match="NaN or infinity at a valid place"):
        regression(DEM, found, truth)


def test_without_a_valid_pixel_there_is_no_error() -> None:
    errors = regression(DEM, dem([[1.0]]), dem([[2.0]]), dem([[False]]).astype(bool))["DEM"]
    assert errors.pixels == 0
    assert isnan(errors.mae) and isnan(errors.rmse) and isnan(errors.bias)


def test_a_mask_of_one_band_serves_every_band() -> None:
    truth, found = np.zeros((1, 2, 1, 2)), np.array([[[[5.0, 9.0]], [[7.0, 9.0]]]])
    errors = regression(S2, found, truth, np.array([True, False])[None, None, None])
    assert (errors["B01"].mae, errors["B09"].mae) == (5.0, 7.0)


# SSIM of one window. Both images are 0 but for the window's centre, where the target is 1 and the other 0.5. With w the
# Gaussian weight of the centre: mean w and w/2, variance w - w^2 and a quarter of it, covariance half of it.
_SIDE = sum(exp(-(k**2) / (2 * 1.5**2)) for k in range(-5, 6))
W = 1 / _SIDE**2
SSIM = ((W**2 + 0.01**2) * (W - W**2 + 0.03**2)) / ((1.25 * W**2 + 0.01**2) * (1.25 * (W - W**2) + 0.03**2))


def point(height: float) -> np.ndarray:
    image = np.zeros((11, 11))
    image[5, 5] = height
    return image


def needs_skimage() -> None:
    pytest.importorskip("skimage", reason="SSIM and PSNR need scikit-image, of the extra evaluate")


def test_similarity_of_one_window_by_hand() -> None:
    needs_skimage()
    assert pytest.approx(0.0708, abs=1e-4) == W
    # Metres above a base of 100 with a range of 40: scaling takes both away.
    found = similarity(DEM, dem(100 + 40 * point(0.5)), dem(100 + 40 * point(1.0)))["DEM"]
    assert found.ssim == pytest.approx(SSIM, abs=1e-6)
    # One of 121 pixels is 0.5 off: MSE = 0.25 / 121.
    assert found.psnr == pytest.approx(10 * log10(121 / 0.25))
    assert found.images == 1


def test_psnr_by_hand() -> None:
    needs_skimage()
    truth = np.tile(np.linspace(500, 1500, 12), (1, 2, 12, 1))
    # A tenth of the range off at every pixel: MSE 0.01, so 20 dB.
    assert similarity(S2, truth + 100, truth)["B09"].psnr == pytest.approx(20)
    # 10 dB per decade of linear power: 0..10 dB in the target, 1 dB off.
    power = 10 ** (np.tile(np.linspace(0, 10, 12), (1, 2, 12, 1)) / 10)
    assert similarity(S1, power * 10**0.1, power)["vv"].psnr == pytest.approx(20)


def test_what_is_found_beyond_the_range_is_not_clipped() -> None:
    needs_skimage()
    truth = np.tile(np.linspace(0, 1000, 12), (1, 2, 12, 1))
    assert similarity(S2, truth + 10_000, truth)["B01"].psnr == pytest.approx(-20)


def test_perfect_images_and_constant_targets() -> None:
    needs_skimage()
    ramp = np.tile(np.linspace(0, 1000, 12), (12, 1))
    same = similarity(DEM, dem(ramp), dem(ramp))["DEM"]
    assert (same.ssim, same.psnr, same.images) == (pytest.approx(1.0), inf, 1)
    flat = similarity(DEM, dem(ramp), dem(np.full((12, 12), 7.0)))["DEM"]
    assert flat.images == 0
    assert isnan(flat.ssim) and isnan(flat.psnr)
    # A flat row takes no part in the mean: what is left is the ramp that is a tenth of its range off.
    both = similarity(DEM, np.concatenate([dem(ramp + 100)] * 2), np.concatenate([dem(ramp), dem(ramp * 0)]))["DEM"]
    assert (both.psnr, both.images) == (pytest.approx(20), 1)


def test_similarity_counts_whole_windows_of_valid_pixels() -> None:
    needs_skimage()
    gap = np.full((11, 1), np.nan)
    mask = np.ones((11, 12), bool)
    mask[:, 0] = False
    found, truth = (dem(np.concatenate([gap, point(height)], axis=1)) for height in (0.5, 1.0))
    by_hand = similarity(DEM, found, truth, mask[None, None])["DEM"]
    assert by_hand.ssim == pytest.approx(SSIM, abs=1e-6)
    assert by_hand.psnr == pytest.approx(10 * log10(121 / 0.25))
    # A hole in the only window leaves a PSNR, and no SSIM.
    mask[0, 11] = False
    holed = similarity(DEM, found, truth, mask[None, None])["DEM"]
    assert isnan(holed.ssim)
    assert holed.psnr == pytest.approx(10 * log10(120 / 0.25))


def test_images_too_small_for_a_window_are_refused() -> None:
    with pytest.raises(RequestError, match="SSIM needs 11 a side"):
        similarity(DEM, np.zeros((1, 1, 10, 12)), np.zeros((1, 1, 10, 12)))


@pytest.mark.parametrize("metric", [regression, similarity])
@pytest.mark.parametrize(
    ("key", "found", "truth", "says"),
    [
        (DEM, (1, 1, 12, 12), (1, 1, 12, 13), "expected .* as the truth"),
        (DEM, (2, 1, 12, 12), (1, 1, 12, 12), "expected .* as the truth"),
        (DEM, (1, 12, 12), (1, 12, 12), r"expected numbers \(rows, 1, H, W\)"),
        (DEM, (0, 1, 12, 12), (0, 1, 12, 12), "expected numbers"),
        (S2, (1, 1, 12, 12), (1, 1, 12, 12), r"expected numbers \(rows, 2, H, W\)"),
        ("LULC_LULC", (1, 1, 12, 12), (1, 1, 12, 12), "use the metrics for codes"),
        ("mean_timestamps", (1, 3), (1, 3), "use the metrics for date"),
        ("S2L2A", (1, 1, 12, 12), (1, 1, 12, 12), "unknown modality"),
    ],
)
def test_wrong_shapes_and_modalities(metric: object, key: str, found: tuple, truth: tuple, says: str) -> None:
    assert callable(metric)
    with pytest.raises(RequestError, match=says):
        metric(key, np.zeros(found), np.zeros(truth))


@pytest.mark.parametrize(
    "mask",
    [np.ones((1, 1, 12, 12)), np.ones((12, 12), bool), np.ones((1, 1, 12, 11), bool), np.ones((2, 1, 1, 1), bool)],
)
def test_wrong_masks(mask: np.ndarray) -> None:
    with pytest.raises(RequestError, match="found a mask"):
        regression(DEM, np.zeros((1, 1, 12, 12)), np.zeros((1, 1, 12, 12)), mask)
