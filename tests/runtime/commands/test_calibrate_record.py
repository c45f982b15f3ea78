"""``calibrate record`` on an exported bundle: what it writes, says and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copgen_edge.calibration.trajectories import Trajectories
from copgen_edge.runtime.components import COMPONENTS, STEP
from copgen_edge.runtime.errors import RequestError
from copgen_edge.runtime.modalities import JOINT_SIZE, KEYS
from copgen_edge.runtime.raster.conditions import ReadOptions

from ..conftest import Outcome, Run


@pytest.fixture
def record(run: Run, bundle: Path, tmp_path: Path) -> Run:
    """Runs ``calibrate record`` in two steps on one made-up patch; further arguments come after."""

    def call(*arguments: object) -> Outcome:
        asked = ("--steps", 2, "--threads", 1, "--backend", "onnxruntime-cpu", "--out", tmp_path / "calib")
        return run("calibrate", "record", bundle, *asked, *arguments)

    return call


def test_a_recording_of_the_made_up_world(record: Run, bundle: Path, tmp_path: Path) -> None:
    outcome = record("--world", 1, "--runs", 2, "--samples", 2, "--json")
    assert outcome.code == 0, outcome.err
    found = Trajectories.open(tmp_path / "calib")
    assert [(run.source, len(set(run.roles.values()))) for run in found.runs] == [
        ("world 600000000", 2),
        ("world 600000000", 3),
    ]
    said = outcome.json
    assert (said["sha256"], said["bundle_sha256"], said["steps"]) == (found.digest, found.bundle, 2)
    assert [run["roles"] for run in said["runs"]] == [dict(run.roles) for run in found.runs]
    assert [one["component"] for one in said["components"]] == list(COMPONENTS)
    for one in said["components"]:
        rows = list(found.rows(one["component"]))
        assert len(rows) == one["rows"] > 0
        values = np.concatenate([array.ravel() for inputs in rows for array in inputs.values()])
        assert np.isfinite(values).all() and values.std() > 0.01
    assert said["bytes"] == sum(path.stat().st_size for path in (tmp_path / "calib").iterdir())
    for line in (
        "the data: 1 patches of the made-up world",
        "keeping 4 of the 4 network calls of each run",
        "2 runs of 2 calls",
        f"next: copgen-edge calibrate sensitivity {bundle} --calib {tmp_path / 'calib'}",
    ):
        assert line in outcome.err
    rows_of = {words[0]: words[1:] for line in outcome.err.splitlines() if len(words := line.split()) == 3}
    assert rows_of[STEP] == ["8", f"{8 * (2 * JOINT_SIZE + 4 * len(KEYS)) / 1e6:.1f}"]
    again = record("--world", 1, "--runs", 2, "--samples", 2)
    assert again.code == 2 and "calib holds a finished recording" in again.err


def test_a_recording_of_cells(record: Run, data: Path, tmp_path: Path) -> None:
    mapping = "3:4,4:5,5:7,6:8,7:9,8:10,9:11"
    outcome = record("--cells", data / "majortom_cells", "--lulc-map", mapping, "--runs", 1, "--quiet")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "" and outcome.err == ""
    (run,) = Trajectories.open(tmp_path / "calib").runs
    assert run.source == "282D_485L_3_3" and run.roles["DEM_DEM"] == "given"


def test_options_of_the_cells(record: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[ReadOptions] = []

    def read(folder: Path, options: ReadOptions) -> None:
        seen.append(options)
        raise RequestError("enough")

    monkeypatch.setattr("copgen_edge.runtime.commands.calibrations.record.read_cells", read)
    record("--cells", tmp_path, "--s2-offset", "-1000", "--fill-nodata", "--lulc-map", "3:4")
    record("--cells", tmp_path)
    assert seen == [ReadOptions(lulc_map={3: 4}, s2_offset=-1000, fill_nodata=True), ReadOptions()]


def test_defaults(run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight patches that neither training nor an evaluation sees, and fp32 whatever the machine would rather run."""
    from copgen_edge.calibration import record as recording

    seen: dict[str, Any] = {}

    def note(pipeline: Any, truth: Any, out: Path, **asked: Any) -> None:
        seen.update(asked, precision=pipeline.backend.precision, names=truth.names, out=out)
        raise RequestError("enough")

    monkeypatch.setattr(recording, "record", note)
    outcome = run("calibrate", "record", bundle, "--out", tmp_path / "calib")
    assert outcome.code == 2 and outcome.err.splitlines()[-1] == "Error: enough"
    assert seen["names"] == tuple(f"world {600_000_000 + i}" for i in range(8))
    assert (seen["precision"], seen["out"]) == ("fp32", tmp_path / "calib")
    assert (seen["runs"], seen["samples"], seen["steps"], seen["seed"], seen["max_mb"]) == (None, 1, None, 0, 256)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--world", 3, "--cells", "x"), "give --world or --cells, not both"),
        (("--cells", "no/such"), "no/such holds no cells"),
        (("--world", 1, "--seed", 2**64), f"found seed {2**64}, expected a whole number from 0"),
        (("--world", 1, "--max-mb", 1), "found 1 MB at most for 1 runs, expected 3 or more; raise --max-mb"),
        (("--world", 1, "--steps", 1001), "found 1001 steps"),
        (("--world", 1, "--precision", "fp16"), "No such option"),
    ],
)
def test_what_is_refused(record: Run, tmp_path: Path, arguments: tuple[object, ...], message: str) -> None:
    outcome = record(*arguments)
    assert outcome.code == 2 and message in outcome.err and not outcome.out
    assert sum(line.startswith("Error: ") for line in outcome.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_no_bundle(run: Run, tmp_path: Path) -> None:
    outcome = run("calibrate", "record", tmp_path, "--out", tmp_path / "calib")
    assert outcome.code == 2 and "is no bundle" in outcome.err


def test_the_help_names_the_steps(run: Run) -> None:
    outcome = run("calibrate", "--help")
    assert outcome.code == 0 and "Record real inputs of every component along real runs." in outcome.out
    assert "--max-mb" in run("calibrate", "record", "--help").out
