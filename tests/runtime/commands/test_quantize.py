"""From a recording to a quantised bundle by the command line, and what a user is told on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from copgen_edge.calibration.trajectories import Trajectories
from copgen_edge.runtime.bundle import Bundle
from copgen_edge.runtime.commands import main
from copgen_edge.runtime.components import STEP


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_report_has_a_table_and_a_picture(report: Path) -> None:
    from PIL import Image

    with Image.open(report / "sensitivity.png") as picture:
        assert picture.size[0] > 600 and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20
    found = json.loads((report / "sensitivity.json").read_text())
    assert {cost["form"] for cost in found["groups"]} == {"blocks8"}
    assert found["seeds"] > 0 and set(found["all"][0]["physical"]) == {"S2L2A_B01_B09", "S2L1C_cloud_mask"}


def test_a_plan_goes_into_a_bundle_and_is_what_generate_runs(
    few_bundle: Path, recording: Trajectories, report: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(few_bundle, tmp_path / "bundle"))
    plan = tmp_path / "plan.json"
    code, out, err = run("calibrate", "plan", report, "--budget", "size<=0.9", "--out", plan, "--json")
    assert code == 0, err
    assert json.loads(out)["megabytes"] <= 0.9 and "expected: drift" in err
    code, out, err = run("quantize", copy, "--plan", plan, "--calib", recording.root, "--replays", 1, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["precision"] == "int8-weights" and made["calibration"]["run_drift"] > 0
    assert "two seeds of fp32 differ by" in err and "next: copgen-edge verify" in err
    code, out, err = run("verify", copy, "--backend", "onnxruntime-cpu", "--json")
    assert code == 0, err
    assert {check["precision"] for check in json.loads(out)["checks"]} == {"fp32", "int8-weights"}
    code, out, err = run("info", copy, "--json")
    assert code == 0 and json.loads(out)["precisions"] == ["fp32", "int8-weights"]
    asked = ["generate", copy, "-c", "place=34,-118", "-g", "date", "--steps", 1, "--out"]
    allowed = made["calibration"]["run_drift"] * 1.01
    code, _, err = run(*asked, tmp_path / "a", "--max-drift", allowed)
    assert code == 0, err
    assert "int8-weights" in err and "is allowed" in err
    code, _, err = run(*asked, tmp_path / "b", "--precision", "int8")
    assert code == 2 and "make it with 'copgen-edge quantize'" in err
    code, _, err = run("quantize", copy, "--plan", plan, "--calib", recording.root)
    assert code == 2 and "--overwrite replaces it" in err
    assert Bundle.open(copy).variant(STEP, "int8-weights").run_drift == made["calibration"]["run_drift"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "plan", "none", "--budget", "drift<=1", "--out", "p.json"], "cannot be read"),
        (["calibrate", "sensitivity", "none", "--calib", "none", "--out", "o"], "is no bundle"),
        (["quantize", "none", "--plan", "none", "--calib", "none"], "cannot be read"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_plan_is_not_written_over(report: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("mine")
    code, _, err = run("calibrate", "plan", report, "--budget", "size<=0.9", "--out", tmp_path / "plan.json")
    assert code == 2 and "is there already" in err
    assert (tmp_path / "plan.json").read_text() == "mine"
    code, _, err = run("calibrate", "plan", report, "--budget", "size=0.9", "--out", tmp_path / "other.json")
    assert code == 2 and "expected drift<=0.05" in err
