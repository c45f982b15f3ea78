"""A run against a baseline: no drift, known drift, and the floor beside it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.comparison import compare_runs
from copgen_edge.runtime.evaluation.runs import Run
from copgen_edge.runtime.modalities import FAMILIES

from .conftest import DATE, DEM, PLACE, SMALL, MakeRun, MakeTruth

for library in ("scipy", "sklearn"):
    pytest.importorskip(library, reason=f"drift needs {library}, of the extra evaluate")

CLOUDS = "S2L1C_cloud_mask"


def compared(run: Run, baseline: Run, seeds: tuple[Run, Run]) -> dict[str, Any]:
    """The comparison, which JSON must be able to hold and which must come without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_runs(run, baseline, seeds)
    json.dumps(found, allow_nan=False)
    return found


def moved(run: Run, by: float) -> Run:
    """``run`` with all latents times 1 + ``by`` / 1000 and all images ``by`` higher."""
    latents = {key: values * (1 + by / 1000) for key, values in run.latents.items()}
    return replace(run, latents=latents, physical={key: values + by for key, values in run.physical.items()})


@pytest.fixture
def baseline(make_truth: MakeTruth, make_run: MakeRun) -> Run:
    """Six patches of two samples, all of them 50 m apart."""
    truth = make_truth([DEM, SMALL], patches=6)
    return make_run({key: np.stack([v, v + 50], axis=1) for key, v in truth.physical.items()})


def test_the_same_run_has_not_drifted(baseline: Run) -> None:
    found = compared(baseline, baseline, (moved(baseline, 7), baseline))
    paired = found["paired"]
    assert paired["latents_relative_l2"] == 0 and set(paired["latents_by_modality"].values()) == {0}
    assert all(band["mae"] == 0 for errors in paired["physical"].values() for band in errors.values())
    entry = found["distribution"]["DEM"]
    exact = {"recall": 1, "precision": 1, "nn_accuracy": 0, "range_coverage": 1, "wasserstein_mean": 0}
    assert {name: entry[name] for name in exact} == exact
    assert entry["mmd2"] < 0, "the unbiased estimate lies below 0 for copies"


def test_a_shifted_run_and_its_floor(baseline: Run) -> None:
    found = compared(moved(baseline, 100), baseline, (moved(baseline, 7), baseline))
    for name, by in (("paired", 100), ("paired_floor", 7)):
        paired = found[name]
        assert paired["latents_relative_l2"] == pytest.approx(by / 1000, rel=1e-5)
        assert paired["latents_by_modality"] == pytest.approx({DEM: by / 1000, SMALL: by / 1000}, rel=1e-5)
        for errors in (paired["physical"][DEM]["DEM"], paired["physical"][SMALL]["B09"]):
            assert (errors["mae"], errors["rmse"], errors["bias"]) == pytest.approx((by, by, by), rel=1e-5)
    for name, by in (("distribution", 100), ("distribution_floor", 7)):
        entry = found[name]["DEM"]
        assert list(found[name]) == ["DEM"], "S2L2A is not whole"
        assert entry["bands"] == ["DEM_DEM"] and entry["wasserstein"] == pytest.approx([by], rel=1e-5)
        assert entry["wasserstein_mean"] == pytest.approx(by, rel=1e-5)
        # Vectors of the baseline span 550 m.
        assert entry["range_coverage"] == pytest.approx(1 - by / 550, rel=1e-5)


def test_the_baseline_is_what_counts_as_real(make_truth: MakeTruth, make_run: MakeRun) -> None:
    """The run has drawn the lower half of the baseline only: precise, but without recall."""
    levels = np.concatenate([np.arange(6), 1000 + np.arange(6)]).reshape(12, 1, 1, 1, 1)
    baseline = make_run({DEM: np.zeros((12, 1, 1, 64, 64)) + levels})
    run = make_run({DEM: np.zeros((12, 1, 1, 64, 64)) + levels % 1000})
    entry = compared(run, baseline, (run, baseline))["distribution"]["DEM"]
    assert entry["precision"] == 1 and entry["recall"] < 0.7
    assert entry["range_coverage"] == pytest.approx(5 / 1005)


