"""Drawing a run over a truth, keeping it, and refusing what is no such run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.evaluation.runs import RUN_FILE, Run, comparable, draw_run, require

from .conftest import DATE, DEM, PLACE, SMALL, Drawer, MakeRun, MakeTruth


def offset(conditions: int, seed: int, patch: int, sample: int) -> float:
    return 1000 * seed + 10 * patch + sample


@pytest.fixture
def drawn(make_truth: MakeTruth, make_drawer: Callable[..., Drawer]) -> tuple[Drawer, Run]:
    truth = make_truth([DEM, SMALL, PLACE], patches=3)
    drawer = make_drawer(truth, offset)
    return drawer, draw_run(drawer, truth, [PLACE], [DEM, SMALL], samples=2, steps=7, seed=1)  # type: ignore[arg-type]


def test_samples_lie_beside_one_another_patch_by_patch(drawn: tuple[Drawer, Run], make_truth: MakeTruth) -> None:
    drawer, run = drawn
    truth = make_truth([DEM, SMALL, PLACE], patches=3)
    assert (run.patches, run.given, run.samples) == (truth.names, (PLACE,), 2)
    assert run.outputs == (DEM, SMALL) and run.physical[SMALL].shape == (3, 2, 2, 32, 32)
    assert run.latents[DEM].shape == (3, 2, 8, 8, 8)
    for patch in range(3):
        for sample in range(2):
            level = offset(1, 1, patch, sample)
            np.testing.assert_array_equal(run.physical[DEM][patch, sample], truth.physical[DEM][patch] + level)
            assert (run.latents[DEM][patch, sample] == 1 + level).all()
    (call,) = drawer.calls
    assert (call.samples, call.steps, call.seed) == (2, 7, 1)
    np.testing.assert_array_equal(call.conditions[PLACE], truth.physical[PLACE])


def test_what_drew_it_is_told(drawn: tuple[Drawer, Run]) -> None:
    run = drawn[1]
    assert run.about["bundle_sha256"] == "0" * 64 and run.about["weights"] == "random"
    assert (run.about["steps"], run.about["seed"], run.seed) == (7, 1, 1)
    assert run.about["engine"]["precision"] == "fp32"


def test_without_conditions_each_patch_has_noise_of_its_own(
    make_truth: MakeTruth, make_drawer: Callable[..., Drawer]
) -> None:
    truth = make_truth([DEM], patches=3)
    drawer = make_drawer(truth, offset)
    run = draw_run(drawer, truth, [], [DEM], samples=2)  # type: ignore[arg-type]
    assert drawer.calls[0].samples == 6 and not drawer.calls[0].conditions
    assert run.physical[DEM].shape == (3, 2, 1, 64, 64) and run.about["steps"] == 50
    np.testing.assert_array_equal(run.physical[DEM][2, 1], truth.physical[DEM][2] + offset(0, 0, 2, 1))


def test_a_condition_that_the_truth_lacks(make_truth: MakeTruth, make_drawer: Callable[..., Drawer]) -> None:
    truth = make_truth([DEM, PLACE])
    drawer = make_drawer(truth, offset)
    with pytest.raises(RequestError, match=r"the truth has no mean_timestamps, only DEM_DEM, 3d_.*leave it out"):
        draw_run(drawer, truth, [PLACE, DATE], [DEM], samples=1)  # type: ignore[arg-type]
    assert not drawer.calls


def test_a_run_survives_its_file(drawn: tuple[Drawer, Run], tmp_path: Path) -> None:
    run = drawn[1]
    run.save(tmp_path / RUN_FILE)
    again = Run.load(tmp_path / RUN_FILE)
    assert (again.patches, again.given, again.samples) == (run.patches, run.given, run.samples)
    assert again.about == dict(run.about) and again.outputs == run.outputs
    for kind in ("latents", "physical"):
        for key, values in getattr(run, kind).items():
            found = getattr(again, kind)[key]
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values)
    comparable(again, run)
    with pytest.raises(FileExistsError):
        run.save(tmp_path / RUN_FILE)


def text(path: Path, whole: bytes) -> None:
    path.write_text("no archive at all")


def empty(path: Path, whole: bytes) -> None:
    path.write_bytes(b"")


def cut_short(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def damaged(path: Path, whole: bytes) -> None:
    at = whole.index("patch 0".encode("utf-32-le"))
    path.write_bytes(whole[:at] + b"x" + whole[at + 1 :])


def one_array(path: Path, whole: bytes) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def another_archive(path: Path, whole: bytes) -> None:
    with path.open("wb") as stream:
        np.savez(stream, a=np.zeros(3))


def another_json(path: Path, whole: bytes) -> None:
    with path.open("wb") as stream:
        np.savez(stream, json=np.array('["patches"]'))


def a_folder(path: Path, whole: bytes) -> None:
    path.mkdir()


def nothing(path: Path, whole: bytes) -> None:
    pass


@pytest.mark.parametrize(
    "spoil", [text, empty, cut_short, damaged, one_array, another_archive, another_json, a_folder, nothing]
)
def test_what_is_no_kept_run(drawn: tuple[Drawer, Run], tmp_path: Path, spoil: Callable[[Path, bytes], None]) -> None:
    drawn[1].save(tmp_path / "whole.npz")
    path = tmp_path / "other.npz"
    spoil(path, (tmp_path / "whole.npz").read_bytes())
    with pytest.raises(RequestError, match=r"other\.npz is no run of 'copgen-edge evaluate --keep-run'") as caught:
        Run.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches": ("patch 0", "elsewhere")}, r"has patches \(patch 0, elsewhere\), this run \(patch 0, patch 1\)"),
        ({"given": (PLACE,)}, r"has given \(3d_cartesian_lat_lon\), this run \(\)"),
        ({"samples": 5}, "has samples 5, this run 3"),
        ({"physical": {SMALL: np.zeros((2, 3, 2, 32, 32))}}, r"has outputs \(S2L2A_B01_B09\), this run \(DEM_DEM\)"),
    ],
)
def test_runs_that_were_asked_for_something_else(make_run: MakeRun, changes: dict[str, Any], message: str) -> None:
    run = make_run({DEM: np.zeros((2, 3, 1, 64, 64))})
    with pytest.raises(RequestError, match=message):
        comparable(run, replace(run, **changes))


def test_a_message_does_not_name_a_thousand_patches(make_run: MakeRun) -> None:
    run = make_run({PLACE: np.zeros((1000, 1, 2))})
    with pytest.raises(RequestError, match="patch 3, 996 more") as caught:
        require(run, {"patches": ("patch 0",)})
    assert len(str(caught.value)) < 200
    require(run, {"patches": run.patches, "samples": 1, "seed": 0})
    with pytest.raises(RequestError, match="the baseline has seed 0, this run 4"):
        require(run, {"seed": 4})
