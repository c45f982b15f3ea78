"""Conditions added one by one, with a stand-in for the pipeline whose samples tighten by a known rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.errors import BundleError, RequestError
from copgen_edge.runtime.evaluation.narrowing import narrow

from .conftest import DATE, DEM, PLACE, SMALL, Drawer, MakeTruth

pytest.importorskip("scipy", reason="distances between spectral vectors need scipy, of the extra evaluate")

CONDITIONS = [("place", (PLACE,)), ("S2L2A_B01_B09", (SMALL,)), ("date", (DATE,))]
MakeDrawer = Callable[..., Drawer]


def tighter(conditions: int, seed: int, patch: int, sample: int) -> float:
    """Samples ``step`` and ``-step`` off the truth, and three times as far in the last of four patches, on one side."""
    step = 80 / 2**conditions
    return step * (1, 3)[sample] if patch == 3 else step * (1, -1)[sample]


def test_the_figures_of_each_stage(make_truth: MakeTruth, make_drawer: MakeDrawer) -> None:
    truth = make_truth([DEM, PLACE, SMALL, DATE], patches=4)
    drawer = make_drawer(truth, tighter)
    stages = narrow(drawer, truth, CONDITIONS, "DEM", samples=2, steps=9, seed=5)  # type: ignore[arg-type]
    assert [stage.given for stage in stages] == [
        (),
        ("place",),
        ("place", "S2L2A_B01_B09"),
        ("place", "S2L2A_B01_B09", "date"),
    ]
    for number, stage in enumerate(stages):
        step = 80 / 2**number
        figures = stage.figures
        assert figures["given"] == list(stage.given)
        assert stage.vectors.shape == (4, 2, 1)
        # Two samples lie 2 steps apart everywhere: variance 2 step^2, CRPS of -step and step 0, of step and 3 step 1.
        assert figures["intra_set"] == pytest.approx(2 * step, rel=1e-5)
        assert figures["intra_set_interval"] == pytest.approx([2 * step, 2 * step], rel=1e-5)
        assert figures["spread"] == pytest.approx(2**0.5 * step, rel=1e-5)
        assert figures["crps"] == pytest.approx(step / 4, rel=1e-3)
        assert figures["inside"] == 0.75
        assert figures["inside_if_calibrated"] == pytest.approx(1 / 3)
    assert [sorted(call.conditions) for call in drawer.calls] == [
        [],
        [PLACE],
        sorted([PLACE, SMALL]),
        sorted([PLACE, SMALL, DATE]),
    ]
    assert {(call.steps, call.seed) for call in drawer.calls} == {(9, 5)}


def test_a_calibrated_model_keeps_the_truth_inside(make_truth: MakeTruth, make_drawer: MakeDrawer) -> None:
    """Truth and 4 samples are alike: of 5 draws the truth is neither the least nor the greatest in 3 of 5 cases."""
    truth = make_truth([DEM], patches=200)
    levels = np.random.default_rng(3).normal(size=(200, 5))
    drawer = make_drawer(truth, lambda conditions, seed, patch, sample: levels[patch, sample] - levels[patch, 4])
    (stage,) = narrow(drawer, truth, [], "DEM", samples=4)  # type: ignore[arg-type]
    assert stage.figures["inside_if_calibrated"] == pytest.approx(0.6)
    assert stage.figures["inside"] == pytest.approx(0.6, abs=0.08)
    low, high = stage.figures["intra_set_interval"]
    assert low < stage.figures["intra_set"] < high


def test_one_patch_has_no_interval(make_truth: MakeTruth, make_drawer: MakeDrawer) -> None:
    truth = make_truth([DEM], patches=1)
    (stage,) = narrow(make_drawer(truth, tighter), truth, [], "DEM", samples=2)  # type: ignore[arg-type]
    assert stage.figures["intra_set_interval"] is None and stage.figures["inside"] == 1


def test_progress_names_the_stage(make_truth: MakeTruth, make_drawer: MakeDrawer) -> None:
    truth = make_truth([DEM, PLACE], patches=2)
    said: list[str] = []
    narrow(
        make_drawer(truth, tighter), truth, CONDITIONS[:1], "DEM",  # type: ignore[arg-type]
        samples=2, progress=lambda what, done, total: said.append(what),
    )  # fmt: skip
    assert said == ["narrow 1 of 2: denoise", "narrow 2 of 2: denoise"]


@pytest.mark.parametrize(
    ("conditions", "family", "samples", "message"),
    [
        (CONDITIONS, "S2L2A", 2, "cannot narrow 'S2L2A'; expected a family of images that the truth has: DEM$"),
        (CONDITIONS, "DEM_DEM", 2, "cannot narrow 'DEM_DEM'"),
        (CONDITIONS, "place", 2, "cannot narrow 'place'"),
        ([("DEM", (DEM,))], "DEM", 2, "DEM is both given and asked for"),
        (CONDITIONS, "DEM", 1, "found 1 samples, expected 2 or more"),
    ],
)
def test_what_cannot_be_narrowed(
    make_truth: MakeTruth, make_drawer: MakeDrawer, conditions: Any, family: str, samples: int, message: str
) -> None:
    truth = make_truth([DEM, PLACE, SMALL, DATE], patches=2)
    drawer = make_drawer(truth, tighter)
    with pytest.raises(RequestError, match=message):
        narrow(drawer, truth, conditions, family, samples=samples)  # type: ignore[arg-type]
    assert not drawer.calls


def test_a_component_that_the_last_stage_lacks_is_found_out_first(
    make_truth: MakeTruth, make_drawer: MakeDrawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = make_truth([DEM, PLACE, SMALL, DATE], patches=2)
    drawer = make_drawer(truth, tighter)

    def lacks(conditions: list[str], outputs: tuple[str, ...]) -> None:
        if SMALL in conditions:
            raise BundleError(f"no encoder of {SMALL}")

    monkeypatch.setattr(drawer, "check_request", lacks)
    with pytest.raises(BundleError, match="no encoder"):
        narrow(drawer, truth, CONDITIONS, "DEM", samples=2)  # type: ignore[arg-type]
    assert not drawer.calls