def test_intervals_hold_the_estimate(make_run: MakeRun) -> None:
    rng = np.random.default_rng(0)
    levels = rng.normal(1000, 50, (2, 10, 4, 1, 1, 1))
    a, b = (make_run({DEM: level + np.zeros((1, 64, 64))}) for level in levels)
    entry = compared(a, b, (a, b))["distribution"]["DEM"]
    for name in ("recall", "precision", "nn_accuracy", "mmd2", "wasserstein_mean", "range_coverage"):
        low, high = entry[f"{name}_interval"]
        assert low <= entry[name] <= high and low < high, name
    assert entry["recall_interval"][0] >= 0 and entry["recall_interval"][1] <= 1


def test_a_whole_family_of_three_groups(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth(FAMILIES["S2L2A"], patches=6)
    baseline = make_run({key: values[:, None] for key, values in truth.physical.items()})
    found = compared(moved(baseline, 100), baseline, (baseline, baseline))
    entry = found["distribution"]["S2L2A"]
    assert len(entry["bands"]) == 12 and entry["wasserstein"] == pytest.approx([100] * 12, rel=1e-4)
    assert len(found["paired"]["physical"]) == 3


@pytest.mark.parametrize(("patches", "samples"), [(1, 1), (1, 2), (2, 1), (3, 2), (1, 6), (4, 1)])
def test_few_patches_and_samples(make_run: MakeRun, patches: int, samples: int) -> None:
    """What needs more vectors than there are is left out, and the rest stays."""
    levels = 500 + np.arange(patches * samples).reshape(patches, samples, 1, 1, 1)
    baseline = make_run({DEM: levels + np.zeros((1, 64, 64))})
    found = compared(moved(baseline, 3), baseline, (moved(baseline, 9), baseline))
    entry = found["distribution"]["DEM"]
    vectors = patches * samples
    assert entry["wasserstein_mean"] == pytest.approx(3, rel=1e-5)
    assert ("recall" in entry, "precision" in entry) == (vectors > 5, vectors > 5)
    assert ("nn_accuracy" in entry, "mmd2" in entry) == (vectors > 1, vectors > 1)
    assert not any(name.endswith("_interval") for name in entry)
    if vectors == 1:
        assert entry["range_coverage"] is None
    assert set(entry) == set(found["distribution_floor"]["DEM"])


def test_codes_drift_in_the_shares_of_their_classes(make_truth: MakeTruth, make_run: MakeRun) -> None:
    """A quarter of all pixels, thin cloud in the baseline, is clear in the run; in the other seed, places swap."""
    right = make_truth([CLOUDS], patches=2).physical[CLOUDS]
    clear = right.copy()
    clear[:, :, :96, :96] = 0
    baseline, run = make_run({CLOUDS: right[:, None]}), make_run({CLOUDS: clear[:, None]})
    swapped = make_run({CLOUDS: right[:, None, ..., ::-1]})
    found = compared(run, baseline, (swapped, baseline))
    assert found["distribution"] == {"cloud_mask": {"total_variation": 0.25}}
    assert found["distribution_floor"] == {"cloud_mask": {"total_variation": 0}}
    assert found["paired"]["physical"][CLOUDS]["top1"] == 0.75
    assert found["paired_floor"]["physical"][CLOUDS]["top1"] == 0


def test_place_and_date_have_paired_drift_only(make_truth: MakeTruth, make_run: MakeRun) -> None:
    truth = make_truth([PLACE, DATE], patches=2)
    baseline = make_run({key: values[:, None] for key, values in truth.physical.items()})
    run = replace(baseline, physical={**baseline.physical, PLACE: baseline.physical[PLACE] + [0, 1]})
    found = compared(run, baseline, (baseline, baseline))
    assert found["distribution"] == {}
    assert found["paired"]["physical"][PLACE]["mean_km"] == pytest.approx(6371 * np.pi / 180)
    assert found["paired"]["physical"][DATE]["mean_days"] == 0


def test_runs_of_other_requests(baseline: Run) -> None:
    other = replace(baseline, given=(PLACE,))
    for run, base, seeds in (
        (baseline, other, (baseline, baseline)),
        (baseline, baseline, (other, baseline)),
        (baseline, baseline, (baseline, other)),
    ):
        with pytest.raises(RequestError, match="evaluate both with equal options"):
            compare_runs(run, base, seeds)
