"""A run against the truth, by hand: samples are the truth plus known constants."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.runs import Run
from copgen_edge.runtime.evaluation.scores import climatology, image_families, score, vectors
from copgen_edge.runtime.evaluation.truth import Truth
from copgen_edge.runtime.modalities import FAMILIES
from numpy.typing import NDArray

from .conftest import DATE, DEM, PLACE, SMALL, MakeRun, MakeTruth

for library in ("scipy", "sklearn", "skimage"):
    pytest.importorskip(library, reason=f"scores need {library}, of the extra evaluate")

CLOUDS, RADAR = "S2L1C_cloud_mask", "S1RTC_vh_vv"


def shifted(truth: Truth, key: str, offsets: Any) -> NDArray[Any]:
    """(N, S, ...): the truth of ``key`` plus ``offsets``, (S,) or (N, S)."""
    right = truth.physical[key]
    offsets = np.broadcast_to(offsets, (len(right), np.shape(offsets)[-1]))
    return right[:, None] + offsets.reshape(*offsets.shape, *(1,) * (right.ndim - 1))


def scored(run: Run, truth: Truth) -> dict[str, Any]:
    """The scores, which JSON must be able to hold and which must come without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(run, truth)
    json.dumps(found, allow_nan=False)
    return found


def test_an_image_by_hand(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([SMALL], patches=4)
    found = scored(make_run({SMALL: shifted(truth, SMALL, [3, -1])}), truth)
    assert (found["patches"], found["samples"], found["without_truth"]) == (4, 2, [])
    entry = found["modalities"][SMALL]
    assert entry["units"] == "DN" and set(entry["bands"]) == {"B01", "B09"}
    # Errors of 3 and -1; fair CRPS: (3 + 1) / 2 - |3 + 1| / 2; members' variance 8; bias of their mean 1.
    hand = {
        "mae": 2, "rmse": 5**0.5, "bias": 1, "best_mae": 1, "best_rmse": 1, "crps": 0, "spread": 8**0.5, "skill": 1,
        "spread_skill": 12**0.5,
    }  # fmt: skip
    for band in entry["bands"].values():
        assert {name: band[name] for name in hand} == pytest.approx(hand, abs=1e-9)
        # The target spans 31 DN: PSNR is 20 log10(31 / 3) and 20 log10(31), and their mean.
        assert band["psnr"] == pytest.approx(20 * np.log10(31) - 10 * np.log10(3))
        assert band["best_psnr"] == pytest.approx(20 * np.log10(31))
        assert 0 < band["ssim"] < band["best_ssim"] < 1
    assert (entry["mae"], entry["best_mae"], entry["crps"]) == pytest.approx((2, 1, 0), abs=1e-9)
    assert entry["mae_interval"] == pytest.approx([2, 2]) and entry["best_mae_interval"] == pytest.approx([1, 1])


def test_climatology_by_hand(make_truth: MakeTruth, make_run: MakeRun) -> None:
    """Patches are 100 DN apart: the two others of three are (100, 200), (100, 100) and (200, 100) off."""
    truth = make_truth([SMALL], patches=3)
    guess = scored(make_run({SMALL: shifted(truth, SMALL, [0, 5, 9, 7])}), truth)["modalities"][SMALL]["climatology"]
    assert guess["mae"] == pytest.approx(800 / 6)
    assert guess["best_mae"] == pytest.approx(100)
    # |x - x'| / 2 is 50, 100 and 50.
    assert guess["crps"] == pytest.approx((100 + 0 + 100) / 3)
    assert set(guess) == {"mae", "best_mae", "crps"}


def test_the_best_sample_is_found_patch_by_patch(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([DEM], patches=3)
    run = make_run({DEM: shifted(truth, DEM, [[5, 1, -8], [-2, 30, 40], [9, 7, -3]])})
    entry = scored(run, truth)["modalities"][DEM]
    assert entry["best_mae"] == pytest.approx((1 + 2 + 3) / 3)
    assert entry["bands"]["DEM"]["best_rmse"] == pytest.approx((14 / 3) ** 0.5)
    assert entry["mae"] == pytest.approx((14 + 72 + 19) / 9)


def test_radar_is_scored_in_decibels(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([RADAR], patches=1)
    run = make_run({RADAR: truth.physical[RADAR][:, None] * np.array([10**0.3, 10**-0.1]).reshape(1, 2, 1, 1, 1)})
    entry = scored(run, truth)["modalities"][RADAR]
    assert entry["units"] == "dB"
    assert (entry["mae"], entry["best_mae"]) == pytest.approx((2, 1), abs=1e-5)


def test_intervals_hold_the_estimate_and_are_none_for_one_patch(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([SMALL, DATE], patches=5)
    offsets = np.random.default_rng(0).uniform(1, 90, (5, 3))
    dates = np.repeat(truth.physical[DATE][:, None], 3, axis=1)
    dates[..., 2] += np.arange(5)[:, None]
    found = scored(make_run({SMALL: shifted(truth, SMALL, offsets), DATE: dates}), truth)["modalities"]
    for key, names in ((SMALL, ("mae", "best_mae")), (DATE, ("mean_days",))):
        for name in names:
            low, high = found[key][f"{name}_interval"]
            assert low < found[key][name] < high
    one = Truth(truth.names[:1], {key: values[:1] for key, values in truth.physical.items()})
    alone = scored(make_run({SMALL: shifted(one, SMALL, [4, 6]), DATE: dates[:1, :2]}), one)["modalities"]
    assert alone[SMALL]["mae_interval"] is None and alone[DATE]["mean_days_interval"] is None
    assert alone[SMALL]["mae"] == pytest.approx(5)
    assert "climatology" not in alone[SMALL] and "climatology" not in alone[DATE]


def test_one_sample_has_no_spread_and_its_crps_is_its_error(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([DEM], patches=3)
    entry = scored(make_run({DEM: shifted(truth, DEM, [-6])}), truth)["modalities"][DEM]
    band = entry["bands"]["DEM"]
    assert entry["mae"] == entry["best_mae"] == pytest.approx(6)
    assert band["crps"] == pytest.approx(6) and band["bias"] == pytest.approx(-6)
    assert not {"spread", "skill", "spread_skill"} & set(band)
    assert entry["climatology"]["crps"] == entry["climatology"]["mae"]


def test_a_calibrated_ensemble(make_run: MakeRun) -> None:
    """Truth and samples are draws of one distribution about a mean that only they know."""
    rng = np.random.default_rng(1)
    mean = 1000 + 100 * rng.normal(size=(4, 1, 1, 64, 64))
    drawn = mean + 10 * rng.normal(size=(4, 7, 1, 64, 64))
    truth = Truth(tuple("abcd"), {DEM: drawn[:, 0]})
    band = scored(make_run({DEM: drawn[:, 1:]}), truth)["modalities"][DEM]
    assert band["bands"]["DEM"]["spread_skill"] == pytest.approx(1, abs=0.02)
    # The CRPS of a normal of sd 10 by its own forecast is 10 / sqrt(pi).
    assert band["crps"] == pytest.approx(10 / np.pi**0.5, rel=0.02)
    assert band["climatology"]["crps"] > 5 * band["crps"]


def test_constant_images_have_no_similarity(make_run: MakeRun) -> None:
    truth = Truth(("a", "b"), {SMALL: np.full((2, 2, 32, 32), 400.0)})
    band = scored(make_run({SMALL: np.full((2, 2, 2, 32, 32), 401.0)}), truth)["modalities"][SMALL]["bands"]["B09"]
    assert (band["ssim"], band["psnr"], band["best_ssim"], band["best_psnr"]) == (None,) * 4
    assert (band["mae"], band["spread"], band["spread_skill"]) == (1, 0, 0)


def test_a_perfect_run_has_no_spread_skill_ratio(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([DEM], patches=2)
    band = scored(make_run({DEM: shifted(truth, DEM, [0, 0])}), truth)["modalities"][DEM]["bands"]["DEM"]
    assert (band["mae"], band["crps"], band["ssim"]) == (0, 0, 1)
    assert band["psnr"] is None and band["spread_skill"] is None


def test_codes_by_hand(make_truth: MakeTruth, make_run: MakeRun) -> None:
    """Half of the truth is thin cloud (2), half thick (1); of one sample the left half, thin cloud, is clear (0)."""
    truth = make_truth([CLOUDS], patches=3)
    right = truth.physical[CLOUDS]
    wrong = right.copy()
    wrong[..., :96] = 0
    found = scored(make_run({CLOUDS: np.stack([wrong, right], axis=1)}), truth)
    entry = found["modalities"][CLOUDS]
    assert (entry["top1"], entry["best_top1"]) == (0.75, 1)
    assert entry["top1_interval"] == [0.75, 0.75]
    assert entry["classes"] == {
        "clear": {"iou": 0, "f1": 0, "share": 0},
        "thick cloud": {"iou": 1, "f1": 1, "share": 0.5},
        "thin cloud": {"iou": 0.5, "f1": pytest.approx(2 / 3), "share": 0.5},
    }
    assert entry["mean_iou"] == pytest.approx(0.5) and entry["best_mean_iou"] == 1
    assert entry["frequency_weighted_iou"] == pytest.approx(0.75)
    # All patches have one map, so that the guess is perfect.
    assert entry["climatology"] == {"top1": 1, "mean_iou": 1, "best_top1": 1}
    assert found["spectra"] == {}


def test_perfect_codes(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth(["LULC_LULC"], patches=1)
    entry = scored(make_run({"LULC_LULC": truth.physical["LULC_LULC"][:, None]}), truth)["modalities"]["LULC_LULC"]
    assert entry["top1"] == entry["mean_iou"] == entry["mean_f1"] == entry["best_mean_iou"] == 1
    assert set(entry["classes"]) == {"water", "trees"} and entry["top1_interval"] is None


def test_place_and_date_alone(make_truth: MakeTruth, make_run: MakeRun) -> None:
    """A degree of longitude on the equator is 111.195 km; true places are 10 degrees apart."""
    truth = make_truth([PLACE, DATE], patches=3)
    place = truth.physical[PLACE][:, None] + np.array([[0, 1], [0, -3]])
    date = np.repeat(truth.physical[DATE][:, None], 2, axis=1)
    date[:, 0, 2] += 10
    date[:, 1, 0] += 2
    found = scored(make_run({PLACE: place, DATE: date}), truth)
    entry = found["modalities"][PLACE]
    degree = 6371 * np.pi / 180
    assert entry["mean_km"] == pytest.approx(2 * degree) and entry["best_km"] == pytest.approx(degree)
    assert entry["within"] == {"1": 0, "10": 0, "100": 0, "500": 1}
    assert entry["climatology"] == pytest.approx({"mean_km": 40 / 3 * degree, "median_km": 10 * degree})
    days = found["modalities"][DATE]
    assert days["mean_days"] == pytest.approx(5) and days["best_days"] == pytest.approx(0)
    assert days["year_mae"] == 1
    # January, February, March: 31, 59 and 28 days apart.
    assert days["climatology"]["mean_days"] == pytest.approx((31 + 59 + 28) / 3)
    assert found["spectra"] == {}


def test_what_the_truth_lacks(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([DEM, PLACE], patches=2)
    run = make_run({DEM: shifted(truth, DEM, [1]), SMALL: np.ones((2, 1, 2, 32, 32))})
    found = scored(run, truth)
    assert list(found["modalities"]) == [DEM] and found["without_truth"] == [SMALL]
    with pytest.raises(RequestError, match="the truth has none of S2L2A_B01_B09; ask for what it has with --generate"):
        score(make_run({SMALL: run.physical[SMALL]}), truth)


@pytest.mark.parametrize(("rows", "samples"), [(3, 1), (3, 2), (3, 8), (7, 3), (16, 8), (16, 15), (16, 40), (50, 49)])
def test_climatology_is_made_of_the_others(rows: int, samples: int) -> None:
    found = climatology(np.arange(rows)[:, None] * np.ones(2), samples)
    assert found.shape == (rows, min(samples, rows - 1), 2)
    for row, members in enumerate(found[..., 0].tolist()):
        assert row not in members
        assert len(set(members)) == len(members) and set(members) <= set(range(rows))


def test_climatology_is_spread_over_the_rows() -> None:
    gaps = np.diff(climatology(np.arange(33), 8)[0])
    assert gaps.tolist() == [4] * 7


def test_climatology_of_too_few() -> None:
    with pytest.raises(RequestError, match="found 2 patches, expected 3 or more"):
        climatology(np.zeros((2, 3)), 2)


def test_whole_families_of_bands_have_spectra() -> None:
    assert image_families(dict.fromkeys([DEM, *FAMILIES["S2L2A"], FAMILIES["S2L1C"][0], CLOUDS, PLACE])) == {
        "DEM": (DEM,),
        "S2L2A": FAMILIES["S2L2A"],
    }


def test_vectors_keep_patches_and_samples_apart(make_truth: MakeTruth) -> None:
    truth = make_truth(FAMILIES["S2L2A"], patches=2)
    images = {key: np.stack([values, values + 7], axis=1) for key, values in truth.physical.items()}
    found = vectors(images, FAMILIES["S2L2A"])
    assert found.shape == (2, 2, 12)
    # B01 and B09 of 32 pixels, B04 of 192: 500 and the mean of the ramp.
    np.testing.assert_allclose(found[0, 0, :3], [515.5, 525.5, 595.5], rtol=1e-6)
    np.testing.assert_allclose(found[1, 1], found[0, 0] + 107, rtol=1e-6)


def test_spectra_of_all_patches_together(make_truth: MakeTruth, make_run: MakeRun) -> None:
    """Six patches 100 m apart; the samples 10 m below and above hold the truth's range and are nearest to it."""
    truth = make_truth([DEM, SMALL], patches=6)
    run = make_run({key: shifted(truth, key, [-10, 10]) for key in (DEM, SMALL)})
    found = scored(run, truth)["spectra"]
    assert list(found) == ["DEM"], "S2L2A is not whole"
    entry = found["DEM"]
    assert entry["sets"] == "6 real and 12 drawn, all patches together"
    assert entry["bands"] == ["DEM_DEM"] and entry["k"] == 5
    assert (entry["recall"], entry["precision"], entry["mean_range_coverage"]) == (1, 1, 1)
    assert entry["wasserstein"] == pytest.approx([10], rel=1e-5)
    assert entry["intra_real"] == pytest.approx(100 * 35 / 15, rel=1e-5)


def test_no_spectra_of_a_few_patches_without_redraws(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([DEM], patches=5)
    assert scored(make_run({DEM: shifted(truth, DEM, np.arange(8))}), truth)["spectra"] == {}


def test_spectra_patch_by_patch_against_redraws(make_truth: MakeTruth, make_run: MakeRun) -> None:
    """The first patch is drawn as the redraws are, the second 1000 m off."""
    truth = make_truth([DEM], patches=2)
    truth = replace(truth, draws={DEM: shifted(truth, DEM, np.arange(7.0))})
    run = make_run({DEM: shifted(truth, DEM, np.array([[0.0], [1000.0]]) + np.arange(6))})
    entry = scored(run, truth)["spectra"]["DEM"]
    assert entry["sets"] == "7 real and 6 drawn a patch"
    assert (entry["recall"], entry["precision"]) == (0.5, 0.5)
    assert entry["recall_interval"] == [0, 1]
    # [0, 5] of [0, 6] is covered in one patch and nothing in the other.
    assert entry["range_coverage"] == pytest.approx([5 / 12]) and entry["mean_range_coverage"] == pytest.approx(5 / 12)
    # Means of 0..6 and 0..5 differ by a half; the other patch is 1000 less that half off.
    assert entry["wasserstein"] == pytest.approx([(0.5 + 999.5) / 2])
    assert "wasserstein_interval" not in entry


def test_redraws_without_any_range(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([DEM], patches=2)
    truth = replace(truth, draws={DEM: shifted(truth, DEM, np.zeros(6))})
    entry = scored(make_run({DEM: shifted(truth, DEM, np.zeros(6))}), truth)["spectra"]["DEM"]
    assert (entry["range_coverage"], entry["mean_range_coverage"], entry["mmd2"]) == ([None], None, None)
    assert entry["mmd2_interval"] is None and entry["recall"] == 1


@pytest.mark.parametrize(("redraws", "samples"), [(5, 6), (6, 5)])
def test_too_few_redraws_or_samples_for_one_patch(
    make_truth: MakeTruth, make_run: MakeRun, redraws: int, samples: int
) -> None:
    truth = make_truth([DEM], patches=6)
    truth = replace(truth, draws={DEM: shifted(truth, DEM, np.arange(redraws))})
    found = scored(make_run({DEM: shifted(truth, DEM, np.arange(samples))}), truth)["spectra"]
    assert found["DEM"]["sets"] == f"6 real and {6 * samples} drawn, all patches together"
